"""What a newcomer starts from: which rows, how many, in which order."""

from __future__ import annotations

from tests.support.following import World, closing, snapshot
from tests.test_tracking import add, item


def test_starts_a_newcomer_with_the_newest_rows_in_order(world: World) -> None:
    model = item(world, rooms=world.room("all"), fields=("id",), latest=3)
    add(world, *(model() for _ in range(3)))
    assert snapshot(world.livepush, "all") == {
        "item": {
            "key": "id",
            "rows": [{"id": 1}, {"id": 2}, {"id": 3}],
            "partial": False,
        }
    }
    add(world, model())
    assert snapshot(world.livepush, "all") == {
        "item": {
            "key": "id",
            "rows": [{"id": 2}, {"id": 3}, {"id": 4}],
            "partial": True,
        }
    }


def test_reads_a_snapshot_while_another_transaction_is_open(database_url: str) -> None:
    with closing(World(database_url)) as world:
        model = item(world, rooms=world.room("all"), fields=("id", "title"))
        add(world, model(title="old"))
        with world.Session() as session:
            session.get(model, 1).title = "uncommitted"
            if not world.is_sqlite:
                session.flush()
            assert world.screen("all").kinds["item"][1]["title"] == "old"
            session.rollback()
