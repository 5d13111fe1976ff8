"""The one way in: whoever has something to say in a room says it through an emitter.

It needs no Flask app, no session and no subscriber; it knows only what goes out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from .errors import BrokerError, PublicationTooLarge
from .metrics import OFF, Metrics
from .outgoing import Outgoing, Receipt
from .protocol.batch import Batch, Everywhere
from .protocol.encoding import encode
from .protocol.publication import (
    Draft,
    Position,
    check_event,
    check_sizes,
    invalidated,
)

log = logging.getLogger(__name__)


class Emitter:
    """Hands drafts on.

    Args:
        outgoing: Where they go.
        metrics: Counts them.
    """

    def __init__(self, outgoing: Outgoing, *, metrics: Metrics = OFF) -> None:
        self._outgoing = outgoing
        self._metrics = metrics

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
        try:
            return self._hand_over(room, drafts)
        except PublicationTooLarge:
            self._metrics.count("drops_total", "too_large", len(drafts))
            raise

    def _hand_over(
        self, room: str, drafts: Sequence[Draft], *, since: float | None = None
    ) -> Receipt:
        """Hand the drafts on; count what became of them, and how fast."""
        started = self._metrics.start()
        try:
            receipt = self._outgoing.publish(room, drafts, since=since)
        except PublicationTooLarge:
            raise  # it was not handed over; the caller knows what becomes of it
        except Exception:
            self._handed_over("failed", drafts, started)
            raise
        self._handed_over(receipt.outcome, drafts, started)
        return receipt

    def _handed_over(
        self, outcome: str, drafts: Sequence[Draft], started: float
    ) -> None:
        self._metrics.took("publish_seconds", started)
        self._metrics.count("publications_total", outcome, len(drafts))
        if outcome == "dropped":
            self._metrics.count("drops_total", "queue_full", len(drafts))

    def publish_batch(self, batch: Batch) -> dict[str, Position]:
        """Publish what a commit pushes; never raises, since the commit is done.

        Returns:
            Where each room stands after it that the broker took.
        """
        rooms = batch.rooms()
        for stale in batch.everywhere:
            told = invalidated(stale.kind)
            for room in self._rooms_of(stale):
                drafts = rooms.setdefault(room, [])
                if told not in drafts:
                    drafts.append(told)
        positions: dict[str, Position] = {}
        for room, drafts in rooms.items():
            self._try_publish(room, drafts, positions, since=batch.since)
        return positions

    def _try_publish(
        self,
        room: str,
        drafts: Sequence[Draft],
        positions: dict[str, Position],
        *,
        since: float | None,
    ) -> None:
        try:
            receipt = self._hand_over(room, drafts, since=since)
            if receipt.position is not None:
                positions[room] = receipt.position
        except PublicationTooLarge as error:
            log.error("A change is told as its kind being stale: %s", error)
            self._try_publish(room, self._smaller(drafts), positions, since=since)
        except BrokerError as error:
            log.error("Publishing a commit failed: %s", error)
        except Exception:
            log.exception("Publishing a commit failed")

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

    def _rooms_of(self, stale: Everywhere) -> list[str]:
        try:
            return self._outgoing.rooms_of(stale)
        except Exception:
            log.exception("Asking for the live rooms failed")
            return []
