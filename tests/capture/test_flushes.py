"""What each kind of flushed change becomes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import (
    Mapped,
    Session,
    attributes,
    joinedload,
    make_transient,
    mapped_column,
    relationship,
)

from tests.support.following import Chat, World, check, closing, events

CREATED = "message.created"
UPDATED = "message.updated"
DELETED = "message.deleted"


# -- one row -------------------------------------------------------------------------


def test_pushes_the_new_values_of_an_update(chat: Chat) -> None:
    id = chat.post(body="old", n=1)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        chat.get(session, id).body = "new"
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "new", "n": 1})]
    screen.check()


def test_pushes_the_key_alone_of_a_deleted_row(chat: Chat) -> None:
    id = chat.post(body="old")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.delete(chat.get(session, id))
        session.commit()
    assert screen.follow() == [(DELETED, {"id": id})]
    screen.check()


def test_pushes_what_another_transaction_committed_when_it_has_set_the_same(
    server_chat: Chat,
) -> None:
    """Bug: MySQL then changes nothing, and shows the row as it was at first."""
    chat = server_chat
    id = chat.post(body="old", n=1)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        with chat.Session() as other:
            same = chat.get(other, id)
            same.body, same.n = "new", 7
            other.commit()
        message.body = "new"
        session.commit()
    screen.check()


def test_pushes_what_another_transaction_committed_in_a_column_not_written(
    chat: Chat,
) -> None:
    """The session's own copy of the row is stale."""
    id = chat.post(body="old", n=1)
    screen = chat.screen("chat:1")
    with chat.Session(expire_on_commit=False) as session:
        message = chat.get(session, id)
        session.commit()
        with chat.Session() as other:
            chat.get(other, id).body = "by the other"
            other.commit()
        message.n = 2
        session.commit()
    assert screen.follow()[-1] == (UPDATED, {"id": id, "body": "by the other", "n": 2})
    screen.check()


def test_pushes_nothing_when_an_insert_is_deleted_again(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.Message(room_id=1)
        session.add(message)
        session.flush()
        session.delete(message)
        session.commit()
    assert events(screen) == []
    screen.check()


def test_pushes_one_creation_when_an_insert_is_updated(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.Message(room_id=1, body="first")
        session.add(message)
        session.flush()
        message.body = "last"
        session.commit()
    assert screen.follow() == [(CREATED, {"id": 1, "body": "last", "n": 0})]
    screen.check()


def test_pushes_one_update_when_a_row_is_updated_twice(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.body = "first"
        session.flush()
        message.n = 9
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "first", "n": 9})]
    screen.check()


def test_pushes_a_deletion_when_an_update_is_deleted(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.body = "new"
        session.flush()
        session.delete(message)
        session.commit()
    assert events(screen) == [DELETED]
    screen.check()


def test_pushes_an_update_when_a_deleted_row_is_inserted_again(chat: Chat) -> None:
    id = chat.post(body="old")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.delete(chat.get(session, id))
        session.flush()
        session.add(chat.Message(id=id, room_id=1, body="new"))
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "new", "n": 0})]
    screen.check()


def test_pushes_an_update_when_a_row_is_switched_in_one_flush(chat: Chat) -> None:
    """It is one UPDATE, which leaves alone what the new object does not name."""
    id = chat.post(body="old", n=5)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.delete(chat.get(session, id))
        session.add(chat.Message(id=id, room_id=1, body="new"))
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "new", "n": 5})]
    screen.check()


def test_pushes_a_move_when_a_row_is_switched_into_another_room(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        session.delete(chat.get(session, id))
        session.add(chat.Message(id=id, room_id=2))
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


def test_pushes_nothing_when_a_column_is_set_to_its_own_value(chat: Chat) -> None:
    id = chat.post(body="same")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.body = message.body
        message.room_id = 1
        session.commit()
    assert events(screen) == []


def test_pushes_nothing_when_a_change_is_taken_back_before_the_flush(
    chat: Chat,
) -> None:
    id = chat.post(body="same")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.body = "other"
        message.body = "same"
        session.commit()
    assert events(screen) == []


@pytest.mark.parametrize("column", ["secret", "large"])
def test_pushes_nothing_when_only_undeclared_columns_change(
    chat: Chat, column: str
) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        setattr(chat.get(session, id), column, "new")
        session.commit()
    assert events(screen) == []


def test_pushes_an_update_when_a_merge_changes_something(chat: Chat) -> None:
    id = chat.post(body="old")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.merge(chat.Message(id=id, room_id=1, body="new"))
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "new", "n": 0})]
    screen.check()


def test_pushes_nothing_when_a_merge_changes_nothing(chat: Chat) -> None:
    id = chat.post(body="same")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.merge(chat.Message(id=id, room_id=1, body="same"))
        session.commit()
    assert events(screen) == []


def test_pushes_a_creation_when_a_merge_inserts(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.merge(chat.Message(id=7, room_id=1))
        session.commit()
    assert events(screen) == [CREATED]
    screen.check()


def test_pushes_nothing_when_only_a_many_to_many_collection_changes(
    chat: Chat,
) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.tags.append(chat.Tag(id=1))
        session.commit()
    assert chat.scalar("SELECT count(*) FROM tagged") == 1
    assert events(screen) == []


def test_pushes_the_value_of_an_sql_expression(chat: Chat) -> None:
    id = chat.post(n=4)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.n = chat.Message.n + 1
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": None, "n": 5})]
    screen.check()


def test_pushes_a_move_when_the_room_is_an_sql_expression(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.room_id = chat.Message.room_id + 1
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


def test_pushes_what_was_inserted_when_its_object_is_garbage(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="kept"))
        session.flush()
        gc.collect()
        assert not list(session.identity_map.values())
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["kept"]
    screen.check()


def test_pushes_a_deletion_when_deferred_columns_were_never_loaded(
    chat: Chat,
) -> None:
    id = chat.post(large="x" * 1000)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        assert "large" in sa.inspect(message).unloaded
        session.delete(message)
        session.commit()
    assert events(screen) == [DELETED]
    screen.check()


def test_pushes_a_deletion_when_the_object_is_expired(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        session.commit()
        session.delete(message)
        session.commit()
    assert events(screen) == [DELETED]
    screen.check()


def test_pushes_a_creation_when_a_deleted_object_is_made_new(chat: Chat) -> None:
    id = chat.post(body="again")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        session.delete(message)
        session.commit()
        make_transient(message)
        session.add(message)
        session.commit()
    assert events(screen) == [DELETED, CREATED]
    screen.check()


# -- rooms ---------------------------------------------------------------------------


@pytest.mark.parametrize("loaded", [True, False], ids=["loaded", "expired"])
def test_moves_a_row_between_rooms(chat: Chat, loaded: bool) -> None:
    id = chat.post(1, body="Hello")
    one, two, three = chat.screens("chat:1", "chat:2", "chat:3")
    with chat.Session() as session:
        message = chat.get(session, id)
        if not loaded:
            session.commit()
            assert "room_id" in sa.inspect(message).unloaded
        message.room_id = 2
        session.commit()
    assert one.follow() == [(DELETED, {"id": id})]
    assert two.follow() == [(CREATED, {"id": id, "body": "Hello", "n": 0})]
    assert three.follow() == []
    check([one, two, three])


def test_moves_a_row_when_its_relationship_is_assigned(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        chat.get(session, id).room = session.get(chat.Room, 2)
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


def test_moves_a_row_when_its_relationship_is_assigned_a_new_object(
    chat: Chat,
) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:77")
    with chat.Session() as session:
        message = chat.get(session, id)
        session.commit()
        message.room = chat.Room(id=77)
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


def test_moves_a_row_when_it_is_appended_to_a_collection(chat: Chat) -> None:
    """Without back_populates only the flush itself sets the foreign key."""
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, id)
        room = session.get(chat.Room, 2)
        room.messages.append(message)
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


def test_moves_a_row_out_of_all_rooms_when_it_is_taken_from_a_collection(
    chat: Chat,
) -> None:
    id = chat.post(1)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        room = session.get(chat.Room, 1)
        room.messages.clear()
        session.commit()
    assert screen.follow() == [(DELETED, {"id": id})]
    screen.check()


def test_moves_a_row_that_another_transaction_has_moved_since(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    with chat.Session(expire_on_commit=False) as session:
        message = chat.get(session, id)
        session.commit()
        with chat.Session() as other:
            chat.get(other, id).room_id = 2
            other.commit()
        message.room_id = 3
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED, DELETED], [CREATED]]
    check(screens)


def test_deletes_a_row_that_another_transaction_has_moved_since(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session(expire_on_commit=False) as session:
        message = chat.get(session, id)
        session.commit()
        with chat.Session() as other:
            chat.get(other, id).room_id = 2
            other.commit()
        session.delete(message)
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED, DELETED]]
    check(screens)


def test_updates_a_row_that_another_transaction_has_moved_since(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session(expire_on_commit=False) as session:
        message = chat.get(session, id)
        session.commit()
        with chat.Session() as other:
            chat.get(other, id).room_id = 2
            other.commit()
        message.body = "new"
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED, UPDATED]]
    check(screens)


def test_does_not_move_a_row_that_comes_back(chat: Chat) -> None:
    id = chat.post(2)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.room_id = 1
        session.flush()
        message.room_id = 2
        session.commit()
    one, two = events(*screens)
    assert one == []
    assert DELETED not in two
    assert CREATED not in two
    check(screens)


def test_moves_a_row_once_when_it_passes_through_a_room(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2", "chat:3")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.room_id = 2
        session.flush()
        message.room_id = 3
        session.commit()
    assert events(*screens) == [[DELETED], [], [CREATED]]
    check(screens)


def test_pushes_a_row_without_a_room_nowhere(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    id = chat.post(None)
    assert events(screen) == []
    with chat.Session() as session:
        chat.get(session, id).room_id = 1
        session.commit()
    assert events(screen) == [CREATED]
    with chat.Session() as session:
        chat.get(session, id).room_id = None
        session.commit()
    assert events(screen) == [DELETED]
    screen.check()


# -- cascades ------------------------------------------------------------------------


def test_pushes_the_deletion_of_children_when_the_orm_cascades(chat: Chat) -> None:
    ids = [chat.post(1), chat.post(1)]
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.delete(session.get(chat.Room, 1))
        session.commit()
    assert sorted(data["id"] for _, data in screen.follow()) == ids
    screen.check()


class Family(World):
    """Parents and children, related as the caller says."""

    def __init__(self, url: str, *, ondelete: str | None = None, **options: Any):
        super().__init__(url)
        room = self.room("parent:<int:parent_id>")

        class Parent(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "parent"
            id: Mapped[int] = mapped_column(primary_key=True)
            children: Mapped[list[Any]] = relationship("Child", **options)

        @self.livepush.track(rooms=room, fields=("id", "name"))
        class Child(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "child"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]
            parent_id: Mapped[int | None] = mapped_column(
                sa.ForeignKey("parent.id", ondelete=ondelete)
            )

        self.Parent, self.Child = Parent, Child
        self.create_tables()
        with self.Session() as session:
            session.add(Parent(id=1, children=[Child(id=10), Child(id=11)]))
            session.add(Parent(id=2))
            session.commit()


def test_pushes_the_deletion_of_an_orphan(database_url: str) -> None:
    with closing(Family(database_url, cascade="all, delete-orphan")) as family:
        screen = family.screen("parent:1")
        with family.Session() as session:
            parent = session.get(family.Parent, 1)
            parent.children.pop()
            session.commit()
        assert screen.follow() == [("child.deleted", {"id": 11})]
        screen.check()


def test_pushes_children_whose_foreign_key_is_nulled(database_url: str) -> None:
    with closing(Family(database_url)) as family:
        screen = family.screen("parent:1")
        with family.Session() as session:
            session.delete(session.get(family.Parent, 1))
            session.commit()
        assert events(screen) == ["child.deleted"] * 2
        screen.check()


def test_sees_nothing_of_what_the_database_cascades_until_it_is_told(
    database_url: str,
) -> None:
    with closing(
        Family(
            database_url,
            ondelete="CASCADE",
            cascade="all",
            passive_deletes=True,
        )
    ) as family:
        screen = family.screen("parent:1")
        with family.Session() as session:
            session.delete(session.get(family.Parent, 1))
            session.commit()
        assert family.scalar("SELECT count(*) FROM child") == 0
        assert events(screen) == []
        family.livepush.invalidate("parent:1")
        assert events(screen) == ["child.invalidated"]
        screen.check()


# -- keys ----------------------------------------------------------------------------


def test_pushes_a_deletion_and_a_creation_when_the_primary_key_changes(
    chat: Chat,
) -> None:
    id = chat.post(body="Hello")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        chat.get(session, id).id = 90
        session.commit()
    assert screen.follow() == [
        (DELETED, {"id": id}),
        (CREATED, {"id": 90, "body": "Hello", "n": 0}),
    ]
    screen.check()


def test_follows_a_row_whose_primary_key_changes_twice(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.id = 90
        session.flush()
        message.id = 91
        session.flush()
        message.body = "end"
        session.commit()
    screen.check()
    assert list(screen.kinds["message"]) == [91]


def test_follows_a_row_whose_primary_key_comes_back(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.id = 90
        session.flush()
        message.id = id
        session.commit()
    screen.check()
    assert list(screen.kinds["message"]) == [id]


def test_follows_rows_that_take_each_other_s_primary_key(chat: Chat) -> None:
    first, second = chat.post(body="first"), chat.post(2, body="second")
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, first)
        message.id = 90
        session.flush()
        chat.get(session, second).id = first
        session.flush()
        message.id = second
        session.commit()
    check(screens)


def test_follows_a_row_that_takes_the_primary_key_of_a_deleted_one(
    chat: Chat,
) -> None:
    first, second = chat.post(body="first"), chat.post(body="second")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.delete(chat.get(session, first))
        session.flush()
        chat.get(session, second).id = first
        session.commit()
    screen.check()
    assert list(screen.kinds["message"]) == [first]


def test_follows_a_row_that_moves_while_its_primary_key_changes(chat: Chat) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.id, message.room_id = 90, 2
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


# -- columns that the database or the mapper fills -----------------------------------


def test_sees_a_json_value_that_is_replaced_and_not_one_changed_in_place(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:

        @world.livepush.track(rooms=world.room("all"), fields=("id", "data"))
        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            data: Mapped[Any] = mapped_column(sa.JSON)

        world.create_tables()
        screen = world.screen("all")
        with world.Session() as session:
            note = Note(data={"a": [1]})
            session.add(note)
            session.commit()
            note.data["a"] = [2]
            session.commit()
            assert screen.follow() == [("note.created", {"id": 1, "data": {"a": [1]}})]
            note.data["a"] = [3]
            attributes.flag_modified(note, "data")
            session.commit()
            assert screen.follow() == [("note.updated", {"id": 1, "data": {"a": [3]}})]
            note.data = {**note.data, "b": None}
            session.commit()
            assert screen.follow() == [
                ("note.updated", {"id": 1, "data": {"a": [3], "b": None}})
            ]
        screen.check()


def test_pushes_the_values_that_the_database_fills_in(database_url: str) -> None:
    with closing(World(database_url)) as world:

        @world.livepush.track(
            rooms=world.room("all"), fields=("id", "state", "at", "version", "double")
        )
        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            text: Mapped[str | None]
            state: Mapped[str] = mapped_column(server_default="new")
            at: Mapped[int] = mapped_column(default=1, onupdate=2)
            version: Mapped[int] = mapped_column()
            # SQLAlchemy 2.0.16 would say NOT NULL of it, which MariaDB does not take.
            double: Mapped[int | None] = mapped_column(
                sa.Computed("version * 2", persisted=True)
            )
            __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

        world.create_tables()
        screen = world.screen("all")
        with world.Session() as session:
            note = Note()
            session.add(note)
            session.commit()
            assert screen.follow() == [
                (
                    "note.created",
                    {"id": 1, "state": "new", "at": 1, "version": 1, "double": 2},
                )
            ]
            note.text = "undeclared, but onupdate= and the version are not"
            session.commit()
            assert screen.follow() == [
                (
                    "note.updated",
                    {"id": 1, "state": "new", "at": 2, "version": 2, "double": 4},
                )
            ]
        screen.check()


def test_pushes_a_computed_column_when_what_it_is_made_of_changes(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:

        @world.livepush.track(rooms=world.room("all"), fields=("id", "double"))
        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            n: Mapped[int]
            double: Mapped[int | None] = mapped_column(
                sa.Computed("n * 2", persisted=True)
            )

        world.create_tables()
        screen = world.screen("all")
        with world.Session() as session:
            note = Note(n=1)
            session.add(note)
            session.commit()
            note.n = 5
            session.commit()
        assert [data["double"] for _, data in screen.follow()] == [2, 10]
        screen.check()


def test_pushes_a_column_property_when_what_it_is_made_of_changes(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:

        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            n: Mapped[int]

        Note.double = sa.orm.column_property(Note.n * 2)
        world.livepush.track(rooms=world.room("all"), fields=("id", "double"))(Note)
        world.create_tables()
        screen = world.screen("all")
        with world.Session() as session:
            note = Note(n=1)
            session.add(note)
            session.commit()
            note.n = 5
            session.commit()
        assert [data["double"] for _, data in screen.follow()] == [2, 10]
        screen.check()


def test_pushes_the_value_that_a_before_insert_listener_sets(chat: Chat) -> None:
    def shout(_: Any, __: Any, message: Any) -> None:
        message.body = message.body.upper()

    sa.event.listen(chat.Message, "before_insert", shout)
    sa.event.listen(chat.Message, "before_update", shout)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.Message(room_id=1, body="a")
        session.add(message)
        session.commit()
        message.n = 2
        session.commit()
        message.body = "b"
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["A", "A", "B"]
    screen.check()


def test_moves_a_row_whose_room_a_before_update_listener_changes(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:

        @world.livepush.track(
            rooms=world.room("notes:<int:room_id>"), fields=("id", "text")
        )
        class Note(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "note"
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int]
            text: Mapped[str | None]

        @sa.event.listens_for(Note, "before_update")
        def move(_: Any, __: Any, note: Any) -> None:
            note.room_id = 2

        world.create_tables()
        screens = world.screens("notes:1", "notes:2")
        with world.Session() as session:
            note = Note(room_id=1)
            session.add(note)
            session.commit()
            assert events(*screens) == [["note.created"], []]
            note.text = "new"
            session.commit()
        assert events(*screens) == [["note.deleted"], ["note.created"]]
        check(screens)


def test_converges_when_such_a_listener_comes_after_the_first_flush(
    chat: Chat,
) -> None:
    def move(_: Any, __: Any, message: Any) -> None:
        message.room_id = 2

    id = chat.post(1)
    sa.event.listen(chat.Message, "before_update", move)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        chat.get(session, id).body = "new"
        session.commit()
    check(screens)


def test_pushes_a_column_that_a_before_update_listener_sets(chat: Chat) -> None:
    def count(_: Any, __: Any, message: Any) -> None:
        message.n += 1

    id = chat.post(body="same")
    sa.event.listen(chat.Message, "before_update", count)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        chat.get(session, id).secret = "not pushed"
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "same", "n": 1})]
    screen.check()


def test_moves_a_row_whose_room_a_before_flush_listener_changes(chat: Chat) -> None:
    def move(session: Session, *_: Any) -> None:
        for message in session.dirty:
            message.room_id = 2

    id = chat.post(1)
    sa.event.listen(chat.Session, "before_flush", move)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        chat.get(session, id).body = "new"
        session.commit()
    assert events(*screens) == [[DELETED], [CREATED]]
    check(screens)


def test_pushes_what_an_after_flush_listener_adds(chat: Chat) -> None:
    """It is written by a second flush of the same commit."""

    def answer(session: Session, *_: Any) -> None:
        for message in list(session.new):
            if isinstance(message, chat.Message) and message.body != "answer":
                session.add(chat.Message(room_id=2, body="answer"))

    sa.event.listen(chat.Session, "after_flush", answer)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="question"))
        session.commit()
    assert events(*screens) == [[CREATED], [CREATED]]
    check(screens)


def test_leaves_the_session_s_objects_as_they_are(chat: Chat) -> None:
    """Our reads load nothing into it, and expire nothing."""
    id = chat.post(body="old")
    with chat.Session() as session:
        message = session.scalars(
            sa.select(chat.Message).options(joinedload(chat.Message.room))
        ).one()
        message.room_id = 2
        session.flush()
        assert "large" in sa.inspect(message).unloaded
        assert "body" not in sa.inspect(message).unloaded
        assert len(session.identity_map) == 2
        assert message.id == id
        session.rollback()
