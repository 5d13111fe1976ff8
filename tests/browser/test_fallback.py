"""A page behind proxies that are in the way of WebSockets; connections that move."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, WebSocket

from tests.support.fronts import Cutting, Front, Mute, Silent, nginx
from tests.support.servers import Server, running
from tests.support.waiting import DEADLINE

FOLLOWER = Path(__file__).with_name("follower.py")

HOST = "proxy_set_header Host $http_host"
UPGRADES = (
    "proxy_set_header Upgrade $http_upgrade",
    "proxy_set_header Connection upgrade",
)

#: Makes a proxy in front of a server.
Between = Callable[[int, Path], AbstractContextManager[str]]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(FOLLOWER) as server:
        yield server


@contextmanager
def through_nginx(port: int, home: Path, *lines: str) -> Iterator[str]:
    with nginx(home, [port], HOST, *lines) as url:
        yield url


@contextmanager
def through(kind: Callable[[int], Front], port: int, home: Path) -> Iterator[str]:
    with kind(port) as front:
        yield front.url


def answering(status: int) -> Between:
    """Let nginx answer upgrades with a status, and pass on all else."""
    # The last line is one because each gets a semicolon.
    line = f"if ($http_upgrade) {{ return {status}; }} set $passed 1"
    return partial(_nginx, line)


def _nginx(*arguments: Any) -> AbstractContextManager[str]:
    *lines, port, home = arguments
    return through_nginx(port, home, *lines)


def is_handshake(begun: Any) -> bool:
    """Tell whether a request, or a WebSocket, is the first of a connection."""
    return "/socket.io/" in begun.url and "sid=" not in begun.url


class Follower:
    """The page, and what it has noted down."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        #: The transport of each connection that it tried to make, and when.
        self.connections: list[str] = []
        self.begun: list[float] = []
        self.websockets: list[WebSocket] = []
        page.on("websocket", self._note)
        page.on("request", self._note)
        page.goto(url)

    def _note(self, begun: Any) -> None:
        if isinstance(begun, WebSocket):
            self.websockets.append(begun)
        if is_handshake(begun):
            self.connections.append(begun.url.partition("transport=")[2].split("&")[0])
            self.begun.append(time.monotonic())

    @property
    def states(self) -> list[dict[str, Any]]:
        """Each state it was told: ``after`` (milliseconds), state, transport."""
        return list(self.page.evaluate("states"))

    @property
    def shown(self) -> list[str]:
        """The states alone, each change once."""
        told = [entry["state"] for entry in self.states]
        return [s for n, s in enumerate(told) if n == 0 or told[n - 1] != s]

    @property
    def numbers(self) -> list[int]:
        return list(self.page.evaluate("numbers"))

    def live_by(self, transport: str) -> None:
        """Wait until it is live by that."""
        self.page.wait_for_function(
            "transport => live.state === 'live' && live.transport === transport",
            arg=transport,
        )
        last = self.states[-1]
        assert (last["state"], last["transport"]) == ("live", transport)

    def has(self, number: int) -> None:
        """Wait until it was told this number."""
        self.page.wait_for_function("n => numbers.includes(n)", arg=number)


@pytest.fixture
def follow(new_user: Callable[..., Page]) -> Callable[[str], Follower]:
    return lambda url: Follower(new_user(), url)


def post(url: str) -> None:
    with urlopen(Request(url, method="POST"), timeout=DEADLINE):
        pass


@contextmanager
def counting(server: Server) -> Iterator[list[int]]:
    """Tell the lobby numbers, ten a second, until the block ends; give those told."""
    told: list[int] = []
    over = threading.Event()

    def tell() -> None:
        while not over.wait(0.1):
            post(f"{server.url}/number/{len(told)}")
            told.append(len(told))

    teller = threading.Thread(target=tell)
    teller.start()
    try:
        yield told
    finally:
        over.set()
        teller.join()


#: Seconds for which Socket.IO's client waits for a connection. Ours does for 3, which
#: the client's own tests ask for, by a clock of theirs.
SOCKET_IO_WAITS = 20

BLOCKED: dict[str, Between] = {
    "no upgrade header": _nginx,
    "200": answering(200),
    "400": answering(400),
    "502": answering(502),
    "no answer": partial(through, Mute),
    "nothing after the answer": partial(through, Silent),
}


@pytest.mark.parametrize("between", BLOCKED.values(), ids=BLOCKED)
def test_polls_where_websockets_are_blocked_and_remembers_it(
    follow: Callable[[str], Follower],
    server: Server,
    between: Between,
    tmp_path: Path,
) -> None:
    with between(server.port, tmp_path) as url:
        follower = follow(url)
        follower.live_by("polling")
        tried, polled = follower.begun
        assert polled - tried < SOCKET_IO_WAITS
        assert follower.shown == ["connecting", "live"]
        post(f"{server.url}/number/7")
        follower.has(7)
        assert follower.connections == ["websocket", "polling"]
        follower.page.reload()
        follower.live_by("polling")
        assert follower.connections == ["websocket", "polling", "polling"]


class Opening(Front):
    """Refuses upgrades until it is told not to."""

    blocks = True

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        if self.blocks:
            near.sendall(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n")
        else:
            super().upgrade(near, head)


def test_goes_over_to_a_websocket_unseen_when_one_gets_through(
    follow: Callable[[str], Follower], server: Server
) -> None:
    with Opening(server.port) as front, counting(server) as told:
        follower = follow(front.url)
        follower.live_by("polling")
        front.blocks = False
        follower.live_by("websocket")
        # The trial itself is what carries on.
        assert follower.connections == ["websocket", "polling", "websocket"]
        follower.has(len(told))
        assert follower.shown == ["connecting", "live"]
        numbers = follower.numbers
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        follower.page.reload()
        follower.live_by("websocket")
        assert follower.connections[3:] == ["websocket"]


def test_polls_after_websockets_were_cut_again_and_again(
    follow: Callable[[str], Follower], server: Server
) -> None:
    with Cutting(server.port, after=2) as front, counting(server) as told:
        follower = follow(front.url)
        follower.live_by("websocket")
        follower.live_by("polling")
        assert follower.connections == ["websocket"] * 3 + ["polling"]
        states = follower.states
        # A trial is cut as well, while the page is live all the time.
        with follower.page.expect_websocket() as trial:
            pass
        trial.value.wait_for_event("close")
        follower.has(len(told))
        assert follower.states == states
        numbers = follower.numbers
        assert numbers == list(range(numbers[0], numbers[-1] + 1))


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_stays_live_through_a_proxy_that_buffers_and_ends_what_is_idle(
    follow: Callable[[str], Follower], server: Server, transport: str, tmp_path: Path
) -> None:
    upgrades = UPGRADES if transport == "websocket" else ()
    # A busy machine may be late with its sign of life, which is due each second.
    limits = ("proxy_buffering on", "proxy_read_timeout 6", "proxy_send_timeout 6")
    with nginx(tmp_path, [server.port], HOST, *upgrades, *limits) as url:
        follower = follow(url)
        follower.live_by(transport)
        states = follower.states
        post(f"{server.url}/number/1")
        follower.has(1)
        # More than the idle limit.
        follower.page.wait_for_function(
            "until => performance.now() > until", arg=states[-1]["after"] + 8_000
        )
        post(f"{server.url}/number/2")
        follower.has(2)
        assert follower.states == states
        assert follower.numbers == [1, 2]


@pytest.mark.parametrize("blocked", [False, True])
def test_moves_unseen_when_the_server_asks_for_it(
    follow: Callable[[str], Follower], server: Server, blocked: bool, tmp_path: Path
) -> None:
    upgrades = () if blocked else UPGRADES
    with (
        nginx(tmp_path, [server.port], HOST, *upgrades) as url,
        counting(server) as told,
    ):
        follower = follow(url)
        follower.live_by("polling" if blocked else "websocket")
        states, before = follower.states, list(follower.connections)
        with follower.page.expect_event(
            "websocket" if not blocked else "request", is_handshake
        ):
            for _ in range(2):
                post(f"{server.url}/reconnect/1.0")
        # More than the time in which a second move would have begun.
        follower.has(len(told) + 15)
        for websocket in follower.websockets[: 1 if blocked else -1]:
            if not websocket.is_closed():
                websocket.wait_for_event("close")
        assert follower.connections == [*before, follower.connections[-1]]
        closed = [websocket.is_closed() for websocket in follower.websockets]
        assert closed == ([True] if blocked else [True, False])
        assert follower.states == states
        numbers = follower.numbers
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
