"""The benchmark's clients, against a server that says what each test wants."""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.clients import Clients, Failed, build
from tests.support.system import require
from tests.support.waiting import DEADLINE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="they need epoll")
JOIN = '421["livepush.subscribe",{"v": 1, "room": "bench"}]'
SINCE = JOIN[:-2] + ',"since":{"epoch":"abc","offset":7}}]'
LIVE = '431[{"ok":true}]'


class Connection:
    """The server's side of one client, upgraded already."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(DEADLINE)
        self.sock = sock
        self.request = b""
        while not self.request.endswith(b"\r\n\r\n"):
            self.request += sock.recv(1)
        sock.sendall(b"HTTP/1.1 101 Switching Protocols\r\n\r\n")

    def say(self, *texts: str) -> None:
        """Send a text frame each."""
        for text in texts:
            data = text.encode()
            if len(data) < 126:
                head = struct.pack("!BB", 0x81, len(data))
            elif len(data) < 1 << 16:
                head = struct.pack("!BBH", 0x81, 126, len(data))
            else:
                head = struct.pack("!BBQ", 0x81, 127, len(data))
            self.sock.sendall(head + data)

    def hear(self) -> str:
        """Return the next text; the clients mask with zeros."""
        size = self.take(2)[1] & 127
        if size == 126:
            (size,) = struct.unpack("!H", self.take(2))
        assert self.take(4) == bytes(4)
        return self.take(size).decode()

    def join(self, ack: str = LIVE) -> str:
        """Do what is between the upgrade and the first event; return the packet."""
        self.say('0{"sid":"x"}')
        assert self.hear() == "40"
        self.say('40{"sid":"y"}')
        packet = self.hear()
        self.say(ack)
        return packet

    def take(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            data += self.sock.recv(size - len(data)) or pytest.fail("closed")
        return data


class Script:
    """A listener, and the program that connects to it."""

    def __init__(self, program: Path, stack: ExitStack) -> None:
        self._stack = stack
        self._listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        self._listener.settimeout(DEADLINE)
        self._program = program

    def clients(self, cookie: str = "") -> Clients:
        """Return clients of this server."""
        port = self._listener.getsockname()[1]
        made = Clients(self._program, port, lifetime=60, cookie=cookie)
        return self._stack.enter_context(made)

    @contextmanager
    def opening(
        self, clients: Clients, count: int = 1, *, slow: bool = False, timeout: float
    ) -> Iterator[Future[float]]:
        """Let clients connect while the block plays the server."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(clients.open, count, slow=slow, timeout=timeout)

    def accept(self) -> Connection:
        """Return the next connection."""
        sock, _ = self._listener.accept()
        return Connection(self._stack.enter_context(sock))


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the compiled program."""
    require("cc")
    return build(tmp_path_factory.mktemp("clients"))


@pytest.fixture
def script(program: Path) -> Iterator[Script]:
    """Return a server to be scripted."""
    with ExitStack() as stack:
        yield Script(program, stack)


def opened(script: Script, count: int = 1, *, slow: bool = False) -> tuple[Any, ...]:
    """Return clients, and their connections, which are live."""
    clients = script.clients()
    with script.opening(clients, count, slow=slow, timeout=DEADLINE) as opening:
        connections = [script.accept() for _ in range(count)]
        for connection in connections:
            assert connection.join() == JOIN
        assert opening.result() > 0
    return clients, *connections


def tick(age: float = 0, *, offset: int = 1, pad: int = 100) -> str:
    """Return an event that was made so many seconds ago."""
    made = time.monotonic() - age
    meta = f'{{"room":"bench","epoch":"abc","offset":{offset}}}'
    return f'42["tick",{{"t":{made:.6f},"pad":"{"x" * pad}"}},{meta}]'


def test_joins_with_its_cookie(script: Script) -> None:
    clients = script.clients("session=abc")
    with script.opening(clients, timeout=DEADLINE):
        connection = script.accept()
        connection.join()
    assert connection.request.startswith(
        b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n"
    )
    assert b"\r\nCookie: session=abc\r\n" in connection.request


def test_counts_ticks_alone_and_their_age(script: Script) -> None:
    """Bug: on a machine that had just begun, the oldest was made before its clock."""
    clients, connection = opened(script)
    clients.collect(3, timeout=DEADLINE)
    begun = time.monotonic()
    connection.say(tick(10), '42["other",{"t":1}]', tick(20), tick(30))
    found = clients.collected()
    took = time.monotonic() - begun
    assert (found.expected, found.delivered, found.closed) == (3, 3, 0)
    # To a millisecond; what they were on their way is part of their age.
    assert 19.999 <= found.p50_ms / 1000 <= 20.001 + took
    assert 29.999 <= found.seconds <= 30.001 + took


def test_says_how_many_came_when_the_time_is_over(script: Script) -> None:
    clients, connection = opened(script)
    clients.collect(2, timeout=5)
    connection.say(tick())
    assert clients.collected().delivered == 1


def test_reads_frames_that_come_in_parts(script: Script) -> None:
    clients, connection, witness = opened(script, 2)
    clients.collect(2, timeout=DEADLINE)
    data = tick(pad=40_000).encode()
    frame = struct.pack("!BBH", 0x81, 126, len(data)) + data
    whole = frame + frame
    ends = [1, 3, 20_000, len(frame) + 2, len(whole)]
    for start, end in zip([0, *ends], ends, strict=False):
        connection.sock.sendall(whole[start:end])
        # What was sent before a ping is read before its answer, or with it.
        witness.say("2")
        assert witness.hear() == "3"
    assert clients.collected().delivered == 2


def test_answers_pings_of_both_protocols(script: Script) -> None:
    _, connection = opened(script)
    connection.say("2")
    assert connection.hear() == "3"
    connection.sock.sendall(b"\x89\x00")
    assert connection.take(6) == b"\x8a\x80\0\0\0\0"


def test_slow_clients_stop_and_go_on(script: Script) -> None:
    clients, connection = opened(script, slow=True)
    clients.stall()
    # More than the kernels take of somebody who does not read.
    connection.sock.settimeout(0.3)
    with pytest.raises(TimeoutError):
        connection.say(*[tick(pad=10_000)] * 1000)
    clients.resume(timeout=0)
    assert clients.resumed().back == 0


def test_slow_clients_are_back_with_a_live_event(script: Script) -> None:
    clients, connection = opened(script, slow=True)
    clients.stall()
    connection.say(tick(offset=7))
    clients.resume(timeout=DEADLINE)
    connection.say('42["end",{}]')
    found = clients.resumed()
    assert (found.slow, found.back, found.resets, found.closed) == (1, 1, 0, 0)


@pytest.mark.parametrize("ack", [LIVE, LIVE[:-2] + ',"x":"' + "x" * 200_000 + '"}]'])
def test_who_is_reset_subscribes_from_the_last_position(
    script: Script, ack: str
) -> None:
    clients, connection = opened(script, slow=True)
    clients.stall()
    clients.resume(timeout=DEADLINE)
    connection.say(tick(offset=7), '42["livepush.reset",{"room":"bench","within":5}]')
    assert connection.hear() == SINCE
    connection.say(ack, '42["end",{}]')
    found = clients.resumed()
    assert (found.back, found.resets, found.closed) == (1, 1, 0)


@pytest.mark.parametrize("how", ["closed", "close frame", "no frame"])
def test_who_is_closed_comes_back_from_the_last_position(
    script: Script, how: str
) -> None:
    clients, connection = opened(script, slow=True)
    clients.stall()
    clients.resume(timeout=DEADLINE)
    connection.say(tick(offset=7))
    if how == "closed":
        connection.sock.close()
    else:
        connection.sock.sendall(b"\x88\x00" if how == "close frame" else b"xxxx")
    connection = script.accept()
    assert connection.join('431[{"ok":true,"recovered":true}]') == SINCE
    connection.say('42["end",{}]')
    found = clients.resumed()
    assert (found.back, found.closed, found.recovered) == (1, 1, 1)


def test_who_is_always_refused_gives_up(script: Script) -> None:
    clients, connection = opened(script, slow=True)
    clients.stall()
    clients.resume(timeout=DEADLINE)
    connection.say('42["livepush.reset",{}]')
    refusal = '431[{"ok":false,"error":{"code":120}}]'
    for _ in range(6):
        connection.hear()
        connection.say(refusal)
    with pytest.raises(Failed, match=r"a subscription was refused: 431.*120"):
        clients.resumed()


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ('44{"message":"no"}', "a connection was refused: 44. message"),
        (None, "the server closed a connection that was opening"),
    ],
)
def test_says_why_nobody_could_connect(
    script: Script, said: str | None, reason: str
) -> None:
    clients = script.clients()
    with script.opening(clients, timeout=DEADLINE) as opening:
        connection = script.accept()
        if said is None:
            connection.sock.close()
        else:
            connection.say(said)
        with pytest.raises(Failed, match=reason):
            opening.result()


def test_says_when_not_all_were_live_in_time(script: Script) -> None:
    clients = script.clients()
    with script.opening(clients, timeout=0.2) as opening:
        script.accept()
        with pytest.raises(Failed, match="not all clients were live in time"):
            opening.result()


def test_refuses_more_than_it_is_made_for(script: Script) -> None:
    with pytest.raises(Failed, match="too many clients"):
        script.clients().open(20_001, timeout=1)
    with pytest.raises(Failed, match="too many deliveries"):
        script.clients().collect(20_000_001, timeout=1)


def test_names_the_package_when_there_is_no_compiler(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Failed, match="apt-get install gcc"):
        build(tmp_path)
