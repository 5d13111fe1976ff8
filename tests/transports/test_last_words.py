"""The last packets of a stock connection: one answer, however a poll meets them."""

from __future__ import annotations

import gc
import weakref

import engineio
import pytest
from engineio.packet import CLOSE, MESSAGE, Packet

from flask_livepush.transports import last_words
from tests.support.protocol_servers import later
from tests.support.waiting import DEADLINE

WORDS = [Packet(MESSAGE, "why"), Packet(MESSAGE, "leave")]


def begun() -> engineio.socket.Socket:
    server = engineio.Server(async_mode="threading")
    socket = engineio.socket.Socket(server, "sid")
    last_words.begin(socket)
    return socket


@pytest.fixture
def socket() -> engineio.socket.Socket:
    return begun()


def told(packets: list[Packet]) -> list[str]:
    return [packet.encode() for packet in packets]


def test_a_poll_that_waits_gets_them_and_the_end() -> None:
    """Bug: it got the first, and the rest was lost with the session."""
    for _ in range(100):
        socket = begun()
        poll = later(socket.poll)
        last_words.end(socket, WORDS)
        assert told(poll.result(DEADLINE)) == ["4why", "4leave", "1"]


def test_what_waited_before_comes_first(socket: engineio.socket.Socket) -> None:
    socket.send(Packet(MESSAGE, "before"))
    last_words.end(socket, WORDS)
    assert told(socket.poll()) == ["4before", "4why", "4leave", "1"]


def test_an_end_without_them_is_as_ever(socket: engineio.socket.Socket) -> None:
    socket.close(wait=False)
    assert told(socket.poll()) == ["1"]
    assert told(last_words.spoken(socket, [Packet(CLOSE)])) == ["1"]


def test_who_is_gone_is_told_nothing(socket: engineio.socket.Socket) -> None:
    socket.close(wait=False, abort=True)
    last_words.end(socket, WORDS)
    assert socket.poll() == []


def test_a_connection_is_not_kept_by_it() -> None:
    gc.disable()
    try:
        found = weakref.ref(begun())
        assert found() is None
    finally:
        gc.enable()
