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


def test_finds_the_socket_of_each_server_and_ends_as_it_expects() -> None:
    with socket.socket() as sock:
        gunicorn = taking.find({"gunicorn.socket": sock})
        assert gunicorn is not None
        assert gunicorn.socket is sock
        assert not gunicorn.encrypted
        with pytest.raises(StopIteration):
            gunicorn.end(print)
        werkzeug = taking.find({"werkzeug.socket": sock})
        assert werkzeug is not None
        told: list[object] = []
        assert werkzeug.end(lambda *answer: told.extend(answer)) == []
        assert told == ["101 Switching Protocols", []]
        stream = sock.makefile("rb")
        gevent = taking.find({"SERVER_SOFTWARE": "gevent/26 x", "wsgi.input": stream})
        assert gevent is not None
        assert gevent.socket is sock
        assert gevent.end(print) == []
        stream.close()
    encrypted = taking.find({"gunicorn.socket": Encrypted()})
    assert encrypted is not None
    assert encrypted.encrypted
    encrypted = taking.find({"werkzeug.socket": Encrypted()})
    assert encrypted is not None
    with pytest.raises(ConnectionAbortedError):
        encrypted.end(print)


@pytest.mark.parametrize(
    "environ",
    [{}, {"SERVER_SOFTWARE": "gevent/26 x", "wsgi.input": io.BytesIO()}],
)
def test_finds_none_where_none_is_shown(environ: dict[str, Any]) -> None:
    assert taking.find(environ) is None
