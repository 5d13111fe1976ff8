"""What goes wrong inside LivePush stays there: the view goes on, the rooms are told."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa

from flask_livepush import BrokerUnavailable, statements
from flask_livepush.rows import _CLOCKS, Rows
from flask_livepush.tracking import Tracked
from tests.support.following import (
    BUT_MARIADB,
    Chat,
    broker_of,
    check,
    events,
    outgoing_of,
)
from tests.support.redis import until
from tests.support.waiting import DEADLINE

CREATED = "message.created"
STALE = "message.invalidated"


class Broken(Exception):
    """A bug of ours."""


def break_it(
    monkeypatch: pytest.MonkeyPatch,
    target: Any,
    name: str,
    *,
    from_call: int = 1,
    error: type[Exception] = Broken,
) -> list[int]:
    """Let a collaborator raise from its n-th call on; return the calls it had."""
    works = getattr(target, name)
    calls: list[int] = []

    def broken(*args: Any, **kwargs: Any) -> Any:
        calls.append(len(calls) + 1)
        if len(calls) >= from_call:
            raise error(f"{name} is broken")
        return works(*args, **kwargs)

    monkeypatch.setattr(target, name, broken)
    return calls


def everything(chat: Chat) -> None:
    """A view that inserts, updates, moves, deletes, and uses savepoints and bulk."""
    with chat.Session() as session:
        first, second, third = (
            chat.Message(room_id=room, body="x") for room in (1, 1, 2)
        )
        session.add_all([first, second, third])
        session.commit()
        first.body = "new"
        second.room_id = 2
        with session.begin_nested():
            session.delete(third)
        inner = session.begin_nested()
        session.add(chat.Message(room_id=1))
        session.flush()
        inner.rollback()
        session.commit()
        session.execute(
            sa.update(chat.Message).where(chat.Message.room_id == 2).values(n=2)
        )
        session.commit()
        session.add(chat.Message(room_id=1))
        session.flush()
        session.rollback()
        first.n = 9
        session.commit()
    with chat.engine.connect() as connection:
        rows = connection.execute(
            sa.text("SELECT room_id, body, n FROM messages ORDER BY id")
        ).all()
    assert [tuple(row) for row in rows[-2:]] == [(1, "new", 9), (2, "x", 2)]


# Each is a collaborator of the hooks, which one bug would make raise.
COLLABORATORS: dict[str, Callable[[Chat], tuple[Any, str]]] = {
    "reading written rows": lambda chat: (Rows, "written"),
    "reading rows that move": lambda chat: (Rows, "about_to_change"),
    "reading the clock": lambda chat: (Rows, "now"),
    "making fields": lambda chat: (Tracked, "fields_of"),
    "finding rooms": lambda chat: (Tracked, "_names"),
}


@BUT_MARIADB
@pytest.mark.parametrize("name", COLLABORATORS)
@pytest.mark.parametrize("from_call", [1, 2, 3, 5])
def test_keeps_the_view_going_when_a_collaborator_raises(
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
    from_call: int,
) -> None:
    screens = chat.screens("chat:1", "chat:2")
    with monkeypatch.context() as patch:
        target, attribute = COLLABORATORS[name](chat)
        calls = break_it(patch, target, attribute, from_call=from_call)
        everything(chat)
    if len(calls) < from_call:
        assert caplog.text == ""
    else:
        assert f"{attribute} is broken" in caplog.text
    check(screens)
    with chat.Session() as session:
        session.add(chat.Message(room_id=1))
        session.commit()
    assert events(*screens) == [[CREATED], []]
    check(screens)


def test_keeps_the_view_going_when_statements_of_ours_fail(
    server_chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An SQL error in the application's transaction would abort it."""
    chat = server_chat
    screens = chat.screens("chat:1", "chat:2")
    wrong = dict.fromkeys(_CLOCKS, "no_such_function()")
    monkeypatch.setattr("flask_livepush.rows._CLOCKS", wrong)
    everything(chat)
    assert [STALE in told for told in events(*screens)] == [True, True]
    check(screens)


def test_tells_rooms_to_read_anew_while_the_databases_clock_is_behind(
    server_chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As when a replica takes over whose clock is not quite right."""
    chat = server_chat
    screens = chat.screens("chat:1", "chat:2")
    dialect = chat.engine.dialect.name
    behind = f"{_CLOCKS[dialect]} - (SELECT us FROM behind)"
    monkeypatch.setitem(_CLOCKS, dialect, behind)

    def set_back(microseconds: int) -> None:
        with chat.engine.begin() as connection:
            connection.execute(sa.text(f"UPDATE behind SET us = {microseconds}"))

    with chat.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE behind (us BIGINT)"))
        connection.execute(sa.text("INSERT INTO behind VALUES (0)"))
    first = chat.post(1)
    assert events(*screens) == [[CREATED], []]
    set_back(3_600_000_000)
    with chat.Session() as session:
        session.get(chat.Message, first).room_id = 2
        session.commit()
        session.delete(session.get(chat.Message, first))
        session.add(chat.Message(room_id=1))
        session.commit()
    assert events(*screens) == [[STALE, STALE], [STALE, STALE]]
    check(screens)
    assert caplog.text.count("has fallen") == 1
    set_back(0)
    chat.post(2)
    assert events(*screens) == [[], [CREATED]]


def test_converges_when_a_column_that_is_read_is_gone(chat: Chat) -> None:
    """As while a migration is rolled out: what we read is more than the view does."""
    screens = chat.screens("chat:1", "chat:2")
    id = chat.post(1)
    with chat.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE messages RENAME COLUMN body TO text"))
    with chat.Session() as session:
        session.execute(
            sa.update(chat.Message).where(chat.Message.id == id).values(n=7)
        )
        session.commit()
        message = session.get(
            chat.Message, id, options=[sa.orm.load_only(chat.Message.n)]
        )
        message.n = 8
        session.commit()
    assert chat.scalar("SELECT n FROM messages") == 8
    with chat.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE messages RENAME COLUMN text TO body"))
    check(screens)


def test_converges_when_rooms_of_a_bulk_statement_can_not_be_found(
    chat: Chat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    screens = chat.screens("chat:1", "chat:2")

    with monkeypatch.context() as patch:
        break_it(patch, statements, "_names")
        everything(chat)
    assert "_names is broken" in caplog.text
    check(screens)


@pytest.mark.parametrize("away", [("publish", "rooms"), ("rooms",)])
def test_keeps_the_view_going_when_the_broker_is_away_and_tells_it_all_later(
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    away: tuple[str, ...],
) -> None:
    screens = chat.screens("chat:1", "chat:2")
    outgoing = outgoing_of(chat.livepush)
    with monkeypatch.context() as patch:
        for name in (*away, "ping"):
            break_it(patch, broker_of(chat.livepush), name, error=BrokerUnavailable)
        everything(chat)
        with chat.Session() as session:
            session.execute(sa.update(chat.Message).values(n=2))
            session.commit()
        assert outgoing.depth > 0
        until(lambda: f"{away[0]} is broken" in caplog.text)  # in the sender's thread
    until(lambda: outgoing.depth == 0)
    check(screens)


@pytest.mark.parametrize("name", ["publish", "rooms"])
def test_keeps_the_view_going_when_the_broker_has_a_bug(
    chat: Chat,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    name: str,
) -> None:
    with monkeypatch.context() as patch:
        break_it(patch, broker_of(chat.livepush), name)
        everything(chat)
        with chat.Session() as session:
            session.execute(sa.update(chat.Message).values(n=2))
            session.commit()
            session.execute(sa.select(chat.Message)).all()
        until(lambda: f"{name} is broken" in caplog.text)
    # What all rooms are to be told is not given up before.
    until(outgoing_of(chat.livepush).finish)
    screen = chat.screen("chat:1")
    chat.post(1)
    assert events(screen) == [CREATED]


def test_keeps_the_other_rooms_going_when_one_can_not_be_published_to(
    chat: Chat, monkeypatch: pytest.MonkeyPatch
) -> None:
    screens = chat.screens("chat:1", "chat:2")
    broker = broker_of(chat.livepush)
    works = broker.publish

    def publish(room: str, drafts: Any, **options: Any) -> Any:
        if room == "chat:1":
            raise Broken
        return works(room, drafts, **options)

    monkeypatch.setattr(broker, "publish", publish)
    with chat.Session() as session:
        session.add_all([chat.Message(room_id=1), chat.Message(room_id=2)])
        session.commit()
    assert events(*screens) == [[], [CREATED]]


HOOKS = (
    "_on_create",
    "_on_begin",
    "_on_before_flush",
    "_on_after_flush",
    "_on_before_commit",
    "_on_after_commit",
    "_on_after_rollback",
    "_on_end",
    "_on_statement",
)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("which", ["each call", "the first call"])
def test_converges_when_a_hook_raises(
    sqlite_chat: Chat, monkeypatch: pytest.MonkeyPatch, hook: str, which: str
) -> None:
    """Each hook first asks for what is known of its session, and fails at that."""
    chat = sqlite_chat
    assert chat.livepush._models is not None
    screens = chat.screens("chat:1", "chat:2")
    capture = type(chat.livepush._models.capture)
    works = capture._state
    failed: list[str] = []

    def state(self: Any, session: Any) -> Any:
        caller = sys._getframe(1).f_code.co_name
        if caller == hook and (not failed or which == "each call"):
            failed.append(hook)
            raise Broken
        return works(self, session)

    with monkeypatch.context() as patch:
        patch.setattr(capture, "_state", state)
        everything(chat)
    assert failed
    check(screens)
    everything(chat)
    check(screens)


def test_pushes_from_a_thread_of_its_own(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    failed: list[BaseException] = []

    def work() -> None:
        try:
            chat.post(1)
        except BaseException as error:  # noqa: BLE001
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=DEADLINE)
    assert not failed
    assert not thread.is_alive()
    assert events(screen) == [CREATED]
    screen.check()


def test_loads_nothing_for_models_that_are_not_tracked(chat: Chat) -> None:
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    with chat.Session() as session:
        sa.event.listen(chat.engine, "before_cursor_execute", note)
        session.add(chat.Room(id=90, name="a"))
        session.commit()
        session.get(chat.Room, 90).name = "b"
        session.commit()
        session.delete(session.get(chat.Room, 90))
        session.commit()
    assert not [s for s in seen if "clock_timestamp" in s or "FOR UPDATE" in s]
    assert not [s for s in seen if s.startswith("SAVEPOINT")]


def test_reads_once_for_each_commit_and_model(chat: Chat) -> None:
    seen: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        seen.append(statement)

    def reads() -> int:
        found = sum(s.startswith("SELECT") for s in seen)
        seen.clear()
        return found

    with chat.Session() as session:
        messages = [chat.Message(room_id=1, body=str(i)) for i in range(50)]
        session.add_all(messages)
        sa.event.listen(chat.engine, "before_cursor_execute", note)
        session.flush()
        for message in messages:
            message.body = "new"
        session.flush()
        assert reads() == 0
        for message in messages:
            message.room_id = 2
        session.flush()
        assert reads() == 1  # where they were
        session.commit()
        assert reads() == 1
