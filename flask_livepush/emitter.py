"""The one way in: whoever has something to say in a room says it through an emitter.

It needs no Flask app, no session and no subscriber; it knows only what goes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .brokers.logins import Recheck
from .errors import BrokerError, PublicationTooLarge
from .failures import Failure, Failures
from .logs import logger
from .metrics import OFF, Metrics
from .outgoing import Outgoing, Receipt, is_stale
from .protocol.batch import Batch
from .protocol.encoding import encode
from .protocol.publication import (
    Draft,
    Position,
    check_event,
    check_sizes,
    invalidated,
)

log = logger(__name__)

# What one commit may send to one room, in publications and in characters: Redis takes
# it in one step, in which it does nothing else, and each process that serves the room
# gets it in one go. With more the room reads its rows anew.
_MAX_DRAFTS = 10_000
_MAX_TEXT = 8 * 1024 * 1024

Rooms = Mapping[str, Sequence[Draft]]
Answers = Mapping[str, Receipt | Exception]


class Emitter:
    """Hands drafts on.

    Args:
        outgoing: Where they go.
        metrics: Counts them.
        patience: Returns how many seconds a commit of the moment may wait until what it
            has for all rooms is told; a view never does.
        failures: Takes note of what is not published as it was meant.
        recheck: Has subscriptions asked about again, in every process; it never blocks.
    """

    def __init__(
        self,
        outgoing: Outgoing,
        *,
        metrics: Metrics = OFF,
        patience: Callable[[], float] = lambda: 0.0,
        failures: Failures | None = None,
        recheck: Callable[[Sequence[Recheck]], None] = lambda orders: None,
    ) -> None:
        self._outgoing = outgoing
        self._ask_again = recheck
        self._metrics = metrics
        self._patience = patience
        self._failures = failures or Failures()

    def draft(self, event: str, data: Any) -> Draft:
        """Check and encode an application's event.

        Raises:
            UsageError: The event's name is reserved or no name.
            EncodingError: The data can't be sent to a browser.
        """
        return Draft(check_event(event), encode(data))

    def publish(self, room: str, drafts: Sequence[Draft]) -> Receipt:
        """Publish drafts, contiguous, or let them wait for a broker that is away.

        Raises:
            BrokerError: The broker refuses them.
        """
        started = self._metrics.start()
        try:
            receipt = self._outgoing.publish(room, drafts)
        except PublicationTooLarge:
            # It was not handed over; the caller knows what becomes of it.
            self._metrics.count("drops_total", "too_large", len(drafts))
            raise
        except Exception as error:
            self._handed_over({room: drafts}, {room: error}, started)
            raise
        self._handed_over({room: drafts}, {room: receipt}, started)
        return receipt

    def publish_batch(self, batch: Batch) -> dict[str, Position]:
        """Publish what a commit pushes; no error is raised, since the commit is done.

        Somebody else's BaseException, such as gevent's ``Timeout``, passes through when
        all that was not published waits for the sender.

        Returns:
            Where each room stands after it that the broker took.
        """
        positions: dict[str, Position] = {}
        told: set[str] = set()
        self._recheck(batch)
        try:
            rooms = self._rooms_of(batch)
            self._publish_rooms(rooms, positions, batch.since, told=told)
        except Exception:
            log.exception("Publishing a commit failed")
        except BaseException:
            self._tell_everywhere(batch, told)
            raise
        self._tell_everywhere(batch, told, patience=self._patience())
        return positions

    def publish_later(self, batch: Batch) -> None:
        """Let the sender publish what is known of a commit; it never raises an error.

        For whoever is interrupted before a commit's batch is complete: the broker is
        not asked, and nothing is waited for.
        """
        told: set[str] = set()
        self._recheck(batch)
        try:
            rooms = self._rooms_of(batch)
            while rooms:
                answers = self._outgoing.publish_later(rooms)
                self._count(rooms, answers)
                told.update(r for r, a in answers.items() if isinstance(a, Receipt))
                rooms = self._too_large(rooms, answers)
        except Exception:
            log.exception("Putting off what a commit pushes failed")
        self._tell_everywhere(batch, told)

    def _recheck(self, batch: Batch) -> None:
        """Have rights asked about again: first of all, as it waits for nobody."""
        orders = batch.rechecks
        if not orders:
            return
        try:
            self._ask_again(orders)
        except Exception:
            log.exception("Asking again for rights failed; it is done in time anyway")

    def _rooms_of(self, batch: Batch) -> dict[str, list[Draft]]:
        """Return the drafts of each room that a commit names.

        Of what is stale everywhere too: what one commit has for a room is contiguous.
        """
        rooms = _bounded(batch.rooms())
        for stale in batch.everywhere:
            told = invalidated(stale.kind)
            for room, drafts in rooms.items():
                if told not in drafts and is_stale(stale, room):
                    drafts.append(told)
        return rooms

    def _tell_everywhere(
        self, batch: Batch, told: set[str], *, patience: float = 0.0
    ) -> None:
        """Have all rooms told what a commit has for all, but for those that know."""
        if not batch.everywhere:
            return
        try:
            self._outgoing.tell_everywhere(batch.everywhere, told=frozenset(told))
            if patience > 0:
                self._outgoing.wait_until_told(patience)
        except Exception:
            log.exception("Telling all rooms of a commit failed")

    def _publish_rooms(
        self,
        rooms: Rooms,
        positions: dict[str, Position],
        since: float | None,
        *,
        told: set[str],
    ) -> None:
        """Publish to the rooms of a commit.

        Args:
            positions: Gets where rooms stand after it.
            told: Gets the rooms that have it, or will.
        """
        if not rooms:
            return
        started = self._metrics.start()
        answers = self._outgoing.publish_all(rooms, since=since)
        self._handed_over(rooms, answers, started)
        refused, taken = [], 0
        for room, answer in answers.items():
            if isinstance(answer, Receipt):
                taken += 1
                told.add(room)
                if answer.position is not None:
                    positions[room] = answer.position
            elif not isinstance(answer, PublicationTooLarge):
                refused.append(answer)
        if taken == len(answers):
            return
        if refused:
            error = refused[0]
            why = str(error) if isinstance(error, BrokerError) else type(error).__name__
            reason = (
                f"Publishing a commit failed in {len(refused)} of {len(rooms)} rooms: "
                f"{why}"
            )
            self._failures.note(("refused", why), Failure(reason))
        smaller = self._too_large(rooms, answers)
        self._publish_rooms(smaller, positions, since, told=told)

    def _too_large(self, rooms: Rooms, answers: Answers) -> dict[str, list[Draft]]:
        """Return what takes the place of what was too large, in its rooms."""
        errors = {
            room: answer
            for room, answer in answers.items()
            if isinstance(answer, PublicationTooLarge)
        }
        for error in list(errors.values())[:1]:
            reason = f"A change is told as its kind being stale: {error}"
            self._failures.note("too large", Failure(reason))
        return {room: self._smaller(rooms[room]) for room in errors}

    def _smaller(self, drafts: Sequence[Draft]) -> list[Draft]:
        """Return the drafts without those that are too large; their kinds are stale.

        An application's own event that is too large is gone.
        """
        kept = []
        for draft in drafts:
            try:
                check_sizes([draft], self._outgoing.max_publication_bytes)
                kept.append(draft)
            except PublicationTooLarge:
                self._metrics.count("drops_total", "too_large")
                if draft.kind is not None:
                    kept.append(invalidated(draft.kind))
        return kept

    # -- what became of it ---------------------------------------------------------

    def _handed_over(self, rooms: Rooms, answers: Answers, started: float) -> None:
        """Count what became of drafts, and how fast."""
        if not self._metrics.on:
            return
        if any(not isinstance(a, PublicationTooLarge) for a in answers.values()):
            self._metrics.took("publish_seconds", started)
        self._count(rooms, answers)

    def _count(self, rooms: Rooms, answers: Answers) -> None:
        for room, answer in answers.items():
            amount = len(rooms[room])
            if isinstance(answer, PublicationTooLarge):
                continue  # it was not handed over
            if not isinstance(answer, Receipt):
                self._metrics.count("publications_total", "failed", amount)
                continue
            self._metrics.count("publications_total", answer.outcome, amount)
            if answer.outcome == "dropped":
                self._metrics.count("drops_total", "queue_full", amount)


def _bounded(rooms: dict[str, list[Draft]]) -> dict[str, list[Draft]]:
    """Let rooms read anew that would be sent more than they should be at once."""
    for room, drafts in rooms.items():
        if _is_much(drafts):
            rooms[room] = _stale(drafts)
    return rooms


def _is_much(drafts: Sequence[Draft]) -> bool:
    if len(drafts) > _MAX_DRAFTS:
        return True
    return sum(len(draft.data) for draft in drafts) > _MAX_TEXT


def _stale(drafts: Iterable[Draft]) -> list[Draft]:
    """Return an application's own events, and of rows that their kinds are stale."""
    found: dict[Draft | int, Draft] = {}
    for number, draft in enumerate(drafts):
        if draft.kind is None:
            found[number] = draft
        else:
            stale = invalidated(draft.kind)
            found[stale] = stale
    return list(found.values())
