"""Requests that wait for what their session has to say, and how they are answered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from . import frames, packets
from .connection import Connection
from .loop import Loop
from .replies import BAD_REQUEST, Headers, Refusal, Reply, raw
from .session import Session
from .sessions import Sessions

# Bytes that may come on a connection whose request is being answered.
_SURPLUS = 65_536


class EventPoll:
    """Wakes the thread that waits for it.

    Args:
        event: The async mode's.
    """

    __slots__ = ("_event", "wait")

    def __init__(self, event: Any) -> None:
        self._event = event
        #: Waits until there is something, at most so many seconds.
        self.wait: Callable[[float], object] = event.wait

    def ready(self) -> None:
        self._event.set()

    replaced = ready


class HandingPoll:
    """Answers with what its session has to say, in the loop's thread; holds no thread.

    What gathers until the loop's next turn goes out as one answer.

    Args:
        answer: Called once, unless :meth:`now` returns the answer.
        limit: Bytes of frames, where they are several; None: there is no limit.
        mark: What tells it from the poll before, if anything does.
    """

    __slots__ = (
        "_answer",
        "_answered",
        "_called",
        "_limit",
        "_loop",
        "_mark",
        "_session",
        "_sessions",
    )

    def __init__(
        self,
        sessions: Sessions,
        session: Session,
        loop: Loop,
        answer: Callable[[Reply], object],
        *,
        limit: int | None = None,
        mark: str = "",
    ) -> None:
        self._sessions = sessions
        self._session = session
        self._loop = loop
        self._answer = answer
        self._limit = limit
        self._mark = mark
        self._called = False
        self._answered = False

    def ready(self) -> None:
        if not self._called:
            self._called = True
            self._loop.soon(self._fetch)

    def replaced(self) -> None:
        self._loop.soon(self._refuse)

    def release(self) -> None:
        """Wait no more: be answered soon, by nothing if there is nothing."""
        self._sessions.release(self._session, self)

    def leave(self) -> None:
        """Wait no more: nobody would get the answer."""
        self._sessions.leave(self._session, self)

    def now(self) -> Reply | None:
        """Return the answer if there is one already; None: this poll waits for it.

        Raises:
            Refusal: It may not wait, or the session has ended.
        """
        try:
            batch = self._sessions.wait(
                self._session, self, limit=self._limit, mark=self._mark
            )
        except LookupError as error:
            raise Refusal(BAD_REQUEST, str(error)) from None
        if batch is None:
            return None
        if not batch:
            raise Refusal(BAD_REQUEST, "The session has ended")
        return Reply(packets.join(batch))

    # -- the loop's thread -------------------------------------------------------------
    def _fetch(self) -> None:
        # First: what it was told of may be given up meanwhile, and more may come.
        self._called = False
        batch = self._sessions.fetch(self._session, self, self._limit)
        if batch:
            self._end(Reply(packets.join(batch)))

    def _refuse(self) -> None:
        self._end(Refusal(BAD_REQUEST, "The poll was sent again").reply())

    def _end(self, reply: Reply) -> None:
        if not self._answered:
            self._answered = True
            self._answer(reply)


class Request(Protocol):
    """A request that is answered later."""

    #: Called where its client goes before that.
    left: Callable[[], object] | None

    def answer(self, reply: Reply) -> None:
        """Answer it, once; called by any thread."""


class WaitingRequest:
    """A request whose thread waits for the answer, where its socket can't be taken.

    Args:
        event: The async mode's.
    """

    __slots__ = ("_event", "_reply", "left")

    def __init__(self, event: Any) -> None:
        self._event = event
        self._reply: Reply | None = None
        self.left: Callable[[], object] | None = None

    def answer(self, reply: Reply) -> None:
        self._reply = reply
        self._event.set()

    def wait(self, seconds: float) -> Reply | None:
        """Return the answer; None: there was none in so many seconds."""
        if not self._event.wait(seconds) and self.left is not None:
            self.left()
        return self._reply


class TakenRequest:
    """A request whose socket is the loop's: it is answered by whoever has the answer.

    Args:
        headers: What the answer has besides its own.
    """

    __slots__ = ("_connection", "_headers", "_loop", "_reply", "left")

    def __init__(self, loop: Loop, headers: Headers) -> None:
        self._loop = loop
        self._headers = headers
        self._connection: Connection | None = None
        self._reply: Reply | None = None
        #: Called in the loop's thread.
        self.left: Callable[[], object] | None = None

    def take(self, sock: Any) -> None:
        """Give the loop the request's socket; by the request's thread."""
        connection = Connection(sock, _Surplus(), self)
        self._loop.own(connection, b"")
        self._connection = connection
        # It may have been answered meanwhile: each of the two looks for the other, and
        # a connection ends once.
        if self._reply is not None:
            self._send(connection, self._reply)

    def answer(self, reply: Reply) -> None:
        """Answer it, once; called by any thread."""
        self.left = None
        self._reply = reply
        if self._connection is not None:
            self._send(self._connection, reply)

    def _send(self, connection: Connection, reply: Reply) -> None:
        self._loop.finish(connection, raw(reply, self._headers))

    def received(
        self, connection: Connection, opcode: int, payload: str | bytes
    ) -> None:
        """Nothing is read before the answer."""

    def gone(self) -> None:
        left, self.left = self.left, None
        if left is not None:
            left()


class _Surplus:
    """Throws away what comes on a connection that ends with the answer."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = _SURPLUS

    def feed(self, data: bytes) -> Iterable[tuple[int, str | bytes]]:
        self._left -= len(data)
        if self._left < 0:
            raise frames.FrameError(
                frames.PROTOCOL_ERROR, "Much follows a request that is not answered."
            )
        return ()

    def goodbye(self, code: int) -> bytes:
        return b""
