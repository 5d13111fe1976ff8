"""Which rooms of Socket.IO a connection is in, known without looking through them all.

Each connection is in a room of its own, so python-socketio's manager, which looks
through all rooms when one goes, takes longer with each: at 9,000 connections half a
millisecond for one that goes, and seconds for all.
"""

from __future__ import annotations

from typing import Any

import socketio


def index_rooms(manager: socketio.Manager) -> None:
    """Let a manager know each connection's rooms; it does what it did, faster."""
    _Index(manager)


class _Index:
    def __init__(self, manager: Any) -> None:
        self._manager = manager
        # By namespace and sid. Changed where the manager's own rooms are, and no more
        # guarded than they are.
        self._rooms: dict[tuple[str, str], set[Any]] = {}
        self._enter = manager.basic_enter_room
        self._leave = manager.basic_leave_room
        manager.basic_enter_room = self.enter
        manager.basic_leave_room = self.leave
        manager.basic_disconnect = self.disconnect
        manager.get_rooms = self.rooms

    def enter(
        self, sid: str, namespace: str, room: Any, eio_sid: str | None = None
    ) -> None:
        self._enter(sid, namespace, room, eio_sid=eio_sid)
        self._rooms.setdefault((namespace, sid), set()).add(room)

    def leave(self, sid: str, namespace: str, room: Any) -> None:
        self._leave(sid, namespace, room)
        rooms = self._rooms.get((namespace, sid))
        if rooms is not None:
            rooms.discard(room)
            if not rooms:
                self._rooms.pop((namespace, sid), None)

    def rooms(self, sid: str, namespace: str) -> list[Any]:
        found = self._rooms.get((namespace, sid), ())
        return [room for room in tuple(found) if room is not None]

    def disconnect(self, sid: str, namespace: str, **kwargs: Any) -> None:
        # What the manager's own does, but for looking into each room.
        manager = self._manager
        if namespace not in manager.rooms:
            return
        for room in tuple(self._rooms.pop((namespace, sid), ())):
            self._leave(sid, namespace, room)
        manager.callbacks.pop(sid, None)
        for pending in (manager.pending_connect, manager.pending_disconnect):
            sids = pending.get(namespace, ())
            if sid in sids:
                sids.remove(sid)
                if not sids:
                    pending.pop(namespace, None)
