"""The contract of a broker: one order per room, a history, and delivery to this node.

A broker knows rooms by name and payloads as JSON text; who subscribes and why is not
its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from ..errors import BrokerError, BrokerUnavailable
from ..protocol.publication import (
    ONCE,
    Attempt,
    Draft,
    Parcel,
    Position,
    Publication,
)


class Listener(Protocol):
    """What a node gives its broker.

    Called from the broker's listeners: for one room one call at a time, in order.
    """

    def deliver(
        self, room: str, epoch: str, publications: Sequence[Publication]
    ) -> None:
        """Take publications of one room, in the room's order."""

    def mend(self, room: str) -> None:
        """Take notice that publications of the room may be missing."""

    def relayed(self, room: str, message: str) -> None:
        """Take what a node has relayed to the room."""


@dataclass(frozen=True, slots=True)
class History:
    """An answer of :meth:`Broker.history`.

    Args:
        position: Where the room stands now.
        publications: All after the position asked for, in order, or None when one of
            them is gone or the epoch is another.
        start: The position asked for, in the room's epoch: another one only where the
            room had no epoch then. None where there are no publications.
    """

    position: Position
    publications: list[Publication] | None
    start: Position | None = None


@dataclass(frozen=True, slots=True)
class Listed:
    """An answer of :meth:`Broker.list_rooms`.

    Args:
        rooms: The names that were found.
        left: The parts of the list that could not be read, as numbers.
        error: Why; None: nothing is left.
    """

    rooms: Collection[str]
    left: frozenset[int] = frozenset()
    error: BrokerError | None = None


class Broker(ABC):
    """Carries publications between nodes and keeps their history.

    The guarantees: the publications of a room have one order, everywhere; those of one
    :meth:`publish` are contiguous; what :meth:`history` returned and what is delivered
    afterwards have no hole between them once :meth:`confirm` has returned. Delivery,
    also of the publisher's own, is by the listener alone.

    All methods may be called from any thread or greenlet. Their errors are
    :class:`~flask_livepush.errors.BrokerError`.
    """

    #: What a publication may have, its event and data together, in UTF-8.
    max_bytes: int

    @abstractmethod
    def listen(self, listener: Listener) -> None:
        """Deliver to this listener from now on; called once, before anything else."""

    @abstractmethod
    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        """Accept the drafts of one commit in one room and return where it then stands.

        Accepting gives offsets, drops what is stale by its stamp, sets ``more``,
        appends to the history and delivers, as one step that nothing comes between.
        What was accepted before under the attempt's id, and is in the history yet, is
        not accepted again. Versions of rows that are older than what the broker
        remembers become ``<kind>.invalidated``; of those that have waited in queues,
        what was told after they were committed is not told again.

        Args:
            attempt: Its moments are of the clock that the broker was handed.

        Raises:
            PublicationTooLarge: A draft is larger than it may be; none is accepted.
            BrokerUnavailable: They may have been accepted, or may be yet.
        """

    def publish_all(
        self, parcels: Sequence[Parcel]
    ) -> Iterator[tuple[int, Position | Exception]]:
        """Publish to several rooms together, each as :meth:`publish` does.

        What fails in one room is no other room's business. Where rooms share a server
        they go to it in one pipeline, and the whole takes seconds at most.

        Args:
            parcels: Of different rooms.

        Yields:
            The number of a parcel with what :meth:`publish` would have returned or
            raised, in any order. It may end before all have an answer, when the broker
            is away or too slow: the others were not handed over. If it raises instead,
            nobody knows that of them.
        """
        for number, parcel in enumerate(parcels):
            answer: Position | Exception
            try:
                answer = self.publish(
                    parcel.room, parcel.drafts, attempt=parcel.attempt
                )
            except Exception as error:  # noqa: BLE001
                answer = error
            yield number, answer
            if isinstance(answer, BrokerUnavailable):
                return

    @abstractmethod
    def ping(self, room: str) -> None:
        """Return if what has the room answers; it changes nothing.

        Args:
            room: A room's name; empty: any.

        Raises:
            BrokerUnavailable: It does not.
        """

    @abstractmethod
    def relay(self, room: str, message: str) -> None:
        """Pass a message to every node that serves a room, this one too.

        At most once: it has no offset and no place in the history, and is lost where
        nobody listens, or where the listener has too much waiting.
        """

    @abstractmethod
    def position(self, room: str, *, patient: bool = False) -> Position:
        """Return where a room stands; nothing is made for one that has no epoch yet.

        Such a room has a position too: "none at this time". Everything follows it of
        an epoch that has begun since, whose history still has its first publication,
        if all rooms were told nothing meanwhile. The epoch begins when something is
        published, when a subscription is confirmed, or when the history is read. That
        of a room that was published to is kept for at least a day longer than its
        history, and as long as any node serves the room.

        Args:
            patient: Wait for seconds, not only for as long as a view may, and not in
                the way of views.
        """

    @abstractmethod
    def history(self, room: str, since: Position) -> History:
        """Return everything after a position, or say that it can't be had.

        The room has an epoch from then on.
        """

    @abstractmethod
    def rooms(self, *, patient: bool = True) -> list[str]:
        """Return the names of all rooms somebody may hold a position of.

        Args:
            patient: Wait for seconds, not only for as long as a view may.
        """

    def list_rooms(self, left: frozenset[int] | None = None) -> Listed:
        """Return what :meth:`rooms` does, as far as it can be read, with patience.

        Args:
            left: The parts that could not be read before; None: all parts.
        """
        try:
            return Listed(self.rooms())
        except BrokerError as error:
            return Listed((), frozenset({0}), error)

    def shard(self, room: str) -> Hashable:
        """Return which of several servers has a room, as far as is known.

        What one of them does not take is no other one's business. Asks nobody.
        """
        return None

    @abstractmethod
    def subscribe(self, room: str) -> None:
        """Want this room's publications delivered. Never blocks; may be repeated."""

    @abstractmethod
    def confirm(self, room: str) -> None:
        """Wait until what is published in a subscribed room will be delivered."""

    @abstractmethod
    def unsubscribe(self, room: str) -> None:
        """Want this room's publications no more. Never blocks; may be repeated."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held; nothing is delivered any more."""
