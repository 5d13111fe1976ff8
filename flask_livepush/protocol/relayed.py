"""What nodes tell each other past the history: whispers, and who came and went.

A relayed message is a line of JSON, and for a whisper its data after it as the text
that it is, so that no node decodes what an application's client sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

#: A user's id, and what the identity hook told of it as JSON text; empty: nothing.
Users = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Whispered:
    """A whisper on its way to the room's other subscribers.

    Args:
        sid: The connection it came from.
        user: Its user's id; None: an anonymous visitor.
        event: Its name on the wire.
        data: The payload as JSON text.
    """

    sid: str
    user: str | None
    event: str
    data: str


@dataclass(frozen=True, slots=True)
class Moved:
    """One step of a room's presence.

    Args:
        node: Whose members changed.
        was: The version of the room's list that it follows; empty: there was no list.
        version: The version after it.
        joined: Users that are in the room since.
        left: Ids of users that are no more.
    """

    node: str
    was: str
    version: str
    joined: Users = field(default_factory=dict)
    left: tuple[str, ...] = ()


def write(message: Whispered | Moved) -> str:
    """Return the text of a message."""
    if isinstance(message, Whispered):
        head = ["whisper", message.sid, message.user, message.event]
        return f"{json.dumps(head)}\n{message.data}"
    return json.dumps(
        [
            "presence",
            message.node,
            message.was,
            message.version,
            dict(message.joined),
            list(message.left),
        ]
    )


def read(text: str) -> Whispered | Moved:
    """Return the message of a text.

    Raises:
        ValueError: It is none of ours.
    """
    head, _, data = text.partition("\n")
    match json.loads(head):
        case ["whisper", str(sid), (str() | None) as user, str(event)] if data:
            return Whispered(sid, user, event, data)
        case [
            "presence",
            str(node),
            str(was),
            str(version),
            dict(joined),
            list(left),
        ] if all(isinstance(text, str) for text in (*joined.values(), *left)):
            try:
                for each in filter(None, (was, version)):
                    int(each.rpartition(":")[2])
            except ValueError:  # it says what stands there
                raise ValueError("its version is no number") from None
            return Moved(node, was, version, joined, tuple(left))
    raise ValueError("it is neither a whisper nor a step of presence")
