"""Two processes write to one row and publish in any order: no row stays stale."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.brokers import Recorder, on_redis
from tests.support.following import BUT_MARIADB
from tests.support.redis import redis_url
from tests.support.row_writer import ROOM, Base, Row, create_engine
from tests.support.servers import launch

__all__ = ["redis_url"]

WRITER = Path(__file__).parents[1] / "support" / "row_writer.py"
DEADLINE = 240.0


def wrong(
    url: str, queue: str, *, rows: int, seed: int = 1, stamps: bool = True
) -> list[int]:
    """Let two writers write to rows; return those that a subscriber shows wrong."""
    engine = create_engine(url)
    Base.metadata.create_all(engine)
    with sa.orm.Session(engine) as session:
        session.add_all([Row(id=id) for id in range(1, rows + 1)])
        session.commit()
    recorder = Recorder()
    prefix = f"rows-{time.monotonic_ns()}"
    broker = on_redis(queue, prefix=prefix, size=4 * rows)
    broker.listen(recorder)
    broker.subscribe(ROOM)
    broker.confirm(ROOM)
    options = {"url": url, "queue": queue, "prefix": prefix, "rows": rows}
    options |= {"seed": seed, "stamps": stamps}
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        stack.callback(broker.close)
        writers = []
        for number in range(2):
            told = json.dumps({**options, "number": number})
            writers.append(launch(WRITER, told))
            stack.callback(writers[-1].stop)
        for writer in writers:
            writer.wait_for("^DONE", deadline=DEADLINE)
        last = broker.position(ROOM).offset
        recorder.wait(lambda: recorder.offsets(ROOM)[-1:] == [last])
        assert recorder.offsets(ROOM) == list(range(1, last + 1))
        shown: dict[int, Any] = {}
        for _, _, publications in recorder.batches:
            for publication in publications:
                assert publication.event == "row.updated"
                data = json.loads(publication.data)
                shown[data["id"]] = data
        with engine.connect() as connection:
            found = connection.execute(sa.select(Row.id, Row.a, Row.b))
            return [row.id for row in found if shown.get(row.id) != row._asdict()]


def test_no_row_stays_stale_when_commits_are_published_in_any_order(
    database_url: str, redis_url: str
) -> None:
    assert wrong(database_url, redis_url, rows=1000) == []


@BUT_MARIADB
def test_rows_stay_stale_without_stamps(database_url: str, redis_url: str) -> None:
    """What the test above would say if nothing ordered a row's versions."""
    stale = wrong(database_url, redis_url, rows=200, stamps=False)
    assert {id % 2 for id in stale} == {0, 1}


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(5))
def test_no_row_stays_stale_for_long(
    seed: int, database_url: str, redis_url: str
) -> None:
    assert wrong(database_url, redis_url, rows=10_000, seed=seed) == []
