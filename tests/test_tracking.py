"""Declarations: rooms, fields, kinds and keys, and what each makes of a change."""

from __future__ import annotations

import enum
import json
import uuid
from collections.abc import Callable, Iterator
from datetime import datetime, time, timedelta
from decimal import Decimal
from functools import cached_property
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import Mapped, column_property, mapped_column, relationship

from flask_livepush import ConfigError, UsageError, signals
from flask_livepush.protocol.publication import Position
from tests.support.brokers import begun
from tests.support.following import (
    World,
    broker_of,
    check,
    closing,
    events,
    outgoing_of,
    snapshot,
)
from tests.support.vectors import vectors
from tests.support.waiting import DEADLINE, until


def item(world: World, declare: Callable[..., Any] | None = None, **track: Any) -> Any:
    """Return a model with a bit of everything; tracked, unless ``track`` is empty."""

    class Item(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "item"
        id: Mapped[int] = mapped_column(primary_key=True)
        board_id: Mapped[int | None]
        owner: Mapped[str | None]
        title: Mapped[str | None]
        code: Mapped[str | None] = mapped_column(unique=True)
        done: Mapped[bool] = mapped_column(default=False)
        count: Mapped[int] = mapped_column(sa.BigInteger, default=0)
        blob: Mapped[bytes | None]
        secret: Mapped[str | None]

    if track:
        world.livepush.track(**track)(Item)
    world.create_tables()
    return Item


def add(world: World, *rows: Any) -> None:
    """Commit new rows."""
    with world.Session() as session:
        session.add_all(rows)
        session.commit()


def change(world: World, model: Any, id: Any, **values: Any) -> None:
    """Commit new values of a row."""
    with world.Session() as session:
        row = session.get(model, id)
        for name, value in values.items():
            setattr(row, name, value)
        session.commit()


def delete(world: World, model: Any, id: Any) -> None:
    """Commit the end of a row."""
    with world.Session() as session:
        session.delete(session.get(model, id))
        session.commit()


# -- rooms ---------------------------------------------------------------------------


def test_pushes_to_each_room_of_a_row(world: World) -> None:
    board, user = world.room("board:<int:board_id>"), world.room("of:<owner>")
    model = item(world, rooms=(board, user), fields=("id", "title"))
    screens = world.screens("board:1", "board:2", "of:ann", "of:bob")
    add(world, model(board_id=1, owner="ann"))
    assert events(*screens) == [["item.created"], [], ["item.created"], []]
    change(world, model, 1, owner="bob")
    assert events(*screens) == [
        ["item.updated"],
        [],
        ["item.deleted"],
        ["item.created"],
    ]
    change(world, model, 1, board_id=2, title="new")
    assert events(*screens) == [
        ["item.deleted"],
        ["item.created"],
        [],
        ["item.updated"],
    ]
    check(screens)
    delete(world, model, 1)
    assert events(*screens) == [[], ["item.deleted"], [], ["item.deleted"]]
    check(screens)


def test_pushes_to_the_one_room_when_its_pattern_has_no_variable(world: World) -> None:
    model = item(world, rooms=world.room("items"), fields=("title",))
    screen = world.screen("items")
    add(world, model(title="a"))
    assert screen.follow() == [("item.created", {"id": 1, "title": "a"})]
    screen.check()


def test_follows_a_room_with_two_variables(world: World) -> None:
    room = world.room("board:<int:board_id>:<owner>")
    model = item(world, rooms=room, fields=("id",))
    screens = world.screens("board:1:ann", "board:2:ann", "board:2:bob")
    add(world, model(board_id=1, owner="ann"), model(board_id=1, owner=None))
    assert events(*screens) == [["item.created"], [], []]
    change(world, model, 1, board_id=2)
    assert events(*screens) == [["item.deleted"], ["item.created"], []]
    change(world, model, 1, owner="bob")
    assert events(*screens) == [[], ["item.deleted"], ["item.created"]]
    check(screens)


def test_pushes_each_of_stacked_declarations(world: World) -> None:
    model = item(world)
    board = world.room("board:<int:board_id>")
    world.livepush.track(rooms=board, fields=("id", "title"))(model)
    world.livepush.track(
        rooms=board, fields=("id",), kind="open", when=lambda row: not row.done
    )(model)
    world.livepush.track(rooms=world.room("all"), fields=("id", "owner"), kind="any")(
        model
    )
    screens = world.screens("board:1", "all")
    add(world, model(board_id=1))
    assert events(*screens) == [["item.created", "open.created"], ["any.created"]]
    change(world, model, 1, title="new")
    one, all_ = events(*screens)
    assert "item.updated" in one
    assert all_ == []
    change(world, model, 1, done=True)
    one, all_ = events(*screens)
    assert "open.deleted" in one
    assert all_ == []
    change(world, model, 1, owner="ann")
    assert events(*screens)[1] == ["any.updated"]
    check(screens)


def test_follows_rooms_that_a_callable_names(world: World) -> None:
    world.room("board:<int:board_id>")
    model = item(
        world,
        rooms=lambda row: [f"board:{row.board_id}", f"board:{row.board_id + 100}"],
        columns=("board_id",),
        fields=("id", "title"),
    )
    screens = world.screens("board:1", "board:101", "board:2", "board:102")
    add(world, model(board_id=1))
    created, updated, deleted = (
        ["item.created"],
        ["item.updated"],
        ["item.deleted"],
    )
    assert events(*screens) == [created, created, [], []]
    change(world, model, 1, title="new")
    assert events(*screens) == [updated, updated, [], []]
    change(world, model, 1, secret="new")
    assert events(*screens) == [[], [], [], []]
    change(world, model, 1, board_id=2)
    assert events(*screens) == [deleted, deleted, created, created]
    delete(world, model, 1)
    assert events(*screens) == [[], [], deleted, deleted]


@pytest.mark.parametrize("nowhere", [None, (), [], set()], ids=repr)
def test_pushes_nothing_when_a_callable_names_no_room(
    world: World, nowhere: Any
) -> None:
    world.room("board:<int:board_id>")
    model = item(
        world,
        rooms=lambda row: "board:1" if row.title else nowhere,
        columns=("title",),
        fields=("id",),
    )
    screen = world.screen("board:1")
    add(world, model())
    assert events(screen) == []
    change(world, model, 1, title="a")
    assert events(screen) == ["item.created"]
    change(world, model, 1, title=None)
    assert events(screen) == ["item.deleted"]


def test_invalidates_everywhere_when_a_callable_names_what_is_no_room(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.room("board:<int:board_id>")
    model = item(world, rooms=lambda row: row.board_id, columns=("board_id",),
                 fields=("id",))  # fmt: skip
    position = begun_in(world, "board:1")
    add(world, model(board_id=1))
    assert since(world, "board:1", position) == ["item.invalidated"]
    assert "Item" in caplog.text


def test_refuses_a_callable_whose_columns_are_not_named(world: World) -> None:
    with pytest.raises(ConfigError, match="columns="):
        item(world, rooms=lambda row: None, fields=("id",))


def test_logs_a_callable_that_reads_what_it_did_not_name(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.room("board:<int:board_id>")
    model = item(
        world,
        rooms=lambda row: f"board:{row.board_id}",
        columns=("owner",),
        fields=("id",),
    )
    position = begun_in(world, "board:1")
    add(world, model(board_id=1))
    assert since(world, "board:1", position) == ["item.invalidated"]
    assert "Item.board_id is not among the columns" in caplog.text


# -- when ----------------------------------------------------------------------------


def test_lets_rows_enter_and_leave_by_when(world: World) -> None:
    model = item(
        world,
        rooms=world.room("board:<int:board_id>"),
        fields=("id", "title"),
        when=lambda row: not row.done,
    )
    screens = world.screens("board:1", "board:2")
    add(world, model(board_id=1), model(board_id=1, done=True))
    assert events(*screens) == [["item.created"], []]
    change(world, model, 2, title="still not there")
    assert events(*screens) == [[], []]
    change(world, model, 2, done=False)
    assert events(*screens) == [["item.created"], []]
    change(world, model, 2, done=True, title="gone")
    assert events(*screens) == [["item.deleted"], []]
    change(world, model, 2, board_id=2)
    assert events(*screens) == [[], []]
    change(world, model, 2, done=False)
    assert events(*screens) == [[], ["item.created"]]
    change(world, model, 1, done=True, board_id=2)
    assert events(*screens) == [["item.deleted"], []]
    delete(world, model, 1)
    assert events(*screens) == [[], []]
    check(screens)


def test_follows_when_as_far_as_its_columns_go(world: World) -> None:
    model = item(
        world,
        rooms=world.room("all"),
        fields=("id",),
        when=lambda row: row.count > 10,
        columns=("count",),
    )
    screen = world.screen("all")
    add(world, model(count=5))
    change(world, model, 1, count=model.count + 6)
    assert events(screen) == ["item.created"]
    change(world, model, 1, title="not read")
    assert events(screen) == []
    with world.Session() as session:
        session.execute(sa.update(model).values(count=1))
        session.commit()
    assert events(screen) == ["item.invalidated"]
    screen.check()


# -- fields --------------------------------------------------------------------------


def test_pushes_fields_by_name_text_and_callable(world: World) -> None:
    model = item(
        world,
        rooms=world.room("all"),
        fields={
            "id": str,
            "name": "title",
            "count": str,
            "shout": lambda row: f"{row.title}!",
        },
    )
    screen = world.screen("all")
    add(world, model(title="a", count=2**60, secret="x"))
    assert screen.follow() == [
        (
            "item.created",
            {"id": "1", "name": "a", "count": str(2**60), "shout": "a!"},
        )
    ]
    change(world, model, 1, title="b")
    assert screen.follow()[0][1]["shout"] == "b!"
    delete(world, model, 1)
    assert screen.follow() == [("item.deleted", {"id": "1"})]
    screen.check()


def test_gives_callables_a_row_that_is_read_only(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def spoil(row: Any) -> None:
        row.title = "spoilt"

    model = item(world, rooms=world.room("all"), fields={"id": "id", "x": spoil})
    screen = world.screen("all")
    add(world, model(title="a"))
    assert screen.follow() == [("item.created", {"id": 1})]
    assert "read-only" in caplog.text


def _fail(row: Any) -> Any:
    if row.title == "bad":
        raise ZeroDivisionError("a bug of the application")
    return row.title


def test_leaves_a_field_out_that_raises(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    board = world.room("board:<int:board_id>")
    model = item(world, rooms=board, fields={"id": "id", "x": _fail})
    world.livepush.track(rooms=world.room("all"), fields=("id",), kind="any")(model)
    add(world, model(board_id=1, title="good"))
    log = caplog.text
    position = begun_in(world, "board:1"), begun_in(world, "board:2")
    everything = world.screen("all")
    add(world, model(board_id=1, title="bad"), model(board_id=2, title="good"))
    assert log == ""
    assert "a bug of the application" in caplog.text
    assert "Item" in caplog.text
    assert events(everything) == ["any.created"] * 2
    assert since(world, "board:1", position[0]) == ["item.created"]
    assert since(world, "board:2", position[1]) == ["item.created"]
    screen = world.screen("board:1")
    assert list(screen.kinds["item"].values()) == [{"id": 1, "x": "good"}, {"id": 2}]
    change(world, model, 1, title="bad")
    assert screen.follow() == [("item.updated", {"id": 1})]
    screen.check()
    assert [r.levelname for r in caplog.records] == ["ERROR"]


def begun_in(world: World, room: str) -> Position:
    """Let a room's epoch begin, as somebody's joining does."""
    return begun(broker_of(world.livepush), room)


def since(world: World, room: str, position: Any) -> list[str]:
    """Return the events of a room whose snapshot can't be read."""
    outgoing = outgoing_of(world.livepush)
    outgoing.wait_until_told(DEADLINE)
    until(outgoing.finish, what="something waits")
    found = broker_of(world.livepush).history(room, position).publications
    return [publication.event for publication in found or ()]


def test_moves_a_row_one_of_whose_fields_raises(
    world: World,
) -> None:
    board = world.room("board:<int:board_id>")
    model = item(world, rooms=board, fields={"id": "id", "x": _fail})
    add(world, model(board_id=1, title="good"))
    one, two = (begun_in(world, f"board:{i}") for i in (1, 2))
    change(world, model, 1, title="bad", board_id=2)
    assert since(world, "board:1", one) == ["item.deleted"]
    assert since(world, "board:2", two) == ["item.created"]


@pytest.mark.parametrize("where", ["rooms", "when"])
def test_invalidates_every_room_when_rooms_or_when_raises(
    world: World, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    def raises(row: Any) -> Any:
        if row.title == "bad":
            raise ZeroDivisionError("a bug of the application")
        return "board:1"

    board = world.room("board:<int:board_id>")
    track = (
        {"rooms": raises, "columns": ("title",)}
        if where == "rooms"
        else {"rooms": board, "when": raises}
    )
    model = item(world, fields=("id",), **track)
    world.livepush.track(rooms=world.room("all"), fields=("id",), kind="any")(model)
    position = begun_in(world, "board:1")
    everything = begun_in(world, "all")
    add(world, model(board_id=1, title="bad"))
    assert "a bug of the application" in caplog.text
    assert "Item" in caplog.text
    # A callable's rooms may be any.
    told = ["any.created"] + ["item.invalidated"] * (where == "rooms")
    assert since(world, "all", everything) == told
    assert since(world, "board:1", position) == ["item.invalidated"]


@pytest.fixture
def failures() -> Iterator[list[dict[str, str]]]:
    """What receivers of ``livepush.signals.failed`` are told."""
    told: list[dict[str, str]] = []

    def receive(sender: Any, **arguments: str) -> None:
        # Applications of earlier tests may still tell of theirs.
        if arguments["kind"]:
            told.append(arguments)

    with signals.failed.connected_to(receive):
        yield told


def bag(world: World, **track: Any) -> Any:
    """Return a tracked model of what a visitor may send."""

    class Bag(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "bag"
        id: Mapped[int] = mapped_column(sa.BigInteger, primary_key=True)
        board_id: Mapped[int] = mapped_column(default=1)
        title: Mapped[str | None]
        count: Mapped[int | None] = mapped_column(sa.BigInteger)
        ratio: Mapped[float | None] = mapped_column(sa.Float)
        price: Mapped[Decimal | None] = mapped_column(sa.Numeric)
        data: Mapped[Any] = mapped_column(sa.JSON, nullable=True)

    board = world.room("board:<int:board_id>")
    track = {"fields": ("id", "title", "count", "ratio", "price", "data"), **track}
    world.livepush.track(rooms=board, **track)(Bag)
    world.create_tables()
    return Bag


# What a visitor posts as JSON, or a form, that a database takes.
UNSENDABLE = {
    "an integer above 2^53": ("count", 2**53 + 4711),
    "one in JSON": ("data", {"a": [{"n": 2**53 + 4711}]}),
    "half an emoji": ("data", json.loads('{"a": "4711\\ud800"}')),
    "half an emoji in a key": ("data", json.loads('{"4711\\udc00": 1}')),
    "deep nesting": ("data", json.loads("[" * 150 + "4711" + "]" * 150)),
    "1e400": ("data", json.loads('{"amount": 1e400, "n": 4711}')),
    "NaN in JSON": ("data", json.loads('{"a": [NaN, 4711]}')),
    "infinity": ("ratio", float("inf")),
    "minus infinity": ("ratio", float("-inf")),
    "NaN": ("ratio", float("nan")),
}
# What only some databases take: PostgreSQL's and MariaDB's JSON is JSON, MariaDB's
# FLOAT has no infinity, and SQLite makes NULL of NaN.
REFUSED_BY = {
    "half an emoji": ("postgresql", "mariadb"),
    "half an emoji in a key": ("postgresql", "mariadb"),
    "1e400": ("postgresql", "mariadb"),
    "NaN in JSON": ("postgresql", "mariadb"),
    "deep nesting": ("mariadb",),
    "infinity": ("mariadb",),
    "minus infinity": ("mariadb",),
    "NaN": ("mariadb", "sqlite"),
}


@pytest.mark.parametrize(
    ("database_url", "case"),
    [
        (database, case)
        for database in ("sqlite", "postgresql", "mariadb")
        for case in UNSENDABLE
        if database not in REFUSED_BY.get(case, ())
    ],
    indirect=["database_url"],
)
def test_leaves_a_value_out_that_can_not_be_sent(
    database_url: str,
    case: str,
    failures: list[dict[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: every page of the room read anew for ever, and nobody could join it."""
    name, value = UNSENDABLE[case]
    with closing(World(database_url)) as world:
        model = bag(world)
        screen = world.screen("board:1")
        add(world, model(id=1, title="a", **{name: value}), model(id=2, title="b"))
        first = {"id": 1, "title": "a", "count": None, "ratio": None, "price": None}
        first |= {"data": None}
        second = first | {"id": 2, "title": "b"}
        del first[name]
        assert screen.follow() == [("bag.created", first), ("bag.created", second)]
        screen.check()
        change(world, model, 1, title="c")
        assert screen.follow() == [("bag.updated", first | {"title": "c"})]
        with world.Session() as session:
            row = session.get(model, 1)
            assert world.livepush.row(row) == first | {"title": "c"}
        change(world, model, 1, **{name: None})
        assert screen.follow() == [("bag.updated", {**first, "title": "c", name: None})]
        screen.check()
    # In three rows and a snapshot; logged once, told each time, and never the value.
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert f"field '{name}' of Bag" in caplog.text
    assert len(failures) >= 4
    assert {(f["kind"], f["room"]) for f in failures} == {
        ("bag", "board:<int:board_id>")
    }
    assert "4711" not in caplog.text + repr(failures)


@pytest.mark.parametrize("case", vectors("left_out"), ids=lambda case: case["about"])
def test_sends_of_a_row_what_can_be_sent(world: World, case: dict[str, Any]) -> None:
    class Thing(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        a: Mapped[Any] = mapped_column(sa.JSON, nullable=True)
        b: Mapped[Any] = mapped_column(sa.JSON, nullable=True)

    world.livepush.track(rooms=world.room("all"), fields=("id", "a", "b"))(Thing)
    world.create_tables()
    screen = world.screen("all")
    add(world, Thing(**case["row"]))
    assert screen.follow() == [("thing.created", case["sent"])]
    screen.check()


@pytest.mark.parametrize(
    "field",
    [
        lambda row: {1: "a", "1": "b"}[row.title] and b"x",
        lambda row: {1, 2},
        lambda row: object(),
        lambda row: {"a": {Colour.RED: 1, "red": 2}},
        lambda row: {None: 1},
        lambda row: row.nothing,
        lambda row: 1 / 0,
    ],
    ids=["KeyError", "set", "object", "keys", "None as key", "no column", "raises"],
)
def test_leaves_out_what_a_callable_makes_and_can_not_be_sent(
    world: World, field: Any
) -> None:
    model = bag(world, fields={"id": "id", "x": field, "title": "title"})
    screen = world.screen("board:1")
    add(world, model(id=1, title="a"))
    assert screen.follow() == [("bag.created", {"id": 1, "title": "a"})]
    screen.check()


def test_leaves_out_what_a_conversion_can_not_convert(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    model = bag(world, fields={"title": int, "count": str})
    screen = world.screen("board:1")
    add(world, model(id=1, title="secret", count=2**60), model(id=2, title="7"))
    assert [data for _, data in screen.follow()] == [
        {"id": 1, "count": str(2**60)},
        {"id": 2, "title": 7, "count": None},
    ]
    screen.check()
    assert "ValueError" in caplog.text
    assert "secret" not in caplog.text


def test_a_row_whose_key_can_not_be_sent_is_in_no_room(
    database_url: str,
    failures: list[dict[str, str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: ids above 2^53, as snowflakes are, and nobody could join the room."""
    large = 2**53 + 4711
    with closing(World(database_url)) as world:
        model = bag(world, fields=("title",), latest=2)
        screen = world.screen("board:1")
        add(world, model(id=1, title="a"), model(id=large, title="b"))
        assert screen.follow() == [("bag.created", {"id": 1, "title": "a"})]
        screen.check()
        change(world, model, large, title="c")
        delete(world, model, large)
        assert screen.follow() == []
        add(world, *(model(id=large + i) for i in range(3)))
        assert screen.follow() == []
        found = snapshot(world.livepush, "board:1")["bag"]
        assert found == {"key": "id", "rows": [], "partial": True}
        with world.Session() as session:
            row = session.get(model, large)
            assert world.livepush.row(row) == {"title": None}
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "fields={'id': str}" in failures[0]["reason"]
    assert "4711" not in caplog.text + repr(failures)


@pytest.mark.parametrize("fields", [("id", "blob"), {"picture": "blob"}])
def test_refuses_fields_that_hold_bytes(world: World, fields: Any) -> None:
    """Bug: it was accepted, and nobody could join a room with such a row."""
    with pytest.raises(ConfigError, match=r"'blob' holds bytes.*row\.blob"):
        item(world, rooms=world.room("all"), fields=fields)


def test_says_how_a_bare_decorator_is_called(world: World) -> None:
    """Bug: it was a TypeError about positional arguments."""
    model = item(world)
    with pytest.raises(ConfigError, match=r"@livepush\.track\(rooms="):
        world.livepush.track(model)
    with pytest.raises(ConfigError, match=r"@livepush\.room\('"):
        world.livepush.room(lambda user: True)
    with pytest.raises(ConfigError, match=r"@livepush\.page\('"):
        world.livepush.page()


class Money(sa.types.TypeDecorator[Decimal]):
    """A Decimal in every database; SQLite has none of its own."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: Decimal | None, dialect: Any) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: str | None, dialect: Any) -> Decimal | None:
        return None if value is None else Decimal(value)


class Colour(enum.Enum):
    RED = "red"


def test_sends_values_as_they_are_documented_to_arrive(database_url: str) -> None:
    with closing(World(database_url)) as world:

        @world.livepush.track(
            rooms=world.room("all"),
            fields=("id", "colour", "price", "at", "key", "flag", "size"),
        )
        class Thing(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "thing"
            id: Mapped[int] = mapped_column(primary_key=True)
            colour: Mapped[Colour]
            price: Mapped[Decimal] = mapped_column(Money)
            # In MySQL and MariaDB without a fraction, unless it is asked for.
            at: Mapped[datetime] = mapped_column(
                sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql")
            )
            key: Mapped[uuid.UUID]
            flag: Mapped[bool]
            size: Mapped[float]

        world.create_tables()
        screen = world.screen("all")
        key = uuid.UUID(int=7)
        thing = Thing(
            colour=Colour.RED,
            price=Decimal("1.50"),
            at=datetime(2026, 1, 2, 3, 4, 5, 6000),
            key=key,
            flag=True,
            size=0.5,
        )
        add(world, thing)
        [(_, data)] = screen.follow()
        assert data == {
            "id": 1,
            "colour": "red",
            "price": "1.50",
            "at": "2026-01-02T03:04:05.006000",
            "key": str(key),
            "flag": True,
            "size": 0.5,
        }
        screen.check()


# -- keys ----------------------------------------------------------------------------


def test_knows_rows_by_a_unique_column(world: World) -> None:
    model = item(world, rooms=world.room("all"), fields=("title",), key="code")
    screen = world.screen("all")
    add(world, model(code="a", title="x"))
    assert screen.follow() == [("item.created", {"code": "a", "title": "x"})]
    change(world, model, 1, title="y")
    assert screen.follow() == [("item.updated", {"code": "a", "title": "y"})]
    change(world, model, 1, code="b")
    assert screen.follow() == [
        ("item.deleted", {"code": "a"}),
        ("item.created", {"code": "b", "title": "y"}),
    ]
    delete(world, model, 1)
    assert screen.follow() == [("item.deleted", {"code": "b"})]
    screen.check()


def test_lets_two_rows_swap_their_keys_in_one_commit(world: World) -> None:
    model = item(world, rooms=world.room("all"), fields=("title",), key="code")
    add(world, model(code="a", title="1"), model(code="b", title="2"))
    screen = world.screen("all")
    with world.Session() as session:
        one, two = session.get(model, 1), session.get(model, 2)
        one.code = None
        session.flush()
        two.code = "a"
        session.flush()
        one.code = "b"
        session.commit()
    screen.check()
    assert screen.kinds["item"]["a"]["title"] == "2"


def test_lets_a_row_take_the_key_of_another_in_another_room(world: World) -> None:
    board = world.room("board:<int:board_id>")
    model = item(world, rooms=board, fields=("title",), key="code")
    add(world, model(board_id=1, code="a"), model(board_id=2, code="b"))
    screens = world.screens("board:1", "board:2")
    with world.Session() as session:
        one, two = session.get(model, 1), session.get(model, 2)
        session.delete(one)
        session.flush()
        two.code = "a"
        two.board_id = 1
        session.commit()
    check(screens)


def test_lets_a_new_row_take_a_key_that_another_commit_gave_up(world: World) -> None:
    model = item(world, rooms=world.room("all"), fields=("title",), key="code")
    screen = world.screen("all")
    add(world, model(code="a", title="1"))
    change(world, model, 1, code="b")
    add(world, model(code="a", title="2"))
    delete(world, model, 1)
    screen.check()
    assert list(screen.kinds["item"]) == ["a"]


def test_follows_a_composite_primary_key(database_url: str) -> None:
    with closing(World(database_url)) as world:
        room = world.room("board:<int:board_id>")

        @world.livepush.track(rooms=room, fields=("code", "title"), key="code")
        class Cell(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "cell"
            board_id: Mapped[int] = mapped_column(primary_key=True)
            place: Mapped[int] = mapped_column(primary_key=True)
            code: Mapped[str] = mapped_column(unique=True)
            title: Mapped[str | None]

        world.create_tables()
        screens = world.screens("board:1", "board:2")
        add(world, *(Cell(board_id=1, place=p, code=f"c{p}") for p in (1, 2, 3)))
        assert events(*screens) == [["cell.created"] * 3, []]
        with world.Session() as session:
            for cell in session.scalars(sa.select(Cell)):
                cell.title = "new"
            session.commit()
        assert events(*screens) == [["cell.updated"] * 3, []]
        change(world, Cell, (1, 2), board_id=2)
        assert events(*screens) == [["cell.deleted"], ["cell.created"]]
        with world.Session() as session:
            for cell in session.scalars(sa.select(Cell)):
                session.delete(cell)
            session.commit()
        assert events(*screens) == [["cell.deleted"] * 2, ["cell.deleted"]]
        check(screens)


@pytest.mark.parametrize("kind", ["uuid", "text", "enum", "date"])
def test_follows_keys_of_any_type(database_url: str, kind: str) -> None:
    types: dict[str, tuple[Any, Any, Any]] = {
        "uuid": (sa.Uuid(), uuid.UUID(int=1), uuid.UUID(int=2)),
        "text": (sa.String(20), "ä ", "b"),
        "enum": (sa.Enum("x", "y", name="letter"), "x", "y"),
        "date": (sa.Date(), datetime(2026, 1, 1).date(), datetime(2026, 1, 2).date()),
    }
    type_, first, second = types[kind]
    with closing(World(database_url)) as world:

        @world.livepush.track(rooms=world.room("all"), fields=("id", "title"))
        class Thing(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "thing"
            id: Mapped[Any] = mapped_column(type_, primary_key=True)
            title: Mapped[str | None]

        world.create_tables()
        screen = world.screen("all")
        add(world, Thing(id=first), Thing(id=second))
        assert events(screen) == ["thing.created"] * 2
        change(world, Thing, first, title="new")
        delete(world, Thing, second)
        assert events(screen) == ["thing.updated", "thing.deleted"]
        screen.check()


def test_follows_a_key_that_was_given_as_another_type(database_url: str) -> None:
    """SQLite and the drivers take "7" for an integer."""
    with closing(World(database_url)) as world:
        model = item(world, rooms=world.room("all"), fields=("id", "title"))
        screen = world.screen("all")
        if world.is_sqlite:
            add(world, model(id="7"), model(id="8", title="x"))
            screen.check()
            assert list(screen.kinds["item"]) == [7, 8]
        add(world, model(id=9))
        screen.check()


# -- properties of the model ---------------------------------------------------------


def person(world: World, fields: Any, **track: Any) -> Any:
    """Return a model with properties of many kinds, tracked with fields."""

    class Team(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "team"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    class Shouting:
        @property
        def shout(self) -> str:
            return f"{self.display_name}{self.MARK}"  # type: ignore[attr-defined]

    @world.livepush.track(rooms=world.room("all"), fields=fields, **track)
    class Person(Shouting, world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "person"
        id: Mapped[int] = mapped_column(primary_key=True)
        first: Mapped[str]
        last: Mapped[str]
        secret: Mapped[str | None]
        team_id: Mapped[int | None] = mapped_column(sa.ForeignKey("team.id"))
        team: Mapped[Any] = relationship(Team)
        MARK = "!"

        @property
        def display_name(self) -> str:
            return " ".join((self.first, self.last))

        @hybrid_property
        def initials(self) -> str:
            return self.first[:1] + self.last[:1]

        @cached_property
        def sortable(self) -> str:
            return self.joined(", ")

        def joined(self, by: str) -> str:
            return by.join((self.last, self.first, *self.titles()))

        @staticmethod
        def titles() -> list[str]:
            return []

        @property
        def team_name(self) -> str:
            return str(self.team.name)

        @property
        def roundabout(self) -> str:
            return self.team_name

        @property
        def typo(self) -> str:
            return str(self.frist)

        @classmethod
        def kind(cls) -> str:
            return cls.__name__

        @property
        def what(self) -> str:
            return self.kind()

    world.create_tables()
    return Person


def test_pushes_properties_that_read_columns(world: World) -> None:
    model = person(
        world,
        {
            "id": "id",
            "name": "display_name",
            "initials": "initials",
            "sortable": "sortable",
            "shout": "shout",
            "what": "what",
        },
    )
    screen = world.screen("all")
    add(world, model(first="Ada", last="King"))
    assert screen.follow() == [
        (
            "person.created",
            {
                "id": 1,
                "name": "Ada King",
                "initials": "AK",
                "sortable": "King, Ada",
                "shout": "Ada King!",
                "what": "Person",
            },
        )
    ]
    change(world, model, 1, last="Lovelace")
    assert screen.follow()[0][1]["initials"] == "AL"
    screen.check()
    with world.Session() as session:
        row = world.livepush.row(session.get(model, 1))
        assert row["name"] == "Ada Lovelace"


def test_follows_the_columns_that_a_property_is_said_to_read(world: World) -> None:
    model = person(world, ("id", "display_name"), columns=("first", "last"))
    screen = world.screen("all")
    add(world, model(first="Ada", last="King"))
    change(world, model, 1, secret="not read")
    assert events(screen) == ["person.created"]
    change(world, model, 1, first="A.")
    assert screen.follow() == [("person.updated", {"id": 1, "display_name": "A. King"})]
    screen.check()


def test_refuses_a_property_that_reads_a_relationship(world: World) -> None:
    with pytest.raises(ConfigError, match="'team_name' reads the relationship 'team'"):
        person(world, ("id", "team_name"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("roundabout", "Person.team is a relationship"),
        ("typo", "Person.frist is no column"),
    ],
)
def test_says_what_a_property_can_not_read(
    world: World, name: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = person(world, ("id", name))
    add(world, model(first="Ada", last="King"))
    assert says in caplog.text


@pytest.mark.parametrize(
    ("field", "says"),
    [
        (lambda row: row.secret, "Name what callables read in columns="),
        (lambda row: row.team.name, "query what it leads to"),
        ("typo", "Person.frist is no column"),
    ],
)
def test_tells_collectors_the_remedy_where_a_row_is_asked_for_what_it_has_not(
    world: World, failures: list[dict[str, str]], field: Any, says: str
) -> None:
    """Bug: "Catch it there", and the remedy stood in the traceback alone."""
    model = person(world, {"id": "id", "what": field}, columns=("first",))
    add(world, model(first="Ada", last="King"))
    (told,) = failures
    assert says in told["reason"]
    assert "Catch it there" not in told["reason"]
    assert "King" not in told["reason"]


def test_refuses_a_field_that_is_neither_column_nor_property(world: World) -> None:
    with pytest.raises(ConfigError, match="'nothing' is no column"):
        person(world, ("id", "nothing"))


# -- inheritance ---------------------------------------------------------------------


@pytest.mark.parametrize("joined", [True, False], ids=["joined-table", "single-table"])
def test_follows_all_classes_of_a_tracked_base(database_url: str, joined: bool) -> None:
    with closing(World(database_url)) as world:
        room = world.room("board:<int:board_id>")

        @world.livepush.track(rooms=room, fields=("id", "title"), kind="shape")
        class Shape(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "shape"
            id: Mapped[int] = mapped_column(primary_key=True)
            type: Mapped[str]
            board_id: Mapped[int]
            title: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "type",
                "polymorphic_identity": "shape",
            }

        class Circle(Shape):
            __mapper_args__ = {"polymorphic_identity": "circle"}  # noqa: RUF012
            radius: Mapped[int | None] = mapped_column()
            if joined:
                __tablename__ = "circle"
                id: Mapped[int] = mapped_column(
                    sa.ForeignKey("shape.id"), primary_key=True
                )

        world.livepush.track(rooms=room, fields=("id", "radius"))(Circle)
        world.create_tables()
        screens = world.screens("board:1", "board:2")
        add(world, Shape(board_id=1), Circle(board_id=1, radius=1))
        assert sorted(events(*screens)[0]) == [
            "circle.created",
            "shape.created",
            "shape.created",
        ]
        change(world, Circle, 2, radius=2)
        assert "circle.updated" in events(*screens)[0]
        change(world, Circle, 2, title="new")
        assert "shape.updated" in events(*screens)[0]
        change(world, Circle, 2, board_id=2)
        one, two = events(*screens)
        assert sorted(one) == ["circle.deleted", "shape.deleted"]
        assert sorted(two) == ["circle.created", "shape.created"]
        check(screens)
        with world.Session() as session:
            session.execute(
                sa.update(Shape).where(Shape.board_id == 2).values(title="bulk")
            )
            session.commit()
        assert "shape.invalidated" in events(*screens)[1]
        check(screens)
        delete(world, Circle, 2)
        delete(world, Shape, 1)
        assert sorted(events(*screens)[1]) == ["circle.deleted", "shape.deleted"]
        check(screens)
        with world.Session() as session:
            session.execute(
                sa.insert(Circle), [{"board_id": 1, "radius": 3, "title": "bulk"}]
            )
            session.commit()
        check(screens)
        with world.Session() as session:
            session.execute(sa.update(Circle).values(radius=9))
            session.commit()
        check(screens)


def test_follows_a_class_that_is_mapped_after_its_base_was_tracked(
    world: World,
) -> None:
    model = item(world, rooms=world.room("all"), fields=("id", "title"))

    class Special(model):  # type: ignore[misc, valid-type]
        pass

    screen = world.screen("all")
    add(world, Special(title="a"))
    assert events(screen) == ["item.created"]
    screen.check()


def test_pushes_a_subquery_column_as_it_is_read(world: World) -> None:
    class Vote(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "vote"
        id: Mapped[int] = mapped_column(primary_key=True)
        item_id: Mapped[int] = mapped_column(sa.ForeignKey("item.id"))

    model = item(world)
    model.votes = column_property(
        sa.select(sa.func.count(Vote.id))
        .where(Vote.item_id == model.id)
        .correlate_except(Vote)
        .scalar_subquery()
    )
    model.vote_rows = relationship(Vote)
    world.livepush.track(rooms=world.room("all"), fields=("id", "title", "votes"))(
        model
    )
    world.create_tables()
    screen = world.screen("all")
    add(world, model(vote_rows=[Vote(), Vote()]))
    assert screen.follow() == [("item.created", {"id": 1, "title": None, "votes": 2})]
    screen.check()


def test_refuses_the_same_kind_twice_in_one_room(world: World) -> None:
    room = world.room("all")
    model = item(world, rooms=room, fields=("id",))
    with pytest.raises(ConfigError, match="kind="):
        world.livepush.track(rooms=room, fields=("title",))(model)


@pytest.mark.parametrize(
    ("declaration", "names"),
    [
        ({"fields": ("id", "nothing")}, "nothing"),
        ({"fields": "id"}, "fields="),
        ({"fields": {"id": "nothing"}}, "nothing"),
        ({"fields": {"nothing": str}}, "nothing"),
        ({"fields": ("id",), "key": "title"}, "unique"),
        ({"fields": ("id",), "key": "nothing"}, "nothing"),
        ({"fields": {"id": lambda row: 1}}, "key"),
        ({"fields": ("id",), "kind": "livepush"}, "reserved"),
        ({"fields": ("id",), "kind": "a.b"}, "a.b"),
        ({"fields": ("id",), "latest": -1}, "latest"),
        ({"fields": ("id",), "columns": ("nothing",)}, "nothing"),
        ({"fields": ("id",), "columns": "id"}, "columns"),
        ({"fields": ("id",), "rooms": "all"}, "rooms="),
        ({"fields": ("id",), "rooms": ()}, "rooms="),
    ],
    ids=str,
)
def test_refuses_a_declaration_with_the_remedy(
    world: World, declaration: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigError, match="Item") as raised:
        item(world, **{"rooms": world.room("all"), **declaration})
    assert names in str(raised.value)


def test_refuses_a_room_whose_variable_is_no_column(world: World) -> None:
    with pytest.raises(ConfigError, match="'team'"):
        item(world, rooms=world.room("team:<team>"), fields=("id",))


def test_refuses_what_is_no_model(world: World) -> None:
    with pytest.raises(ConfigError, match="no model"):
        world.livepush.track(rooms=world.room("all"), fields=("id",))(int)


@pytest.mark.parametrize(
    ("fields", "remedy"),
    [
        (("id", "author"), r"a relationship; .* fields=\{'author': 'author.name'\}"),
        ({"by": "author"}, r"a relationship; name the column of its foreign key, or"),
        (("id", "excerpt"), r"a method: fields=\{'excerpt': lambda row: row.excerpt"),
        (("id", "bdoy"), "Did you mean 'body'"),
        (("id", 5), "must be a text|no column"),
    ],
)
def test_says_what_may_have_been_meant(world: World, fields: Any, remedy: str) -> None:
    """Bug: of a relationship and a method it said to name them in columns=."""

    class Post(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "post"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(sa.ForeignKey("person.id"))
        # Not mapped yet, as in a module that is imported later.
        author: Mapped[Any] = relationship("Person")
        body: Mapped[str]

        def excerpt(self) -> str:
            return self.body[:10]

    with pytest.raises(ConfigError, match=remedy):
        world.livepush.track(rooms=world.room("all"), fields=fields)(Post)


def test_says_how_a_room_is_given(world: World) -> None:
    model = item(world)
    for rooms, remedy in (
        ("all", "by its name"),
        (["all"], "by its name"),
        (world.livepush.room("all"), "without a rule"),
    ):
        with pytest.raises(ConfigError, match=remedy):
            world.livepush.track(rooms=rooms, fields=("id",))(model)
    with pytest.raises(ConfigError, match="of which model"):
        world.livepush.push_changes(rooms=world.room("all"), fields=("id",))
    with pytest.raises(UsageError, match="sessionmaker\\(engine\\)"):
        world.livepush.watch(world.engine)


def test_refuses_types_none_of_whose_values_can_be_sent(world: World) -> None:
    """Bug: they were accepted, and the first row took the room down."""
    for kind, remedy in (
        (sa.PickleType, "pickled objects"),
        (sa.ARRAY(sa.LargeBinary), r"\[base64.*for x in row\.x\]"),
        (sa.dialects.postgresql.INT4RANGE, r"\[row\.x\.lower"),
        (sa.dialects.postgresql.TSTZMULTIRANGE, "for x in row"),
        (mysql.SET("a", "b"), r"sorted\(row\.x\)"),
    ):
        model = type(
            "Odd",
            (sa.orm.DeclarativeBase,),
            {},
        )
        table = type(
            "Odd",
            (model,),
            {
                "__tablename__": "odd",
                "id": mapped_column(sa.Integer, primary_key=True),
                "x": mapped_column(kind),
            },
        )
        track = world.livepush.track(rooms=world_room(world), fields=("id", "x"))
        with pytest.raises(ConfigError, match=remedy):
            track(table)


def world_room(world: World) -> Any:
    return world.livepush._rooms.of_pattern("all") or world.room("all")


def test_refuses_a_key_none_of_whose_values_can_be_sent(world: World) -> None:
    class Thing(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "thing"
        id: Mapped[bytes] = mapped_column(sa.LargeBinary(16), primary_key=True)

    with pytest.raises(ConfigError, match="the key 'id' holds bytes"):
        world.livepush.track(rooms=world.room("all"), fields=())(Thing)


def test_sends_times_durations_and_addresses_as_text(database_url: str) -> None:
    with closing(World(database_url)) as world:
        is_postgres = world.engine.dialect.name == "postgresql"

        class Thing(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "thing"
            id: Mapped[int] = mapped_column(primary_key=True)
            at: Mapped[Any] = mapped_column(sa.Time)
            lasts: Mapped[Any] = mapped_column(sa.Interval)
            address: Mapped[Any] = mapped_column(
                sa.dialects.postgresql.INET if is_postgres else sa.String(50)
            )
            net: Mapped[Any] = mapped_column(
                sa.dialects.postgresql.CIDR if is_postgres else sa.String(50)
            )

        fields = ("id", "at", "lasts", "address", "net")
        world.livepush.track(rooms=world.room("all"), fields=fields)(Thing)
        world.create_tables()
        screen = world.screen("all")
        add(
            world,
            Thing(
                id=1,
                at=time(9, 30),
                lasts=timedelta(days=1, minutes=5),
                address="10.0.0.1",
                net="10.0.0.0/8",
            ),
        )
        row = {"id": 1, "at": "09:30:00", "lasts": "P1DT5M"}
        row |= {"address": "10.0.0.1", "net": "10.0.0.0/8"}
        assert screen.follow() == [("thing.created", row)]
        screen.check()
