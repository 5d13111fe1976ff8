"""How rooms and publications are written in Redis: names of keys, records, messages.

The other half of it is in ``lua/``. Nothing is sent in here.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from ..protocol.publication import Publication

#: Stands in the name of every key and channel; another one shares nothing with this.
SCHEMA = 1
INDEX_SHARDS = 64
#: What a relayed message begins with, and no epoch.
RELAYED = b"~"


@dataclass(frozen=True, slots=True)
class Keys:
    """The names that belong to one room, all in one hash slot."""

    meta: str
    log: str
    rows: str
    seen: str
    fences: str
    channel: str
    here: str


@dataclass(frozen=True, slots=True)
class LoginKeys:
    """The names of what tells which logins have ended, all in one hash slot."""

    meta: str
    ended: str
    orders: str
    lock: str
    channel: str


class Names:
    """The names of keys and channels of one application.

    Args:
        prefix: The application's, before all of them.
    """

    def __init__(self, prefix: str) -> None:
        self._base = f"{_escaped(prefix)}:{SCHEMA}:"
        self._index = [f"{self._base}rooms:{{{n}}}" for n in range(INDEX_SHARDS)]
        # No room's name is before the brace, so none can be taken for these.
        self._logins = f"{self._base}logins:{{all}}:"

    def room(self, room: str) -> Keys:
        """Return a room's names.

        A hash tag ends with the first ``}``; a room's name must not end it before
        (https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/#hash-tags).
        """
        stem = f"{self._base}{{{_escaped(room)}}}:"
        parts = ("meta", "log", "rows", "seen", "fences", "live", "here")
        return Keys(*(stem + part for part in parts))

    def index(self, room: str) -> str:
        """Return the key of the index that lists a room."""
        return self._index[zlib.crc32(room.encode()) % INDEX_SHARDS]

    @property
    def indexes(self) -> list[str]:
        """The keys of all parts of the index of rooms."""
        return self._index

    @staticmethod
    def mark(index: str) -> str:
        """Return the key of what is kept beside a part of the index."""
        return f"{index}:mark"

    @property
    def nodes(self) -> str:
        """The key of the nodes that give signs of life."""
        return f"{self._base}nodes"

    @property
    def secrets(self) -> str:
        """The key of the fingerprints of secret keys that are in use."""
        return f"{self._base}secrets"

    @property
    def plain(self) -> str:
        """The channel of the application's own Socket.IO emits."""
        return f"{self._base}socketio"

    @property
    def logins(self) -> LoginKeys:
        """The names of what tells which logins have ended."""
        parts = ("meta", "ended", "orders", "lock", "wake")
        return LoginKeys(*(f"{self._logins}{part}" for part in parts))

    def ticket(self, number: str) -> str:
        """Return the key that says that a ticket is spent."""
        return f"{self._logins}ticket:{_escaped(number)}"

    def peer(self, name: str) -> str:
        """Return the channel of one process.

        Args:
            name: Its own, without braces.
        """
        return f"{self._base}peer:{{{name}}}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace("{", "%7B").replace("}", "%7D")


def read_message(message: bytes) -> tuple[str, list[Publication]]:
    """Return the epoch and the publications of a channel's message.

    Raises:
        ValueError: It is not one of ours.
    """
    end = message.find(b"\n")
    if not 0 < end <= 64:
        raise ValueError("it has no epoch")
    publications = read_records(message, end + 1)
    if not publications:
        raise ValueError("it has no records")
    return message[:end].decode("ascii"), publications


def published_at(message: bytes) -> float:
    """Return when a message's first record was published, by the server's clock.

    Args:
        message: One that :func:`read_message` has read.

    Returns:
        Seconds since 1970.
    """
    start = message.find(b"\n") + 1
    return int(message[start : message.find(b"\n", start)].split(b" ")[1]) / 1000


def read_records(text: bytes, start: int = 0) -> list[Publication]:
    """Return the publications of records that follow each other.

    Raises:
        ValueError: They are none, or have a hole between them.
    """
    publications: list[Publication] = []
    while start < len(text):
        end = text.find(b"\n", start, start + 128)
        if end < 0:
            raise ValueError("a record has no head")
        try:
            offset, _, more, stamp, event, data, _ = text[start:end].split(b" ")
            place, version = int(offset), None if stamp == b"-" else int(stamp)
            middle = end + 1 + int(event)
            start = middle + int(data)
        except ValueError:  # it says what stands there
            raise ValueError("a record's head is not of this form") from None
        if start > len(text) or middle <= end + 1 or start < middle:
            raise ValueError("a record is not as long as it says")
        publications.append(
            Publication(
                place,
                text[end + 1 : middle].decode(),
                text[middle:start].decode(),
                version,
                more == b"1",
            )
        )
    first = publications[0].offset if publications else 0
    if any(p.offset != first + i for i, p in enumerate(publications)):
        raise ValueError("its offsets have a hole")
    return publications
