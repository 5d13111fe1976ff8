"""The presence store inside one process, beside the broker that is inside it too."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence

from ..errors import BrokerError
from ..protocol.relayed import Moved
from .base import SILENT, Change, Listing, PresenceStore


class _List:
    __slots__ = ("entries", "epoch", "number")

    def __init__(self) -> None:
        self.epoch = secrets.token_urlsafe(9)
        self.number = 0
        self.entries: dict[str, dict[str, str]] = {}

    @property
    def version(self) -> str:
        return f"{self.epoch}:{self.number}" if self.number else ""

    def users(self) -> set[str]:
        return {user for users in self.entries.values() for user in users}


class MemoryPresence(PresenceStore):
    """A store whose lists live in this process.

    Args:
        now: Seconds of a clock that never falls.
    """

    def __init__(self, *, now: Callable[[], float]) -> None:
        self._now = now
        self._lock = threading.Lock()  # guards everything below
        self._beats: dict[str, float] = {}
        self._lists: dict[str, _List] = {}

    def beat(self, node: str | None, *, lasts: float | None = None) -> set[str]:
        now = self._now()
        with self._lock:
            if node is not None:
                self._beats[node] = now + (SILENT if lasts is None else lasts)
            self._beats = {n: end for n, end in self._beats.items() if now < end}
            return set(self._beats)

    def change(self, changes: Sequence[Change]) -> list[Moved | BrokerError]:
        with self._lock:
            return [self._change(change) for change in changes]

    def read(self, rooms: Sequence[str]) -> list[Listing | BrokerError]:
        with self._lock:
            found = [self._lists.get(room) for room in rooms]
            return [
                Listing("", {})
                if a_list is None
                else Listing(
                    a_list.version,
                    {node: dict(users) for node, users in a_list.entries.items()},
                )
                for a_list in found
            ]

    def versions(self, rooms: Sequence[str]) -> list[str | BrokerError]:
        with self._lock:
            found = [self._lists.get(room) for room in rooms]
            return ["" if a_list is None else a_list.version for a_list in found]

    def _change(self, change: Change) -> Moved:
        a_list = self._lists.setdefault(change.room, _List())
        was, before = a_list.version, a_list.users()
        users = a_list.entries.setdefault(change.node, {})
        unchanged = dict(users)
        users.update(change.joined)
        for user in change.left:
            users.pop(user, None)
        if users != unchanged:
            a_list.number += 1
        if not users:
            del a_list.entries[change.node]
        version, after = a_list.version, a_list.users()
        if not a_list.entries:
            del self._lists[change.room]
        return Moved(
            change.node,
            was,
            version,
            {u: info for u, info in change.joined.items() if u in after - before},
            tuple(user for user in change.left if user in before - after),
        )
