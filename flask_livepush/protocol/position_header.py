"""The ``Livepush-Position`` header: where rooms stand after what a view committed.

``chat%3A42=k3Jd9:7, user%3A1=Qw:3``: the room, percent-encoded as by JavaScript's
encodeURIComponent, its epoch and offset. Vectors: ``position_header.json``.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from .publication import Position

NAME = "Livepush-Position"
# Servers and proxies refuse header fields of more than some 8 KiB.
MAX_LENGTH = 4096


def write(positions: Mapping[str, Position]) -> str:
    """Write the header's value; what does not fit is left out.

    A client without a room's position does not merge: it waits for the event.
    """
    value = ""
    for room, position in positions.items():
        name = quote(room, safe="!~*'()")
        entry = f"{name}={position.epoch}:{position.offset}"
        longer = f"{value}, {entry}" if value else entry
        if len(longer) > MAX_LENGTH:
            break
        value = longer
    return value
