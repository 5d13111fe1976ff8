"""WebSocket framing, server side (RFC 6455, section 5): bytes to messages and back.

Pure: no I/O, clock, lock or logging here. No extension is spoken, so the reserved bits
are errors; what is sent is never fragmented and never masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NoReturn

TEXT = 0x1
BINARY = 0x2
CLOSE = 0x8
PING = 0x9
PONG = 0xA

_CONTINUATION = 0x0
_OPCODES = frozenset((_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))
_CONTROL = 0x8
_FIN = 0x80
_MASKED = 0x80
_LONGEST_SHORT = 125  # bytes of payload; a control frame has no more

# A message of more frames is refused. Else one that never ends, in empty fragments,
# would keep the decoder busy without a message that anybody could count.
MAX_FRAGMENTS = 1024

# The codes that RFC 6455, section 7.4, and IANA's registry let a peer send; from 3000
# on they belong to libraries and applications.
_CLOSE_CODES = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))

PROTOCOL_ERROR = 1002
_INVALID_TEXT = 1007
_TOO_BIG = 1009


class FrameError(Exception):
    """A peer broke the framing, or sent what is too big: the connection must end.

    Attributes:
        code: What to close with: 1002, 1007 or 1009.
    """

    def __init__(self, code: int, problem: str) -> None:
        super().__init__(problem)
        self.code = code


def encode(opcode: int, payload: bytes) -> bytes:
    """Make a whole message one frame.

    Args:
        opcode: What it is, such as `TEXT`.
        payload: Its bytes; of a control frame 125 at most.

    Raises:
        ValueError: The payload is too long for a control frame.
    """
    size = len(payload)
    if size <= _LONGEST_SHORT:
        return bytes((_FIN | opcode, size)) + payload
    if opcode & _CONTROL:
        raise ValueError(
            f"A control frame carries at most {_LONGEST_SHORT} bytes, not {size}."
        )
    if size < 1 << 16:
        return bytes((_FIN | opcode, 126)) + size.to_bytes(2, "big") + payload
    return bytes((_FIN | opcode, 127)) + size.to_bytes(8, "big") + payload


def close_payload(code: int, reason: str = "") -> bytes:
    """Make what a close frame carries; a reason that is too long is cut."""
    room = _LONGEST_SHORT - 2
    text = reason.encode("utf-8", "replace")
    if len(text) > room:
        text = text[:room].decode("utf-8", "ignore").encode()
    return code.to_bytes(2, "big") + text


class Decoder:
    """Makes messages of what one client sends.

    Between messages it holds nothing but its limit: there is one for each connection.

    Args:
        max_bytes: The longest payload that a message may have, fragments together.
    """

    __slots__ = ("_buffer", "_ended", "_max_bytes", "_message")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        # What came of a frame that is not whole yet.
        self._buffer: bytearray | None = None
        # The fragments that came of a message that is not whole yet.
        self._message: _Message | None = None
        self._ended = False

    def feed(self, data: bytes) -> Iterator[tuple[int, str | bytes]]:
        """Yield the messages that `data` completes; iterate to the end.

        After a close frame or an error, all that follows is ignored.

        Yields:
            ``(TEXT, str)``, or the opcode of another message and its bytes. Those of a
            close frame are none, or a valid code and a reason in UTF-8.

        Raises:
            FrameError: What comes next is not allowed. All before it was yielded.
        """
        # Nearly everything that a client sends is one short text in one piece.
        if (
            self._buffer is None
            and self._message is None
            and len(data) >= 6
            and data[0] == _FIN | TEXT
            and len(data) - 6 == data[1] - _MASKED <= _LONGEST_SHORT
            and len(data) - 6 <= self._max_bytes
            and not self._ended
        ):
            yield TEXT, self._text(_unmasked(data[6:], data[2:6]))
            return
        yield from self._frames(data)

    def goodbye(self, code: int) -> bytes:
        """Return a close frame.

        Args:
            code: RFC 6455, section 7.4.1.
        """
        return encode(CLOSE, close_payload(code))

    def _frames(self, data: bytes) -> Iterator[tuple[int, str | bytes]]:
        if self._ended:
            return
        # Appending to a bytearray costs what is appended: a frame may come in a
        # million pieces.
        if self._buffer is None:
            received: bytes | bytearray = data
        else:
            self._buffer += data
            received = self._buffer
        start = 0
        while header := self._header(received, start):
            opcode, final, body, end = header
            if end > len(received):
                break
            payload = _unmasked(received[body:end], received[body - 4 : body])
            start = end
            if opcode & _CONTROL:
                if opcode == CLOSE:
                    self._check_close(payload)
                    self._end()
                    yield CLOSE, payload
                    return
                yield opcode, payload
            elif whole := self._assembled(opcode, payload, final):
                yield whole
        if start == len(received):
            self._buffer = None
        elif self._buffer is None:
            self._buffer = bytearray(received[start:])
        else:
            del self._buffer[:start]

    def _header(
        self, received: bytes | bytearray, start: int
    ) -> tuple[int, bool, int, int] | None:
        """Read a frame's header; refuse it as soon as it is known to be wrong.

        Returns:
            The opcode, whether it is the message's last frame, and where its payload
            begins and ends; None if the header is not whole.
        """
        there = len(received) - start
        if there < 2:
            return None
        first, second = received[start], received[start + 1]
        opcode, final = first & 0x0F, first >= _FIN
        if first & 0x70:
            self._fail(PROTOCOL_ERROR, "A frame has reserved bits set.")
        if opcode not in _OPCODES:
            self._fail(PROTOCOL_ERROR, f"A frame has the reserved opcode {opcode}.")
        if second < _MASKED:
            self._fail(PROTOCOL_ERROR, "A frame of a client is not masked.")
        size = second - _MASKED
        if opcode & _CONTROL:
            if not final:
                self._fail(PROTOCOL_ERROR, "A control frame is fragmented.")
            if size > _LONGEST_SHORT:
                self._fail(PROTOCOL_ERROR, "A control frame is longer than 125 bytes.")
        elif opcode == _CONTINUATION:
            if self._message is None:
                self._fail(PROTOCOL_ERROR, "A continuation has nothing to continue.")
        elif self._message is not None:
            self._fail(PROTOCOL_ERROR, "A message begins inside a fragmented one.")
        body = start + 6
        if size > _LONGEST_SHORT:
            width = 2 if size == 126 else 8
            if there < 2 + width:
                return None
            size = int.from_bytes(received[start + 2 : start + 2 + width], "big")
            if size <= (_LONGEST_SHORT if width == 2 else 0xFFFF):
                self._fail(PROTOCOL_ERROR, "A length is written longer than needed.")
            if size >> 63:
                self._fail(PROTOCOL_ERROR, "A length has its highest bit set.")
            body += width
        if not opcode & _CONTROL:
            self._check_bounds(size)
        if len(received) < body:
            return None
        return opcode, final, body, body + size

    def _check_bounds(self, size: int) -> None:
        """Refuse a frame by what it announces, before any of its payload is kept."""
        message = self._message
        if message is not None:
            size += len(message.payload)
            if message.fragments == MAX_FRAGMENTS:
                self._fail(
                    _TOO_BIG, f"A message has more than {MAX_FRAGMENTS} fragments."
                )
        if size > self._max_bytes:
            self._fail(
                _TOO_BIG,
                f"A message has at least {size} bytes; {self._max_bytes} are allowed.",
            )

    def _assembled(
        self, opcode: int, payload: bytes, final: bool
    ) -> tuple[int, str | bytes] | None:
        """Return the message that a frame completes, if it does."""
        message = self._message
        if message is None:
            if not final:
                self._message = _Message(opcode, payload)
                return None
        else:
            message.payload += payload
            message.fragments += 1
            if not final:
                return None
            opcode, payload = message.opcode, bytes(message.payload)
            self._message = None
        return (TEXT, self._text(payload)) if opcode == TEXT else (opcode, payload)

    def _text(self, payload: bytes) -> str:
        try:
            return payload.decode()
        except UnicodeDecodeError:
            self._fail(_INVALID_TEXT, "A text is not valid UTF-8.")

    def _check_close(self, payload: bytes) -> None:
        if not payload:
            return
        if len(payload) == 1:
            self._fail(PROTOCOL_ERROR, "A close frame has half a code.")
        code = int.from_bytes(payload[:2], "big")
        if code not in _CLOSE_CODES:
            self._fail(PROTOCOL_ERROR, f"A close frame has the invalid code {code}.")
        self._text(payload[2:])

    def _fail(self, code: int, problem: str) -> NoReturn:
        self._end()
        # The payload in a UnicodeDecodeError is not for the log.
        raise FrameError(code, problem) from None

    def _end(self) -> None:
        self._ended = True
        self._buffer = self._message = None


class _Message:
    """A fragmented message on its way: empty fragments cost it no memory."""

    __slots__ = ("fragments", "opcode", "payload")

    def __init__(self, opcode: int, payload: bytes) -> None:
        self.opcode = opcode
        self.payload = bytearray(payload)
        self.fragments = 1


def _unmasked(payload: bytes | bytearray, mask: bytes | bytearray) -> bytes:
    # As whole numbers: without C the fastest way for what clients send, a few hundred
    # bytes at most.
    size = len(payload)
    key = (mask * (size // 4 + 1))[:size]
    number = int.from_bytes(payload, "little") ^ int.from_bytes(key, "little")
    return number.to_bytes(size, "little")
