"""What a process has still to tell when it ends, in the ways in which tasks end."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from itertools import count

import pytest

from flask_livepush.protocol.publication import Position
from tests.support.brokers import begun, on_redis
from tests.support.redis import redis_url
from tests.support.servers import ROOT

__all__ = ["redis_url"]

_numbers = count(1)

PROGRAM = """
    import os, sys
    import sqlalchemy as sa
    from flask import Flask
    from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
    from flask_livepush import LivePush

    url, prefix, how = sys.argv[1:]
    app = Flask("task")
    app.config.update(
        SECRET_KEY="s", LIVEPUSH_MESSAGE_QUEUE=url, LIVEPUSH_PREFIX=prefix,
        LIVEPUSH_ASYNC_MODE="threading",
    )
    livepush = LivePush(app)

    class Base(DeclarativeBase):
        pass

    @livepush.room("notes:<int:room_id>")
    def notes(user, room_id):
        return True

    @livepush.track(rooms=notes, fields=("id", "text"))
    class Note(Base):
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        room_id: Mapped[int]
        text: Mapped[str] = mapped_column(default="")

    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    Base.metadata.create_all(engine)
    livepush.watch(Session)

    def work():
        with Session(engine) as session:
            session.execute(sa.update(Note).values(text="new"))
            session.commit()

    if how == "view":
        with app.test_request_context("/"):
            work()
    else:
        work()
        os._exit(0)  # as a worker of RQ does when its job is done
"""


@pytest.mark.parametrize("how", ["view", "task"])
def test_a_process_that_ends_has_told_what_concerns_all_rooms(
    redis_url: str, how: str
) -> None:
    prefix = f"ends{next(_numbers)}"
    broker = on_redis(redis_url, prefix=prefix)
    start = begun(broker, "notes:1")
    finished = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), redis_url, prefix, how],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    found = broker.history("notes:1", Position(start.epoch, 0)).publications or []
    assert [p.event for p in found] == ["note.invalidated"]
    broker.close()
