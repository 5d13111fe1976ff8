"""Rooms by columns of any type: events, snapshots and bulk statements agree.

What a database calls equal and what a room's name says differ. A row's room has one
name: whoever is shown a row by its snapshot is told of it, and the other way round.
"""

from __future__ import annotations

import enum
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.routing import BaseConverter

from flask_livepush import ConfigError
from tests.support.following import World, check, closing, snapshot


class Color(enum.Enum):
    """Its names and its values differ."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    """Of numbers."""

    LOW = 1
    HIGH = 2


class Size(enum.Enum):
    """Not of numbers, but with them."""

    SMALL = 1
    LARGE = 2


ONE, TWO = uuid.UUID(int=0xABCDEF), uuid.UUID(int=0xFEDCBA)


class Lower(sa.types.TypeDecorator[str]):
    """Keeps small letters alone."""

    impl = sa.String(50)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.lower()


class ReadsLower(sa.types.TypeDecorator[str]):
    """Keeps what it is given, and reads small letters."""

    impl = sa.String(50)
    cache_ok = True

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.lower()


class FoldsBoth(Lower):
    """Finds by small letters, and reads small letters."""

    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.lower()


class Guid(sa.types.TypeDecorator[uuid.UUID]):
    """As the documentation of SQLAlchemy has it."""

    impl = sa.CHAR(32)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        if value is None:
            return None
        return (value if isinstance(value, uuid.UUID) else uuid.UUID(value)).hex

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else uuid.UUID(value)


class Choice(sa.types.TypeDecorator[Level]):
    """Keeps a number of an Enum."""

    impl = sa.Integer
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Any) -> Any:
        return None if value is None else value.value

    def process_result_value(self, value: Any, dialect: Any) -> Any:
        return None if value is None else Level(value)


class ByName(BaseConverter):
    """Writes an Enum by its name."""

    regex = "[A-Z]+"

    def to_python(self, value: str) -> Color:
        return Color[value]

    def to_url(self, value: Color) -> str:
        return value.name


@dataclass(frozen=True)
class Case:
    """A type of column and a pattern, and values with the names of their rooms.

    Args:
        rooms: By value: the name; None: it is in no room.
        strangers: Other names, of rooms that have no row.
    """

    type: Any
    pattern: str
    rooms: dict[Any, str | None]
    strangers: tuple[str, ...] = ()
    only: tuple[str, ...] = ("sqlite", "postgresql", "mariadb")
    options: dict[str, Any] = field(default_factory=dict)


AWARE = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))

CASES: dict[str, Case] = {
    "an Enum, native where there is such a type": Case(
        sa.Enum(Color, name="color"),
        "x:<v>",
        {Color.RED: "x:red", Color.BLUE: "x:blue"},
        ("x:RED", "x:Color.RED", "x:green", "x:Red"),
    ),
    "an Enum that is none in the database": Case(
        sa.Enum(Color, native_enum=False, length=20),
        "x:<v>",
        {Color.RED: "x:red", Color.BLUE: "x:blue"},
        ("x:RED",),
    ),
    "an Enum kept by value": Case(
        sa.Enum(Color, name="by_value", values_callable=lambda e: [m.value for m in e]),
        "x:<any(red, blue):v>",
        {Color.RED: "x:red", Color.BLUE: "x:blue"},
    ),
    "an Enum of texts": Case(
        sa.Enum("a", "B", name="letter"),
        "x:<v>",
        {"a": "x:a", "B": "x:B"},
        ("x:b", "x:A", "x:c"),
    ),
    "an Enum of numbers": Case(
        sa.Enum(Level, name="level"),
        "x:<int:v>",
        {Level.LOW: "x:1", Level.HIGH: "x:2"},
        ("x:3",),
    ),
    "an Enum with numbers": Case(
        sa.Enum(Size, name="size"), "x:<int:v>", {Size.SMALL: "x:1", Size.LARGE: "x:2"}
    ),
    "an Enum by a converter of the application's": Case(
        sa.Enum(Color, name="named"),
        "x:<by_name:v>",
        {Color.RED: "x:RED", Color.BLUE: "x:BLUE"},
        options={"by_name": ByName},
    ),
    "a UUID kept as text": Case(
        sa.String(36),
        "x:<uuid:v>",
        {str(ONE): f"x:{ONE}", str(TWO).upper(): f"x:{TWO}", "none at all": None},
    ),
    "a UUID kept as text without dashes": Case(
        sa.CHAR(40),
        "x:<uuid:v>",
        {ONE.hex: f"x:{ONE}", TWO.hex.upper(): f"x:{TWO}"},
    ),
    "a UUID written in yet another way": Case(
        sa.String(50),
        "x:<uuid:v>",
        {str(ONE).upper().replace("A", "a"): None, f"{{{TWO}}}": None},
        (f"x:{ONE}", f"x:{TWO}"),
    ),
    "a Uuid by a text": Case(
        sa.Uuid(),
        "x:<v>",
        {ONE: f"x:{ONE}", TWO: f"x:{TWO}"},
        (f"x:{ONE.hex}", f"x:{str(TWO).upper()}", "x:nonsense"),
    ),
    "a Uuid that is read as text": Case(
        sa.Uuid(as_uuid=False),
        "x:<v>",
        {str(ONE): f"x:{ONE}", str(TWO): f"x:{TWO}"},
        (f"x:{ONE.hex}", f"x:{str(TWO).upper()}", "x:nonsense"),
    ),
    "a Uuid that is none in the database": Case(
        sa.Uuid(native_uuid=False),
        "x:<uuid:v>",
        {ONE: f"x:{ONE}", TWO: f"x:{TWO}"},
    ),
    "text under the database's collation": Case(
        sa.String(50),
        "x:<v>",
        {"foo": "x:foo", "Foo": "x:Foo", "foo ": "x:foo ", "fóo": "x:fóo"},
        ("x:FOO", "x:FÓO", "x: foo", "x:ſoo"),
    ),
    "text that ignores case on SQLite": Case(
        sa.String(50, collation="NOCASE"),
        "x:<v>",
        {"foo": "x:foo", "Foo": "x:Foo"},
        ("x:FOO",),
        only=("sqlite",),
    ),
    "text that ignores case by a variant": Case(
        sa.String(50).with_variant(sa.String(50, collation="NOCASE"), "sqlite"),
        "x:<v>",
        {"foo": "x:foo", "Foo": "x:Foo"},
        ("x:FOO",),
        only=("sqlite",),
    ),
    "text that ignores spaces on SQLite": Case(
        sa.Text(collation="RTRIM"),
        "x:<v>",
        {"foo": "x:foo", "foo  ": "x:foo  "},
        only=("sqlite",),
    ),
    "padded text": Case(
        sa.CHAR(12),
        "x:<v>",
        {"foo": "x:foo", "bar  ": "x:bar", "whole twelve": "x:whole twelve"},
        ("x:foo ", "x:foo         ", "x:Foo"),
    ),
    "text by a number": Case(
        sa.String(10),
        "x:<int:v>",
        {"7": "x:7", "07": None, " 8": None, "9.0": None},
        ("x:8", "x:9"),
    ),
    "text of digits": Case(
        sa.String(10), "x:<int(fixed_digits=4):v>", {"0007": "x:0007", "7": None}
    ),
    "a number by a text": Case(
        sa.Integer(),
        "x:<v>",
        {7: "x:7", -7: "x:-7"},
        ("x:07", "x:7.0", "x:+7", "x:٧", "x:99999999999999999999", "x:1e400"),
    ),
    "a large number": Case(
        sa.BigInteger(), "x:<int:v>", {2**62: f"x:{2**62}", 7: "x:7"}
    ),
    "a number by one with a point": Case(
        sa.Integer(), "x:<float:v>", {7: "x:7.0"}, ("x:7.5",)
    ),
    "a Boolean": Case(
        sa.Boolean(),
        "x:<v>",
        {True: "x:true", False: "x:false"},
        ("x:True", "x:1", "x:0"),
    ),
    "a Boolean as a number": Case(
        sa.Boolean(), "x:<int:v>", {True: "x:1", False: "x:0"}, ("x:2",)
    ),
    "a decimal": Case(
        sa.Numeric(10, 2),
        "x:<v>",
        {Decimal("1.50"): "x:1.50", Decimal("0.10"): "x:0.10"},
        ("x:1.5", "x:1.500", "x:0.1", "x:NaN", "x:1E+999999"),
    ),
    "a decimal by a number": Case(
        sa.Numeric(10, 2),
        "x:<float:v>",
        {Decimal("1.50"): "x:1.5", Decimal("2.10"): "x:2.1"},
    ),
    "a decimal by a whole number": Case(
        sa.Numeric(10, 2),
        "x:<int:v>",
        {Decimal("1.50"): None, Decimal("2.00"): "x:2"},
        ("x:1",),
    ),
    "a float": Case(
        sa.Float(), "x:<float:v>", {1.5: "x:1.5", 1.1: "x:1.1"}, ("x:1.10",)
    ),
    "a date": Case(
        sa.Date(),
        "x:<v>",
        {date(2026, 1, 2): "x:2026-01-02", date(1, 1, 1): "x:0001-01-01"},
        ("x:20260102", "x:tomorrow"),
    ),
    "a date-time": Case(
        sa.DateTime(),
        "x:<v>",
        {datetime(2026, 1, 2, 3, 4, 5): "x:2026-01-02T03:04:05"},
        ("x:2026-01-02 03:04:05", "x:now"),
    ),
    "a date-time with an offset": Case(
        sa.DateTime(timezone=True),
        "x:<v>",
        {AWARE: "x:2026-01-02T01:04:05+00:00"},
        ("x:2026-01-02T03:04:05+02:00",),
        only=("postgresql",),
    ),
    "a time": Case(sa.Time(), "x:<v>", {time(1, 2): "x:01:02:00"}, ("x:noon",)),
    "a type that folds case": Case(
        Lower(), "x:<v>", {"Foo": "x:foo", "bar": "x:bar"}, ("x:Foo", "x:FOO")
    ),
    "a type that folds case when it reads": Case(
        ReadsLower(), "x:<v>", {"Foo": "x:foo", "bar": "x:bar"}, ("x:Foo",)
    ),
    "a type that says how it reads and how it writes": Case(
        FoldsBoth(), "x:<v>", {"Foo": "x:foo", "bar": "x:bar"}, ("x:Foo",)
    ),
    "a UUID of a type of the application's": Case(
        Guid(),
        "x:<uuid:v>",
        {ONE: f"x:{ONE}", TWO: f"x:{TWO}"},
    ),
    "the same by a text": Case(
        Guid(), "x:<v>", {ONE: f"x:{ONE}"}, (f"x:{ONE.hex}", "x:nonsense")
    ),
    "a type of the application's": Case(
        Choice(), "x:<v>", {Level.LOW: "x:1", Level.HIGH: "x:2"}, ("x:3", "x:LOW")
    ),
}


def thing(world: World, case: Case, **track: Any) -> Any:
    """Return a model with a column of the case's type, tracked by it."""
    room = world.livepush.room(case.pattern, converters=case.options or None)(
        lambda user, v: True
    )

    @world.livepush.track(rooms=room, fields=("id", "n"), **track)
    class Thing(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "thing"
        id: Mapped[int] = mapped_column(primary_key=True)
        v: Mapped[Any] = mapped_column(case.type)
        n: Mapped[int] = mapped_column(default=0)

    world.create_tables()
    return Thing


@pytest.mark.parametrize("name", CASES)
def test_who_is_shown_a_row_is_told_of_it(database_url: str, name: str) -> None:
    """Bug: by the column's type, pages had rows but no events, or the contrary."""
    case = CASES[name]
    with closing(World(database_url)) as world:
        if world.engine.dialect.name not in case.only:
            return
        model = thing(world, case)
        names = sorted({n for n in case.rooms.values() if n} | {*case.strangers})
        screens = {n: world.screen(n) for n in names if world.livepush.knows(n)}
        with world.Session() as session:
            for value in case.rooms:
                session.add(model(v=value))
            session.commit()
        shown = _ids(screens)
        assert shown == {
            n: {i for i, r in enumerate(case.rooms.values(), 1) if r == n}
            for n in screens
        }
        check(screens.values())
        for n in range(1, len(case.rooms) + 1):
            with world.Session() as session:
                session.get(model, n).n = n
                session.commit()
        assert _ids(screens) == shown
        check(screens.values())
        with world.Session() as session:  # each to where another was
            rows = list(session.scalars(sa.select(model).order_by(model.id)))
            values = list(case.rooms)
            for row, value in zip(rows, values[1:] + values[:1], strict=True):
                row.v = value
            session.commit()
        check(screens.values())
        for value in case.rooms:
            with world.Session() as session:
                session.execute(sa.update(model).where(model.v == value).values(n=-1))
                session.commit()
            check(screens.values())
        with world.Session() as session:
            session.execute(sa.insert(model), [{"v": v, "n": 5} for v in case.rooms])
            session.commit()
        check(screens.values())
        for value in case.rooms:
            with world.Session() as session:
                session.execute(sa.delete(model).where(model.v == value))
                session.commit()
            check(screens.values())


def _ids(screens: dict[str, Any]) -> dict[str, set[int]]:
    for screen in screens.values():
        screen.follow()
    return {name: {*s.kinds.get("thing", {})} for name, s in screens.items()}


@pytest.mark.parametrize(
    ("value", "room"),
    [
        (Color.RED, "x:red"),
        (Level.HIGH, "x:2"),
        (True, "x:true"),
        (AWARE, "x:2026-01-02T01:04:05+00:00"),
        (ONE, f"x:{ONE}"),
        (Decimal("1.50"), "x:1.50"),
        (2**80, f"x:{2**80}"),
    ],
    ids=repr,
)
def test_names_rooms_as_rows_do(world: World, value: Any, room: str) -> None:
    assert world.room("x:<v>").name(v=value) == room


def test_a_name_is_that_of_the_values_that_are_read_from_it(world: World) -> None:
    """Bug: "a" and "b:c" were pushed to the room of "a:b" and "c", and not in it."""
    room = world.room("x:<a>:<b>")

    @world.livepush.track(rooms=room, fields=("id",))
    class Pair(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "pair"
        id: Mapped[int] = mapped_column(primary_key=True)
        a: Mapped[str]
        b: Mapped[str]

    world.create_tables()
    screen = world.screen("x:a:b:c")
    with world.Session() as session:
        session.add_all([Pair(a="a", b="b:c"), Pair(a="a:b", b="c")])
        session.commit()
    assert [data for _, data in screen.follow()] == [{"id": 2}]
    screen.check()


def test_knows_rows_apart_that_a_collation_of_the_database_takes_for_the_same(
    schema_url: str,
) -> None:
    with closing(World(schema_url)) as world:
        with world.engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE COLLATION folding (provider = icu, locale = 'und-u-ks-level1', "
                "deterministic = false)"
            )
        model = thing(world, Case(sa.String(50, collation="folding"), "x:<v>", {}))
        screens = world.screens("x:foo", "x:Foo", "x:fóo", "x:FOO")
        _spellings(world, model, "foo", "Foo", "fóo")
        check(screens)
        assert [[*screen.kinds.get("thing", {})] for screen in screens] == [
            [1],
            [2],
            [3],
            [],
        ]
        with world.Session() as session:
            session.execute(sa.update(model).where(model.v == "foo").values(n=5))
            session.commit()
        check(screens)


def _spellings(world: World, model: Any, *texts: str) -> None:
    with world.Session() as session:
        session.add_all(model(v=text) for text in texts)
        session.commit()


def test_has_as_many_rows_as_are_wanted_although_others_are_left_out(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:
        kind = sa.String(50, collation="NOCASE" if world.is_sqlite else None)
        model = thing(world, Case(kind, "x:<v>", {}), latest=3)
        _spellings(world, model, *["foo"] * 3, *["Foo"] * 60)
        found = snapshot(world.livepush, "x:foo")["thing"]
        assert [row["id"] for row in found["rows"]] == [1, 2, 3]
        assert found["partial"] is False
        _spellings(world, model, "foo", *["Foo"] * 30)
        found = snapshot(world.livepush, "x:foo")["thing"]
        assert [row["id"] for row in found["rows"]] == [2, 3, 64]
        assert found["partial"] is True
        assert len(snapshot(world.livepush, "x:Foo")["thing"]["rows"]) == 3


@pytest.mark.parametrize(
    "kind",
    [sa.LargeBinary(), sa.JSON(), sa.PickleType(), sa.ARRAY(sa.Integer)],
    ids=lambda kind: type(kind).__name__,
)
def test_refuses_a_column_whose_values_have_no_one_text(
    world: World, kind: Any
) -> None:
    with pytest.raises(ConfigError, match=r"'v'.*columns=\('v',\)"):
        thing(world, Case(kind, "x:<v>", {}))


def _index_is_used(world: World, table: str, run: Callable[[], Any]) -> bool:
    seen: list[tuple[str, Any]] = []

    @sa.event.listens_for(world.engine, "before_cursor_execute")
    def note(_: Any, cursor: Any, text: str, parameters: Any, *more: Any) -> None:
        if f"FROM {table}" in text.replace("\n", ""):
            seen.append((text, parameters))

    run()
    sa.event.remove(world.engine, "before_cursor_execute", note)
    with world.engine.connect() as connection:
        plan = connection.exec_driver_sql(
            f"EXPLAIN QUERY PLAN {seen[0][0]}", seen[0][1]
        )
        return any("USING INDEX by_v" in str(row) for row in plan)


INDEXED = pytest.mark.parametrize(
    "name",
    [
        "an Enum, native where there is such a type",
        "a UUID kept as text",
        "a Uuid by a text",
        "text under the database's collation",
        "padded text",
        "a number by a text",
        "a decimal",
        "a float",
        "a date-time",
        "a type that folds case",
        "a UUID of a type of the application's",
    ],
)


@INDEXED
def test_lets_an_index_find_the_rows(world: World, name: str) -> None:
    case = CASES[name]
    model = thing(world, case)
    with world.engine.begin() as connection:
        connection.execute(sa.schema.CreateIndex(sa.Index("by_v", model.__table__.c.v)))
    room = next(n for n in case.rooms.values() if n)
    assert _index_is_used(world, "thing", lambda: snapshot(world.livepush, room))


@INDEXED
def test_lets_an_index_of_postgresql_find_the_rows(schema_url: str, name: str) -> None:
    case = CASES[name]
    with closing(World(schema_url)) as world:
        model = thing(world, case)
        plans: list[str] = []
        with world.engine.begin() as connection:
            index = sa.Index("by_v", model.__table__.c.v)
            connection.execute(sa.schema.CreateIndex(index))

        @sa.event.listens_for(world.engine, "before_cursor_execute")
        def explain(connection: Any, _: Any, text: str, given: Any, *more: Any) -> None:
            if "FROM thing" in text.replace("\n", ""):
                cursor = connection.connection.dbapi_connection.cursor()
                cursor.execute("SET LOCAL enable_seqscan = off")
                cursor.execute(f"EXPLAIN {text}", given)
                plans.extend(row[0] for row in cursor.fetchall())

        snapshot(world.livepush, next(n for n in case.rooms.values() if n))
        assert any("Index Cond" in line for line in plans), plans
