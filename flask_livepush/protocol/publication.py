"""What travels: drafts on their way to the broker, publications on their way out.

Nothing in here decides anything; the rules are in the neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import PublicationTooLarge, UsageError

INVALIDATED = "invalidated"

# Socket.IO clients raise or loop when they receive these names
# (https://socket.io/docs/v4/emit-cheatsheet/#reserved-events).
_RESERVED = frozenset(
    {
        "connect",
        "connect_error",
        "disconnect",
        "disconnecting",
        "newListener",
        "removeListener",
    }
)


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a room's history.

    Args:
        epoch: Opaque id of the history; another one means that offsets restarted.
        offset: The last publication that is known; 0 before the first.
    """

    epoch: str
    offset: int


@dataclass(frozen=True, slots=True)
class Draft:
    """What an emitter hands to the broker, before it has an offset.

    Args:
        event: Its name on the wire.
        data: The payload as JSON text.
        kind: For a change of a tracked row, the model's kind.
        key: For a change of a tracked row, its key as JSON text.
        stamp: Orders the versions of that row, in microseconds; ``None`` orders
            nothing and is never suppressed.
    """

    event: str
    data: str
    kind: str | None = None
    key: str | None = None
    stamp: int | None = None


@dataclass(frozen=True, slots=True)
class Attempt:
    """How often, and how late, the drafts of one commit are handed to the broker.

    The commit was between two moments, in seconds of the process's monotonic clock.
    They are moments and no durations, since the thread that has them may stand still
    at any time.

    Args:
        id: The same for all attempts with these drafts, and for no others; empty if
            there will be no other.
        again: An earlier attempt was not answered; it may have been accepted, or be
            on its way yet.
        since: A moment before the commit; None: it was just now.
        queued: A moment after the commit, at which they began to wait in a queue;
            None: they did not.
    """

    id: str = ""
    again: bool = False
    since: float | None = None
    queued: float | None = None


#: The first attempt, and the only one, just now.
ONCE = Attempt()


@dataclass(frozen=True, slots=True)
class Parcel:
    """What one commit has for one room, as it is handed to the broker."""

    room: str
    drafts: Sequence[Draft]
    attempt: Attempt = ONCE


@dataclass(frozen=True, slots=True)
class Publication:
    """An event that the broker has accepted, with its place in the room's order.

    Args:
        offset: 1 for the first of an epoch, then one more each.
        event: Its name on the wire.
        data: The payload as JSON text.
        stamp: Orders the versions of a row, in microseconds.
        more: True on all but the last of one commit in this room.
    """

    offset: int
    event: str
    data: str
    stamp: int | None = None
    more: bool = False


def invalidated(kind: str) -> Draft:
    """Return the draft that tells a room to read a kind anew."""
    return Draft(f"{kind}.{INVALIDATED}", "{}")


def check_event(event: object) -> str:
    """Return the event's name if an application may emit it.

    Raises:
        UsageError: It is no name, is reserved by Socket.IO, or begins ``livepush.``.
    """
    if not isinstance(event, str) or not event:
        raise UsageError(f"The event {event!r} must be a name such as 'note.added'.")
    try:
        event.encode()
    except UnicodeEncodeError:
        raise UsageError(f"The event {event!r} is not valid Unicode.") from None
    if event in _RESERVED or event.startswith("livepush."):
        raise UsageError(f"The event {event!r} is reserved; choose another name.")
    return event


def check_sizes(drafts: Sequence[Draft], max_bytes: int) -> None:
    """Return if every draft may be published.

    Args:
        max_bytes: What an event's name and data may have together, in UTF-8.

    Raises:
        PublicationTooLarge: One has more.
    """
    for draft in drafts:
        if (len(draft.event) + len(draft.data)) * 4 <= max_bytes:
            continue  # whatever its characters
        size = len(draft.event.encode()) + len(draft.data.encode())
        if size > max_bytes:
            raise PublicationTooLarge(
                f"A publication of {draft.event!r} has {size} bytes; "
                f"LIVEPUSH_MAX_PUBLICATION_BYTES is {max_bytes}. Send less, such as "
                "an id to fetch the rest with."
            )
