"""What is pushed, and what is not, by how a transaction ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing as close_at_end
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, scoped_session, sessionmaker

from tests.support.following import Chat, World, closing, events
from tests.support.postgres import Postgres

CREATED = "message.created"
UPDATED = "message.updated"
DELETED = "message.deleted"
STALE = "message.invalidated"


def test_pushes_a_commit(chat: Chat) -> None:
    screen, other = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="Hello", secret="x"))
        assert screen.follow() == []
        session.commit()
        assert screen.follow() == [(CREATED, {"id": 1, "body": "Hello", "n": 0})]
    assert other.follow() == []
    screen.check()


def test_pushes_several_flushes_as_one_commit(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        for body in "abc":
            session.add(chat.Message(room_id=1, body=body))
            session.flush()
        assert events(screen) == []
        session.commit()
    assert screen.commits() == [[CREATED] * 3]
    assert [data["body"] for _, data in screen.follow()] == ["a", "b", "c"]
    screen.check()


def test_pushes_each_commit_by_itself(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        for body in "ab":
            session.add(chat.Message(room_id=1, body=body))
            session.commit()
    assert screen.commits() == [[CREATED], [CREATED]]
    screen.check()


def test_pushes_nothing_at_the_release_of_a_savepoint(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        with session.begin_nested():
            session.add(chat.Message(room_id=1))
        assert events(screen) == []
        session.commit()
        assert events(screen) == [CREATED]
    screen.check()


def test_pushes_the_outer_part_when_a_savepoint_is_rolled_back(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="before"))
        inner = session.begin_nested()
        session.add(chat.Message(room_id=1, body="inside"))
        session.flush()
        inner.rollback()
        session.add(chat.Message(room_id=1, body="after"))
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["before", "after"]
    screen.check()


def test_pushes_nothing_when_the_outer_of_a_released_savepoint_is_rolled_back(
    chat: Chat,
) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        with session.begin_nested():
            session.add(chat.Message(room_id=1))
        session.rollback()
        session.commit()
    assert events(screen) == []
    screen.check()


def test_pushes_what_a_savepoint_left_when_one_inside_it_was_rolled_back(
    chat: Chat,
) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        with session.begin_nested():
            session.add(chat.Message(room_id=1, body="kept"))
            innermost = session.begin_nested()
            session.add(chat.Message(room_id=1, body="lost"))
            session.flush()
            innermost.rollback()
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["kept"]
    screen.check()


def test_pushes_the_value_before_a_savepoint_that_was_rolled_back(chat: Chat) -> None:
    id = chat.post(body="old")
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        message = chat.get(session, id)
        message.body = "outside"
        inner = session.begin_nested()
        message.body = "inside"
        session.flush()
        inner.rollback()
        session.commit()
    assert screen.follow() == [(UPDATED, {"id": id, "body": "outside", "n": 0})]
    screen.check()


def test_pushes_both_parts_when_a_row_is_written_around_a_savepoint(
    chat: Chat,
) -> None:
    id = chat.post(body="old")
    screen, moved = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, id)
        with session.begin_nested():
            message.room_id = 2
        inner = session.begin_nested()
        message.room_id = 3
        session.flush()
        inner.rollback()
        message.body = "new"
        session.commit()
    assert events(screen, moved) == [[DELETED], [CREATED]]
    moved.check()
    screen.check()


@pytest.mark.parametrize("managed", [True, False], ids=["with", "by hand"])
def test_goes_on_after_a_flush_error_in_a_savepoint(chat: Chat, managed: bool) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="before"))
        session.flush()
        inner = session.begin_nested()
        session.add(chat.Message(id=id, room_id=1, body="twice"))
        if managed:
            with pytest.raises(sa.exc.IntegrityError), inner:
                session.flush()
        else:
            with pytest.raises(sa.exc.IntegrityError):
                session.flush()
            inner.rollback()
        session.add(chat.Message(room_id=1, body="after"))
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["before", "after"]
    screen.check()


def test_pushes_nothing_of_a_transaction_whose_flush_failed(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="before"))
        session.flush()
        session.add(chat.Message(id=id, room_id=1))
        with pytest.raises(sa.exc.IntegrityError):
            session.flush()
        session.rollback()
        assert events(screen) == []
        session.add(chat.Message(room_id=1, body="a new start"))
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["a new start"]
    screen.check()


def test_pushes_once_when_commit_is_called_inside_two_savepoints(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.begin_nested()
        session.add(chat.Message(room_id=1))
        session.begin_nested()
        session.add(chat.Message(room_id=1))
        session.commit()
    assert sum(len(group) for group in screen.commits()) == 3
    screen.check()


# SQLAlchemy has it from 2.0.22 on.
RESET = ["reset"] if hasattr(Session, "reset") else []


@pytest.mark.parametrize("how", ["close", *RESET, "invalidate", "expunge and close"])
def test_pushes_nothing_when_the_session_is_closed(chat: Chat, how: str) -> None:
    screen = chat.screen("chat:1")
    session = chat.Session()
    with close_at_end(session):
        session.add(chat.Message(room_id=1))
        session.flush()
        if how == "expunge and close":
            session.expunge_all()
            how = "close"
        getattr(session, how)()
        assert events(screen) == []
        if how != "invalidate":
            session.commit()
        assert events(screen) == []
        session.add(chat.Message(room_id=1))
        session.commit()
        assert events(screen) == [CREATED]
    screen.check()


def test_pushes_nothing_when_a_scoped_session_is_removed(chat: Chat) -> None:
    registry = scoped_session(sessionmaker(chat.engine))
    chat.livepush.watch(registry)
    screen = chat.screen("chat:1")
    registry.add(chat.Message(room_id=1))
    registry.flush()
    registry.remove()
    registry.commit()
    assert events(screen) == []
    registry.add(chat.Message(room_id=1))
    registry.commit()
    registry.remove()
    assert events(screen) == [CREATED]
    screen.check()


def test_pushes_nothing_when_a_session_in_a_savepoint_is_closed(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.begin_nested()
        session.add(chat.Message(room_id=1))
        session.flush()
    assert events(screen) == []
    screen.check()


def test_pushes_nothing_when_a_begin_block_raises(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    with suppress(ZeroDivisionError), chat.Session.begin() as session:
        session.add(chat.Message(room_id=1))
        session.flush()
        raise ZeroDivisionError
    assert events(screen) == []
    with chat.Session.begin() as session:
        session.add(chat.Message(room_id=1))
    assert events(screen) == [CREATED]
    screen.check()


def test_pushes_nothing_when_a_commit_wrote_nothing(chat: Chat) -> None:
    id = chat.post()
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.commit()
        chat.get(session, id)
        session.commit()
    assert events(screen) == []


def test_pushes_nothing_when_the_database_refuses_the_commit(
    schema_url: str,
) -> None:
    with closing(World(schema_url)) as world:

        @world.livepush.track(
            rooms=world.room("pair:<int:other>"), fields=("id", "other")
        )
        class Pair(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "pair"
            id: Mapped[int] = mapped_column(primary_key=True)
            other: Mapped[int] = mapped_column(
                sa.ForeignKey("pair.id", deferrable=True, initially="DEFERRED")
            )

        world.create_tables()
        screen = world.screen("pair:7")
        with world.Session() as session:
            session.add(Pair(id=1, other=7))
            with pytest.raises(sa.exc.IntegrityError):
                session.commit()
            session.rollback()
            assert events(screen) == []
            session.add_all([Pair(id=1, other=7), Pair(id=7, other=7)])
            session.commit()
        assert events(screen) == ["pair.created"] * 2
        screen.check()


_NUMBER = {"postgresql": "pg_backend_pid()", "mysql": "connection_id()"}
_KILL = {"postgresql": "SELECT pg_terminate_backend(:pid, 5000)", "mysql": "KILL :pid"}


def _kill(chat: World, session: Session) -> None:
    """Cut a session's connection, as a failover does."""
    _cut(chat, _number(session))


def _number(session: Session) -> Any:
    """Return by what the database knows a session's connection."""
    dialect = session.get_bind().dialect.name
    return session.scalar(sa.text(f"SELECT {_NUMBER[dialect]}"))


def _cut(chat: World, number: Any) -> None:
    with chat.engine.connect() as other:
        other.execute(sa.text(_KILL[chat.engine.dialect.name]), {"pid": number})


def kill_at_commit(chat: World, session: Session) -> None:
    """Cut a session's connection just before COMMIT is sent through it."""
    number = _number(session)

    @sa.event.listens_for(session.connection(), "commit", once=True)
    def on_commit(_: sa.Connection) -> None:
        _cut(chat, number)


def test_invalidates_nothing_when_the_connection_is_lost_before_commit(
    server_chat: Chat,
) -> None:
    screen = server_chat.screen("chat:1")
    with server_chat.Session() as session:
        session.add(server_chat.Message(room_id=1))
        session.flush()
        _kill(server_chat, session)
        with pytest.raises(sa.exc.OperationalError):
            session.commit()
        session.rollback()
    assert events(screen) == []
    screen.check()


def test_invalidates_when_the_connection_is_lost_at_commit(
    server_chat: Chat,
) -> None:
    screen, other = server_chat.screens("chat:1", "chat:2")
    with server_chat.Session() as session:
        session.add(server_chat.Message(room_id=1))
        kill_at_commit(server_chat, session)
        with pytest.raises(sa.exc.OperationalError):
            session.commit()
        session.rollback()
    assert events(screen, other) == [[STALE], []]
    screen.check()
    server_chat.post()
    assert events(screen) == [CREATED]


def test_pushes_nothing_when_the_connection_is_lost_before_the_commit(
    server_chat: Chat,
) -> None:
    screen = server_chat.screen("chat:1")
    with server_chat.Session() as session:
        session.add(server_chat.Message(room_id=1))
        session.flush()
        _kill(server_chat, session)
        session.add(server_chat.Message(room_id=1))
        with pytest.raises(sa.exc.OperationalError):
            session.flush()
        session.rollback()
        assert events(screen) == []
        session.add(server_chat.Message(room_id=1))
        session.commit()
    assert events(screen) == [CREATED]
    screen.check()


def test_pushes_nothing_when_postgresql_makes_a_rollback_of_the_commit(
    postgres_chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    screen = postgres_chat.screen("chat:1")
    with postgres_chat.Session() as session:
        session.add(postgres_chat.Message(room_id=1))
        session.flush()
        with suppress(sa.exc.ProgrammingError):
            session.execute(sa.text("SELECT no_such_column"))
        session.commit()
        assert events(screen) == []
        assert "swallowed" in caplog.text
        session.add(postgres_chat.Message(room_id=1))
        session.commit()
    assert events(screen) == [CREATED]
    screen.check()


def _changed_under(chat: Chat, session: Session, id: Any) -> None:
    """Let another transaction change a row that the session has seen.

    With innodb_snapshot_isolation, which newer versions of MariaDB have on, who then
    locks the row gets an error, and the transaction is gone, as after a deadlock.
    """
    session.execute(sa.text("SET innodb_snapshot_isolation = ON"))
    chat.get(session, id)
    with chat.Session() as other:
        chat.get(other, id).n = 7
        other.commit()


def test_pushes_nothing_that_mariadb_has_rolled_back_on_an_error(
    mariadb_chat: Chat,
) -> None:
    """Bug: a row was shown that was flushed before an error that was swallowed."""
    chat = mariadb_chat
    id = chat.post(2)
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1, body="gone"))
        session.flush()
        _changed_under(chat, session, id)
        with suppress(sa.exc.OperationalError):
            session.execute(sa.update(chat.Message.__table__).values(n=8))
        session.add(chat.Message(room_id=1, body="kept"))
        chat.livepush.emit("chat:1", "mine")
        session.commit()
    assert events(screen) == [STALE, "mine"]
    assert [row["body"] for row in screen.kinds["message"].values()] == ["kept"]
    chat.post()
    assert events(screen) == [CREATED]


def test_fails_as_the_application_would_when_the_database_ends_the_transaction(
    mariadb_chat: Chat,
) -> None:
    """Bug: the rest was committed, and what had been flushed before was lost."""
    chat = mariadb_chat
    id = chat.post(2)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.flush()
        _changed_under(chat, session, id)
        session.delete(chat.get(session, id))
        with pytest.raises(sa.exc.OperationalError, match="FOR UPDATE"):
            session.commit()
    assert chat.scalar("SELECT count(*) FROM messages") == 1
    assert events(*screens) == [[], [UPDATED]]


def test_pushes_when_a_swallowed_error_was_in_a_savepoint(postgres_chat: Chat) -> None:
    screen = postgres_chat.screen("chat:1")
    with postgres_chat.Session() as session:
        session.add(postgres_chat.Message(room_id=1))
        session.flush()
        with suppress(sa.exc.ProgrammingError), session.begin_nested():
            session.execute(sa.text("SELECT no_such_column"))
        session.commit()
    assert events(screen) == [CREATED]
    screen.check()


class Binds(World):
    """Two databases in one session: ``Left`` in the first, ``Right`` in the second.

    Nothing refers to a Right of id 0, and that is found out at its COMMIT.
    """

    def __init__(self, url: str, other: str, *, twophase: bool) -> None:
        self.second = sa.create_engine(other)
        self._twophase = twophase
        super().__init__(url)
        room = self.room("all")

        @self.livepush.track(rooms=room, fields=("id",))
        class Left(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "left_rows"
            id: Mapped[int] = mapped_column(primary_key=True)

        @self.livepush.track(rooms=room, fields=("id",))
        class Right(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "right_rows"
            id: Mapped[int] = mapped_column(primary_key=True)
            other: Mapped[int | None] = mapped_column(
                sa.ForeignKey("right_rows.id", deferrable=True, initially="DEFERRED")
            )

        self.Left, self.Right = Left, Right
        self.Session.configure(binds={Left: self.engine, Right: self.second})
        self.create_tables()
        self.Base.metadata.create_all(self.second)

    def sessionmaker(self) -> Any:
        return sessionmaker(twophase=self._twophase)


@contextmanager
def two_binds(postgres: Postgres, *, twophase: bool) -> Iterator[Binds]:
    with (
        postgres.database() as url,
        postgres.database() as other,
        closing(Binds(url, other, twophase=twophase)) as binds,
    ):
        try:
            yield binds
        finally:
            binds.second.dispose()


@pytest.mark.parametrize("prepare", [False, True], ids=["commit", "prepare and commit"])
def test_pushes_once_when_two_databases_commit_in_two_phases(
    postgres: Postgres, prepare: bool
) -> None:
    with two_binds(postgres, twophase=True) as binds:
        screen = binds.screen("all")
        with binds.Session() as session:
            session.add_all([binds.Left(id=1), binds.Right(id=2)])
            if prepare:
                session.prepare()
                assert events(screen) == []
            session.commit()
        assert screen.commits() == [["left.created", "right.created"]]
        screen.check()
        with binds.Session() as session:
            session.add_all([binds.Left(id=3), binds.Right(id=4)])
            session.flush()
            if prepare:
                session.prepare()
            session.rollback()
        told = events(screen)
        assert set(told) <= (
            {"left.invalidated", "right.invalidated"} if prepare else set()
        )
        screen.check()


def test_pushes_no_row_when_one_of_two_databases_can_not_prepare(
    postgres: Postgres,
) -> None:
    with two_binds(postgres, twophase=True) as binds:
        screen = binds.screen("all")
        with binds.Session() as session:
            session.add_all([binds.Left(id=1), binds.Right(id=2, other=0)])
            # The latter from SQLAlchemy 2.0.16, which can't roll back here.
            with pytest.raises((sa.exc.DBAPIError, sa.exc.IllegalStateChangeError)):
                session.commit()
            session.rollback()
        assert set(events(screen)) <= {"left.invalidated", "right.invalidated"}
        screen.check()


@pytest.mark.filterwarnings("ignore:transaction already deassociated")
def test_invalidates_when_one_of_two_commits_fails(postgres: Postgres) -> None:
    """Which of them comes first is up to SQLAlchemy; that one is durable."""
    with two_binds(postgres, twophase=False) as binds:
        screen = binds.screen("all")
        with binds.Session() as session:
            session.add_all([binds.Left(id=1), binds.Right(id=2, other=0)])
            with pytest.raises(sa.exc.IntegrityError):
                session.commit()
            session.rollback()
        assert set(events(screen)) == {"left.invalidated", "right.invalidated"}
        screen.check()


def test_keeps_the_view_going_when_an_after_commit_listener_raises(
    chat: Chat,
) -> None:
    """The data is durable; that of the application's own listener is its business."""
    screen = chat.screen("chat:1")

    def raise_it(_: Session) -> None:
        raise ZeroDivisionError

    session = chat.Session()
    sa.event.listen(session, "after_commit", raise_it)
    session.add(chat.Message(room_id=1))
    with pytest.raises(ZeroDivisionError):
        session.commit()
    session.close()
    assert set(events(screen)) <= {CREATED, STALE}
    screen.check()


def test_pushes_what_is_flushed_when_hooks_come_to_an_open_transaction(
    chat: Chat,
) -> None:
    screen = chat.screen("chat:1")
    with Session(chat.engine) as session:
        session.execute(sa.select(chat.Message))
        chat.livepush.watch(session)
        session.add(chat.Message(room_id=1))
        session.flush()
        with session.begin_nested():
            session.add(chat.Message(room_id=1))
        session.commit()
    assert events(screen) == [CREATED, CREATED]
    screen.check()


def test_pushes_what_is_flushed_when_hooks_come_inside_a_savepoint(
    chat: Chat,
) -> None:
    screen = chat.screen("chat:1")
    with Session(chat.engine) as session:
        session.execute(sa.select(chat.Message))
        inner = session.begin_nested()
        chat.livepush.watch(session)
        session.add(chat.Message(room_id=1, body="lost"))
        session.flush()
        inner.rollback()
        session.add(chat.Message(room_id=1, body="kept"))
        session.commit()
    assert [data["body"] for _, data in screen.follow()] == ["kept"]
    screen.check()


@pytest.mark.parametrize(
    "mode", ["conditional_savepoint", "rollback_only", "control_fully"]
)
def test_pushes_at_a_commit_inside_a_test_fixture_transaction(
    chat: Chat, mode: Any
) -> None:
    """The recipe "Joining a Session into an External Transaction"."""
    screen = chat.screen("chat:1")
    with chat.engine.connect() as connection:
        outer = connection.begin()
        with chat.Session(bind=connection, join_transaction_mode=mode) as session:
            session.add(chat.Message(room_id=1))
            session.commit()
        assert events(screen) == [CREATED]
        if outer.is_active:
            outer.rollback()


def test_pushes_at_a_commit_inside_a_fixture_that_makes_savepoints(
    chat: Chat,
) -> None:
    screen = chat.screen("chat:1")
    with chat.engine.connect() as connection:
        outer = connection.begin()
        with chat.Session(
            bind=connection, join_transaction_mode="create_savepoint"
        ) as session:
            session.add(chat.Message(room_id=1))
            session.commit()
            assert events(screen) == [CREATED]
            session.add(chat.Message(room_id=1))
            session.flush()
            session.rollback()
            assert events(screen) == []
        outer.rollback()


def test_pushes_each_half_by_itself_when_two_sessions_are_interleaved(
    server_chat: Chat,
) -> None:
    chat = server_chat
    screen = chat.screen("chat:1")
    with chat.Session() as one, chat.Session() as two:
        one.add(chat.Message(room_id=1, body="one"))
        two.add(chat.Message(room_id=1, body="two"))
        one.flush()
        two.flush()
        two.rollback()
        two.add(chat.Message(room_id=1, body="two again"))
        one.commit()
        assert [data["body"] for _, data in screen.follow()] == ["one"]
        two.commit()
    assert [data["body"] for _, data in screen.follow()] == ["two again"]
    screen.check()
