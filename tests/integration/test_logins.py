"""Logins that end under load: nothing later than a second after the logout's answer.

``LOGINS`` says how many; each logs in at one process, has its WebSocket at another and
logs out at a third, while a room that all are in is talked in without a pause.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.login_client import Login, LoginSocket
from tests.support.redis import RedisServer, redis_server
from tests.support.servers import Mode, Server, running
from tests.support.waiting import DEADLINE, until

APP = Path(__file__).parents[1] / "support" / "logins_app.py"
#: Logins that end at once, and that come and go meanwhile.
CROWD = 25
#: Seconds: between two things said in the room; the promise, for all but one in a
#: hundred; and for all.
PAUSE, PROMISE, WORST = 0.02, 1.0, 5.0
MODES: tuple[Mode, ...] = ("threading", "gevent", "eventlet")


@dataclass
class Town:
    """Several processes on one Redis.

    Args:
        lateness: Of each login that ended, in seconds: from when it should have been
            heard of everywhere to the last thing that its socket received.
        spent: The cookies of logins that have ended.
    """

    redis: RedisServer
    servers: list[Server]
    dice: random.Random
    stack: ExitStack
    lateness: list[float] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def start(self, mode: Mode) -> Server:
        """Start one more process."""
        server = self.stack.enter_context(running(APP, self.redis.url, mode=mode))
        self.servers.append(server)
        return server

    def server(self) -> Server:
        """Return any of them."""
        return self.dice.choice(self.servers)

    def arrive(self, name: str) -> tuple[Login, LoginSocket]:
        """Log in and join the room, at two processes."""
        login = Login(self.server().url, name)
        socket = login.connect(self.server().url)
        assert socket.is_in, socket.answer
        until(lambda: (socket.join("chat:1") or {})["ok"], what="it has not joined")
        return login, socket

    def leave(self, login: Login) -> float:
        """Log out at any process; return when that was answered."""
        cookie = login.cookie
        login.post("/logout", self.server().url)
        answered = time.monotonic()
        with self.lock:
            self.spent.append(cookie)
        return answered

    def watch_it_end(self, socket: LoginSocket, due: float) -> None:
        """Wait for a socket's end, and note how late it still received something."""
        socket.wait(lambda: socket.ended is not None)
        last = max(
            (event[0] for event in socket.events if event[1] == "said"), default=0
        )
        with self.lock:
            self.lateness.append(max(0.0, last - due))
        socket.close()

    def come_and_go(self, number: int) -> None:
        """Live through one login."""
        login, socket = self.arrive(f"user{number}")
        heard = len(socket.events)
        socket.wait(lambda: len(socket.events) > heard)
        self.watch_it_end(socket, self.leave(login))
        login.close()

    def crowd(self) -> list[tuple[Login, LoginSocket]]:
        """Return logins with sockets in the room."""
        with ThreadPoolExecutor(CROWD) as pool:
            return list(pool.map(self.arrive, (f"crowd{n}" for n in range(CROWD))))

    def disperse(
        self, crowd: list[tuple[Login, LoginSocket]], back: Callable[[], float]
    ) -> None:
        """Log all out; a second later than ``back`` none may receive anything."""
        with ThreadPoolExecutor(CROWD) as pool:
            answered = list(pool.map(self.leave, (login for login, _ in crowd)))
        due = max(back(), *answered)
        for login, socket in crowd:
            self.watch_it_end(socket, due)
            login.close()

    def check(self) -> str:
        """Check what was promised; return the figures."""
        late = sorted(self.lateness)
        figures = (
            f"{len(late)} logins: median {late[len(late) // 2]:.3f} s, "
            f"p99 {late[int(len(late) * 0.99)]:.3f} s, most {late[-1]:.3f} s"
        )
        assert late[int(len(late) * 0.99)] <= PROMISE, figures
        assert late[-1] <= WORST, figures
        return figures

    def check_the_spent(self, amount: int = 20) -> None:
        """Check that an ended login gets nothing from any process again.

        A process that has only just started may not know yet: then it says that it
        can't tell, and the connection ends when it knows.
        """
        chosen = self.dice.sample(self.spent, min(amount, len(self.spent)))
        for cookie in chosen:
            for server in self.servers:
                socket = LoginSocket(server.url, cookie)
                if socket.is_in:
                    joined = socket.join("chat:1")
                    assert joined is None or not joined["ok"]
                    socket.wait(lambda socket=socket: socket.ended is not None)
                    assert "said" not in socket.names()
                elif socket.answer is not None:  # else closed as it was coming in
                    assert socket.answer["code"] == 103
                socket.close()


@contextmanager
def town(mode: Mode = "threading") -> Iterator[Town]:
    """Run three processes that talk."""
    seed = int(os.environ.get("SOAK_SEED", random.SystemRandom().randrange(10**6)))
    print(f"SOAK_SEED={seed}")
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        made = Town(redis, [], random.Random(seed), stack)
        for _ in range(3):
            made.start(mode)
        talker = Login(made.servers[0].url, "talker")
        talker.post(f"/talk/1/{PAUSE}")
        talker.close()
        yield made


def live_through(amount: int, mode: Mode) -> None:
    with town(mode) as place:
        with ThreadPoolExecutor(CROWD) as pool:
            list(pool.map(place.come_and_go, range(amount)))
        print(place.check())
        place.check_the_spent()
        for server in place.servers:
            until(
                lambda server=server: _sockets(server) == 0,
                what="sockets of ended logins are left",
            )


def _sockets(server: Server) -> int:
    login = Login(server.url, "looker")
    try:
        return int(login.get("/sockets"))
    finally:
        login.close()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_received_after_a_logout(mode: Mode) -> None:
    live_through(100, mode)


@pytest.mark.soak
def test_nothing_is_received_after_ten_thousand_logouts() -> None:
    live_through(int(os.environ.get("LOGINS", "10000")), "threading")


@pytest.mark.parametrize("how", ["hangs", "loses everything", "is restarted"])
def test_logouts_while_redis_is_away_hold_when_it_is_back(how: str) -> None:
    with town() as place:
        early = place.crowd()
        place.disperse(early, time.monotonic)
        crowd = place.crowd()
        if how == "hangs":
            place.redis.pause()
        else:
            place.redis.kill()
        back: list[float] = []

        def return_later() -> float:
            time.sleep(2)  # what is measured is an outage of some length
            if how == "hangs":
                place.redis.go_on()
            else:
                place.redis.start(keep=how == "is restarted")
            back.append(time.monotonic())
            return back[0]

        place.disperse(crowd, return_later)
        place.start("threading")
        print(place.check())
        place.check_the_spent(len(place.spent))


def test_the_promise_would_be_missed_without_logouts() -> None:
    """The crowd does receive what is said, up to the very end."""
    with town() as place:
        login, socket = place.arrive("1")
        heard = len(socket.events)
        end = time.monotonic() + PROMISE
        socket.wait(lambda: socket.events and socket.events[-1][0] > end)
        assert len(socket.events) - heard > PROMISE / PAUSE / 4
        assert DEADLINE > WORST
        socket.close()
        login.close()
