"""One client of the Engine.IO server: how it is connected, and what waits for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from ...protocol.pace import Pace
from ..bearing import Bond
from .connection import Connection
from .held import HeldWebSocket
from .loop import PATIENCE
from .packets import Frame


class Poll(Protocol):
    """A request that waits for what its session has to say."""

    def ready(self) -> None:
        """Learn that there is something, or that the session has ended.

        Called under the sessions' lock; it must hand over.
        """

    def replaced(self) -> None:
        """Learn that the same request waits in its place; called likewise."""


class Session:
    """The state of one client.

    It is connected by polling until it has a WebSocket. Where python-socketio looks, it
    is like python-engineio's sockets: ``upgraded``, ``closed``, ``session``, ``close``.

    Args:
        sid: Its id.
        pace: How often it may send.
        close: Ends it: called with the session and the reason.
    """

    __slots__ = (
        "_close",
        "_session",
        "answered",
        "asked",
        "bond",
        "closed",
        "entered",
        "held",
        "lossy",
        "mark",
        "pace",
        "poll",
        "probe",
        "sid",
        "size",
        "waiting",
        "websocket",
    )

    def __init__(
        self, sid: str, pace: Pace, close: Callable[[Session, str], None]
    ) -> None:
        self.sid = sid
        self.pace = pace
        self._close = close
        self._session: dict[Any, Any] | None = None
        #: How often it was asked for a sign of life, and up to which it has answered.
        self.asked = 0
        self.answered = 0
        #: Whether it has entered a namespace of Socket.IO.
        self.entered = False
        #: What its requests must bear; None: nothing.
        self.bond: Bond | None = None
        # Guarded by the sessions' lock: whether it is no more; its WebSocket, the
        # loop's or one that its server keeps; what waits for its next poll or for that
        # one, how much that is, and whether what may be dropped is; the request that
        # waits for it, or the thread that writes, and what tells the last request from
        # others; the WebSocket that is tried out.
        self.closed = False
        self.websocket: Connection | None = None
        self.held: HeldWebSocket | None = None
        self.waiting: list[tuple[Frame, bool]] = []
        self.size = 0
        self.lossy = False
        self.poll: Poll | None = None
        self.mark = ""
        self.probe: Connection | HeldWebSocket | None = None

    def put(self, out: Sequence[Frame], droppable: bool, limit: int) -> bool:
        """Let frames wait for the next poll.

        Args:
            droppable: Whether they may be given up, with others that may.
            limit: Bytes of what may be given up that may wait; of other 16 times that.

        Returns:
            Whether there was room; if not, and they are droppable, it has just begun to
            drop such.
        """
        if self.lossy and droppable:
            return True
        size = sum(len(frame.wire) for frame in out)
        if not droppable:
            limit *= PATIENCE
        if self.size > max(0, limit - size):  # what is alone always fits
            if droppable:
                self.lossy = True
                self.waiting = [item for item in self.waiting if not item[1]]
                self.size = sum(len(frame.wire) for frame, _ in self.waiting)
            return False
        self.waiting += [(frame, droppable) for frame in out]
        self.size += size
        return True

    def take(self, limit: int | None = None) -> list[Frame]:
        """Return what waits; it waits no more.

        Args:
            limit: Bytes after which the rest waits on; None: all is returned.
        """
        taken = [frame for frame, _ in self.waiting]
        if limit is not None and self.size > limit:
            sizes = itertools.accumulate(len(frame.wire) for frame in taken)
            count = 1 + sum(1 for size in sizes if size <= limit)
            taken = taken[:count]
            self.waiting = self.waiting[count:]
            self.size = sum(len(frame.wire) for frame, _ in self.waiting)
        else:
            self.waiting = []
            self.size = 0
        return taken

    @property
    def upgraded(self) -> bool:
        """Whether it is connected by WebSocket."""
        return self.websocket is not None or self.held is not None

    @property
    def session(self) -> dict[Any, Any]:
        """What the application keeps with the connection."""
        if self._session is None:
            self._session = {}
        return self._session

    @session.setter
    def session(self, value: dict[Any, Any]) -> None:
        self._session = value

    def close(
        self, wait: bool = True, abort: bool = False, reason: str | None = None
    ) -> None:
        """End it, after what waits for it has gone out; nobody waits for that."""
        self._close(self, reason or "server disconnect")
