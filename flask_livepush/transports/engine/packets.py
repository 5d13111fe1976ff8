"""Engine.IO v4 packets: what is inside a WebSocket message, and inside a poll's body.

Pure rules. Source: Engine.IO protocol, version 4, "Packet encoding" and "Payload
encoding".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

from . import frames

OPEN, CLOSE, PING, PONG, MESSAGE, UPGRADE, NOOP = "0123456"

# Between the packets of a payload.
_SEPARATOR = "\x1e"


class PacketError(Exception):
    """What a client sent is no packet."""


class Frame:
    """One packet, encoded once for all who get it, however they are connected.

    Args:
        data: A text packet with its type, or the bytes of a binary message.
    """

    __slots__ = ("_data", "_wire")

    def __init__(self, data: str | bytes) -> None:
        self._data = data
        self._wire: bytes | None = None

    @property
    def wire(self) -> bytes:
        """The bytes of its WebSocket frame."""
        if self._wire is None:
            if isinstance(self._data, str):
                self._wire = frames.encode(frames.TEXT, self._data.encode())
            else:
                self._wire = frames.encode(frames.BINARY, self._data)
        return self._wire

    @property
    def text(self) -> str:
        """What stands for it in a payload: binary messages in base 64."""
        if isinstance(self._data, str):
            return self._data
        return "b" + base64.b64encode(self._data).decode()


#: Packets without data, as they go out.
NOTHING, GOODBYE, QUESTION = Frame(NOOP), Frame(CLOSE), Frame(PING)


def control(opcode: int, payload: bytes) -> Frame:
    """Return a frame of WebSockets alone, such as a pong."""
    frame = Frame(payload)
    frame._wire = frames.encode(opcode, payload)
    return frame


def message(data: str | bytes) -> Frame:
    """Return the frame of a message."""
    return Frame(MESSAGE + data if isinstance(data, str) else bytes(data))


def encoded(packet: Any) -> Frame:
    """Return the frame of one of python-engineio's packets, made once a packet."""
    frame: Frame | None = getattr(packet, "livepush_frame", None)
    if frame is None:
        data = packet.data
        if isinstance(data, (bytes, bytearray)):
            frame = Frame(bytes(data))
        else:
            frame = Frame(packet.encode())
        packet.livepush_frame = frame
    return frame


def join(waiting: Sequence[Frame]) -> str:
    """Return the body of a poll."""
    return _SEPARATOR.join(frame.text for frame in waiting)


def split(body: str, *, limit: int) -> list[tuple[str, str | bytes]]:
    """Return the packets of a request's body: type and data of each.

    Args:
        limit: How many there may be.

    Raises:
        PacketError: It is no payload, or has more packets.
    """
    if body.count(_SEPARATOR) >= limit:
        raise PacketError(f"The request has more than {limit} packets.")
    return [_of_payload(part) for part in body.split(_SEPARATOR)]


def _of_payload(part: str) -> tuple[str, str | bytes]:
    if part.startswith("b"):
        try:
            return MESSAGE, base64.b64decode(part[1:], validate=True)
        except (binascii.Error, ValueError):
            raise PacketError("A binary packet is no base 64.") from None
    return of_text(part)


def of_text(packet: str) -> tuple[str, str]:
    """Return the type and the data of a text packet.

    Raises:
        PacketError: It has no type that clients send.
    """
    kind = packet[:1]
    if kind not in (CLOSE, PING, PONG, MESSAGE, UPGRADE) or not kind:
        raise PacketError("The packet is empty or of an unknown type.")
    return kind, packet[1:]
