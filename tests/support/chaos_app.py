"""A program of the chaos test: one that writes at random, or a server of subscribers.

Its arguments are its role (``writer`` or ``server``), the URLs of the database and of
the message queue, the seed, and the port to listen on. ``CHAOS_FAULT`` takes something
away that the test has to miss:

- ``stamps``: nothing orders the versions of a row
- ``gaps``: nobody notices that publications did not arrive
- ``history``: of what was missed, a part is returned as the whole
"""

from __future__ import annotations

import logging
import os
import random
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import sqlalchemy as sa
from flask import Flask, jsonify
from flask.typing import ResponseReturnValue
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, Session, mapped_column
from sqlalchemy.pool import NullPool

from flask_livepush import LivePush
from flask_livepush.brokers.base import History
from flask_livepush.brokers.redis import RedisBroker
from flask_livepush.brokers.redis_format import read_message
from flask_livepush.protocol.publication import Position, Publication
from flask_livepush.protocol.subscription import Subscription
from tests.support.chaos_screens import ROOMS, UNCOMMITTED
from tests.support.late import LateBroker, OtherBroker, disturb_brokers
from tests.support.waiting import DEADLINE

WRITERS = 4
#: Rows there are at most; then more are deleted.
ENOUGH = 60
#: Rows that all writers write to at last.
LAST = 20


class PartialHistory(OtherBroker):
    """Returns the first half of what was missed, and says that it is all."""

    def history(self, room: str, since: Position) -> History:
        found = super().history(room, since)
        if found.publications is None:
            return found
        half = found.publications[: len(found.publications) // 2]
        return History(found.position, half)


def notice_no_gaps() -> None:
    """Let the broker and the subscriptions take what arrives for what follows."""

    def receive(
        self: Subscription, epoch: str, publications: Sequence[Publication]
    ) -> Sequence[Publication]:
        if self.holding:
            for publication in publications:
                self._hold(epoch, publication)
            return ()
        if epoch == self.position.epoch:
            publications = [p for p in publications if p.offset > self.position.offset]
        if publications:
            self.position = Position(epoch, publications[-1].offset)
        return publications

    def received(self: RedisBroker, reader: Any, channel: str, message: bytes) -> None:
        served = self._channels.get(channel)
        if served is not None:
            with served.lock:
                self._deliver(served, *read_message(message))

    Subscription.receive = receive  # type: ignore[method-assign]
    RedisBroker.received = received  # type: ignore[method-assign]
    RedisBroker._compare = lambda self, rooms: None  # type: ignore[method-assign]


def make(database: str, queue: str) -> Flask:
    """Return the application."""
    app = Flask("chaos")
    app.config.update(
        SECRET_KEY="secret",
        SQLALCHEMY_DATABASE_URI=database,
        # Of a server, as many may join at a time as want to.
        SQLALCHEMY_ENGINE_OPTIONS={} if role == "writer" else {"poolclass": NullPool},
        LIVEPUSH_ALLOW_ANONYMOUS=True,
        LIVEPUSH_MESSAGE_QUEUE=queue,
        # So that returning screens find too little sometimes, and enough sometimes.
        LIVEPUSH_HISTORY_SIZE=50,
        LIVEPUSH_CHECK_INTERVAL=1,
        LIVEPUSH_RESET_WITHIN=0.5,
        # A server comes back while Redis hangs, too.
        LIVEPUSH_REQUIRE_QUEUE=False,
    )
    return app


role, database, queue, seed, port = sys.argv[1:6]
fault = os.environ.get("CHAOS_FAULT", "")
if role == "writer":
    disturb_brokers(
        LateBroker, seed=seed, within=0.1, share=0.7, stamps=fault != "stamps"
    )
elif fault == "history":
    disturb_brokers(PartialHistory)
elif fault == "gaps":
    notice_no_gaps()

logging.getLogger("werkzeug").setLevel(logging.WARNING)  # not each poll
app = make(database, queue)
db = SQLAlchemy(app)
livepush = LivePush(app)


@livepush.room("room:<int:room_id>")
def room(user: object, room_id: int) -> bool:
    """Let everybody in."""
    return True


@livepush.track(rooms=room, fields=("id", "room_id", "a", "b"), latest=10_000)
class Item(db.Model):  # type: ignore[name-defined,misc]
    """A row; ``a`` and ``b`` are written apart."""

    id: Mapped[int] = mapped_column(primary_key=True)
    room_id: Mapped[int]
    a: Mapped[int]
    b: Mapped[int]


class Writer:
    """Commits and rolls back at random, until it is told to stop.

    Args:
        seed: Of what it does.
        first: Of the values it writes; they rise.
    """

    def __init__(self, seed: object, first: int) -> None:
        self._random = random.Random(repr(seed))
        self._value = first
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.transactions = 0
        self._thread.start()

    def tell_to_stop(self) -> None:
        """Let it end, after what it is at and its last words."""
        self._stop.set()

    def wait(self) -> None:
        """Wait for its end."""
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive(), "a writer hangs"

    def _run(self) -> None:
        with app.app_context():
            while not self._stop.wait(self._random.uniform(0, 0.1)):
                self._try(self._transaction)
            # All writers write to the same rows at last: nothing comes after it that
            # would put right what they show.
            newest = sa.select(Item.id).order_by(Item.id.desc()).limit(LAST)
            for id in db.session.scalars(newest).all():
                self._try(lambda session, id=id: self._last_word(session, id))

    def _try(self, what: Callable[[Session], None]) -> None:
        # Two may wait for each other's rows, or for one that is deleted.
        with suppress(sa.exc.OperationalError, sa.orm.exc.StaleDataError):
            what(db.session())
            self.transactions += 1
        db.session.remove()

    def _last_word(self, session: Session, id: int) -> None:
        self._value += 1
        item = session.get(Item, id)
        if item is not None:
            self._write(item, self._value)
            session.commit()

    def _transaction(self, session: Session) -> None:
        keep = self._random.random() < 0.8
        for _ in range(self._random.choice((1, 1, 1, 2, 3))):
            if self._random.random() < 0.2:
                self._savepoint(session, keep=keep)
            else:
                self._step(session, keep=keep)
        if keep:
            session.commit()
        else:
            session.flush()
            session.rollback()

    def _savepoint(self, session: Session, *, keep: bool) -> None:
        keep = keep and self._random.random() < 0.5
        savepoint = session.begin_nested()
        self._step(session, keep=keep)
        session.flush()
        if keep:
            savepoint.commit()
        else:
            savepoint.rollback()

    def _step(self, session: Session, *, keep: bool) -> None:
        """Change something; with values that nobody may see unless it is kept."""
        self._value += 1
        value = self._value + (0 if keep else UNCOMMITTED)
        ids = session.scalars(sa.select(Item.id).order_by(Item.id)).all()
        weights = (3, 6, 2, 5 if len(ids) > ENOUGH else 1) if ids else (1, 0, 0, 0)
        what = self._random.choices(("insert", "update", "move", "delete"), weights)[0]
        if what == "insert":
            item = Item(room_id=self._room(), a=value, b=value)
            session.add(item)
            return
        # Often the same rows, so that writers meet.
        some = ids[-3:] if self._random.random() < 0.5 else ids
        item = session.get(Item, self._random.choice(some))
        if item is None:
            return
        if what == "delete":
            session.delete(item)
            return
        if what == "move":
            item.room_id = self._room()
        self._write(item, value)

    def _write(self, item: Item, value: int) -> None:
        if self._random.random() < 0.5:
            item.a = value
        else:
            item.b = value

    def _room(self) -> int:
        return self._random.choice(ROOMS)


writers: list[Writer] = []


@app.post("/begin")
def begin() -> str:
    """Begin to write."""
    writers[:] = [Writer((seed, n), n * 10_000_000) for n in range(WRITERS)]
    return ""


@app.post("/end")
def end() -> ResponseReturnValue:
    """Write no more; return how many transactions there were."""
    for writer in writers:
        writer.tell_to_stop()
    for writer in writers:
        writer.wait()
    return jsonify(sum(writer.transactions for writer in writers))


@app.get("/rows")
def rows() -> ResponseReturnValue:
    """Return what the database has."""
    found = db.session.scalars(sa.select(Item))
    return jsonify(
        [{"id": i.id, "room_id": i.room_id, "a": i.a, "b": i.b} for i in found]
    )


if __name__ == "__main__":
    from tests.support.servers import serve

    if role == "writer":
        with app.app_context():
            db.create_all()
    serve(app, int(port))
