"""Takes a WebSocket's socket out of the hands of the HTTP server that accepted it.

The server must end the request without touching the connection, and keep its own books
right. So its descriptor is duplicated, and then made to be another one: an end of a
socket pair whose peer is closed. Whatever the server does to its socket afterwards
(``shutdown``, ``close``, a last read) happens to that one.

Tried and wrong: ``detach()``, after which gunicorn counts the connection down twice and
Werkzeug and gevent log a traceback; ``dup`` alone, since a ``shutdown`` reaches the
duplicate too.
"""

from __future__ import annotations

import _socket
import functools
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

StartResponse = Callable[..., object]

#: How a request was answered by other means.
SWITCHED, ANSWERED = "101 Switching Protocols", "200 OK"


@dataclass(frozen=True, slots=True)
class Held:
    """A socket in the hands of a server.

    Args:
        socket: The server's socket object.
        end: Ends the request as the server expects of one that was answered by other
            means, on a socket that was taken or is over; it is given the status of that
            answer, and what it returns is the application's.
    """

    socket: Any
    end: Callable[[StartResponse, str], list[bytes]]

    @property
    def encrypted(self) -> bool:
        """Whether it is more than a descriptor, and can't be taken."""
        return hasattr(self.socket, "getpeercert")


def find(environ: dict[str, Any]) -> Held | None:
    """Return the socket of a request; None on servers that show none."""
    if not environ.get("SERVER_PROTOCOL", "").startswith("HTTP/1"):
        return None  # its connection has other requests
    if "gunicorn.socket" in environ:
        held = Held(environ["gunicorn.socket"], _answered)
        return Held(held.socket, _stop) if held.encrypted else held
    if "werkzeug.socket" in environ:
        held = Held(environ["werkzeug.socket"], _answered)
        return Held(held.socket, _aborted) if held.encrypted else held
    if "eventlet.input" in environ:
        return Held(environ["eventlet.input"].get_socket(), _handled)
    if environ.get("SERVER_SOFTWARE", "").startswith("gevent/"):
        stream = environ["wsgi.input"]
        stream = getattr(stream, "rfile", stream)
        sock = getattr(getattr(stream, "raw", None), "_sock", None)
        if sock is not None:
            return Held(sock, _empty)
    return None


def _answered(start_response: StartResponse, status: str) -> list[bytes]:
    # They write this to the dead socket, and let a connection go that is. An error
    # would do too, but what stands around the application reports each: Werkzeug's
    # debugger, or a collector of errors.
    start_response(status, [])
    return []


def _stop(start_response: StartResponse, status: str) -> list[bytes]:
    raise StopIteration  # gunicorn: the connection is somebody else's now


def _aborted(start_response: StartResponse, status: str) -> list[bytes]:
    raise ConnectionAbortedError("a WebSocket has ended")


def _empty(start_response: StartResponse, status: str) -> list[bytes]:
    return []


def _handled(start_response: StartResponse, status: str) -> list[bytes]:
    sys.modules["eventlet.wsgi"].WSGI_LOCAL.already_handled = True
    return []


@functools.cache
def _dead_descriptor() -> int:
    """Return that of a socket whose peer is closed; one does for all."""
    dead, peer = _socket.socketpair()
    peer.close()
    return dead.detach()


def take(sock: Any) -> _socket.socket:
    """Return a socket of our own for a server's, which is left with a dead one.

    It is not what eventlet or gevent have made of sockets: it never waits.

    Raises:
        OSError: The process has no descriptor left; nothing has happened.
    """
    theirs = sock.fileno()
    dead = _dead_descriptor()
    ours = os.dup(theirs)
    try:
        os.dup2(dead, theirs, inheritable=False)
    except OSError:
        os.close(ours)
        raise
    taken = _socket.socket(fileno=ours)
    taken.setblocking(False)
    with suppress(OSError):  # a Unix socket has no such delay
        taken.setsockopt(_socket.IPPROTO_TCP, _socket.TCP_NODELAY, 1)
    return taken
