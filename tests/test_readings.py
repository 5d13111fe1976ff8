"""A value that can't be read hides no other value, and no other row."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush.readings import Unreadable, UnreadableValue, fetch
from tests.support.following import World, closing


class Colour(enum.Enum):
    RED = 1


class Sealed(sa.types.TypeDecorator[str]):
    """A text that was encrypted with a key which is lost, if it begins so."""

    impl = sa.String(200)
    cache_ok = True

    def process_result_value(self, value: str | None, dialect: Any) -> str | None:
        if value is not None and value.startswith("lost"):
            raise LookupError("no key for 4711")
        return value


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """An application, once on each kind of database."""
    with closing(World(database_url)) as made:
        yield made


def thing(world: World, **track: Any) -> Any:
    class Thing(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        board_id: Mapped[int] = mapped_column(default=1)
        title: Mapped[str | None]
        sealed: Mapped[str | None] = mapped_column(Sealed)
        colour: Mapped[Any] = mapped_column(
            sa.Enum(Colour, native_enum=False, length=20, create_constraint=False),
            nullable=True,
        )
        day: Mapped[datetime.date | None]

    board = world.room("board:<int:board_id>")
    fields = {"fields": ("id", "title", "sealed", "colour", "day")}
    world.livepush.track(rooms=board, **{**fields, **track})(Thing)
    world.create_tables()
    return Thing


def spoil(world: World, **values: str) -> None:
    """Write what the ORM would not, into the first row, and say so."""
    with world.engine.begin() as connection:
        for name, value in values.items():
            connection.exec_driver_sql(
                f"UPDATE thing SET {name} = '{value}' WHERE id = 1"
            )
    world.livepush.invalidate("board:1")


def test_leaves_out_what_can_not_be_read(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: a member that the Enum no longer has, and nobody could join the room."""
    model = thing(world)
    screen = world.screen("board:1")
    with world.Session() as session:
        session.add_all([model(id=1, title="a", colour=Colour.RED), model(id=2)])
        session.commit()
    screen.follow()
    spoil(world, colour="GREEN")
    screen.check()
    first = {"id": 1, "title": "a", "sealed": None, "day": None}
    assert screen.kinds["thing"] == {
        1: first,
        2: {**first, "id": 2, "title": None, "colour": None},
    }
    # Also in the transaction that writes it.
    with world.Session() as session:
        session.add(model(id=3, sealed="lost 4711"))
        session.commit()
    assert screen.follow() == [
        ("thing.created", {"id": 3, "title": None, "colour": None, "day": None})
    ]
    with world.Session() as session:
        (row,) = session.scalars(
            sa.select(model).options(sa.orm.load_only(model.title)).filter_by(id=1)
        )
        row.title = "b"
        session.commit()
    assert screen.follow() == [("thing.updated", {**first, "title": "b"})]
    screen.check()
    assert {r.levelname for r in caplog.records} == {"ERROR"}
    assert "field 'colour' of Thing" in caplog.text
    assert "LookupError" in caplog.text
    assert "4711" not in caplog.text
    assert "GREEN" not in caplog.text


@pytest.mark.parametrize("field", [str, lambda row: f"<{row.colour}>"])
def test_nothing_is_made_of_what_can_not_be_read(world: World, field: Any) -> None:
    model = thing(world, fields={"id": "id", "colour": field, "title": "title"})
    screen = world.screen("board:1")
    with world.Session() as session:
        session.add(model(id=1, title="a"))
        session.commit()
    spoil(world, colour="GREEN")
    screen.follow()
    assert screen.kinds["thing"] == {1: {"id": 1, "title": "a"}}


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
@pytest.mark.parametrize("day", ["infinity", "-infinity", "0044-03-15 BC"])
def test_leaves_out_a_date_that_the_driver_does_not_know(
    world: World, day: str
) -> None:
    model = thing(world, latest=2)
    screen = world.screen("board:1")
    with world.Session() as session:
        session.add_all([model(id=1), model(id=2), model(id=3, board_id=2)])
        session.commit()
    spoil(world, day=day)
    screen.follow()
    screen.check()
    assert "day" not in screen.kinds["thing"][1]
    assert screen.kinds["thing"][2]["day"] is None
    with world.Session() as session:
        row = session.get(model, 2)
        row.day = sa.text(f"'{day}'::date")
        session.commit()
    screen.follow()
    screen.check()
    assert "day" not in screen.kinds["thing"][2]


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("name", ["day", "sealed", "colour"])
def test_leaves_out_what_sqlite_takes_for_anything(world: World, name: str) -> None:
    model = thing(world)
    screen = world.screen("board:1")
    with world.Session() as session:
        session.add_all([model(id=1), model(id=2)])
        session.commit()
    spoil(world, **{name: "lost"})
    screen.follow()
    screen.check()
    assert name not in screen.kinds["thing"][1]
    assert screen.kinds["thing"][2][name] is None


def test_raises_what_is_no_values_fault(world: World) -> None:
    thing(world)
    with world.engine.connect() as connection:
        wrong: Any = sa.select(sa.column("nothing")).select_from(sa.table("thing"))
        with pytest.raises(sa.exc.DBAPIError):
            fetch(connection, wrong, keys=[sa.column("id")])


def test_an_unreadable_value_can_not_be_used() -> None:
    value = Unreadable("LookupError")
    assert "LookupError" in repr(value)
    for use in (str, bool, "{}".format):
        with pytest.raises(UnreadableValue, match="LookupError"):
            use(value)
