"""A program that writes to rows while another copy of it writes to the same ones.

Its arguments are JSON: the URLs of the database and of the message queue, the prefix
there, which of the two writers it is, how many rows there are, the seed, and whether
publications keep their stamps. For each row the two writers meet in Redis, commit at
the same time, and publish up to 50 ms later. Of even rows both write the same column,
of odd ones each its own. It prints DONE when all is published.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import sqlalchemy as sa
from flask import Flask
from redis import Redis
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from flask_livepush import LivePush
from tests.support.following import outgoing_of
from tests.support.late import LateBroker, disturb_brokers
from tests.support.waiting import DEADLINE, until

ROOM = "rows:1"
THREADS = 20


class Base(DeclarativeBase):
    """The tables."""


class Row(Base):
    """A row that two write to."""

    __tablename__ = "rows"
    id: Mapped[int] = mapped_column(primary_key=True)
    table_id: Mapped[int] = mapped_column(default=1)
    a: Mapped[str] = mapped_column(sa.String(200), default="")
    b: Mapped[str] = mapped_column(sa.String(200), default="")


def create_engine(url: str) -> sa.Engine:
    """Return an engine whose transactions, in SQLite, begin by wanting to write."""
    if not url.startswith("sqlite"):
        return sa.create_engine(url, pool_size=THREADS)
    engine = sa.create_engine(url, connect_args={"timeout": DEADLINE})

    @sa.event.listens_for(engine, "connect")
    def on_connect(driver: Any, _: Any) -> None:
        driver.isolation_level = None
        driver.execute("PRAGMA synchronous=OFF")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


class Writer:
    """One of the two."""

    def __init__(
        self,
        *,
        url: str,
        queue: str,
        prefix: str,
        number: int,
        rows: int,
        seed: int,
        stamps: bool,
    ) -> None:
        self._number = number
        self._rows = rows
        self._engine = create_engine(url)
        self._prefix = prefix
        self._redis = Redis.from_url(queue)
        app = Flask("rows")
        app.config.update(
            SECRET_KEY="of no use",
            LIVEPUSH_MESSAGE_QUEUE=queue,
            LIVEPUSH_PREFIX=prefix,
            LIVEPUSH_ASYNC_MODE="threading",
            LIVEPUSH_HISTORY_SIZE=4 * rows,
        )
        disturb_brokers(LateBroker, seed=(seed, number), within=0.05, stamps=stamps)
        livepush = LivePush(app)
        self._outgoing = outgoing_of(livepush)
        room = livepush.room("rows:<int:table_id>")(lambda user, table_id: True)
        livepush.track(rooms=room, fields=("id", "a", "b"), kind="row")(Row)
        self._make = sessionmaker(self._engine)
        livepush.watch(self._make)

    def run(self) -> None:
        """Write to all rows."""
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(self._take, range(1, THREADS + 1)))
        # Redis may have been too busy to answer in time; what it was not told waits.
        until(lambda: self._outgoing.depth == 0)

    def _take(self, first: int) -> None:
        # The same thread of either writer takes the same rows in the same order.
        for id in range(first, self._rows + 1, THREADS):
            self._meet(id)
            self._write(id)

    def _meet(self, id: int) -> None:
        key = f"{self._prefix}-meet-{id}"
        if self._redis.incr(key) == 2:
            self._redis.lpush(f"{key}-go", "go")
        else:
            assert self._redis.blpop([f"{key}-go"], DEADLINE), "the other did not come"

    def _write(self, id: int) -> None:
        column = "a" if id % 2 == 0 or self._number == 0 else "b"
        with self._make() as session:
            row = session.get(Row, id)
            setattr(row, column, f"{self._number} was here")
            session.commit()


if __name__ == "__main__":
    Writer(**json.loads(sys.argv[1])).run()
    print("DONE", flush=True)
