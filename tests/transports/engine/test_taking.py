"""A socket in another's hands, taken out of them."""

from __future__ import annotations

import io
import os
import socket
from typing import Any

import pytest

from flask_livepush.transports.engine import taking


def test_what_the_server_does_afterwards_reaches_nobody() -> None:
    theirs, client = socket.socketpair()
    with client, theirs:
        taken = taking.take(theirs)
        try:
            # As servers end a request: all of it happens to a dead end.
            theirs.shutdown(socket.SHUT_WR)
            assert theirs.recv(1) == b""
            theirs.close()
            taken.send(b"out")
            assert client.recv(10) == b"out"
            client.send(b"in")
            assert taken.recv(10) == b"in"
            with pytest.raises(BlockingIOError):
                taken.recv(10)
            assert not os.get_inheritable(taken.fileno())
        finally:
            taken.close()
        assert client.recv(1) == b""


def test_taking_leaves_one_descriptor_for_each_of_two() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    theirs, client = socket.socketpair()
    before = count()
    taken = taking.take(theirs)
    assert count() == before + 1
    for sock in (taken, theirs, client):
        sock.close()
    assert count() == before - 2


def test_nothing_has_happened_where_it_fails() -> None:
    closed = socket.socket()
    closed.close()
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="Bad file descriptor"):
        taking.take(closed)
    assert len(os.listdir("/proc/self/fd")) == before


class Encrypted:
    """Like an encrypted socket in what is looked at."""

    def getpeercert(self) -> None:
        """Be there."""


HTTP1 = {"SERVER_PROTOCOL": "HTTP/1.1"}


@pytest.mark.parametrize("server", ["gunicorn", "werkzeug"])
def test_finds_the_socket_and_says_how_the_request_was_answered(server: str) -> None:
    with socket.socket() as sock:
        held = taking.find({**HTTP1, f"{server}.socket": sock})
        assert held is not None
        assert held.socket is sock
        assert not held.encrypted
        told: list[object] = []
        assert held.end(lambda *answer: told.extend(answer), taking.SWITCHED) == []
        assert told == ["101 Switching Protocols", []]


def test_finds_the_socket_of_gevent_and_answers_nothing() -> None:
    with socket.socket() as sock, sock.makefile("rb") as stream:
        environ = {"SERVER_SOFTWARE": "gevent/26 x", "wsgi.input": stream}
        held = taking.find({**HTTP1, **environ})
        assert held is not None
        assert held.socket is sock
        assert held.end(print, taking.ANSWERED) == []


@pytest.mark.parametrize(
    ("server", "error"),
    [("gunicorn", StopIteration), ("werkzeug", ConnectionAbortedError)],
)
def test_an_encrypted_request_ends_by_an_error(
    server: str, error: type[Exception]
) -> None:
    """What is said to end another one would go to its client."""
    held = taking.find({**HTTP1, f"{server}.socket": Encrypted()})
    assert held is not None
    assert held.encrypted
    with pytest.raises(error):
        held.end(print, taking.SWITCHED)


def test_finds_none_where_the_connection_has_other_requests() -> None:
    """A stream of HTTP/2 is no connection."""
    environ = {"SERVER_PROTOCOL": "HTTP/2", "gunicorn.socket": Encrypted()}
    assert taking.find(environ) is None


@pytest.mark.parametrize(
    "environ",
    [HTTP1, {**HTTP1, "SERVER_SOFTWARE": "gevent/26 x", "wsgi.input": io.BytesIO()}],
)
def test_finds_none_where_none_is_shown(environ: dict[str, Any]) -> None:
    assert taking.find(environ) is None
