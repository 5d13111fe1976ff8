"""What a commit costs its view on Redis: in one room, in thousands, in all of them.

Runs a Redis of its own. Each figure is the median of several commits in one process, to
which nobody is connected: the time of ``session.commit()`` inside of a request.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import StaticPool

from flask_livepush import LivePush
from tests.support.redis import redis_server

DEADLINE = 60.0


class Site:
    """An application with a model whose rows are in thousands of rooms.

    Args:
        queue: The URL of its message queue; None: the process's own memory.
        rooms: How many rooms there are.
    """

    def __init__(self, queue: str | None, *, rooms: int) -> None:
        self.app = Flask("many")
        self.app.config.update(SECRET_KEY="secret", LIVEPUSH_ASYNC_MODE="threading")
        if queue is not None:
            self.app.config["LIVEPUSH_MESSAGE_QUEUE"] = queue
        self.livepush = LivePush(self.app)
        self.engine = sa.create_engine(
            "sqlite://",
            poolclass=StaticPool,
            connect_args={"check_same_thread": False},
        )
        self.rooms = rooms

        class Base(DeclarativeBase):
            pass

        @self.livepush.room("notes:<int:room_id>")
        def notes(user: Any, room_id: int) -> bool:
            return True

        @self.livepush.track(rooms=notes, fields=("id", "text"))
        class Note(Base):
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int]
            text: Mapped[str] = mapped_column(default="")

        self.Note: Any = Note
        Base.metadata.create_all(self.engine)
        self.livepush.watch(Session)
        with self.app.app_context(), Session(self.engine) as session:
            session.add_all(Note(room_id=number) for number in range(rooms))
            session.commit()
        self.settle()

    def settle(self) -> float:
        """Wait until nothing is to be sent any more; return how long that took."""
        started = time.perf_counter()
        while not self.livepush._app().outgoing.is_empty:
            if time.perf_counter() - started > DEADLINE:
                raise RuntimeError("What was committed has not been sent")
            time.sleep(0.0005)
        return time.perf_counter() - started

    def commit(self, write: Callable[[Session, Any], None]) -> float:
        """Return how long a commit takes in a view, in seconds."""
        with self.app.test_request_context("/"), Session(self.engine) as session:
            write(session, self.Note)
            session.flush()
            started = time.perf_counter()
            session.commit()
            return time.perf_counter() - started


def one(session: Session, note: Any) -> None:
    """Change one row."""
    session.get_one(note, 1).text = str(time.perf_counter())


def many(session: Session, note: Any) -> None:
    """Change a row in each room."""
    for row in session.scalars(sa.select(note)):
        row.text = str(time.perf_counter())


def statement(session: Session, note: Any) -> None:
    """Change all rows in one statement."""
    session.execute(sa.update(note).values(text=str(time.perf_counter())))


WRITES = {"one": one, "many": many, "statement": statement}


def measure(site: Site, *, commits: int, several: int) -> dict[str, float]:
    """Return milliseconds, by what is written.

    Args:
        commits: Of one row.
        several: Of many rooms, and of statements.
    """
    found = {}
    for name, write in WRITES.items():
        count = commits if name == "one" else several
        times, later = [], []
        for _ in range(count + 1):
            times.append(1000 * site.commit(write))
            later.append(1000 * site.settle())
        found[name] = statistics.median(times[1:])
        if name == "statement":
            found["told after"] = statistics.median(later[1:])
    return found


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="bench.many_rooms", description=__doc__)
    parser.add_argument("--rooms", type=int, default=3000)
    parser.add_argument("--commits", type=int, default=500, help="of one row")
    parser.add_argument("--several", type=int, default=7, help="of all rooms")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    logging.disable()
    with redis_server() as server:
        found = {
            queue: measure(
                Site(url, rooms=options.rooms),
                commits=options.commits,
                several=options.several,
            )
            for queue, url in (("redis", server.url), ("memory", None))
        }
    if options.json:
        print(json.dumps(found))
        return
    print(f"{'milliseconds':14} {'redis':>9} {'memory':>9}   {options.rooms} rooms")
    for name in found["redis"]:
        figures = (f"{found[queue][name]:9.2f}" for queue in found)
        print(f"{name:14} {' '.join(figures)}")


if __name__ == "__main__":
    main()
