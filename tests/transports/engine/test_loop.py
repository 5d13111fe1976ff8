"""The loop turn by turn, with a clock of the test's, over pairs of sockets."""

from __future__ import annotations

import _socket
import errno
import random
import re
import select
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest

from flask_livepush.transports.engine import frames
from flask_livepush.transports.engine.connection import Connection
from flask_livepush.transports.engine.loop import PATIENCE, Loop
from flask_livepush.transports.engine.poller import create
from tests.support.raw import BINARY, CLOSE, PING, TEXT, frame
from tests.support.waiting import DEADLINE

LIMIT = 1000
STALL = 20.0


class World:
    """A loop whose turns are the test's, and what it has called."""

    def __init__(self) -> None:
        self.now = 0.0
        self.received: list[tuple[int, Any]] = []
        self.full: list[Any] = []
        self.gone: list[tuple[Any, str]] = []
        self.sockets: list[socket.socket] = []
        self.loop = Loop(
            create("threading", lambda seconds: None),
            now=lambda: self.now,
            limit=LIMIT,
            stall=STALL,
            received=lambda websocket, *message: self.received.append(message),
            full=lambda websocket: self.full.append(websocket.owner),
            gone=lambda owner, why: self.gone.append((owner, why)),
        )

    def open(self, owner: str = "owner", hello: bytes = b"") -> Connection:
        """Let the loop own one end of a new pair; the other is the client's."""
        websocket = self.accept(owner)
        self.loop.own(websocket, hello)
        return websocket

    def accept(self, owner: str = "owner") -> Connection:
        """Make a pair without the loop's knowledge."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.sockets.append(theirs)
        # The least that the system gives: a client that reads nothing is soon felt.
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        taken = _socket.socket(fileno=ours.detach())
        taken.setblocking(False)
        return Connection(taken, frames.Decoder(100_000), owner)

    def turn(self, seconds: float = 0.0) -> None:
        """Let time pass, and the loop do what there is to do, without waiting."""
        self.now += seconds
        for _ in range(3):
            self.loop._poller.wake()
            self.loop._tick()

    def read(self, client: int = 0) -> bytes:
        """Return what has come to a client."""
        found = b""
        while True:
            try:
                data = self.sockets[client].recv(65_536)
            except BlockingIOError:
                return found
            if not data:
                return found
            found += data

    def read_all(self) -> bytes:
        """Read as much as comes, while the loop goes on."""
        found = b""
        while data := self.read():
            found += data
            self.turn()
        return found

    def ended(self, client: int = 0) -> bool:
        """Say whether the server has ended a client's connection."""
        try:
            return self.sockets[client].recv(1) == b""
        except BlockingIOError:
            return False

    def block(self, websocket: Connection) -> bytes:
        """Send something that a client does not read, until the system is full."""
        data = bytes(range(250)) * 40
        self.loop.write((websocket,), data)
        self.turn()
        assert websocket.blocked
        return data


@pytest.fixture
def world() -> Iterator[World]:
    """A loop; afterwards nothing of it is open."""
    made = World()
    yield made
    if not made.loop._stopping:
        made.loop.stop()
        made.loop.run()
    assert made.loop.sockets == 0
    for sock in made.sockets:
        sock.close()


def test_greets_and_writes_in_order_in_one_send(world: World) -> None:
    websocket = world.open(hello=b"hello ")
    for number in range(3):
        world.loop.write((websocket,), b"%d " % number)
    assert world.read() == b"hello "
    world.turn()
    assert world.read() == b"0 1 2 "


def test_who_is_closed_before_it_is_owned_gets_its_hello_first(world: World) -> None:
    """Bug: its session ended meanwhile, and a turn of the loop failed."""
    websocket = world.accept()
    world.loop.write((websocket,), b"words ")
    world.loop.close(websocket)
    world.turn()
    assert world.read() == b""
    world.loop.own(websocket, b"hello ")
    world.turn()
    assert world.read() == b"hello words " + frames.encode(CLOSE, b"\x03\xe8")
    assert world.ended()
    assert world.gone == [("owner", "closed")]


def test_goes_on_at_the_byte_where_the_system_stopped(world: World) -> None:
    websocket = world.open()
    data = world.block(websocket)
    world.loop.write((websocket,), b"and more")
    world.turn()
    assert world.read_all() == data + b"and more"
    assert not websocket.blocked
    assert websocket.sent == websocket.written


def test_one_that_is_blocked_does_not_hold_up_others(world: World) -> None:
    slow, other = world.open("slow"), world.open("other")
    world.block(slow)
    world.loop.write((slow, other), b"news")
    world.turn()
    assert world.read(1) == b"news"


def test_drops_what_may_be_and_says_so_once(world: World) -> None:
    websocket = world.open()
    data = world.block(websocket)
    world.loop.write((websocket,), b"kept")
    for _ in range(3):
        world.loop.write((websocket,), b"x" * 400, droppable=True)
    assert world.full == ["owner"]
    world.loop.write((websocket,), b"too")
    assert world.read_all() == data + b"kepttoo"
    world.loop.write((websocket,), b"lost", droppable=True)
    world.turn()
    assert world.read() == b""
    world.loop.accept_again(websocket)
    world.loop.write((websocket,), b"again", droppable=True)
    world.turn()
    assert world.read() == b"again"
    assert world.full == ["owner"]
    assert world.gone == []


def test_a_frame_that_has_begun_to_go_out_is_not_dropped(world: World) -> None:
    websocket = world.open()
    begun = bytes(range(250)) * 40
    world.loop.write((websocket,), begun, droppable=True)
    world.turn()
    assert websocket.blocked
    for _ in range(3):
        world.loop.write((websocket,), b"x" * 400, droppable=True)
    assert world.full == ["owner"]
    assert world.read_all() == begun


def test_what_can_not_be_dropped_ends_the_connection(world: World) -> None:
    websocket = world.open()
    world.block(websocket)
    for _ in range(PATIENCE):
        world.loop.write((websocket,), b"x" * LIMIT)
    assert websocket.ending
    world.turn(STALL)
    assert [owner for owner, _ in world.gone] == ["owner"]
    assert world.loop.sockets == 0


def test_who_loses_and_does_not_catch_up_is_ended(world: World) -> None:
    slow, quick = world.open("slow"), world.open("quick")
    world.block(slow)
    world.loop.accept_again(slow)
    world.loop.accept_again(quick)
    world.loop.write((quick,), b"news")
    world.turn(STALL - 1)
    assert world.gone == []
    world.turn(1)
    assert world.gone == [("slow", "the client does not keep up")]


def test_who_has_caught_up_before_it_is_told_so_is_not_ended(world: World) -> None:
    """Bug: it was ended if nothing more was written to it for that time."""
    websocket = world.open()
    data = world.block(websocket)
    assert world.read_all() == data
    world.loop.accept_again(websocket)
    world.turn(STALL)
    assert world.gone == []
    assert world.loop.sockets == 1


def test_an_answer_is_sent_at_once_unless_something_is_in_its_way(
    world: World,
) -> None:
    websocket = world.open()
    world.loop.send(websocket, b"one ")
    assert world.read() == b"one "
    world.loop.write((websocket,), b"two ")
    world.loop.send(websocket, b"three ")
    assert world.read() == b""
    world.turn()
    assert world.read() == b"two three "
    data = world.block(websocket)
    world.loop.send(websocket, b"four")
    assert world.read_all() == data + b"four"
    world.loop.send(websocket, data)
    assert websocket.blocked
    assert world.read_all() == data


def test_who_sends_when_the_connection_has_just_gone_only_leaves_it(
    world: World,
) -> None:
    """Bug: an application's emit raised, since the poller did not know the socket.

    1. A handler's thread is about to send.
    2. The client goes: the loop forgets the socket, and leaves it open meanwhile.
    3. The kernel does not take all that the thread sends.
    """
    websocket = world.open()
    websocket.sending = True
    world.sockets[0].close()
    world.turn()
    assert world.loop.sockets == 0
    world.loop._refused(websocket, [b"rest"])
    world.turn()
    assert websocket.sock.fileno() == -1
    assert len(world.gone) == 1


def test_who_sends_to_one_that_was_dropped_full_only_leaves_it(world: World) -> None:
    """Bug: the loop never slept again, and the descriptor stayed open.

    It sent, for ever, the rest to a client that takes nothing and has only ended its
    own direction.
    """
    websocket = world.open()
    world.turn()
    websocket.sending = True  # a thread that has begun
    with suppress(BlockingIOError):
        while True:
            websocket.sock.send(b"x" * 1000)
    world.sockets[0].shutdown(socket.SHUT_WR)
    world.turn()
    assert world.loop.sockets == 0
    assert websocket.sock.fileno() != -1
    world.loop._refused(websocket, [b"rest"])
    world.turn()
    assert websocket.sock.fileno() == -1
    assert world.loop._dirty == []


def test_a_send_that_fails_ends_the_connection(world: World) -> None:
    """Bug: the system had no memory for it, and the client missed a part of a frame."""

    class Failing:
        def __init__(self, sock: Any) -> None:
            self._sock = sock

        def __getattr__(self, name: str) -> Any:
            return getattr(self._sock, name)

        def send(self, data: bytes) -> int:
            raise OSError(errno.ENOBUFS, "No buffer space available")

    websocket = world.open()
    websocket.sock = Failing(websocket.sock)  # type: ignore[assignment]
    world.loop.write((websocket,), b"news")
    world.turn()
    assert world.ended()
    assert world.loop.sockets == 0
    assert len(world.gone) == 1


def test_who_loses_again_has_the_whole_time_again(world: World) -> None:
    """Bug: it was ended when the time of its first loss was over."""
    websocket = world.open()
    world.block(websocket)
    world.loop.accept_again(websocket)
    world.read_all()
    assert not websocket.blocked
    world.turn(STALL - 1)
    world.block(websocket)
    world.loop.accept_again(websocket)
    world.turn(STALL - 1)
    assert world.gone == []
    world.turn(1)
    assert world.gone == [("owner", "the client does not keep up")]


def test_closes_after_what_waits_with_one_close_frame(world: World) -> None:
    websocket = world.open()
    world.loop.write((websocket,), b"last words")
    world.loop.close(websocket, 1001)
    world.loop.close(websocket, 1002)
    world.loop.write((websocket,), b"too late")
    world.turn()
    assert world.read() == b"last words" + frames.encode(CLOSE, b"\x03\xe9")
    assert world.ended()
    assert world.gone == [("owner", "closed")]
    assert world.loop.sockets == 1  # it may still have something to say
    world.sockets[0].close()
    world.turn()
    assert world.loop.sockets == 0
    assert len(world.gone) == 1


def test_who_does_not_end_what_was_closed_is_not_waited_for(world: World) -> None:
    websocket = world.open()
    world.loop.close(websocket)
    world.turn()
    world.sockets[0].send(frame(TEXT, b"too late"))
    world.turn(4)
    assert world.loop.sockets == 1
    world.turn(1)
    assert world.loop.sockets == 0
    assert world.received == []


def test_who_takes_nothing_is_not_waited_for_when_it_is_closed(world: World) -> None:
    """Bug: a connection that was blocked when it was closed was never let go."""
    websocket = world.open()
    world.block(websocket)
    world.loop.close(websocket)
    world.turn(STALL)
    assert world.loop.sockets == 0
    assert [owner for owner, _ in world.gone] == ["owner"]


def test_who_is_closed_while_it_is_sent_to_is_not_waited_for(world: World) -> None:
    """Bug: what was being sent, once it was out, stood for all that waited."""
    websocket = world.open()
    data = bytes(range(250)) * 40
    websocket.sending = True  # a thread that has begun
    world.loop.write((websocket,), data)
    world.loop.close(websocket)
    with world.loop._lock:
        world.loop._release((websocket,))
    world.turn()
    assert websocket.blocked
    world.turn(STALL)
    assert world.loop.sockets == 0


def test_reads_what_comes_and_answers_a_close(world: World) -> None:
    world.open()
    client = world.sockets[0]
    client.send(frame(TEXT, b"one") + frame(BINARY, b"two") + frame(PING, b"three"))
    client.send(frame(CLOSE, b"\x0f\xa0bye") + frame(TEXT, b"four"))
    world.turn()
    assert world.received == [(TEXT, "one"), (BINARY, b"two"), (PING, b"three")]
    assert world.read() == frames.encode(CLOSE, b"\x0f\xa0")
    assert world.gone == [("owner", "closed")]


def test_what_is_no_frame_is_answered_with_its_code(world: World) -> None:
    world.open()
    world.sockets[0].send(frame(TEXT, b"one") + frame(3, b""))
    world.turn()
    assert world.received == [(TEXT, "one")]
    assert world.read() == frames.encode(CLOSE, b"\x03\xea")
    assert world.ended()


@pytest.mark.parametrize("before", [b"", frame(TEXT, b"half a frame")[:5]])
def test_who_goes_without_a_word_is_gone_once(world: World, before: bytes) -> None:
    websocket = world.open()
    world.sockets[0].sendall(before)
    world.sockets[0].close()
    world.loop.write((websocket,), b"news")
    world.turn()
    world.loop.write((websocket,), b"more news")
    world.loop.close(websocket)
    world.turn()
    assert [owner for owner, _ in world.gone] == ["owner"]
    assert world.loop.sockets == 0


def test_what_fails_in_a_turn_ends_no_turn_after_it(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    ended = threading.Event()
    asked = []

    def due(item: str) -> None:
        asked.append(item)
        if item == "first":
            raise RuntimeError("not expected")
        world.loop.stop()
        ended.set()

    line = world.loop.timeline(1.0, due)
    line.add("first")
    line.add("second")
    world.now = 1.0
    world.loop.run()
    assert asked == ["first", "second"]
    assert "A turn of the I/O loop failed" in caplog.text


class Streams:
    """Clients that read what comes, and know what is right.

    What a writer writes are tokens with its number and theirs, and some padding.
    """

    TOKEN = re.compile(rb"<(\d+):(\d+)x*>")

    def __init__(self, sockets: list[socket.socket]) -> None:
        self.read = [bytearray() for _ in sockets]
        self._sockets = sockets

    def run(self) -> None:
        """Read until all have ended, in portions that make the loop wait."""
        left = dict(enumerate(self._sockets))
        while left:
            readable, _, _ = select.select(list(left.values()), [], [], 10)
            assert readable, f"{len(left)} do not end"
            for number, sock in list(left.items()):
                if sock in readable:
                    data = sock.recv(3000)
                    self.read[number] += data
                    if not data:
                        del left[number]

    def counts(self, number: int) -> dict[int, int]:
        """Return how many tokens of each writer a client has read, all in order."""
        data = bytes(self.read[number])
        end = frames.encode(CLOSE, b"\x03\xe8")
        assert data.endswith(end)
        counts: dict[int, int] = {}
        at = 0
        for found in self.TOKEN.finditer(data):
            assert found.start() == at, data[at : at + 50]
            at = found.end()
            writer, token = int(found[1]), int(found[2])
            assert token == counts.get(writer, 0)
            counts[writer] = token + 1
        assert data[at:] == end
        return counts


def test_every_byte_comes_once_and_in_order_when_many_threads_write() -> None:
    world = World()
    world.loop._limit = 10**9
    websockets = [world.open(str(number)) for number in range(8)]
    streams = Streams(world.sockets)
    looping = threading.Thread(target=world.loop.run)
    reading = threading.Thread(target=streams.run)
    tokens = 120

    def write(writer: int) -> None:
        dice = random.Random(writer)
        for number in range(tokens):
            token = b"<%d:%d%s>" % (writer, number, b"x" * dice.choice((0, 9, 4000)))
            if writer % 2:
                world.loop.write(websockets, token)
            else:
                for websocket in dice.sample(websockets, len(websockets)):
                    world.loop.send(websocket, token)
            if number == tokens // 2 and not writer:
                for websocket in websockets[:4]:
                    world.loop.close(websocket)

    writing = [threading.Thread(target=write, args=(n,)) for n in range(6)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        for thread in (looping, reading, *writing):
            thread.start()
        for thread in writing:
            thread.join(DEADLINE)
        for websocket in websockets:
            world.loop.close(websocket)
        reading.join(DEADLINE)
        for sock in world.sockets:
            sock.close()
        world.loop.stop()
        looping.join(DEADLINE)
    finally:
        sys.setswitchinterval(before)
    for number in range(8):
        counts = streams.counts(number)
        if number >= 4:
            assert counts == dict.fromkeys(range(6), tokens)
        else:
            assert counts[0] == tokens // 2 + 1
    assert world.loop.sockets == 0
    assert [websocket.sock.fileno() for websocket in websockets] == [-1] * 8
    assert len(world.gone) == 8


def test_a_write_wakes_a_loop_that_waits(world: World) -> None:
    websocket = world.open()
    thread = threading.Thread(target=world.loop.run)
    thread.start()
    client = world.sockets[0]
    client.setblocking(True)
    client.settimeout(DEADLINE)
    for _ in range(100):
        world.loop.write((websocket,), b"x")
        assert client.recv(10) == b"x"
    world.loop.stop()
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert world.gone == [("owner", "the server stops")]
