"""What it costs to ask again for idle users: their logins, and their rooms' rules.

A process of its own, without sockets: connections as the registry has them, with real
session cookies, users and memberships in SQLite by Flask-SQLAlchemy, rules that query.
The worker is stepped by a clock of its own, so that an hour takes seconds; printed is
its CPU time by that clock, in per cent of a core.

    python -m bench.revalidation [users] [sockets a user] [loader: one | many] [rooms]

Without rooms it is what asking costs by itself, the users' loading included; each room
adds a rule, whose one query is most of it.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask.sessions import SecureCookieSessionInterface

from flask_livepush.login.caller import Handshake
from flask_livepush.protocol.messages import Subscribe
from tests.support.rights_app import Member, User, app_of, db

INTERVAL = 60.0
ROUNDS = 3


def cookie(app: Any, user: int) -> str:
    """Return the session cookie of a login."""
    signer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert signer is not None
    held = {"_user_id": str(user), "_fresh": True, "_livepush": f"{user:022d}"}
    return f"session={signer.dumps(held)}"


def environ(value: str) -> dict[str, Any]:
    """Return a handshake's environment."""
    return {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": "/socket.io/",
        "QUERY_STRING": "EIO=4&transport=websocket",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "localhost",
        "HTTP_ORIGIN": "http://localhost",
        "HTTP_USER_AGENT": "a browser",
        "HTTP_COOKIE": value,
        "REMOTE_ADDR": "127.0.0.1",
        "wsgi.url_scheme": "http",
    }


def main(
    users: int = 1_000, sockets: int = 2, loader: str = "one", rooms: int = 2
) -> None:
    """Measure, and print."""
    folder = Path(tempfile.mkdtemp())
    app = app_of(None, f"sqlite:///{folder / 'bench.db'}")
    livepush = app.extensions["livepush"]
    with app.app_context():
        db.create_all()
        rows = range(1, users + 1)
        db.session.execute(
            sa.insert(User), [{"id": i, "name": f"user {i}"} for i in rows]
        )
        db.session.execute(
            sa.insert(Member),
            [{"user_id": i, "room_id": r} for i in rows for r in range(1, 3)],
        )
        db.session.commit()
    if loader == "many":

        @livepush.users_loader
        def load(keys: list[str]) -> dict[str, Any]:
            wanted = sa.select(User).where(User.id.in_(map(int, keys)))
            return {str(user.id): user for user in db.session.scalars(wanted)}

    parts = livepush._app()
    worker = parts.revalidation
    clock = [time.monotonic()]
    worker._now = lambda: clock[0]
    worker._dice = random.Random(1).random
    worker._working = True  # it is stepped in here
    node, connections = worker._node, worker._connections
    for user in rows:
        value = cookie(app, user)
        for number in range(sockets):
            sid, handshake = f"{user}-{number}", Handshake(environ(value))
            connections.enter(sid, sid, handshake)
            for room in ("chat:1", "chat:2")[:rooms]:
                node.subscribe(sid, handshake, Subscribe(room), lambda text: text)
    print(f"{users} users, {sockets} sockets each, in {rooms} rooms; loader: {loader}")
    for round_ in range(ROUNDS + 1):
        began, until = time.process_time(), clock[0] + INTERVAL
        looks = 0
        while clock[0] < until:
            wait = worker.step()
            clock[0] += wait
            looks += 1
        spent = time.process_time() - began
        name = "first" if round_ == 0 else f"{round_}"
        print(f"  {name}: {spent:.3f} s of {INTERVAL:g} s, {spent / INTERVAL:.2%}")
    assert len(connections.all()) == users * sockets


if __name__ == "__main__":
    given = sys.argv[1:]
    main(*(int(a) if a.isdigit() else a for a in given))  # type: ignore[arg-type]
