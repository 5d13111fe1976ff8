"""Asks clients to come back: all when this process ends, each before it is too old.

Who is asked since it grows old, and does not go, is closed: the age is a limit.

It knows connections, and nothing of why a process ends or when it is done. What it
does never blocks: it is called by the engine's loop.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

import socketio

from .fanout import NAMESPACE, Fanout

# From which part of the allowed age on a client may be asked, and over how much of it
# all are spread. The rest is for its way back.
_FROM = 0.9
_SPREAD = 0.06
# How much longer than it was given it may take: the way back, and a late request.
_GRACE = 2.0
# How long it may take to go, and how often is looked, both as parts of the age, and
# the most of it, in seconds.
_WITHIN, _LONGEST = 0.02, 5.0
_LOOK = 0.005


class Farewell:
    """Asks the clients of one server to come back.

    Args:
        server: The Socket.IO server.
        fanout: Encodes and writes what they are told.
        max_age: Seconds that a connection may be open; None: for ever.
        now: Seconds of a clock that never falls.
        dice: A random number from 0 to 1.
    """

    def __init__(
        self,
        server: socketio.Server,
        fanout: Fanout,
        *,
        max_age: float | None,
        now: Callable[[], float],
        dice: Callable[[], float],
    ) -> None:
        self._server = server
        self._fanout = fanout
        self._max_age = max_age
        self._now = now
        self._dice = dice
        self._lock = threading.Lock()  # guards what follows
        # By Engine.IO session, the oldest first: when it was opened, and when its
        # client is to be asked. Those that were asked are in the other: until when they
        # may stay.
        self._ages: dict[str, tuple[float, float]] = {}
        self._leaving: dict[str, float] = {}
        # The sids that were asked because the process ends.
        self._asked: set[str] = set()

    @property
    def look_every(self) -> float | None:
        """How often :meth:`ask_the_old` is to be called, in seconds; None: never."""
        return None if self._max_age is None else min(_LONGEST, _LOOK * self._max_age)

    def opened(self, eio_sid: str) -> None:
        """Learn of a connection."""
        if self._max_age is not None:
            now = self._now()
            part = _FROM + _SPREAD * self._dice()
            with self._lock:
                self._ages[eio_sid] = now, now + part * self._max_age

    def closed(self, eio_sid: str) -> None:
        """Forget a connection."""
        with self._lock:
            self._ages.pop(eio_sid, None)
            self._leaving.pop(eio_sid, None)

    def ask_the_old(self) -> None:
        """Ask those that will soon be too old, each once; close who did not go."""
        if self._max_age is None:
            return
        now = self._now()
        since = now - _FROM * self._max_age
        within = min(_LONGEST, _WITHIN * self._max_age)
        due = []
        with self._lock:
            for eio_sid, (opened, at) in self._ages.items():
                if opened > since:
                    break
                if at <= now:
                    due.append(eio_sid)
            late = [eio_sid for eio_sid, end in self._leaving.items() if end <= now]
            for eio_sid in due:
                opened, _ = self._ages.pop(eio_sid)
                # Looked at once more before it is too old.
                latest = opened + self._max_age - (self.look_every or 0.0)
                self._leaving[eio_sid] = min(now + _GRACE * within, latest)
            for eio_sid in late:
                del self._leaving[eio_sid]
        manager = self._server.manager
        sids = [manager.sid_from_eio_sid(eio_sid, NAMESPACE) for eio_sid in due]
        self._ask(sids, within)
        for eio_sid in late:
            self.close(eio_sid)

    def ask_all(self, within: float) -> None:
        """Ask everybody who was not asked so before to come back elsewhere.

        Args:
            within: Seconds.
        """
        sockets = self._server.eio.sockets
        # Who is only just entering can't be told anything yet: is asked the next time.
        sids = [
            sid
            for sid, eio_sid in self._server.manager.get_participants(NAMESPACE, None)
            if sid not in self._asked
            and getattr(sockets.get(eio_sid), "entered", False)
        ]
        self._asked.update(sids)
        self._ask(sids, within)

    def _ask(self, sids: Iterable[str | None], within: float) -> None:
        known = [sid for sid in sids if sid is not None]
        if known:
            self._fanout.write(known, [self._fanout.reconnect_frame(within)])

    def connections(self) -> list[str]:
        """Return the sessions that are open."""
        sockets: dict[str, Any] = self._server.eio.sockets
        return [sid for sid, socket in list(sockets.items()) if not socket.closed]

    def close(self, eio_sid: str) -> None:
        """End a session; its client comes back at once, elsewhere."""
        # By Engine.IO: after a DISCONNECT of Socket.IO's, clients stay away for good.
        socket = self._server.eio.sockets.get(eio_sid)
        if socket is not None:
            socket.close(wait=False)
