"""The doctor's connections, to servers that say just what a test wants."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from flask_livepush.doctor.wire import (
    Address,
    Ended,
    Silent,
    Wire,
    WireError,
    first_ready,
)
from tests.support.waiting import DEADLINE

OK = b"HTTP/1.1 200 OK\r\n"


@contextmanager
def server(*answers: bytes) -> Iterator[Wire]:
    """Answer each request with the next of some texts; give a connection to there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            left = list(answers)
            while left:
                connection, _ = listener.accept()
                with connection:
                    while left and connection.recv(65536):
                        answer = left.pop(0)
                        connection.sendall(answer)
                        if b"close" in answer:
                            break

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = Address("127.0.0.1", listener.getsockname()[1])
        with Wire(address, within=DEADLINE, now=time.monotonic) as wire:
            yield wire
        thread.join(DEADLINE)


def ask(wire: Wire) -> bytes:
    """Send a request and return the answer's body."""
    wire.send_request("GET", "/", {})
    return wire.answer().body


def test_reads_answers_that_follow_each_other_on_one_connection() -> None:
    """Bug: of a chunked answer the end was left, and taken for the next one."""
    with server(
        OK + b"Transfer-Encoding: chunked\r\n\r\n3;x=1\r\none\r\n0\r\nA: b\r\n\r\n",
        OK + b"Content-Length: 3\r\n\r\ntwo",
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 103 Early\r\n\r\n" + OK + b"Content-Length: 4\r\n\r\nfour",
    ) as wire:
        assert [ask(wire) for _ in range(4)] == [b"one", b"two", b"", b"four"]


def test_opens_a_connection_again_that_was_closed() -> None:
    with server(
        OK + b"Connection: close\r\n\r\nall there is",
        OK + b"Content-Length: 1\r\n\r\n2",
    ) as wire:
        assert [ask(wire) for _ in range(2)] == [b"all there is", b"2"]


def test_tells_silence_from_an_end() -> None:
    with server(b"", OK + b"Content-Length: 5\r\n\r\nclose") as wire:
        wire.send_request("GET", "/", {})
        with pytest.raises(Silent):
            wire.answer(0.1)
        assert ask(wire) == b"close"
        with pytest.raises(Ended):
            ask(wire)


def test_reads_frames_in_pieces_and_answers_pings() -> None:
    near, far = socket.socketpair()
    with server() as wire, near, far:
        wire._socket.close()
        wire._socket = near
        far.sendall(b"\x81")
        with pytest.raises(Silent):
            wire.text(0.05)
        assert first_ready([wire], 0) is wire
        far.sendall(b"\x02hi" + b"\x89\x01p" + b"\x81\x7e\x00\x80" + b"x" * 128)
        assert wire.text() == "hi"
        assert wire.text() == "x" * 128
        pong = far.recv(100)
        assert pong[:2] == b"\x8a\x81"
        assert pong[6] ^ pong[2] == ord("p")
        wire.send_text("y" * 200)
        assert far.recv(300)[:4] == b"\x81\xfe\x00\xc8"
        far.sendall(b"\x88\x02\x03\xe9")
        with pytest.raises(Ended, match="1001"):
            wire.text()


def test_refuses_an_upgrade_by_somebody_who_has_not_read_it() -> None:
    with (
        server(b"HTTP/1.1 101 Yes\r\nSec-WebSocket-Accept: eA==\r\n\r\n") as wire,
        pytest.raises(WireError, match="without having read"),
    ):
        wire.upgrade("/", {})
