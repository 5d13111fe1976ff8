"""A server program that is used hard, and tells what it holds.

Its heartbeat is short, so that what has gone without a word is soon missed. Under
gunicorn it is ``tests.support.soak_app:app``.
"""

from __future__ import annotations

import _socket
import ctypes
import gc
import os
import resource
import stat
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import flask_login
from flask import Flask, Request, jsonify, request

from flask_livepush import LivePush
from tests.support.soaking import PING_INTERVAL, PING_TIMEOUT

# What stands for a client somewhere: of these nothing may be left.
_CLIENTS = (
    "Connection",
    "HandingPoll",
    "HeldWebSocket",
    "Pace",
    "Probe",
    "Session",
    "Subscription",
    "TakenRequest",
)

app = Flask("soak")
app.config.update(
    SECRET_KEY="secret",
    LIVEPUSH_PING_INTERVAL=PING_INTERVAL,
    LIVEPUSH_PING_TIMEOUT=PING_TIMEOUT,
    LIVEPUSH_UPGRADE_TIMEOUT=1,
    LIVEPUSH_CONNECT_TIMEOUT=2,
    LIVEPUSH_PRESENCE_DAMPING=0,
    LIVEPUSH_HISTORY_SIZE=20,  # as full after the first round as ever
    LIVEPUSH_SEND_BUFFER_BYTES=100_000,
)
login = flask_login.LoginManager(app)
livepush = LivePush(app)


class User(flask_login.UserMixin):  # type: ignore[misc]
    """One of those who come and go."""

    def __init__(self, name: str) -> None:
        self.id = name


@login.request_loader
def load(incoming: Request) -> User | None:
    """Believe the query."""
    name = incoming.args.get("user")
    return User(name) if name else None


@livepush.room("chat:<int:room_id>", whisper=True)
def chat(user: Any, room_id: int) -> bool:
    """Let everybody in."""
    return True


@app.post("/emit/<int:room_id>")
def emit(room_id: int) -> str:
    """Tell a room something, of a size."""
    for number in range(int(request.args["count"])):
        chat.emit("news", [number, "x" * int(request.args["size"])], room_id=room_id)
    return ""


@app.get("/sids")
def sids() -> Any:
    """Return which sessions there are."""
    return jsonify(list(livepush.socketio.server.eio.sockets))


@app.get("/held")
def held() -> Any:
    """Return what is kept for others than who asks, by where; nothing in the end."""
    gc.collect()
    found = {where: amount for where, amount in _held().items() if amount}
    return jsonify(found)


@app.get("/weight")
def weight() -> Any:
    """Return what the process weighs when nothing is going on."""
    gc.collect()
    # Give back what is free: else it counts which threads happened to need it.
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return jsonify(
        resident=pages * resource.getpagesize(),
        descriptors=len(os.listdir("/proc/self/fd")),
        objects=len(gc.get_objects()),
        threads=threading.active_count(),
    )


def _held() -> dict[str, int]:
    server = livepush.socketio.server
    engine, manager = server.eio, server.manager
    events = server._trigger_event.__self__
    node, outlet = events._node, events._outlet
    presence, hub, loop = node._presence, node._hub, engine._sessions.loop
    kinds = Counter(type(it).__name__ for it in gc.get_objects())
    return {
        "connections": _connections() - 1,
        "engine sessions": len(engine.sockets),
        "engine leaving": len(engine._sessions._leaving),
        "loop sockets": 0 if loop is None else loop.sockets,
        "timelines": 0
        if loop is None
        else sum(
            item is not None for line in loop._timelines for _, item in line._items
        ),
        "environ": len(server.environ),
        "binary packets": len(server._binary_packet),
        "manager rooms": sum(map(len, manager.rooms.values())),
        "manager index": len(manager.get_rooms.__self__._rooms),
        "manager pending": len(manager.pending_connect)
        + len(manager.pending_disconnect),
        "manager callbacks": len(manager.callbacks),
        "known": len(events._known),
        "mailboxes": len(events._mailboxes._queues) + len(events._answers._queues),
        "outlet": len(outlet._sessions) + len(outlet._clients),
        "hub": len(hub._joined) + len(hub._rooms),
        "whispers": len(node._paces),
        "flights": len(node._flights),
        "presence": len(presence._joined)
        + sum(len(room.sids) for room in presence._rooms.values())
        + len(presence._away),
        **{f"objects {kind}": kinds[kind] for kind in _CLIENTS},
    }


def _connections() -> int:
    """Count the sockets that were accepted, also those whose client has closed them."""
    found = 0
    for fd in os.listdir("/proc/self/fd"):
        with suppress(OSError):
            if stat.S_ISSOCK(os.fstat(int(fd)).st_mode):
                found += _was_accepted(int(fd))
    return found


def _was_accepted(fd: int) -> bool:
    # Not the class of eventlet or gevent, which would tell its hub of the copy.
    sock = _socket.socket(fileno=os.dup(fd))
    try:
        listens = sock.getsockopt(_socket.SOL_SOCKET, _socket.SO_ACCEPTCONN)
        return sock.family == _socket.AF_INET and not listens
    finally:
        sock.close()


if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
