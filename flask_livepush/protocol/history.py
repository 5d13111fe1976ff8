"""One room's history: its order, what it keeps, and which versions of rows are stale.

Driven by one caller at a time; the clock is an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice

from .publication import INVALIDATED, Draft, Position, Publication, invalidated


class RoomHistory:
    """The publications of one epoch of one room, and the latest stamp of its rows.

    Args:
        epoch: The id of this history.
        size: How many publications are kept, 0 or more.
        ttl: Seconds a publication and a row's stamp are kept.
        max_rows: How many rows' stamps are kept.
    """

    __slots__ = ("_floors", "_kept", "_max_rows", "_size", "_stamps", "_ttl", "born",
                 "epoch", "offset", "stale", "used")  # fmt: skip

    def __init__(
        self, epoch: str, *, size: int, ttl: float, max_rows: int = 10_000
    ) -> None:
        self.epoch = epoch
        self.offset = 0
        # When the room was last read or published to, for whoever forgets rooms.
        self.used = 0.0
        # When it began, as whoever keeps it counts.
        self.born = 0
        # How many drafts were dropped since a newer version had been published.
        self.stale = 0
        self._size = size
        self._ttl = ttl
        self._max_rows = max_rows
        self._kept: deque[tuple[float, Publication]] = deque()
        # (kind, key) -> (stamp, when), the longest untouched first.
        self._stamps: dict[tuple[str, str], tuple[int, float]] = {}
        # kind -> the highest stamp that was forgotten: what is not above it, of a row
        # that is not remembered, may be older than what was shown.
        self._floors: dict[str, int] = {}

    @property
    def position(self) -> Position:
        """Where the room stands."""
        return Position(self.epoch, self.offset)

    def append(self, drafts: Sequence[Draft], now: float) -> list[Publication]:
        """Accept the drafts of one commit, contiguous, and return what they became.

        A draft that is not above its row's last stamp is dropped: a newer version has
        been published. One that can't be compared any more becomes ``invalidated``.

        Args:
            now: Seconds of a clock that never falls.
        """
        self._expire(now)
        accepted = [d for d in (self._judge(draft, now) for draft in drafts) if d]
        unique = _told_once(accepted)
        publications = [
            Publication(self.offset + i, d.event, d.data, d.stamp, more=i < len(unique))
            for i, d in enumerate(unique, start=1)
        ]
        self.offset += len(publications)
        self._kept.extend((now, p) for p in publications)
        while len(self._kept) > self._size:
            self._kept.popleft()
        return publications

    def since(self, position: Position, now: float) -> list[Publication] | None:
        """Return everything after the position, in order, or None: unrecoverable.

        Never a part: where one publication is missing, the answer is None.
        """
        self._expire(now)
        missed = self.offset - position.offset
        if position.epoch != self.epoch or not 0 <= missed <= len(self._kept):
            return None
        start = len(self._kept) - missed
        return [publication for _, publication in islice(self._kept, start, None)]

    def _judge(self, draft: Draft, now: float) -> Draft | None:
        if draft.stamp is None or draft.kind is None or draft.key is None:
            return draft
        row = (draft.kind, draft.key)
        last = self._stamps.pop(row, None)
        if last is not None and draft.stamp <= last[0]:
            self._stamps[row] = (last[0], now)
            self.stale += 1
            return None
        if last is None and draft.stamp <= self._floors.get(draft.kind, -1):
            return invalidated(draft.kind)
        self._stamps[row] = (draft.stamp, now)
        if len(self._stamps) > self._max_rows:
            self._forget(next(iter(self._stamps)))
        return draft

    def _expire(self, now: float) -> None:
        while self._kept and now - self._kept[0][0] > self._ttl:
            self._kept.popleft()
        while self._stamps:
            row, (_, when) = next(iter(self._stamps.items()))
            if now - when <= self._ttl:
                break
            self._forget(row)

    def _forget(self, row: tuple[str, str]) -> None:
        stamp, _ = self._stamps.pop(row)
        self._floors[row[0]] = max(stamp, self._floors.get(row[0], stamp))


def _told_once(drafts: list[Draft]) -> list[Draft]:
    """Fold what says the same twice; an application's own events are kept."""
    told = set()
    kept = []
    for draft in drafts:
        if draft.event.endswith(f".{INVALIDATED}"):
            if draft in told:
                continue
            told.add(draft)
        kept.append(draft)
    return kept
