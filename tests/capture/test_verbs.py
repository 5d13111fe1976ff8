"""What an application asks for by hand: emit, invalidate, suppress, push_changes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from flask_livepush import ConfigError, UsageError
from tests.capture.test_transactions import kill_at_commit
from tests.support.following import Chat, check, closing, events, sqlite_url

CREATED = "message.created"
STALE = "message.invalidated"
ROOM = "chat:1"


# -- emit ----------------------------------------------------------------------------


@pytest.mark.parametrize("after_commit", [None, True, False])
def test_emits_at_once_when_no_transaction_is_open(
    sqlite_chat: Chat, after_commit: bool | None
) -> None:
    screen = sqlite_chat.screen(ROOM)
    receipt = sqlite_chat.livepush.emit(ROOM, "x", after_commit=after_commit)
    assert receipt.outcome == "stored"
    assert events(screen) == ["x"]
    with sqlite_chat.Session() as session:
        session.commit()
    assert events(screen) == []


def _nothing(chat: Chat, session: Any) -> None:
    """Leave the session as it is."""


def _read(chat: Chat, session: Any) -> None:
    session.execute(sa.select(chat.Message))


def _begin(chat: Chat, session: Any) -> None:
    session.begin()


def _nest(chat: Chat, session: Any) -> None:
    session.begin_nested()


def _add(chat: Chat, session: Any) -> None:
    session.add(chat.Message(room_id=2))


def _flush(chat: Chat, session: Any) -> None:
    session.add(chat.Message(room_id=2))
    session.flush()


def _core(chat: Chat, session: Any) -> None:
    session.execute(sa.text("UPDATE messages SET n = 1"))


STATES: dict[str, tuple[Callable[[Chat, Any], None], str, str]] = {
    # What was done -> the outcome with after_commit=None, with True.
    "nothing": (_nothing, "stored", "stored"),
    "a read": (_read, "stored", "deferred"),
    "begin()": (_begin, "deferred", "deferred"),
    "begin_nested()": (_nest, "deferred", "deferred"),
    "an object added": (_add, "deferred", "deferred"),
    "a flush": (_flush, "deferred", "deferred"),
    "text()": (_core, "deferred", "deferred"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("after_commit", [None, True, False])
@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_emits_as_after_commit_says(
    sqlite_chat: Chat, state: str, after_commit: bool | None, end: str
) -> None:
    chat = sqlite_chat
    screen = chat.screen(ROOM)
    prepare, by_default, when_true = STATES[state]
    wanted = {None: by_default, True: when_true, False: "stored"}[after_commit]
    with chat.Session() as session:
        prepare(chat, session)
        receipt = chat.livepush.emit(ROOM, "x", {"a": 1}, after_commit=after_commit)
        assert receipt.outcome == wanted
        assert events(screen) == (["x"] if wanted == "stored" else [])
        getattr(session, end)()
    told = events(screen)
    assert told == (["x"] if wanted == "deferred" and end == "commit" else [])


def test_keeps_what_waits_when_a_reading_transaction_is_closed(
    sqlite_chat: Chat,
) -> None:
    """Nothing was undone; it is at once as if there had been no transaction."""
    screen = sqlite_chat.screen(ROOM)
    with sqlite_chat.Session() as session:
        _read(sqlite_chat, session)
        sqlite_chat.livepush.emit(ROOM, "x", after_commit=True)
        assert events(screen) == []
    assert events(screen) == ["x"]


def test_drops_what_waits_when_a_writing_transaction_is_closed(
    sqlite_chat: Chat,
) -> None:
    screen = sqlite_chat.screen(ROOM)
    with sqlite_chat.Session() as session:
        _flush(sqlite_chat, session)
        sqlite_chat.livepush.emit(ROOM, "x")
    assert events(screen) == []


def test_drops_what_waits_with_its_savepoint(chat: Chat) -> None:
    screen = chat.screen(ROOM)
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.flush()
        chat.livepush.emit(ROOM, "outer")
        inner = session.begin_nested()
        chat.livepush.emit(ROOM, "lost")
        inner.rollback()
        with session.begin_nested():
            chat.livepush.emit(ROOM, "kept")
        assert events(screen) == []
        session.commit()
    assert screen.commits() == [[CREATED, "outer", "kept"]]
    screen.check()


def test_emits_in_the_order_of_the_calls_and_keeps_equal_ones(
    sqlite_chat: Chat,
) -> None:
    screen = sqlite_chat.screen(ROOM)
    with sqlite_chat.Session() as session:
        _flush(sqlite_chat, session)
        for event in ("b", "a", "b"):
            sqlite_chat.livepush.emit(ROOM, event)
        session.commit()
    assert events(screen) == ["b", "a", "b"]


def test_emits_no_application_event_when_the_commit_is_uncertain(
    postgres_chat: Chat,
) -> None:
    chat = postgres_chat
    screen = chat.screen(ROOM)
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.flush()
        chat.livepush.emit(ROOM, "x")
        kill_at_commit(chat, session)
        with pytest.raises(sa.exc.OperationalError):
            session.commit()
    assert events(screen) == [STALE]


def test_waits_for_the_innermost_of_two_sessions(sqlite_chat: Chat) -> None:
    chat = sqlite_chat
    screen = chat.screen(ROOM)
    with chat.Session() as outer, chat.Session() as inner:
        _read(chat, outer)
        _flush(chat, inner)
        assert chat.livepush.emit(ROOM, "x").outcome == "deferred"
        outer.commit()
        assert events(screen) == []
        inner.commit()
        assert events(screen) == ["x"]


def test_refuses_an_unknown_room_or_event_even_when_it_would_wait(
    sqlite_chat: Chat,
) -> None:
    with sqlite_chat.Session() as session:
        _flush(sqlite_chat, session)
        with pytest.raises(UsageError, match="nowhere"):
            sqlite_chat.livepush.emit("nowhere", "x")
        with pytest.raises(UsageError, match="reserved"):
            sqlite_chat.livepush.emit(ROOM, "disconnect")
        session.rollback()


# -- invalidate ----------------------------------------------------------------------


def test_invalidates_a_model_an_object_a_room_or_a_name(sqlite_chat: Chat) -> None:
    chat = sqlite_chat
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    chat.livepush.invalidate(chat.Message)
    assert events(*screens) == [[STALE], [STALE]]
    chat.livepush.invalidate(chat.chat)
    assert events(*screens) == [[STALE], [STALE]]
    chat.livepush.invalidate("chat:2")
    assert events(*screens) == [[], [STALE]]
    with chat.Session() as session:
        message = chat.get(session, id)
        session.expunge_all()
    chat.livepush.invalidate(message)
    assert events(*screens) == [[STALE], []]


@pytest.mark.parametrize("target", [None, 7, "nowhere", int, "chat:01"], ids=repr)
def test_refuses_to_invalidate_what_it_does_not_know(
    sqlite_chat: Chat, target: Any
) -> None:
    with pytest.raises(UsageError):
        sqlite_chat.livepush.invalidate(target)
    with pytest.raises(UsageError, match="tracked model"):
        sqlite_chat.livepush.invalidate(sqlite_chat.Room)


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_invalidates_with_the_commit_of_what_was_written(chat: Chat, end: str) -> None:
    screen = chat.screen(ROOM)
    with chat.Session() as session:
        _core(chat, session)
        chat.livepush.invalidate(chat.Message)
        chat.livepush.invalidate(ROOM)
        assert events(screen) == []
        getattr(session, end)()
    assert events(screen) == ([STALE] if end == "commit" else [])


def test_invalidates_at_once_and_again_when_a_transaction_has_only_read(
    chat: Chat,
) -> None:
    """Something may have been written on its connection, unseen."""
    screen = chat.screen(ROOM)
    with chat.Session() as session:
        _read(chat, session)
        chat.livepush.invalidate(ROOM)
        assert events(screen) == [STALE]
        session.commit()
        assert events(screen) == [STALE]
        _read(chat, session)
        chat.livepush.invalidate(ROOM)
    assert events(screen) == [STALE]


def test_invalidates_the_rooms_of_an_object_of_the_open_transaction(
    chat: Chat,
) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        message = chat.get(session, id)
        session.execute(sa.update(chat.Message.__table__).values(body="by Core"))
        chat.livepush.invalidate(message)
        session.commit()
    assert events(*screens) == [[STALE], []]
    check(screens)


# -- suppress ------------------------------------------------------------------------


def test_pushes_no_row_that_is_flushed_and_committed_in_suppress(chat: Chat) -> None:
    screen = chat.screen(ROOM)
    with chat.livepush.suppress():
        chat.post(1)
        with chat.Session() as session:
            session.execute(sa.update(chat.Message).values(n=2))
            session.commit()
        chat.livepush.emit(ROOM, "x")
    assert events(screen) == ["x"]
    chat.livepush.invalidate(chat.Message)
    assert events(screen) == [STALE]
    screen.check()
    chat.post(1)
    assert events(screen) == [CREATED]


def test_pushes_the_rest_of_a_transaction_that_was_in_suppress_for_a_while(
    chat: Chat,
) -> None:
    id = chat.post(1)
    screens = chat.screens("chat:1", "chat:2")
    with chat.Session() as session:
        with chat.livepush.suppress():
            session.add(chat.Message(room_id=1, body="import"))
            session.flush()
        chat.get(session, id).room_id = 2
        session.commit()
    assert events(*screens) == [["message.deleted"], [CREATED]]


def test_ends_suppress_when_its_block_raises(chat: Chat) -> None:
    screen = chat.screen(ROOM)
    with pytest.raises(ZeroDivisionError), chat.livepush.suppress():
        raise ZeroDivisionError
    chat.post(1)
    assert events(screen) == [CREATED]


# -- push_changes --------------------------------------------------------------------


@pytest.fixture
def decorated(tmp_path: Path) -> Any:
    with closing(Chat(sqlite_url(tmp_path), LIVEPUSH_PUSH="decorated")) as made:
        yield made


def test_pushes_inside_push_changes_alone(decorated: Chat) -> None:
    screen = decorated.screen(ROOM)
    decorated.post(1, body="outside")
    assert events(screen) == []
    with decorated.livepush.push_changes():
        decorated.post(1, body="with")
    assert [data["body"] for _, data in screen.follow()] == ["with"]

    @decorated.livepush.push_changes
    def task(body: str) -> str:
        decorated.post(1, body=body)
        return body

    assert task("a task") == "a task"
    assert task.__name__ == "task"
    assert [data["body"] for _, data in screen.follow()] == ["a task"]
    decorated.post(1, body="outside")
    assert events(screen) == []
    decorated.livepush.emit(ROOM, "x")
    decorated.livepush.invalidate(ROOM)
    assert events(screen) == ["x", STALE]


def test_pushes_what_a_decorated_view_commits_and_gives_its_position(
    decorated: Chat,
) -> None:
    from flask_livepush.protocol import position_header

    @decorated.app.post("/decorated")
    @decorated.livepush.push_changes
    def decorated_view() -> str:
        decorated.post(1)
        decorated.post(2)
        return "done"

    screens = decorated.screens("chat:1", "chat:2")
    response = decorated.app.test_client().post("/decorated")
    assert events(*screens) == [[CREATED], [CREATED]]
    assert response.headers["Livepush-Position"] == position_header.write(
        {screen.room: screen.position for screen in screens}
    )


def test_warns_once_for_each_view_that_is_not_decorated(
    decorated: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):

        @decorated.app.post(f"/{name}", endpoint=name)
        def view() -> str:
            decorated.post(1)
            return ""

    screen = decorated.screen(ROOM)
    client = decorated.app.test_client()
    with caplog.at_level(logging.WARNING):
        for path in ("/one", "/two", "/one"):
            assert client.post(path).status_code == 200
        decorated.post(1)
        decorated.post(1)
    assert events(screen) == []
    assert [r.getMessage().count("push_changes") for r in caplog.records] == [1, 1, 1]
    assert "'one'" in caplog.records[0].getMessage()
    assert "'two'" in caplog.records[1].getMessage()


def test_does_not_warn_of_commits_that_push_nothing(
    decorated: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    with decorated.Session() as session:
        session.add(decorated.Room(id=90))
        session.commit()
        session.execute(sa.select(decorated.Message))
        session.commit()
    with decorated.livepush.suppress():
        decorated.post(1)
    assert caplog.text == ""


def test_pushes_an_untracked_model_inside_push_changes_alone(chat: Chat) -> None:
    rooms = chat.room("rooms")
    screen = chat.screen("rooms")
    track = {"rooms": rooms, "fields": ("id", "name")}
    with chat.Session() as session:
        with chat.livepush.push_changes(chat.Room, **track):
            session.add(chat.Room(id=50, name="new"))
            session.commit()
        assert screen.follow() == [("room.created", {"id": 50, "name": "new"})]
        room = session.get(chat.Room, 50)
        with chat.livepush.push_changes(chat.Room, **track):
            room.name = "newer"
            session.commit()
            session.execute(sa.update(chat.Room).values(name="bulk"))
            session.commit()
        assert [event for event, _ in screen.follow()] == [
            "room.updated",
            "room.invalidated",
        ]
        room.name = "outside"
        session.commit()
        assert screen.follow() == []

        @chat.livepush.push_changes(chat.Room, **track, kind="hall")
        def close(room: Any) -> None:
            session.delete(room)
            session.commit()

        close(room)
    assert screen.follow() == [("hall.deleted", {"id": 50})]


def test_pushes_each_declaration_once_when_scopes_are_nested(
    sqlite_chat: Chat,
) -> None:
    chat = sqlite_chat
    screen, other = chat.screen(ROOM), chat.room("other")
    with (
        chat.livepush.push_changes(),
        chat.livepush.push_changes(
            chat.Message, rooms=other, fields=("id",), kind="line"
        ),
    ):
        seen = chat.screen("other")
        chat.post(1)
    assert events(screen) == [CREATED]
    assert [event for event, _ in seen.follow()] == ["line.created"]


@pytest.mark.parametrize("given", [{}, {"fields": ("id",)}, {"rooms": None}], ids=str)
def test_refuses_push_changes_of_a_model_without_rooms_and_fields(
    sqlite_chat: Chat, given: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=r"rooms=|fields="):
        sqlite_chat.livepush.push_changes(sqlite_chat.Room, **given)


def test_pushes_a_bulk_statement_of_a_decorated_block(decorated: Chat) -> None:
    screens = decorated.screens("chat:1", "chat:2")
    for livepush in (None, decorated.livepush):
        with decorated.Session() as session:
            statement = (
                sa.update(decorated.Message)
                .where(decorated.Message.room_id == 1)
                .values(n=2)
            )
            if livepush is None:
                session.execute(statement)
                session.commit()
                assert events(*screens) == [[], []]
            else:
                with livepush.push_changes():
                    session.execute(statement)
                    session.commit()
                assert events(*screens) == [[STALE], []]
    check(screens)
