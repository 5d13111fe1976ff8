"""The contract of a presence store: which node has which users in which room.

It knows no connections and announces nothing; what changed is told by whoever changed
it. Who is here, in all, is what the nodes that give signs of life have entered.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from ..errors import BrokerError
from ..protocol.relayed import Moved, Users

#: Seconds without a sign of life after which a node counts as gone.
SILENT = 10.0
#: Seconds a room's list is kept after the last time that somebody asked for it.
KEPT = 300.0


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one node's users in one room.

    Args:
        joined: Users to enter; one that is entered already gets the new information.
        left: Ids of users to take out; one that is not entered is passed over.
    """

    room: str
    node: str
    joined: Users = field(default_factory=dict)
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """A room's list.

    Args:
        version: Differs for each list there ever was; empty: nobody ever entered.
        entries: By node, its users.
    """

    version: str
    entries: Mapping[str, Users]


class PresenceStore(ABC):
    """Keeps the lists of rooms.

    A version is ``<epoch>:<number>``; the number grows by one with each change of a
    list, and a list that was lost begins another epoch. All methods may be called from
    any thread or greenlet, and take many rooms at once so that many cost one round
    trip. Their errors are :class:`~flask_livepush.errors.BrokerError`; what fails in
    one room is in its place among the answers, and no other room's business.
    """

    @abstractmethod
    def beat(self, node: str | None, *, lasts: float | None = None) -> set[str]:
        """Note a node's sign of life, if one is given; return the nodes that live.

        Args:
            lasts: Seconds after which the node counts as gone, if it is the last sign;
                None: :data:`SILENT`.
        """

    @abstractmethod
    def change(self, changes: Sequence[Change]) -> list[Moved | BrokerError]:
        """Do changes, each as one step.

        Returns:
            For each what became of the room: a user that another node has too neither
            joined nor left. If nothing changed, ``was`` is ``version``.
        """

    @abstractmethod
    def read(self, rooms: Sequence[str]) -> list[Listing | BrokerError]:
        """Return the lists of rooms, and keep them for longer."""

    @abstractmethod
    def versions(self, rooms: Sequence[str]) -> list[str | BrokerError]:
        """Return the versions of the lists of rooms, and keep them for longer."""
