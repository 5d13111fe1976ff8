"""What one commit pushes, room by room, in the order in which it is pushed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from .publication import INVALIDATED, Draft, invalidated

if TYPE_CHECKING:
    from ..brokers.logins import Recheck

# Orders to ask again that one commit may give for one kind of room; with more, all
# subscriptions of that kind are asked about.
_MAX_RECHECKS = 1_000


@dataclass(frozen=True, slots=True)
class Everywhere:
    """A kind that is stale in every room of which ``matches`` says so."""

    kind: str
    matches: Callable[[str], bool]


class Batch:
    """Collects the drafts of one commit.

    In each room deletions come first, then puts, then events, each in the order given.
    A row that is deleted and put in one room is put alone: another row may have taken
    its key in the same commit, and both carry stamps of the same moment.

    Args:
        since: A moment before the commit, in seconds of the process's monotonic clock;
            None: there was none that rows were committed by.
    """

    __slots__ = ("_deletes", "_events", "_puts", "_rechecks", "everywhere", "since")

    def __init__(self, since: float | None = None) -> None:
        self.since = since
        self._deletes: dict[str, dict[tuple[str | None, str | None], Draft]] = {}
        self._puts: dict[str, dict[tuple[str | None, str | None], Draft]] = {}
        self._events: dict[str, list[Draft]] = {}
        self._rechecks: dict[Recheck, dict[Recheck, None]] = {}
        self.everywhere: list[Everywhere] = []

    def delete(self, room: str, draft: Draft) -> None:
        """Let a row leave a room."""
        self._deletes.setdefault(room, {})[draft.kind, draft.key] = draft

    def put(self, room: str, draft: Draft) -> None:
        """Let a row enter a room, or change in it."""
        self._puts.setdefault(room, {})[draft.kind, draft.key] = draft

    def event(self, room: str, draft: Draft) -> None:
        """Add an application's event."""
        self._add(room, draft)

    def invalidate(self, room: str, kind: str) -> None:
        """Tell a room to read a kind anew."""
        self._add(room, invalidated(kind))

    def invalidate_everywhere(self, kind: str, matches: Callable[[str], bool]) -> None:
        """Tell every room that matches to read a kind anew."""
        stale = Everywhere(kind, matches)
        if stale not in self.everywhere:
            self.everywhere.append(stale)

    def recheck(self, order: Recheck, *, whole: Recheck) -> None:
        """Have subscriptions asked about again.

        Args:
            whole: Covers this order and all that are like it, and is given in their
                place where there are too many.
        """
        orders = self._rechecks.setdefault(whole, {})
        if whole in orders:
            return
        orders[order] = None
        if order == whole or len(orders) > _MAX_RECHECKS:
            self._rechecks[whole] = {whole: None}

    @property
    def rechecks(self) -> list[Recheck]:
        """What is to be asked about again, each once."""
        found = (order for orders in self._rechecks.values() for order in orders)
        return list(dict.fromkeys(found))

    def include(self, other: Batch) -> None:
        """Add all that another batch has."""
        for whole, orders in other._rechecks.items():
            for order in orders:
                self.recheck(order, whole=whole)
        for room, rows in other._deletes.items():
            self._deletes.setdefault(room, {}).update(rows)
        for room, rows in other._puts.items():
            self._puts.setdefault(room, {}).update(rows)
        for room, drafts in other._events.items():
            for draft in drafts:
                self._add(room, draft)
        for stale in other.everywhere:
            self.invalidate_everywhere(stale.kind, stale.matches)

    def doubted(self) -> Batch:
        """Return what tells the same rooms to read anew, showing nothing itself.

        An application's own events are left out; rights are asked about all the same.
        """
        batch = Batch()
        batch._rechecks = {whole: dict(o) for whole, o in self._rechecks.items()}
        batch.everywhere = list(self.everywhere)
        for room, drafts in self.rooms().items():
            for draft in drafts:
                if draft.kind is not None:
                    batch.invalidate(room, draft.kind)
                elif draft.event.endswith(f".{INVALIDATED}"):
                    batch.event(room, draft)
        return batch

    def _add(self, room: str, draft: Draft) -> None:
        drafts = self._events.setdefault(room, [])
        # To be told once is enough; an application's events are not ours to fold.
        if not draft.event.endswith(f".{INVALIDATED}") or draft not in drafts:
            drafts.append(draft)

    def rooms(self) -> dict[str, list[Draft]]:
        """Return the drafts of each room; none is empty."""
        names = dict.fromkeys((*self._deletes, *self._puts, *self._events))
        return {name: self._drafts(name) for name in names}

    def _drafts(self, room: str) -> list[Draft]:
        deletes = dict(self._deletes.get(room, {}))
        puts = []
        for row, draft in self._puts.get(room, {}).items():
            if deletes.pop(row, None) is not None:
                draft = replace(draft, event=f"{draft.kind}.updated")
            puts.append(draft)
        return [*deletes.values(), *puts, *self._events.get(room, ())]
