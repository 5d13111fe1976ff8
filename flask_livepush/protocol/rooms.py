"""The rules of room names, whatever the pattern.

Patterns themselves are compiled in :mod:`flask_livepush.auth`.
"""

from __future__ import annotations

from ..errors import InvalidRoom

MAX_ROOM_BYTES = 200


def check_room_name(name: str) -> str:
    """Return the name if it may be a room's.

    Raises:
        InvalidRoom: It is empty, longer than 200 bytes in UTF-8, no valid Unicode, or
            holds a control character (databases refuse NUL, logs the others).
    """
    try:
        length = len(name.encode())
    except UnicodeEncodeError:
        raise InvalidRoom("The room's name is not valid Unicode.") from None
    if not 0 < length <= MAX_ROOM_BYTES:
        raise InvalidRoom(
            f"The room's name has {length} bytes; it must have 1 to {MAX_ROOM_BYTES}."
        )
    if any(ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" for c in name):
        raise InvalidRoom("The room's name holds a control character.")
    return name
