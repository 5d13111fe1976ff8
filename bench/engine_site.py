"""The application that bench.engine measures: with livepush, or with Flask-SocketIO.

Both take ``livepush.subscribe`` and publish the same events, so that the same clients
load them; ``node/server.js`` is the third. ``/publish`` emits in the background, with a
pause of ``gap`` seconds after each event: 0 only lets others have their turn, as
Flask-SocketIO's documentation asks for.

gunicorn calls :func:`create`; as a program it is eventlet's server, for which gunicorn
has no worker any more.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import flask_socketio
from flask import Flask, request
from flask_login import LoginManager, UserMixin, current_user, login_user
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from bench.clients import ROOM
from bench.processes import BACKLOG, Kind
from flask_livepush import LivePush
from tests.support.servers import Mode, announce

Emit = Callable[[str, Any], object]


def create(kind: Kind, mode: Mode, file: str, settings: Mapping[str, Any]) -> Flask:
    """Return the application.

    Args:
        kind: With livepush, or with its peer, Flask-SocketIO.
        mode: What the process is patched for.
        file: Of its SQLite database, which is made where it is not there.
        settings: More keys of its configuration.
    """
    logging.disable()  # nothing measured must pay for a terminal
    app = Flask("engine_site")
    app.config.update(
        SECRET_KEY="secret", SQLALCHEMY_DATABASE_URI=f"sqlite:///{file}", **settings
    )
    _declare_users(app)
    socketio, emit = (
        _livepush(app) if kind == "livepush" else _flask_socketio(app, mode)
    )

    @app.get("/publish")
    def publish() -> str:
        count = request.args.get("count", 1, int)
        gap = request.args.get("gap", 0.0, float)
        event = request.args.get("event", "tick")
        pad = "x" * request.args.get("pad", 100, int)

        def run() -> None:
            for i in range(count):
                emit(event, {"t": time.monotonic(), "i": i, "pad": pad})
                socketio.sleep(gap)

        socketio.start_background_task(run)
        return ""

    @app.get("/burn")
    def burn() -> str:
        end = time.thread_time() + request.args.get("seconds", 0.0, float)
        while time.thread_time() < end:
            sum(range(1000))
        return ""

    return app


def _declare_users(app: Flask) -> None:
    """Let one user log in; each connection of hers costs one SELECT."""
    db = SQLAlchemy(app)
    login = LoginManager(app)

    class User(UserMixin, db.Model):  # type: ignore[misc, name-defined]
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    with app.app_context():
        db.create_all()
        if db.session.get(User, 1) is None:
            db.session.add(User(id=1, name="Ada"))
            db.session.commit()

    @login.user_loader
    def load(user_id: str) -> User | None:
        return db.session.get(User, int(user_id))

    @app.get("/login")
    def log_in() -> str:
        login_user(db.session.get(User, 1))
        return ""


def _livepush(app: Flask) -> tuple[Any, Emit]:
    app.config["LIVEPUSH_ALLOW_ANONYMOUS"] = True
    livepush = LivePush(app)

    @livepush.room(ROOM)
    def bench(user: Any) -> bool:
        """Let everybody in, having looked who it is."""
        return user.is_authenticated or user.is_anonymous

    return livepush.socketio, lambda event, data: livepush.emit(ROOM, event, data)


def _flask_socketio(app: Flask, mode: Mode) -> tuple[Any, Emit]:
    socketio = flask_socketio.SocketIO(app, async_mode=mode)

    @socketio.on("connect")
    def connect() -> bool:
        """Let everybody in, having looked who it is."""
        return bool(current_user.is_authenticated or current_user.is_anonymous)

    @socketio.on("livepush.subscribe")
    def subscribe(message: Any) -> Any:
        flask_socketio.join_room(message["room"])
        return {"ok": True}

    return socketio, lambda event, data: socketio.emit(event, data, to=ROOM)


if __name__ == "__main__":
    import eventlet
    import eventlet.wsgi

    listener = eventlet.listen(("127.0.0.1", 0), backlog=BACKLOG)
    announce(listener.getsockname()[1])
    kind, mode, file, settings = sys.argv[1:5]
    app = create(kind, mode, file, json.loads(settings))  # type: ignore[arg-type]
    # Its default is 1024 requests at a time, and a WebSocket is one.
    eventlet.wsgi.server(listener, app, log_output=False, max_size=20_000)
