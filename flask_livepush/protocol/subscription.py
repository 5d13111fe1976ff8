"""One subscriber in one room: what may be written to it, and when.

The rule: after its position was vouched for, a subscriber gets every publication once
and in order; where that can't be kept, it gets nothing until its position is vouched
for again. Driven under the lock of whoever holds it; it never writes itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from .publication import Position, Publication


class Subscription:
    """The state of one subscriber in one room.

    It begins *holding*: what arrives is kept back until :meth:`resume` says where the
    subscriber stands. Then it is *live*, until a gap makes it hold again.

    Args:
        sid: The subscriber.
        room: The room's name.
        max_held: How many publications are kept back; past it they are let go, and
            :meth:`resume` finds the gap.
    """

    __slots__ = (
        "_doubted",
        "_held",
        "_max_held",
        "answered",
        "holding",
        "position",
        "presence",
        "revoked",
        "room",
        "sid",
        "user",
    )

    def __init__(self, sid: str, room: str, *, max_held: int) -> None:
        self.sid = sid
        self.room = room
        self.holding = True
        self.position = Position("", 0)
        #: The id of its user; None: an anonymous visitor.
        self.user: str | None = None
        #: Whether its subscribe was answered, and whether it asked who is there.
        self.answered = False
        self.presence = False
        #: Whether it has ended since it may not be any more.
        self.revoked = False
        self._max_held = max_held
        self._doubted = False
        self._held: list[tuple[str, Publication]] = []

    @property
    def begun(self) -> bool:
        """Whether it has ever been live, so that its subscribe has been answered."""
        return bool(self.position.epoch)

    def receive(
        self,
        epoch: str,
        publications: Sequence[Publication],
        end: Position | None = None,
    ) -> Sequence[Publication]:
        """Take what the broker delivered and return what may be written now.

        Finding a gap, or another epoch, it begins to hold; the caller looks at
        ``holding`` afterwards and has the position vouched for again.

        Args:
            end: Where the last one stands, made once for many subscribers.

        Returns:
            The same sequence when all of it may be written.
        """
        position = self.position
        if (
            not self.holding
            and epoch == position.epoch
            and publications[0].offset == position.offset + 1
            and publications[-1].offset == position.offset + len(publications)
        ):  # by far the most frequent case: the next ones, in order
            self.position = end or Position(epoch, publications[-1].offset)
            return publications
        ready: list[Publication] = []
        for publication in publications:
            if not self.holding and not self._follows(epoch, publication):
                self.holding = True
            if self.holding:
                self._hold(epoch, publication)
            elif publication.offset == self.position.offset + 1:
                ready.append(publication)
                self.position = Position(epoch, publication.offset)
        return ready

    def doubt(self) -> bool:
        """Take notice that something may be missing; True if it was live.

        A subscription that holds already may have been told where it stands before the
        doubt came up: :meth:`resume` leaves it holding once more.
        """
        was_live = not self.holding
        self.holding = True
        self._doubted = not was_live
        return was_live

    def resume(
        self, position: Position, publications: Sequence[Publication]
    ) -> Sequence[Publication]:
        """Go live from a position that is vouched for.

        Args:
            position: Where the subscriber stands.
            publications: What the history has after it, from position.offset + 1 on.

        Returns:
            What is to be written, in order: the history's and what was held. When what
            was held does not follow, or :meth:`doubt` was called meanwhile, ``holding``
            is true again.
        """
        held, self._held = self._held, []
        self.position = position
        self.holding = False
        ready = list(publications)
        if ready:
            self.position = Position(position.epoch, ready[-1].offset)
        for epoch, publication in held:
            ready.extend(self.receive(epoch, (publication,)))
        if self._doubted:
            self._doubted = False
            self.holding = True
        return ready

    def _follows(self, epoch: str, publication: Publication) -> bool:
        return (
            epoch == self.position.epoch
            and publication.offset <= self.position.offset + 1
        )

    def _hold(self, epoch: str, publication: Publication) -> None:
        if len(self._held) >= self._max_held:
            self._held.clear()
        self._held.append((epoch, publication))
