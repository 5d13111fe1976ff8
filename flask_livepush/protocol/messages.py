"""What clients send and are answered, as design of the wire: parsed and written.

Everything that comes in here is hostile until parsed. Acks are written as JSON text, so
that a publication's data, encoded once by its emitter, is never decoded again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..errors import BadMessage, ClientError, EncodingError, UsageError
from .encoding import MAX_INTEGER, encode
from .publication import Position, Publication, check_event
from .relayed import Users
from .rooms import check_room_name

VERSION = 1
MAX_EPOCH_LENGTH = 64

SUBSCRIBE = "livepush.subscribe"
UNSUBSCRIBE = "livepush.unsubscribe"
WHISPER = "livepush.whisper"
RESET = "livepush.reset"
RECONNECT = "livepush.reconnect"
PRESENCE = "livepush.presence"
REVOKED = "livepush.revoked"
ENDED = "livepush.ended"

#: What a whisper's data may have, as JSON text in UTF-8.
MAX_WHISPER_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Subscribe:
    """A parsed ``livepush.subscribe``.

    Args:
        room: A name that may be a room's; whether it is one is not known yet.
        since: The client's position, if it has one.
        presence: Whether it wants to know who is in the room.
    """

    room: str
    since: Position | None = None
    presence: bool = False


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """A parsed ``livepush.unsubscribe``."""

    room: str


@dataclass(frozen=True, slots=True)
class Whisper:
    """A parsed ``livepush.whisper``.

    Args:
        event: A name that an application might emit.
        data: The payload as JSON text.
    """

    room: str
    event: str
    data: str


def parse_subscribe(args: tuple[Any, ...]) -> Subscribe:
    """Parse the arguments of a ``livepush.subscribe``.

    Raises:
        BadMessage: The message is not of that form (100).
        InvalidRoom: The name can't be a room's (101).
    """
    message = _message(args)
    since = _since(message.get("since"))
    return Subscribe(_room(message), since, message.get("presence") is True)


def parse_unsubscribe(args: tuple[Any, ...]) -> Unsubscribe:
    """Parse the arguments of a ``livepush.unsubscribe``; errors as for subscribe."""
    return Unsubscribe(_room(_message(args)))


def parse_whisper(args: tuple[Any, ...]) -> Whisper:
    """Parse the arguments of a ``livepush.whisper``; errors as for subscribe."""
    message = _message(args)
    room = _room(message)
    try:
        event = check_event(message.get("event"))
        data = encode(message.get("data"))
    except (UsageError, EncodingError):
        raise BadMessage(
            "The whisper's event must be no reserved name, and its data JSON."
        ) from None
    size = len(event.encode()) + len(data.encode())
    if size > MAX_WHISPER_BYTES:
        raise BadMessage(
            f"The whisper has {size} bytes; it may have {MAX_WHISPER_BYTES}."
        )
    return Whisper(room, event, data)


def _message(args: tuple[Any, ...]) -> dict[str, Any]:
    if len(args) != 1 or not isinstance(args[0], dict):
        raise BadMessage("The message must be one JSON object.")
    message = args[0]
    version = message.get("v", VERSION)
    if type(version) is not int or version != VERSION:
        raise BadMessage(f"The message's v is not {VERSION}, the only version known.")
    return message


def _room(message: dict[str, Any]) -> str:
    room = message.get("room")
    if not isinstance(room, str):
        raise BadMessage("The message's room must be a string.")
    return check_room_name(room)


def _since(since: object) -> Position | None:
    if since is None:
        return None
    if isinstance(since, dict):
        epoch, offset = since.get("epoch"), since.get("offset")
        if (
            isinstance(epoch, str)
            and 0 < len(epoch) <= MAX_EPOCH_LENGTH
            and isinstance(offset, int)
            and not isinstance(offset, bool)
            and 0 <= offset <= MAX_INTEGER
        ):
            return Position(epoch, offset)
    raise BadMessage(
        "The message's since must be {epoch: text, offset: whole number, 0 or more}."
    )


def recovered(
    room: str,
    position: Position,
    publications: list[Publication],
    present: Users | None = None,
) -> str:
    """Write the ack of a subscribe whose position was recovered, as JSON text.

    Args:
        present: Who is in the room, if that was asked.
    """
    entries = ",".join(_entry(p) for p in publications)
    return (
        f'{{"ok":true,{_where(room, position)},"recovered":true,'
        f'"publications":[{entries}]{_present(present)}}}'
    )


def unrecovered(
    room: str, position: Position, snapshot: str, present: Users | None = None
) -> str:
    """Write the ack of a subscribe that starts anew.

    Args:
        position: Where the snapshot stands.
        snapshot: The snapshot as JSON text.
        present: Who is in the room, if that was asked.
    """
    return (
        f'{{"ok":true,{_where(room, position)},"recovered":false,'
        f'"publications":[],"snapshot":{snapshot}{_present(present)}}}'
    )


def failed(error: ClientError) -> str:
    """Write the ack of a message that can't be served."""
    return _dumps(
        {
            "ok": False,
            "error": {
                "code": error.code,
                "message": error.message,
                "temporary": error.temporary,
            },
        }
    )


DONE = '{"ok":true}'


def meta(room: str, epoch: str, publication: Publication) -> str:
    """Write the second argument of an event: where the publication stands."""
    text = f"{{{_where(room, Position(epoch, publication.offset))}"
    return f"{text}{_extras(publication)}}}"


def whispered(room: str, user: str | None) -> str:
    """Write the second argument of a whisper; it has no position: it is no publication.

    Args:
        user: The id of the user that it is from.
    """
    sender = {} if user is None else {"from": user}
    return _dumps({"room": room, "whisper": True, **sender})


def presence(room: str, joined: Users, left: Users) -> str:
    """Write the data of a ``livepush.presence``."""
    return f'{{"room":{_dumps(room)},"joined":{_users(joined)},"left":{_users(left)}}}'


def reset(room: str, within: float) -> str:
    """Write the data of a ``livepush.reset``.

    Args:
        within: Seconds over which the subscribers shall spread their return.
    """
    return _dumps({"room": room, "within": within})


def revoked(room: str, code: int) -> str:
    """Write the data of a ``livepush.revoked``.

    Args:
        code: Why the connection is in the room no more, as an error's code.
    """
    return _dumps({"room": room, "code": code})


def ended(error: ClientError) -> dict[str, Any]:
    """Make the data of a ``livepush.ended``: why a connection ends for good."""
    return {"code": error.code, "message": error.message}


def reconnect(within: float) -> str:
    """Write the data of a ``livepush.reconnect``.

    Args:
        within: Seconds in which the client shall come back, at a random moment.
    """
    return _dumps({"within": within})


def _present(users: Users | None) -> str:
    return "" if users is None else f',"presence":{_users(users)}'


def _users(users: Users) -> str:
    return f"[{','.join(_user(*user) for user in users.items())}]"


def _user(user: str, info: str) -> str:
    tail = f',"info":{info}' if info else ""
    return f'{{"id":{_dumps(user)}{tail}}}'


def _entry(publication: Publication) -> str:
    return (
        f'{{"event":{_dumps(publication.event)},"data":{publication.data},'
        f'"offset":{publication.offset}{_extras(publication)}}}'
    )


def _where(room: str, position: Position) -> str:
    return (
        f'"room":{_dumps(room)},"epoch":{_dumps(position.epoch)},'
        f'"offset":{position.offset}'
    )


def _extras(publication: Publication) -> str:
    stamp = "" if publication.stamp is None else f',"stamp":{publication.stamp}'
    return stamp + (',"more":true' if publication.more else "")


def _dumps(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
