"""Two transactions on one row, whose publications arrive in any order.

What each pushes was read while it held the row's lock, so that the stamps order the
versions of the row as the commits do. :class:`Held` keeps what is published back and
lets it go in another order, as processes do that are stopped after their commit.
"""

from __future__ import annotations

import itertools
import os
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import StaleDataError

from flask_livepush.emitter import Emitter
from flask_livepush.protocol.batch import Batch
from flask_livepush.protocol.publication import Draft, Position
from tests.support.following import Chat, check, outgoing_of, replace_emitter
from tests.support.waiting import DEADLINE

# That two transactions change one row is the point; what the loser is told is not.
LOST = (StaleDataError, sa.exc.SAWarning, sa.exc.DBAPIError, AssertionError)


class Held(Emitter):
    """An emitter that publishes when it is told to.

    Args:
        chat: The application that gets it.
        with_stamps: False takes the stamps away, as if nobody had thought of them.
    """

    def __init__(self, chat: Chat, *, with_stamps: bool = True) -> None:
        super().__init__(outgoing_of(chat.livepush))
        self._with_stamps = with_stamps
        self._lock = threading.Lock()
        self.batches: list[Batch] = []
        replace_emitter(chat.livepush, self)

    def publish_batch(self, batch: Batch) -> dict[str, Position]:
        with self._lock:
            self.batches.append(batch)
        return {}

    def release(self, order: Iterable[int]) -> None:
        """Publish what is held, by its number in the order of the commits."""
        for number in order:
            batch = self.batches[number]
            if self._with_stamps:
                super().publish_batch(batch)
            else:
                for room, drafts in batch.rooms().items():
                    self.publish(room, [_without_stamp(draft) for draft in drafts])
        self.batches = []


def _without_stamp(draft: Draft) -> Draft:
    return replace(draft, stamp=None)


Write = Callable[[Chat, Session, Any], None]


def _body(chat: Chat, session: Session, message: Any) -> None:
    message.body = "new"


def _n(chat: Chat, session: Session, message: Any) -> None:
    message.n = 7


def _move_to_2(chat: Chat, session: Session, message: Any) -> None:
    message.room_id = 2


def _move_to_3(chat: Chat, session: Session, message: Any) -> None:
    message.room_id = 3


def _delete(chat: Chat, session: Session, message: Any) -> None:
    session.delete(message)


def _replace(chat: Chat, session: Session, message: Any) -> None:
    session.delete(message)
    session.flush()
    session.add(chat.Message(id=message.id, room_id=2, body="again"))


def _insert_again(chat: Chat, session: Session, message: Any) -> None:
    session.expunge(message)
    session.add(chat.Message(id=message.id, room_id=2, body="again"))


def _away_and_back(chat: Chat, session: Session, message: Any) -> None:
    message.room_id = 2
    session.flush()
    message.room_id = 1
    session.flush()


PAIRS: list[tuple[Write, Write]] = [
    (_body, _n),
    (_body, _move_to_2),
    (_move_to_2, _body),
    (_move_to_2, _move_to_3),
    (_move_to_2, _delete),
    (_delete, _move_to_2),
    (_body, _delete),
    (_delete, _body),
    (_delete, _insert_again),
    (_replace, _body),
    (_replace, _delete),
    (_move_to_2, _replace),
    (_away_and_back, _move_to_3),
    (_move_to_3, _away_and_back),
]


def _names(pair: tuple[Write, Write]) -> str:
    return " then ".join(write.__name__.strip("_") for write in pair)


# How a session asks for its number, and others whether that one waits for a lock.
_BLOCKED = {
    "postgresql": (
        "SELECT pg_backend_pid()",
        "SELECT cardinality(pg_blocking_pids(:pid))",
    ),
    "mysql": (
        "SELECT connection_id()",
        # innodb_trx, which knows who waits, is as old as the last look at it. Nobody
        # else uses the server.
        "SELECT CAST(variable_value AS INTEGER) FROM information_schema.global_status"
        " WHERE variable_name = 'INNODB_ROW_LOCK_CURRENT_WAITS' AND :pid",
    ),
}


def race(chat: Chat, first: Write, second: Write) -> None:
    """Let the second begin with the row as it was, and wait for the first's lock."""
    id = chat.post(1, body="old")
    with chat.Session() as one, chat.Session() as two:
        rows = [chat.get(session, id) for session in (one, two)]
        pid = two.scalar(sa.text(_BLOCKED[chat.engine.dialect.name][0]))
        first(chat, one, rows[0])
        one.flush()

        def go() -> None:
            with suppress(*LOST):
                second(chat, two, rows[1])
                two.commit()
            two.rollback()

        thread = threading.Thread(target=go)
        thread.start()
        _wait_until_blocked(chat, pid, thread)
        one.commit()
        thread.join(timeout=DEADLINE)
        assert not thread.is_alive()


def _wait_until_blocked(chat: Chat, pid: int, thread: threading.Thread) -> None:
    deadline = time.monotonic() + DEADLINE
    blocked = sa.text(_BLOCKED[chat.engine.dialect.name][1])
    # Looked at anew each time: in a transaction MariaDB may show the same again.
    engine = chat.engine.execution_options(isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        while thread.is_alive() and time.monotonic() < deadline:
            if connection.execute(blocked, {"pid": pid}).scalar():
                return
    assert not thread.is_alive(), "neither blocked nor done"


@pytest.mark.parametrize("pair", PAIRS, ids=_names)
def test_converges_when_publications_pass_each_other(
    server_chat: Chat, pair: tuple[Write, Write]
) -> None:
    chat = server_chat
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    for count in (0, 1):
        held = Held(chat)
        race(chat, *pair)
        assert len(held.batches) in (2, 3), "the row's creation and one or two commits"
        numbers = list(range(len(held.batches)))
        held.release(numbers if count == 0 else reversed(numbers))
        check(screens)


def test_converges_in_any_order_of_three_commits(server_chat: Chat) -> None:
    chat = server_chat
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    for order in itertools.permutations(range(3)):
        held = Held(chat)
        race(chat, _move_to_2, _delete)
        held.release(order)
        check(screens)


def test_goes_wrong_without_stamps(server_chat: Chat) -> None:
    """The referee can be trusted: here all of the 14 pairs ended up wrong."""
    chat = server_chat
    wrong = 0
    for pair in PAIRS:
        screens = chat.screens("chat:1", "chat:2", "chat:3")
        held = Held(chat, with_stamps=False)
        race(chat, *pair)
        held.release(reversed(range(len(held.batches))))
        try:
            check(screens)
        except AssertionError:
            wrong += 1
    assert wrong > len(PAIRS) // 2, wrong


def _find_deadlocks_at_once(driver: Any, _: Any) -> None:
    driver.execute("SET deadlock_timeout = '10ms'")
    driver.commit()


class Writers:
    """Threads that commit to the same few rows, as fast as they can."""

    def __init__(self, chat: Chat, seed: str, *, with_stamps: bool = True) -> None:
        self.chat = chat
        self.seed = seed
        self.screens = chat.screens("chat:1", "chat:2", "chat:3")
        self.held = Held(chat, with_stamps=with_stamps)
        if chat.engine.dialect.name == "postgresql":
            # Else each of many deadlocks takes a second.
            sa.event.listen(chat.engine, "connect", _find_deadlocks_at_once)
            chat.engine.dispose()
        self.random = Random(seed)
        self.commits = 0

    def round(self, number: int) -> None:
        """Let four threads commit; publish in a random order, and compare."""
        threads = [
            threading.Thread(target=self._write, args=(f"{self.seed}:{number}:{i}",))
            for i in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=DEADLINE)
            assert not thread.is_alive()
        order = list(range(len(self.held.batches)))
        self.commits += len(order)
        self.random.shuffle(order)
        self.held.release(order)
        check(self.screens)

    def _write(self, seed: str) -> None:
        random = Random(seed)
        message = self.chat.Message
        with self.chat.Session(expire_on_commit=False) as session:
            for _ in range(10):
                with suppress(*LOST):
                    self._change(session, random, message)
                    session.commit()
                session.rollback()

    def _change(self, session: Session, random: Random, message: Any) -> None:
        for id in random.sample(range(1, 4), random.choice((1, 1, 2))):
            row = session.get(message, id, populate_existing=random.random() < 0.3)
            if row is None:
                session.add(message(id=id, room_id=random.randrange(1, 4), body="a"))
            elif random.random() < 0.25:
                session.delete(row)
            elif random.random() < 0.5:
                row.room_id = random.randrange(1, 4)
            else:
                row.body = f"{random.random()}"
                row.n = message.n + 1
            if random.random() < 0.5:
                session.flush()


def test_converges_when_threads_write_the_same_rows(server_chat: Chat) -> None:
    writers = Writers(server_chat, os.environ.get("FUZZ_SEED") or secrets.token_hex(4))
    print(f"FUZZ_SEED={writers.seed}")
    for number in range(25):
        writers.round(number)
    assert writers.commits > 100


def test_diverges_when_threads_write_the_same_rows_without_stamps(
    server_chat: Chat,
) -> None:
    """The referee can be trusted: here 20 of 20 rounds (509 commits) were wrong."""
    writers = Writers(server_chat, "a seed", with_stamps=False)
    numbers = iter(range(25))
    with pytest.raises(AssertionError, match="the database has"):
        deque(map(writers.round, numbers), maxlen=0)


def test_a_batch_says_when_its_commit_was_still_to_come(chat: Chat) -> None:
    """Bug: a thread that stood still after its commit said it had been just now."""
    held = Held(chat)
    committed: list[float] = []
    sa.event.listen(chat.engine, "commit", lambda _: committed.append(time.monotonic()))
    begun = time.monotonic()
    chat.post(body="a")
    with chat.Session.begin() as session:
        session.add(chat.Message(room_id=1, body="b"))
    first, second = [batch.since for batch in held.batches]
    assert first is not None
    assert second is not None
    assert begun <= first <= committed[0] <= second <= committed[1]
