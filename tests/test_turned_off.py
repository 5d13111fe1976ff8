"""What is left where everything, or a kind, has been turned off."""

from __future__ import annotations

import gc
import os
import re
import threading
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, render_template_string
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from gunicorn.workers.sync import SyncWorker
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    sessionmaker,
)

from flask_livepush import ConfigError, EncodingError, LivePush, UsageError, config
from flask_livepush import gunicorn as hooks
from flask_livepush.doctor.application import Application, check
from tests.test_gunicorn import worker

SESSION_EVENTS = (
    "after_transaction_create",
    "after_begin",
    "before_flush",
    "after_flush",
    "before_commit",
    "do_orm_execute",
    "after_commit",
    "after_rollback",
    "after_transaction_end",
)
MODEL_EVENTS = (
    "after_insert",
    "before_update",
    "after_update",
    "before_delete",
    "after_delete",
)
# Nobody listens there: who asked for it would be refused.
NO_REDIS = {"LIVEPUSH_MESSAGE_QUEUE": "redis://127.0.0.1:1/0", "SECRET_KEY": "k" * 32}


class Site:
    """An application with everything that can be decorated, turned off or on."""

    def __init__(self, name: str = "site", **settings: Any) -> None:
        self.db = db = SQLAlchemy()
        self.livepush = livepush = LivePush()

        @livepush.room("chat:<int:room_id>")
        def chat(user: Any, room_id: int) -> bool:
            return True

        @livepush.track(rooms=chat, fields=("id", "body"))
        class Message(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int]
            body: Mapped[str]

        @livepush.track(rooms=chat, fields=("id",), when=lambda row: row.room_id)
        class Picture(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int]

        self.chat, self.message, self.picture = chat, Message, Picture
        self.app = self.make(name, **settings)

    def make(self, name: str, **settings: Any) -> Flask:
        app = Flask(name)
        app.config.update(
            {"SQLALCHEMY_DATABASE_URI": "sqlite://", "SECRET_KEY": "secret"} | settings
        )
        self.db.init_app(app)
        self.livepush.init_app(app)
        with app.app_context():
            self.db.create_all()

        @app.get("/rooms/<int:room_id>")
        @self.livepush.page(self.chat)
        @self.livepush.page(self.livepush.user)
        def show(room_id: int) -> str:
            return render_template_string(
                "{{ livepush_room() }}{{ livepush_room('chat:1') }}"
                "{{ livepush_script(nonce='n') }}"
            )

        @app.post("/rooms/<int:room_id>")
        @self.livepush.push_changes
        def post(room_id: int) -> dict[str, Any]:
            message = self.message(room_id=room_id, body="x")
            self.db.session.add(message)
            self.db.session.commit()
            return self.livepush.row(message)

        return app

    def commit(self, app: Flask | None = None) -> list[str]:
        """Write a row of each kind; return the statements that it took."""
        said: list[str] = []
        with (app or self.app).app_context():
            session = self.db.session
            session.add(self.message(room_id=1, body="x"))
            session.add(self.picture(room_id=1))
            session.commit()
            sa.event.listen(
                self.db.engine,
                "before_cursor_execute",
                lambda c, cursor, statement, *_: said.append(statement),
            )
            row = session.scalars(sa.select(self.message)).first()
            said.clear()
            row.body = "y"
            session.commit()
            session.execute(
                sa.update(self.message).where(self.message.id > 0).values(body="z")
            )
            session.delete(session.get(self.message, row.id))
            session.commit()
        return said

    def pushed(self, app: Flask | None = None) -> int:
        with (app or self.app).app_context():
            position = self.livepush.position("chat:1")
        assert position is not None
        return position.offset


def listeners(site: Site) -> int:
    """Count who listens to sessions, models and engines of a site."""
    with site.app.app_context():
        session = site.db.session()
        found = [len(getattr(session.dispatch, name)) for name in SESSION_EVENTS]
        for model in (site.message, site.picture):
            dispatch = sa.inspect(model).dispatch
            found += [len(getattr(dispatch, name)) for name in MODEL_EVENTS]
        dispatch = site.db.engine.dialect.dispatch
        for name in ("handle_error", "do_execute", "do_executemany"):
            found.append(len(getattr(dispatch, name)))
    return sum(found)


@pytest.fixture
def off() -> Site:
    return Site(LIVEPUSH_ENABLED=False, **NO_REDIS)


def test_sessions_models_and_engines_have_no_hooks(off: Site) -> None:
    off.commit()
    assert listeners(off) == 0
    on = Site()
    on.commit()
    assert listeners(on) > 15


def test_nothing_is_asked_of_the_database_or_the_queue(
    off: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By us: applications of earlier tests may begin some of their own.
    begun: list[threading.Thread] = []
    start, here = threading.Thread.start, threading.current_thread()

    def begin(thread: threading.Thread) -> None:
        if threading.current_thread() is here:
            begun.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    plain = Site(LIVEPUSH_ENABLED=False)
    assert off.commit() == plain.commit()
    assert not any("FOR UPDATE" in s or "strftime" in s for s in off.commit())
    for call in (
        lambda: off.livepush.emit("chat:1", "ding", {"n": 1}),
        lambda: off.livepush.notify(7, "ding"),
        lambda: off.chat.emit("ding", room_id=1),
    ):
        with off.app.app_context():
            receipt = call()
        assert (receipt.outcome, receipt.position) == ("off", None)
    assert begun == []


def test_verbs_work_and_still_tell_mistakes(off: Site) -> None:
    livepush = off.livepush
    with off.app.app_context():
        for target in (off.message, off.message(room_id=1), off.chat, "chat:1"):
            livepush.invalidate(target)
        with livepush.push_changes(), livepush.suppress():
            off.db.session.add(off.message(room_id=1, body="x"))
            off.db.session.commit()
        assert livepush.position("chat:1") is None
        assert livepush.presence("chat:1") == []
        row = off.db.session.scalars(sa.select(off.message)).first()
        assert livepush.row(row) == {"id": 1, "body": "x"}
        for wrong, data in (("nowhere", None), ("chat:1", object())):
            with pytest.raises((UsageError, EncodingError)):
                livepush.emit(wrong, "ding", data)
        with pytest.raises(UsageError):
            livepush.position("nowhere")
        with pytest.raises(UsageError):
            livepush.presence("nowhere")
    assert livepush.drain().wait(0)


def test_pages_have_a_script_that_is_told_and_no_positions(off: Site) -> None:
    client = off.app.test_client()
    page = client.get("/rooms/1").text
    assert page.count("<script") == 1
    found = re.fullmatch(
        r'<script src="([^"]+)" nonce="n" data-livepush-off=""></script>', page
    )
    assert found is not None
    script = client.get(found[1])
    assert (script.status_code, script.mimetype) == (200, "text/javascript")
    answer = client.post("/rooms/1")
    assert (answer.status_code, answer.json) == (200, {"id": 1, "body": "x"})
    assert "Livepush-Position" not in answer.headers


def test_old_pages_are_refused_without_asking_the_application(off: Site) -> None:
    asked: list[str] = []
    off.app.before_request(lambda: asked.append("asked"))
    client = off.app.test_client()
    for query in ("", "&sid=abc", "&transport=websocket"):
        answer = client.get(f"/socket.io/?EIO=4&transport=polling{query}")
        assert answer.status_code == 404
        assert answer.json == {"message": "Live updates are off"}
    assert asked == []
    assert client.get("/livepush/live").json == {"status": "live"}
    ready = client.get("/livepush/ready")
    assert (ready.status_code, ready.json) == (
        200,
        {"status": "ready", "broker": "none"},
    )


def test_metrics_are_there_for_who_asks_for_them() -> None:
    token = "a-token-that-nobody-guesses"
    site = Site(LIVEPUSH_ENABLED=False, LIVEPUSH_METRICS_TOKEN=token)
    bearer = {"Authorization": f"Bearer {token}"}
    answer = site.app.test_client().get("/livepush/metrics", headers=bearer)
    assert answer.status_code == 200


def test_the_applications_own_events_reach_nobody_and_fail_nowhere() -> None:
    livepush = LivePush()
    livepush.socketio.on("hello")(lambda data: data)
    app = Flask("app")
    app.config["LIVEPUSH_ENABLED"] = False
    livepush.init_app(app)
    livepush.socketio.on("later")(lambda data: data)
    livepush.socketio.emit("ding", {"n": 1}, to="somewhere")
    assert livepush.socketio.test_client(app).is_connected()


def test_an_adopted_socketio_is_left_as_it_is() -> None:
    for given in ("constructor", "init_app", "not"):
        app = Flask("app")
        app.config["LIVEPUSH_ENABLED"] = False
        own = SocketIO(app, async_mode="threading")
        engine, trigger = own.server.eio, own.server._trigger_event
        livepush = LivePush(socketio=own if given == "constructor" else None)
        livepush.init_app(app, own if given == "init_app" else None)
        assert livepush.socketio is own
        assert own.server.eio is engine
        assert own.server._trigger_event == trigger
        answer = app.test_client().get("/socket.io/?EIO=4&transport=polling")
        assert answer.status_code == 200


def test_who_turns_it_on_again_gets_all_of_it(off: Site) -> None:
    """Also an application that is made anew, as in tests, with one LivePush."""
    off.commit()
    on = off.make("on")
    off.commit(on)
    before = off.pushed(on)
    assert before > 0
    # Each in its own context.
    off.commit()
    assert off.pushed(on) == before
    assert listeners(off) > 15
    del off.app, on
    gc.collect()
    off.app = off.make("off", LIVEPUSH_ENABLED=False)
    gc.collect()
    off.livepush._listen()
    off.commit()
    assert listeners(off) == 0


def tracked_note(livepush: LivePush) -> tuple[Any, sa.Engine]:
    """Return a model of plain SQLAlchemy that is tracked, and its database."""

    class Base(DeclarativeBase):
        pass

    class Note(Base):
        __tablename__ = "note"
        id: Mapped[int] = mapped_column(primary_key=True)
        body: Mapped[str]

    lobby = livepush.room("lobby")(lambda user: True)
    livepush.track(rooms=lobby, fields=("id", "body"))(Note)
    engine = sa.create_engine("sqlite://", poolclass=sa.pool.StaticPool)
    Base.metadata.create_all(engine)
    return Note, engine


@pytest.mark.parametrize("first", ["watch", "init_app"])
def test_sessions_of_plain_sqlalchemy_are_let_go_of(first: str) -> None:
    livepush = LivePush()
    note, engine = tracked_note(livepush)
    make = sessionmaker(engine)
    app = Flask("off")
    app.config["LIVEPUSH_ENABLED"] = False
    session = make()
    if first == "watch":
        livepush.watch(make)
        session.add(note(body="begun while it was watched"))
        session.flush()
        livepush.init_app(app)
    else:
        livepush.init_app(app)
        livepush.watch(make)
    session.add(note(body="x"))
    session.commit()
    names = [name for name in SESSION_EVENTS if len(getattr(session.dispatch, name))]
    assert names == []
    assert len(sa.inspect(note).dispatch.after_insert) == 0
    # The same session, when another application is on.
    on = Flask("on")
    livepush.init_app(on)
    with on.app_context():
        session.add(note(body="y"))
        session.commit()
        position = livepush.position("lobby")
        assert position is not None
        assert position.offset == 1
    session.close()
    engine.dispose()


def test_a_transaction_that_is_open_while_it_is_turned_off_ends_in_peace() -> None:
    livepush = LivePush()
    note, engine = tracked_note(livepush)
    session = Session(engine)
    livepush.watch(session)
    session.add(note(body="x"))
    session.flush()
    app = Flask("off")
    app.config["LIVEPUSH_ENABLED"] = False
    livepush.init_app(app)
    with session.begin_nested():
        session.add(note(body="y"))
    session.commit()
    session.close()
    engine.dispose()


# -- one kind ------------------------------------------------------------------------


@pytest.fixture
def half() -> Site:
    return Site(LIVEPUSH_DISABLED_KINDS="message")


def test_of_a_kind_that_is_disabled_nothing_is_pushed(half: Site) -> None:
    half.commit()  # one of each, and more of messages
    assert half.pushed() == 1
    on = Site()
    on.commit()
    assert on.pushed() > 3
    plain = Site(LIVEPUSH_ENABLED=False)
    assert half.commit() == plain.commit()


def test_newcomers_are_given_the_rows_of_a_kind_that_is_disabled(half: Site) -> None:
    with half.app.app_context():
        half.db.session.add(half.message(room_id=1, body="x"))
        half.db.session.commit()
        kinds = half.livepush._live_models().snapshot(
            half.chat, "chat:1", {"room_id": 1}
        )
        assert [row["body"] for row in kinds["message"]["rows"]] == ["x"]
        row = half.db.session.scalars(sa.select(half.message)).first()
        assert half.livepush.row(row) == {"id": 1, "body": "x"}


def test_a_block_with_a_declaration_of_its_own_is_none_for_such_a_kind(
    half: Site,
) -> None:
    livepush, note = half.livepush, half.message
    block = livepush.push_changes(
        note, rooms=half.chat, fields=("id",), kind="message", key="id"
    )
    with half.app.app_context(), block:
        half.db.session.add(note(room_id=1, body="x"))
        half.db.session.commit()
    assert half.pushed() == 0


def test_each_application_has_its_own(half: Site) -> None:
    other = half.make("other", LIVEPUSH_DISABLED_KINDS=["picture", "unknown"])
    half.commit()
    half.commit(other)
    assert half.pushed() == 1
    assert half.pushed(other) > 2


# -- the variable --------------------------------------------------------------------


@pytest.mark.parametrize("said", ["false", "False", "0", "off", " no "])
def test_one_variable_turns_it_off(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setenv("LIVEPUSH_ENABLED", said)
    site = Site(**NO_REDIS)
    site.commit()
    assert listeners(site) == 0


def test_the_application_has_the_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIVEPUSH_ENABLED", "false")
    monkeypatch.setenv("LIVEPUSH_DISABLED_KINDS", "picture, message")
    assert config.read({"LIVEPUSH_ENABLED": True}).enabled is True
    assert config.read({}).enabled is False
    assert config.read({}).disabled_kinds == ("message", "picture")
    assert config.read({"LIVEPUSH_DISABLED_KINDS": None}).disabled_kinds == ()


@pytest.mark.parametrize("value", ["", "maybe", None, 2, 0.0, []])
def test_what_is_neither_on_nor_off_is_told(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^LIVEPUSH_ENABLED is .*True or False"):
        config.read({"LIVEPUSH_ENABLED": value})


@pytest.mark.parametrize("value", [5, [5], {"message": True}, b"message"])
def test_what_names_no_kinds_is_told(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"^LIVEPUSH_DISABLED_KINDS is .*kinds"):
        config.read({"LIVEPUSH_DISABLED_KINDS": value})


def test_nothing_else_of_the_environment_is_read() -> None:
    environ = {row.key: "nonsense" for row in config.TABLE if not row.environment}
    assert config.read({}, environ) == config.read({}, {})


# -- who serves it -------------------------------------------------------------------


class _Log:
    def __init__(self) -> None:
        self.lines: list[str] = []

    def warning(self, text: str, *args: Any) -> None:
        self.lines.append(text % args)


def test_gunicorns_hooks_stop_no_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(LIVEPUSH_ENABLED=False, **NO_REDIS)
    monkeypatch.setattr(hooks.draining, "_all", set())
    made = worker(SyncWorker, workers=4)
    made.log = log = _Log()
    hooks.post_worker_init(made)
    assert log.lines == ["LIVEPUSH_ENABLED is False: this worker pushes nothing."]
    assert site.app.name == "site"


def test_the_doctor_says_so() -> None:
    def examine(**settings: Any) -> list[Any]:
        return list(
            check(
                Application(
                    name="notes",
                    config=settings,
                    settings=config.read(settings),
                    environ=os.environ,
                    served=None,
                    patched="threading",
                    runs_in=None,
                    descriptors=None,
                    gevent_websocket=False,
                )
            )
        )

    (found,) = examine(LIVEPUSH_ENABLED=False)
    assert found.level == "problem"
    assert found.sentence.startswith("LIVEPUSH_ENABLED is False")
    first = examine(LIVEPUSH_DISABLED_KINDS=["message"], SECRET_KEY="k" * 32)[0]
    assert (first.level, "'message'" in first.sentence) == ("hint", True)
