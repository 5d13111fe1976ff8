"""Rights and logins that end, in two processes, over real sockets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.support.login_client import Login, LoginSocket
from tests.support.redis import redis_server
from tests.support.rights_app import create
from tests.support.servers import MODES, Mode, Server, running
from tests.support.waiting import until

APP = Path(__file__).parents[1] / "support" / "rights_app.py"
#: Seconds within which a room is lost everywhere.
PROMISE = 1.0


class Town:
    """Two processes on one Redis and one database."""

    def __init__(self, one: Server, two: Server, database: str) -> None:
        self.one, self.two = one, two
        self.database = database

    def enter(self, user: int, *rooms: int) -> LoginSocket:
        """Log in at the first process, and join rooms at the second."""
        login = Login(self.one.url, str(user))
        socket = login.connect(self.two.url)
        login.close()
        assert socket.is_in, socket.answer
        for room in rooms:
            assert socket.join(f"chat:{room}", presence=True)["ok"]
        return socket

    def post(self, path: str) -> float:
        """Send a request to the first process; return when it was answered."""
        login = Login(self.one.url, "3")
        login.post(path)
        login.close()
        return time.monotonic()

    def behind_everybody_s_back(self, statement: str) -> None:
        """Change the database as no session of LivePush does."""
        engine = sa.create_engine(self.database)
        with engine.begin() as connection:
            connection.execute(sa.text(statement))
        engine.dispose()


@contextmanager
def town(folder: Path, mode: Mode, interval: float = 60) -> Iterator[Town]:
    """Run a town."""
    database = f"sqlite:///{folder / 'rights.db'}"
    create(database)
    env = {"FLASK_LIVEPUSH_REVALIDATE_INTERVAL": str(interval)}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        one, two = (
            stack.enter_context(running(APP, redis.url, database, mode=mode, env=env))
            for _ in range(2)
        )
        yield Town(one, two, database)


def came(socket: LoginSocket, name: str) -> float:
    """Return when an event came."""
    socket.wait(lambda: any(event[1] == name for event in socket.events))
    return next(event[0] for event in socket.events if event[1] == name)


@pytest.mark.parametrize("mode", MODES)
def test_who_leaves_loses_the_room_everywhere_within_a_second(
    tmp_path: Path, mode: Mode
) -> None:
    with town(tmp_path, mode) as it:
        ada, bob = it.enter(1, 1, 2), it.enter(2, 1)
        answered = it.post("/leave/1/1")
        assert came(ada, "livepush.revoked") - answered < PROMISE
        it.post("/emit/1/secret")
        bob.call("livepush.whisper", {"room": "chat:1", "event": "typing", "data": 1})
        it.post("/emit/2/news")
        came(ada, "said")
        came(bob, "said")
        revoked = [e[1:3] for e in ada.events if e[1] == "livepush.revoked"]
        assert revoked == [("livepush.revoked", {"room": "chat:1", "code": 103})]
        after = ada.names()[ada.names().index("livepush.revoked") + 1 :]
        assert after == ["said"]
        assert ada.events[-1][2] == "news"
        assert ada.join("chat:1")["error"]["code"] == 103
        login = Login(it.one.url, "3")
        until(lambda: login.get("/presence/1") == ["2"], what="Ada is still seen")
        it.post("/join/1/1")
        assert ada.join("chat:1")["ok"]
        for one in (ada, bob, login):
            one.close()


@pytest.mark.parametrize("mode", MODES)
def test_who_is_gone_is_signed_out_in_time_or_on_order(
    tmp_path: Path, mode: Mode
) -> None:
    with town(tmp_path, mode, interval=2) as it:
        ada, bob, eve = it.enter(1, 1), it.enter(2, 1), it.enter(3, 1)
        it.behind_everybody_s_back("DELETE FROM user WHERE id = 1")
        ada.wait(lambda: ada.ended is not None)
        assert ada.names()[-1] == "livepush.ended"
        assert ada.dismissed
        it.behind_everybody_s_back("DELETE FROM member WHERE user_id = 2")
        came(bob, "livepush.revoked")
        it.behind_everybody_s_back("UPDATE user SET active = false WHERE id = 2")
        answered = it.post("/recheck/2")
        bob.wait(lambda: bob.ended is not None)
        assert bob.ended is not None
        assert bob.ended - answered < PROMISE
        assert eve.ended is None
        for one in (ada, bob, eve):
            one.close()


def test_no_outage_of_the_database_ends_anything(tmp_path: Path) -> None:
    with town(tmp_path, "threading", interval=1) as it:
        ada = it.enter(1, 1)
        it.behind_everybody_s_back("ALTER TABLE user RENAME TO moved")
        until(lambda: "can't be found out" in it.two.log, what="nobody has asked")
        it.behind_everybody_s_back("DELETE FROM moved WHERE id = 1")
        assert ada.ended is None
        assert "livepush.revoked" not in ada.names()
        it.behind_everybody_s_back("ALTER TABLE moved RENAME TO user")
        ada.wait(lambda: ada.ended is not None)
        assert ada.names()[-1] == "livepush.ended"
        ada.close()
