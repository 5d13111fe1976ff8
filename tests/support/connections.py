"""An application with users and rooms, and connections to it without a network."""

from __future__ import annotations

import base64
import json
import queue
import threading
from typing import Any

import engineio
import flask_login
from flask import Flask
from flask_socketio import SocketIO
from werkzeug.test import EnvironBuilder

from flask_livepush import LivePush
from flask_livepush.login.caller import Handshake
from flask_livepush.transports.engine.polls import EventPoll
from flask_livepush.transports.engine.server import Engine

from .waiting import DEADLINE


class User(flask_login.UserMixin):  # type: ignore[misc]
    """A user, known by its id."""

    def __init__(self, id: str) -> None:
        self.id = id


class Site:
    """An application with Flask-Login, users 1 to 3, and rooms ``chat:<int:room_id>``.

    Args:
        socketio: The application's own, to be adopted.
        config: Settings.
    """

    #: What serves connections, where the settings do not say so.
    engine = "loop"

    def __init__(self, socketio: SocketIO | None = None, **config: Any) -> None:
        self.app = Flask("site")
        self.app.config.update(SECRET_KEY="secret", LIVEPUSH_ENGINE=self.engine)
        self.app.config.update(config)
        self.users = {name: User(name) for name in "123"}
        self.loaded: list[str] = []
        #: Who may read which room.
        self.members: dict[int, set[str]] = {42: {"1", "2"}}
        manager = flask_login.LoginManager(self.app)
        manager.user_loader(self._load)

        @self.app.get("/login/<name>")
        def login(name: str) -> str:
            flask_login.login_user(self.users[name])
            return ""

        if socketio is not None:
            socketio.init_app(self.app, async_mode="threading")
        self.livepush = LivePush(self.app, socketio=socketio)
        self.chat = self.livepush.room("chat:<int:room_id>")(self.rule)

    def rule(self, user: Any, room_id: int) -> bool:
        """Let members in."""
        return user.is_authenticated and user.id in self.members.get(room_id, ())

    def _load(self, name: str) -> User | None:
        self.loaded.append(name)
        return self.users.get(name)

    def environ(self, user: str | None = None) -> dict[str, Any]:
        """Return the environment of a handshake, of a logged-in user or nobody."""
        client = self.app.test_client()
        headers = {}
        if user is not None:
            client.get(f"/login/{user}")
            cookie = client.get_cookie("session")
            assert cookie is not None
            headers["Cookie"] = f"session={cookie.value}"
        builder = EnvironBuilder(path="/socket.io/?EIO=4", headers=headers)
        return {**builder.get_environ(), "flask.app": self.app}

    def handshake(self, user: str | None = None) -> Handshake:
        """Return a handshake, of a logged-in user or nobody."""
        return Handshake(self.environ(user))

    def connection(self, user: str | None = None) -> Connection:
        """Open an Engine.IO connection."""
        return connected(self.livepush.socketio.server, self.environ(user))

    def joined(self, user: str, room: str = "chat:42") -> Connection:
        """Open a connection that is in a room."""
        connection = self.connection(user)
        connection.connect()
        assert connection.call("livepush.subscribe", {"room": room})["ok"]
        return connection

    def emptied(self) -> bool:
        """Say whether the hub has nobody left."""
        hub = self.hub
        return not (hub._rooms or hub._joined)

    @property
    def hub(self) -> Any:
        """The hub of this process."""
        return self.events._node._hub

    @property
    def events(self) -> Any:
        """What the server's instance was changed to ask."""
        return self.livepush.socketio.server._trigger_event.__self__


def connected(server: Any, environ: dict[str, Any]) -> Connection:
    """Open an Engine.IO connection, on whichever server there is."""
    kind = Connection if isinstance(server.eio, Engine) else StockConnection
    return kind(server, environ)


class Connection:
    """One connection, at the place where the server reads packets and writes them."""

    def __init__(self, server: Any, environ: dict[str, Any]) -> None:
        self.server = server
        self.sid = ""
        self._acks = 0
        self._frames: list[str] = []
        self._open(environ)

    def _open(self, environ: dict[str, Any]) -> None:
        self.socket = self.server.eio._open(environ)
        self.eio_sid = self.socket.sid

    def send(self, text: str) -> None:
        """Let a Socket.IO packet arrive."""
        self.server.eio._sessions._message(self.socket, text)

    def read(self) -> Any:
        """Return the next packet that is written; None for the end."""
        if not self._frames:
            event = threading.Event()
            self.socket.poll = EventPoll(event)
            if not self.socket.waiting and not event.wait(DEADLINE):
                raise AssertionError("nothing is written")
            self.socket.poll = None
            self._frames += [frame.text for frame in self.socket.take()]
        text = self._frames.pop(0)
        if text[0] == "b":
            return base64.b64decode(text[1:])
        return text[1:] if text[0] == "4" else None

    def silent(self) -> bool:
        """Say whether nothing waits to be read."""
        return not self.socket.waiting and not self._frames

    def connect(self, auth: Any = None) -> Any:
        """Connect to the default namespace; return what it is told when refused."""
        self.send("0" if auth is None else f"0{json.dumps(auth)}")
        answer = self.read()
        data = json.loads(answer[1:])
        if answer[0] == "4":
            return data
        assert answer[0] == "0"
        self.sid = data["sid"]
        return None

    def event(self, name: str, *args: Any) -> None:
        """Send an event."""
        self.send(f"2{json.dumps([name, *args])}")

    def call(self, name: str, *args: Any) -> Any:
        """Send an event and return what its ack has; it must be written next."""
        self._acks += 1
        self.send(f"2{self._acks}{json.dumps([name, *args])}")
        answer = self.read()
        assert answer.startswith(f"3{self._acks}["), answer
        values = json.loads(answer[1 + len(str(self._acks)) :])
        return values[0] if values else None

    def close(self) -> None:
        """Let the connection end, as the client wants it."""
        self.socket.close(wait=False, abort=True)


class StockConnection(Connection):
    """The same on python-engineio's server."""

    def _open(self, environ: dict[str, Any]) -> None:
        eio = self.server.eio
        self.eio_sid = eio.generate_id()
        self.socket = engineio.socket.Socket(eio, self.eio_sid)
        eio.sockets[self.eio_sid] = self.socket
        eio._trigger_event("connect", self.eio_sid, environ, run_async=False)

    def send(self, text: str) -> None:
        packet = engineio.packet.Packet(engineio.packet.MESSAGE, text)
        self.socket.receive(packet)

    def read(self) -> Any:
        try:
            packet = self.socket.queue.get(timeout=DEADLINE)
        except queue.Empty:
            raise AssertionError("nothing is written") from None
        self.socket.queue.task_done()
        if packet is None or packet.packet_type == engineio.packet.CLOSE:
            return None
        return packet.data

    def silent(self) -> bool:
        return bool(self.socket.queue.empty())
