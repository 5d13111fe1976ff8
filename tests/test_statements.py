"""Bulk statements: which rooms they are known to concern, and that none is missed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, Session, aliased, mapped_column

from tests.support.following import (
    BUT_MARIADB,
    Chat,
    World,
    check,
    closing,
    events,
    sqlite_url,
)

STALE = "message.invalidated"
DELETED = "message.deleted"
CREATED = "message.created"

Statement = Callable[[Chat], Any]


def run(chat: Chat, statement: Any, parameters: Any = None) -> list[list[str]]:
    """Commit a statement; return the events of rooms 1, 2 and 3, with rows in each."""
    for room in (1, 2, 3):
        chat.post(room, body="x", n=room)
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    with chat.Session() as session:
        session.execute(statement, parameters)
        assert events(*screens) == [[], [], []]
        session.commit()
    told = events(*screens)
    check(screens)
    return told


def rooms(told: list[list[str]]) -> list[int]:
    """Return which of the rooms were told to read anew, and check that it was once."""
    assert all(events in ([], [STALE]) for events in told), told
    return [room for room, events in enumerate(told, start=1) if events]


ONE_ROOM: dict[str, Statement] = {
    "update": lambda c: (
        sa.update(c.Message).where(c.Message.room_id == 2).values(body="new")
    ),
    "update, one of two conditions": lambda c: (
        sa.update(c.Message)
        .where(c.Message.room_id == 2, c.Message.n > 0)
        .values(body="new")
    ),
    "update, conditions joined by and_": lambda c: (
        sa.update(c.Message)
        .where(sa.and_(c.Message.n > 0, sa.and_(c.Message.room_id == 2)))
        .values(body="new")
    ),
    "update by an expression": lambda c: (
        sa.update(c.Message)
        .where(c.Message.room_id == 2)
        .values({c.Message.n: c.Message.n + 1})
    ),
    "update of undeclared columns": lambda c: (
        sa.update(c.Message).where(c.Message.room_id == 2).values(secret="new")
    ),
    "update, returning": lambda c: (
        sa.update(c.Message)
        .where(c.Message.room_id == 2)
        .values(body="new")
        .returning(c.Message.id)
    ),
    "delete": lambda c: sa.delete(c.Message).where(c.Message.room_id == 2),
    "delete in a list": lambda c: sa.delete(c.Message).where(
        c.Message.room_id.in_([2])
    ),
    "insert": lambda c: sa.insert(c.Message).values(room_id=2, n=1),
    "insert by column": lambda c: sa.insert(c.Message).values({c.Message.room_id: 2}),
    "insert of several": lambda c: sa.insert(c.Message).values(
        [{"room_id": 2}, {"room_id": 2}]
    ),
    "insert, returning": lambda c: (
        sa.insert(c.Message).values(room_id=2).returning(c.Message.id)
    ),
}


@BUT_MARIADB
@pytest.mark.parametrize("name", ONE_ROOM)
def test_invalidates_the_one_room_that_is_named(chat: Chat, name: str) -> None:
    if name == "update of undeclared columns":
        assert rooms(run(chat, ONE_ROOM[name](chat))) in ([], [2])
    else:
        assert rooms(run(chat, ONE_ROOM[name](chat))) == [2]


TWO_ROOMS: dict[str, Statement] = {
    "move": lambda c: (
        sa.update(c.Message).where(c.Message.room_id == 1).values(room_id=3)
    ),
    "update in a list": lambda c: (
        sa.update(c.Message).where(c.Message.room_id.in_([1, 3])).values(n=7)
    ),
    "insert of several": lambda c: sa.insert(c.Message).values(
        [{"room_id": 1}, {"room_id": 3}]
    ),
}


@pytest.mark.parametrize("name", TWO_ROOMS)
def test_invalidates_the_two_rooms_that_are_named(chat: Chat, name: str) -> None:
    assert rooms(run(chat, TWO_ROOMS[name](chat))) == [1, 3]


def test_invalidates_the_rooms_of_inserted_parameters(chat: Chat) -> None:
    told = run(
        chat, sa.insert(chat.Message), [{"room_id": 1, "n": 1}, {"room_id": 3, "n": 2}]
    )
    assert rooms(told) == [1, 3]


def test_invalidates_the_room_of_a_bound_parameter(chat: Chat) -> None:
    where = chat.Message.room_id == sa.bindparam("wanted")
    told = run(chat, sa.delete(chat.Message).where(where), {"wanted": 2})
    assert rooms(told) == [2]


def test_invalidates_both_rooms_when_a_bound_parameter_is_the_new_one(
    chat: Chat,
) -> None:
    statement = (
        sa.update(chat.Message)
        .where(chat.Message.room_id == sa.bindparam("old"))
        .values(room_id=sa.bindparam("new"))
        .execution_options(synchronize_session=False)
    )
    told = run(chat, statement, {"old": 1, "new": 3})
    assert {1, 3} <= set(rooms(told))


def test_invalidates_the_rooms_of_bound_parameters_that_are_inserted(
    chat: Chat,
) -> None:
    statement = sa.insert(chat.Message).values(room_id=sa.bindparam("wanted"))
    told = run(chat, statement, {"wanted": 3})
    assert 3 in rooms(told)


EVERYWHERE: dict[str, Statement] = {
    "update of all": lambda c: sa.update(c.Message).values(body="new"),
    "update by another column": lambda c: (
        sa.update(c.Message).where(c.Message.n >= 0).values(body="new")
    ),
    "update, or": lambda c: (
        sa.update(c.Message)
        .where(sa.or_(c.Message.room_id == 2, c.Message.n >= 0))
        .values(body="new")
    ),
    "update, not": lambda c: (
        sa.update(c.Message).where(sa.not_(c.Message.room_id == 9)).values(body="new")
    ),
    "update, unequal": lambda c: (
        sa.update(c.Message).where(c.Message.room_id != 9).values(body="new")
    ),
    "update, not in": lambda c: (
        sa.update(c.Message).where(c.Message.room_id.not_in([9])).values(body="new")
    ),
    "update, greater": lambda c: (
        sa.update(c.Message).where(c.Message.room_id > 0).values(body="new")
    ),
    "move by an expression": lambda c: (
        sa.update(c.Message)
        .where(c.Message.room_id == 1)
        .values(room_id=c.Message.room_id + 1)
        .execution_options(synchronize_session=False)
    ),
    "update by a subquery": lambda c: (
        sa.update(c.Message)
        .where(c.Message.room_id.in_(sa.select(c.Room.id)))
        .values(body="new")
        .execution_options(synchronize_session=False)
    ),
    "update compared with another column": lambda c: (
        sa.update(c.Message).where(c.Message.room_id == c.Message.n).values(body="new")
    ),
    "delete of all": lambda c: sa.delete(c.Message),
    "insert from a select": lambda c: sa.insert(c.Message).from_select(
        ["room_id", "n"], sa.select(c.Message.room_id, c.Message.n)
    ),
    "insert of an expression": lambda c: sa.insert(c.Message).values(
        room_id=sa.select(sa.func.min(c.Room.id)).scalar_subquery(), n=1
    ),
}


@BUT_MARIADB
@pytest.mark.parametrize("name", EVERYWHERE)
def test_invalidates_every_room_when_none_is_named(chat: Chat, name: str) -> None:
    assert rooms(run(chat, EVERYWHERE[name](chat))) == [1, 2, 3]


def test_pushes_rows_that_are_updated_by_primary_key(chat: Chat) -> None:
    told = run(chat, sa.update(chat.Message), [{"id": 1, "body": "a"}, {"id": 2}])
    assert told == [["message.updated"], ["message.updated"], []]


def test_pushes_rows_that_are_moved_by_primary_key(chat: Chat) -> None:
    told = run(chat, sa.update(chat.Message), [{"id": 1, "room_id": 2}])
    assert told == [["message.deleted"], ["message.created"], []]


def test_invalidates_every_room_when_an_alias_is_compared(chat: Chat) -> None:
    other = aliased(chat.Message)
    statement = (
        sa.update(chat.Message)
        .where(chat.Message.n < other.n, other.room_id == 2)
        .values(body="new")
        .execution_options(synchronize_session=False)
    )
    assert rooms(run(chat, statement)) == [1, 2, 3]


def test_converges_when_a_statement_is_written_over_the_table(chat: Chat) -> None:
    """``update(Model)`` with conditions on ``Model.__table__``."""
    table = chat.Message.__table__
    statement = sa.update(chat.Message).where(table.c.room_id == 2).values(body="new")
    assert 2 in rooms(run(chat, statement))


def test_converges_when_a_cast_or_a_label_is_compared(chat: Chat) -> None:
    statement = (
        sa.delete(chat.Message)
        .where(sa.cast(chat.Message.room_id, sa.String) == "2")
        .execution_options(synchronize_session=False)
    )
    assert 2 in rooms(run(chat, statement))


def test_converges_when_a_room_is_compared_with_a_list_twice(chat: Chat) -> None:
    """The last of two conditions on one column does not hold alone."""
    statement = (
        sa.update(chat.Message)
        .where(chat.Message.room_id.in_([1, 2]), chat.Message.room_id == 2)
        .values(body="new")
    )
    assert 2 in rooms(run(chat, statement))


@pytest.mark.parametrize("name", ["update", "delete"])
def test_invalidates_the_room_when_a_query_is_used(chat: Chat, name: str) -> None:
    for room in (1, 2):
        chat.post(room)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        query = session.query(chat.Message).filter(chat.Message.room_id == 2)
        if name == "update":
            query.update({"body": "new"})
        else:
            query.delete()
        session.commit()
    assert events(*screens) == [[], [STALE]]
    check(screens)


def test_invalidates_the_room_when_filter_by_is_used(chat: Chat) -> None:
    statement = sa.update(chat.Message).filter_by(room_id=2).values(body="new")
    assert rooms(run(chat, statement)) == [2]


def test_invalidates_every_room_when_an_upsert_may_move_a_row(chat: Chat) -> None:
    statement: Any
    values = {"id": 1, "room_id": 2, "n": 5}
    if chat.engine.dialect.name == "mysql":
        inserting = mysql.insert(chat.Message).values(values)
        statement = inserting.on_duplicate_key_update(
            room_id=inserting.inserted.room_id
        )
    else:
        insert = sqlite.insert if chat.is_sqlite else postgresql.insert
        inserted = insert(chat.Message).values(values)
        statement = inserted.on_conflict_do_update(
            index_elements=["id"], set_={"room_id": inserted.excluded.room_id}
        )
    assert rooms(run(chat, statement)) == [1, 2, 3]


def test_converges_when_an_upsert_does_nothing(chat: Chat) -> None:
    statement: Any
    values = {"id": 1, "room_id": 2, "n": 5}
    if chat.engine.dialect.name == "mysql":
        statement = sa.insert(chat.Message).prefix_with("IGNORE").values(values)
    else:
        insert = sqlite.insert if chat.is_sqlite else postgresql.insert
        statement = insert(chat.Message).values(values).on_conflict_do_nothing()
    rooms(run(chat, statement))


def test_converges_when_a_column_has_another_name_in_the_database(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:

        @world.livepush.track(
            rooms=world.room("chat:<int:room_id>"), fields=("id", "text")
        )
        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column("note_id", primary_key=True)
            room_id: Mapped[int] = mapped_column("chat_id")
            text: Mapped[str | None] = mapped_column("room_id")

        world.create_tables()
        with world.Session() as session:
            session.add_all([Note(room_id=1, text="2"), Note(room_id=2, text="1")])
            session.commit()
        screens = world.screens("chat:1", "chat:2", "chat:3")
        with world.Session() as session:
            session.execute(sa.update(Note).where(Note.room_id == 1).values(text="new"))
            session.commit()
        assert events(*screens)[0] == ["note.invalidated"]
        check(screens)
        with world.Session() as session:
            session.execute(
                sa.update(Note).where(Note.text == "new").values({"room_id": 3})
            )
            session.commit()
        check(screens)
        with world.Session() as session:
            session.execute(sa.insert(Note), [{"room_id": 2, "text": "x"}])
            session.commit()
        assert events(*screens) == [[], ["note.invalidated"], []]
        check(screens)
        with world.Session() as session:
            note = session.scalars(sa.select(Note).where(Note.room_id == 3)).one()
            note.room_id = 1
            session.commit()
        assert events(*screens) == [["note.created"], [], ["note.deleted"]]
        check(screens)


class Lower(sa.types.TypeDecorator[str]):
    """Text that is kept in lower case."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Any) -> str | None:
        return None if value is None else value.lower()


class Wiki(World):
    """Pages in rooms by name, with a type of the caller's choice."""

    def __init__(self, url: str, type: Any, **options: Any) -> None:
        super().__init__(url)

        @self.livepush.track(rooms=self.room("wiki:<name>"), fields=("id", "text"))
        class Page(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "page"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None] = mapped_column(type, **options)
            text: Mapped[str | None]

        self.Page = Page
        self.create_tables()

    def execute(self, statement: Any, parameters: Any = None) -> None:
        """Commit a statement."""
        with self.Session() as session:
            session.execute(
                statement,
                parameters,
                execution_options={"synchronize_session": False},
            )
            session.commit()


@pytest.mark.parametrize("name", ["sqlite", "mariadb"])
def test_converges_when_the_database_compares_without_regard_to_case(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """As MariaDB does unless it is told otherwise."""
    url = (
        sqlite_url(tmp_path)
        if name == "sqlite"
        else request.getfixturevalue("mariadb_url")
    )
    collation = "NOCASE" if name == "sqlite" else None
    with closing(Wiki(url, sa.String(200, collation))) as wiki:
        with wiki.Session() as session:
            session.add(wiki.Page(name="abc"))
            session.commit()
        screen = wiki.screen("wiki:abc")
        wiki.execute(
            sa.update(wiki.Page).where(wiki.Page.name == "ABC").values(text="new")
        )
        screen.check()
        wiki.execute(sa.delete(wiki.Page).where(wiki.Page.name.in_(["ABC"])))
        screen.check()


def test_converges_when_a_type_changes_what_is_written(database_url: str) -> None:
    with closing(Wiki(database_url, Lower)) as wiki:
        screen = wiki.screen("wiki:abc")
        wiki.execute(sa.insert(wiki.Page).values(name="ABC", text="a"))
        screen.check()
        wiki.execute(sa.insert(wiki.Page), [{"name": "ABC", "text": "b"}])
        screen.check()
        wiki.execute(
            sa.update(wiki.Page).where(wiki.Page.name == "ABC").values(text="c")
        )
        screen.check()
        with wiki.Session() as session:
            session.add(wiki.Page(name="ABC", text="d"))
            session.commit()
        screen.check()
        assert len(screen.kinds["page"]) == 3


@pytest.mark.parametrize("given", [{"name": None}, {}], ids=["None", "nothing"])
def test_converges_when_the_room_is_a_default(
    database_url: str, given: dict[str, Any]
) -> None:
    """An ORM INSERT of several leaves out what is None."""
    with closing(Wiki(database_url, sa.Text(), default="home")) as wiki:
        screen = wiki.screen("wiki:home")
        wiki.execute(sa.insert(wiki.Page), [{"text": "a", **given}])
        screen.check()
        wiki.execute(sa.insert(wiki.Page).values(text="a", **given))
        screen.check()


def test_converges_when_the_room_is_set_by_onupdate(database_url: str) -> None:
    with closing(Wiki(database_url, sa.Text(), onupdate="edited")) as wiki:
        screens = wiki.screens("wiki:home", "wiki:edited")
        with wiki.Session() as session:
            session.add_all([wiki.Page(name="home"), wiki.Page(name="home")])
            session.commit()
        check(screens)
        wiki.execute(
            sa.update(wiki.Page)
            .where(wiki.Page.name == "home", wiki.Page.id == 1)
            .values(text="new")
        )
        check(screens)
        with wiki.Session() as session:
            session.get(wiki.Page, 2).text = "new"
            session.commit()
        check(screens)


def test_pushes_nothing_when_a_bulk_statement_is_rolled_back(chat: Chat) -> None:
    chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.execute(sa.update(chat.Message).values(body="new"))
        session.rollback()
        inner = session.begin_nested()
        session.execute(sa.update(chat.Message).values(body="new"))
        inner.rollback()
        session.commit()
    assert events(screen) == []
    screen.check()


def test_pushes_rows_and_a_bulk_statement_as_one_commit(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.flush()
        session.execute(
            sa.update(chat.Message).where(chat.Message.room_id == 1).values(n=7)
        )
        session.commit()
    assert screen.commits() == [[CREATED, STALE]]
    screen.check()


def test_pushes_rows_and_a_statement_of_all_rooms_as_one_commit(chat: Chat) -> None:
    """The publications of one commit are contiguous in each room."""
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.flush()
        session.execute(sa.update(chat.Message).values(n=7))
        session.commit()
    assert screen.commits() == [[CREATED, STALE]]
    screen.check()


def test_tells_a_room_once_when_it_is_named_and_all_are(chat: Chat) -> None:
    chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.execute(
            sa.update(chat.Message).where(chat.Message.room_id == 1).values(n=7)
        )
        session.execute(sa.update(chat.Message).values(n=8))
        session.commit()
    assert events(screen) == [STALE]
    screen.check()


def test_pushes_nothing_for_a_statement_on_another_model(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.execute(sa.update(chat.Room).values(name="new"))
        session.execute(sa.select(chat.Message).with_for_update())
        session.commit()
    assert events(screen) == []


def _text(chat: Chat, session: Session) -> None:
    session.execute(sa.text("UPDATE messages SET n = 7"))


def _core(chat: Chat, session: Session) -> None:
    session.execute(sa.update(chat.Message.__table__).values(n=7))


def _connection(chat: Chat, session: Session) -> None:
    session.connection().execute(sa.update(chat.Message.__table__).values(n=7))


def _mappings(chat: Chat, session: Session) -> None:
    session.bulk_update_mappings(chat.Message, [{"id": 1, "n": 7}])


def _objects(chat: Chat, session: Session) -> None:
    session.bulk_save_objects([chat.Message(room_id=1, n=7)])


def _insert_mappings(chat: Chat, session: Session) -> None:
    session.bulk_insert_mappings(chat.Message, [{"room_id": 1, "n": 7}])


@pytest.mark.parametrize(
    "write", [_text, _core, _connection, _mappings, _objects, _insert_mappings]
)
@pytest.mark.parametrize("when", ["before the commit", "after it"])
@BUT_MARIADB
def test_sees_nothing_of_what_passes_the_session_by_until_it_is_told(
    chat: Chat, write: Callable[[Chat, Session], None], when: str
) -> None:
    """What is told before the commit is told when the data can be read."""
    chat.post(1)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        write(chat, session)
        if when == "before the commit":
            chat.livepush.invalidate(chat.Message)
            session.commit()
        else:
            session.commit()
            assert events(screen) == []
            chat.livepush.invalidate(chat.Message)
        assert set(events(screen)) == {STALE}
        assert {row["n"] for row in screen.kinds["message"].values()} & {7}
    screen.check()
