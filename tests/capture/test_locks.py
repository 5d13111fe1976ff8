"""The rows that are locked before a flush, in which order, and how firmly.

An application that never deadlocked must not begin to. Each test has an order of two
transactions in which the application's own statements wait for each other at most.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column

from tests.support.following import Chat, World, closing
from tests.support.waiting import DEADLINE, until


def until_it_waits(world: World, future: Future[Any]) -> None:
    """Wait until a transaction waits for another's lock."""
    waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"

    def waits() -> bool:
        assert not future.done(), future.result()
        return bool(world.scalar(waiting))

    until(waits)


def meet(
    world: World,
    first: Callable[[Session], None],
    other: Callable[[Session], None],
    second: Callable[[Session], None],
) -> None:
    """Let one transaction wait for what another holds, and that go on.

    Args:
        first: What the one does first; it is flushed.
        other: What the other does; its flush waits for the one.
        second: What the one does then. Both commit.
    """

    def run() -> None:
        with world.Session() as session:
            other(session)
            session.commit()

    with ThreadPoolExecutor(1) as executor, world.Session() as session:
        first(session)
        session.flush()
        waits = executor.submit(run)
        until_it_waits(world, waits)
        second(session)
        session.commit()
        waits.result(DEADLINE)


def test_locks_the_rows_of_a_model_in_the_order_in_which_they_are_written(
    postgres_chat: Chat,
) -> None:
    """Bug: what moves was locked before all that is merely updated."""
    chat = postgres_chat
    low, high = chat.post(body="low"), chat.post(body="high")
    screens = chat.screens("chat:1", "chat:2")

    def both(session: Session) -> None:
        updated, moved = chat.get(session, low), chat.get(session, high)
        updated.body, moved.room_id = "by the other", 2

    def update(id: Any) -> Callable[[Session], None]:
        return lambda session: setattr(chat.get(session, id), "n", 7)

    meet(chat, update(low), both, update(high))
    for screen in screens:
        screen.check()


def test_locks_rows_of_models_in_the_order_in_which_they_are_written(
    schema_url: str,
) -> None:
    """Bug: what moves was locked before rows that the flush writes earlier."""
    with closing(World(schema_url)) as world:
        note = world.room("desk:<int:desk_id>")

        class Zone(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "zones"
            id: Mapped[int] = mapped_column(primary_key=True)
            n: Mapped[int] = mapped_column(default=0)

        @world.livepush.track(rooms=note, fields=("id", "desk_id"))
        class Area(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "areas"
            id: Mapped[int] = mapped_column(primary_key=True)
            desk_id: Mapped[int]
            zone_id: Mapped[int] = mapped_column(sa.ForeignKey(Zone.id))
            n: Mapped[int] = mapped_column(default=0)
            zone: Mapped[Zone] = sa.orm.relationship(Zone)

        world.create_tables()
        with world.Session() as session:
            session.add(Area(desk_id=1, zone=Zone()))
            session.commit()
        screens = world.screens("desk:1", "desk:2")

        def both(session: Session) -> None:
            updated, moved = session.get(Zone, 1), session.get(Area, 1)
            updated.n, moved.desk_id = 1, 2

        def update(model: Any) -> Callable[[Session], None]:
            return lambda session: setattr(session.get(model, 1), "n", 7)

        meet(world, update(Zone), both, update(Area))
        for screen in screens:
            screen.check()


def test_a_row_that_moves_is_not_locked_more_firmly_than_its_update_does(
    schema_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: it waited for whoever had inserted a row with a foreign key to it."""
    with closing(World(schema_url)) as world:
        desk = world.room("desk:<int:desk_id>")

        @world.livepush.track(rooms=desk, fields=("id", "desk_id"))
        class Case(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "cases"
            id: Mapped[int] = mapped_column(primary_key=True)
            desk_id: Mapped[int]

        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            case_id: Mapped[int] = mapped_column(sa.ForeignKey(Case.id))

        world.create_tables()
        with world.Session() as session:
            session.add(Case(desk_id=1))
            session.commit()
        screen = world.screen("desk:2")
        with world.Session() as other, world.Session() as session:
            other.add(Note(case_id=1))
            other.flush()
            session.execute(sa.text("SET LOCAL lock_timeout = '10s'"))
            session.get(Case, 1).desk_id = 2
            session.commit()
            other.commit()
        assert screen.follow() == [("case.created", {"id": 1, "desk_id": 2})]
    assert caplog.records == []


def test_rows_that_are_deleted_are_locked_when_their_turn_has_come(
    postgres_chat: Chat,
) -> None:
    """Bug: what is deleted was locked before all that is updated."""
    chat = postgres_chat
    gone, kept = chat.post(body="gone"), chat.post(body="kept")
    screen = chat.screen("chat:1")

    def both(session: Session) -> None:
        deleted, updated = chat.get(session, gone), chat.get(session, kept)
        session.delete(deleted)
        updated.body = "by the other"

    def update(id: Any) -> Callable[[Session], None]:
        return lambda session: setattr(chat.get(session, id), "n", 7)

    meet(chat, update(kept), both, update(gone))
    screen.check()


class Floor(enum.Enum):
    """A primary key that can't be compared."""

    GROUND = "ground"
    FIRST = "first"


def test_moves_rows_whose_keys_have_no_order_of_their_own(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    house = world.room("house:<int:house_id>")

    @world.livepush.track(rooms=house, fields=("id",), order_by="id")
    class Flat(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "flats"
        id: Mapped[Floor] = mapped_column(primary_key=True)
        house_id: Mapped[int]

    world.create_tables()
    with world.Session() as session:
        session.add_all([Flat(id=floor, house_id=1) for floor in Floor])
        session.commit()
    screen = world.screen("house:2")
    with world.Session() as session:
        for flat in session.scalars(sa.select(Flat)):
            flat.house_id = 2
        session.commit()
    assert sorted(data["id"] for _, data in screen.follow()) == ["first", "ground"]
    screen.check()
    assert caplog.records == []
