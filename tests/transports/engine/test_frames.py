"""Frames as RFC 6455 has them, with wsproto as the referee."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import FrameProtocol, ParseFailed

from flask_livepush.transports.engine import frames
from flask_livepush.transports.engine.frames import (
    BINARY,
    CLOSE,
    MAX_FRAGMENTS,
    PING,
    PONG,
    TEXT,
    Decoder,
    FrameError,
    close_payload,
    encode,
)

Messages = list[tuple[int, str | bytes]]
Test = TypeVar("Test", bound=Callable[..., None])

CONTINUATION = 0
LIMIT = 1 << 16
MASK = bytes.fromhex("37fa213d")


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    width: int | None = None,
) -> bytes:
    """Make a frame of a client, right or wrong.

    Args:
        opcode: Its opcode.
        payload: What it carries.
        final: Whether it ends its message.
        reserved: The three bits, as a number.
        mask: None for a frame without.
        width: In how many bytes the length is written, instead of the fewest.
    """
    size = len(payload)
    if width is None:
        width = 0 if size < 126 else 2 if size < 1 << 16 else 8
    short = {0: size, 2: 126, 8: 127}[width]
    head = bytes((final << 7 | reserved << 4 | opcode, (mask is not None) << 7 | short))
    length = size.to_bytes(width, "big") if width else b""
    if mask is None:
        return head + length + payload
    masked = bytes(byte ^ mask[place % 4] for place, byte in enumerate(payload))
    return head + length + mask + masked


def fragments(opcode: int, *payloads: bytes) -> bytes:
    last = len(payloads) - 1
    return b"".join(
        frame(CONTINUATION if number else opcode, payload, final=number == last)
        for number, payload in enumerate(payloads)
    )


def decode(
    pieces: Iterable[bytes], max_bytes: int = LIMIT
) -> tuple[Messages, FrameError | None]:
    """Return what comes of them, and the error that ends it."""
    decoder = Decoder(max_bytes)
    messages: Messages = []
    try:
        for piece in pieces:
            for message in decoder.feed(piece):
                messages.append(message)
    except FrameError as error:
        assert list(decoder.feed(frame(TEXT, b"late"))) == []
        return messages, error
    return messages, None


def singly(data: bytes) -> list[bytes]:
    return [data[place : place + 1] for place in range(len(data))]


HELLO = frame(TEXT, b"Hello")

VALID: dict[str, tuple[bytes, Messages]] = {
    "5.7 masked text": (bytes.fromhex("818537fa213d7f9f4d5158"), [(TEXT, "Hello")]),
    "5.7 masked pong": (bytes.fromhex("8a8537fa213d7f9f4d5158"), [(PONG, b"Hello")]),
    "5.4 fragments": (fragments(TEXT, b"Hel", b"lo"), [(TEXT, "Hello")]),
    "5.4 binary fragments": (fragments(BINARY, b"a", b"b", b"c"), [(BINARY, b"abc")]),
    "5.4 empty fragments": (fragments(TEXT, b"", b"", b""), [(TEXT, "")]),
    "5.4 control frames between fragments": (
        frame(TEXT, b"Hel", final=False)
        + frame(PING, b"?")
        + frame(PONG)
        + frame(CONTINUATION, b"lo"),
        [(PING, b"?"), (PONG, b""), (TEXT, "Hello")],
    ),
    "5.5.1 a close between fragments": (
        frame(TEXT, b"Hel", final=False) + frame(CLOSE) + frame(CONTINUATION, b"lo"),
        [(CLOSE, b"")],
    ),
    "5.2 empty text": (frame(TEXT), [(TEXT, "")]),
    "5.2 length 125": (frame(TEXT, b"a" * 125), [(TEXT, "a" * 125)]),
    "5.2 length 126": (frame(TEXT, b"a" * 126), [(TEXT, "a" * 126)]),
    "5.2 length 65535": (frame(BINARY, b"a" * 65535), [(BINARY, b"a" * 65535)]),
    "5.2 length 65536": (frame(BINARY, b"a" * 65536), [(BINARY, b"a" * 65536)]),
    "5.3 a mask of zeros": (frame(TEXT, b"Hello", mask=bytes(4)), [(TEXT, "Hello")]),
    "5.5 longest ping": (frame(PING, b"?" * 125), [(PING, b"?" * 125)]),
    "5.6 a character in two fragments": (
        fragments(TEXT, b"\xe2\x82", b"\xac"),
        [(TEXT, "€")],
    ),
    "5.6 binary is not text": (frame(BINARY, b"\xff"), [(BINARY, b"\xff")]),
    "5.5.1 close without a code": (frame(CLOSE), [(CLOSE, b"")]),
    "5.5.1 close": (
        frame(CLOSE, close_payload(1000, "bye")),
        [(CLOSE, b"\x03\xe8bye")],
    ),
    "1.4 what follows a close is ignored": (
        frame(CLOSE) + HELLO + b"\xff\xff",
        [(CLOSE, b"")],
    ),
    **{
        f"7.4 close with {code}": (
            frame(CLOSE, close_payload(code)),
            [(CLOSE, code.to_bytes(2, "big"))],
        )
        for code in (1000, 1001, 1002, 1003, 1007, 1011, 1012, 1014, 3000, 3999, 4999)
    },
}

# The frame, and the code that the connection must be closed with.
INVALID: dict[str, tuple[bytes, int]] = {
    **{
        f"5.2 reserved bits {bits:03b}": (frame(TEXT, b"a", reserved=bits), 1002)
        for bits in (1, 2, 4, 7)
    },
    **{
        f"5.2 reserved opcode {opcode}": (frame(opcode, b"a"), 1002)
        for opcode in (3, 7, 0xB, 0xF)
    },
    "5.1 no mask": (frame(TEXT, b"Hello", mask=None), 1002),
    "5.1 no mask on a ping": (frame(PING, mask=None), 1002),
    "5.2 a short length in two bytes": (frame(TEXT, b"a" * 125, width=2), 1002),
    "5.2 a short length in eight bytes": (frame(TEXT, b"a" * 65535, width=8), 1002),
    "5.2 a length of 2^63": (b"\x82\xff\x80" + bytes(7), 1002),
    "5.4 a continuation of nothing": (frame(CONTINUATION, b"a"), 1002),
    "5.4 a message inside a message": (
        frame(TEXT, b"a", final=False) + frame(TEXT, b"b"),
        1002,
    ),
    "5.5 a fragmented ping": (frame(PING, final=False), 1002),
    "5.5 a fragmented close": (frame(CLOSE, final=False), 1002),
    "5.5 a long ping": (frame(PING, b"?" * 126), 1002),
    "5.5 a long ping, announced in eight bytes": (frame(PING, b"?", width=8), 1002),
    "5.5.1 a close with half a code": (frame(CLOSE, b"\x03"), 1002),
    **{
        f"7.4 close with {code}": (frame(CLOSE, code.to_bytes(2, "big")), 1002)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    },
    "8.1 text that is not UTF-8": (frame(TEXT, b"\xff"), 1007),
    "8.1 half a character": (frame(TEXT, b"\xe2\x82"), 1007),
    "8.1 half a surrogate pair": (frame(TEXT, b"\xed\xa0\x80"), 1007),
    "8.1 an overlong form": (frame(TEXT, b"\xc0\xaf"), 1007),
    "8.1 past the last character": (frame(TEXT, b"\xf4\x90\x80\x80"), 1007),
    "8.1 fragments that are not UTF-8": (fragments(TEXT, b"\xe2\x82", b"a"), 1007),
    "8.1 long text that is not UTF-8": (frame(TEXT, b"a" * 200 + b"\xff"), 1007),
    "8.1 a close reason that is not UTF-8": (frame(CLOSE, b"\x03\xe8\xff"), 1007),
    "10.4 longer than allowed": (frame(BINARY, b"a" * (LIMIT + 1)), 1009),
    "10.4 a length of 2^63 - 1": (b"\x82\xff\x7f" + b"\xff" * 7, 1009),
    "10.4 fragments longer than allowed together": (
        frame(BINARY, b"a" * LIMIT, final=False) + frame(CONTINUATION, b"a"),
        1009,
    ),
    "10.4 too many fragments": (
        fragments(TEXT, *[b""] * (MAX_FRAGMENTS + 1)),
        1009,
    ),
}


@pytest.mark.parametrize("name", VALID)
def test_yields_what_is_valid(name: str) -> None:
    stream, expected = VALID[name]
    assert decode([stream]) == (expected, None)
    assert decode([HELLO + stream]) == ([(TEXT, "Hello"), *expected], None)
    assert decode(singly(stream)) == (expected, None)


@pytest.mark.parametrize("name", INVALID)
def test_yields_what_came_before_a_violation(name: str) -> None:
    stream, code = INVALID[name]
    hello: Messages = [(TEXT, "Hello")]
    for pieces, expected in [
        ([stream], []),
        (singly(stream), []),
        ([HELLO, stream], hello),
        ([HELLO + stream], hello),
    ]:
        messages, error = decode(pieces)
        assert messages == expected
        assert error is not None
        assert error.code == code
        assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("begun", "code"),
    [
        pytest.param(frame(TEXT, b"a", final=False), 1002, id="message"),
        pytest.param(HELLO[:7], 1007, id="frame"),
    ],
)
def test_a_short_text_in_one_piece_is_part_of_what_has_begun(
    begun: bytes, code: int
) -> None:
    messages, error = decode([begun, HELLO])
    assert messages == []
    assert error is not None
    assert error.code == code


def test_an_error_does_not_repeat_the_payload() -> None:
    for payload in (b"secret\xff", b"\xffsecret" * 100):
        _, error = decode([frame(TEXT, payload)])
        assert "secret" not in str(error)
        assert error is not None
        assert error.__suppress_context__


@pytest.mark.parametrize("size", [0, 5, 125, 126])
def test_the_limit_is_the_longest_that_passes(size: int) -> None:
    stream = frame(TEXT, b"a" * size)
    assert decode([stream], size) == ([(TEXT, "a" * size)], None)
    assert decode(singly(stream), size) == ([(TEXT, "a" * size)], None)
    halves = fragments(TEXT, b"a" * (size // 2), b"a" * (size - size // 2))
    assert decode([halves], size) == ([(TEXT, "a" * size)], None)
    for pieces in ([stream], singly(stream), [halves]):
        messages, error = decode(pieces, size - 1)
        assert messages == []
        assert error is not None
        assert error.code == 1009


def test_control_frames_do_not_count_toward_the_limit() -> None:
    stream = frame(TEXT, b"a", final=False) + frame(PING, b"?" * 125)
    stream += frame(CONTINUATION, b"b")
    assert decode([stream], 2) == ([(PING, b"?" * 125), (TEXT, "ab")], None)


def test_as_many_fragments_as_are_allowed_pass() -> None:
    stream = fragments(TEXT, *[b"a"] * MAX_FRAGMENTS)
    assert decode([stream]) == ([(TEXT, "a" * MAX_FRAGMENTS)], None)


@pytest.mark.parametrize(
    "name",
    [
        "5.1 no mask",
        "5.2 reserved bits 100",
        "5.2 reserved opcode 3",
        "5.4 a continuation of nothing",
        "5.5 a fragmented ping",
        "5.5 a long ping",
    ],
)
def test_a_wrong_header_is_refused_by_its_first_two_bytes(name: str) -> None:
    _, error = decode([INVALID[name][0][:2]])
    assert error is not None


def test_a_length_is_refused_before_the_payload_comes() -> None:
    _, error = decode([b"\x81\xfe\xff\xff"], 65534)
    assert error is not None
    assert error.code == 1009
    assert str(error) == "A message has at least 65535 bytes; 65534 are allowed."


def held(decoder: Decoder, pieces: Iterable[bytes]) -> int:
    """Return how many bytes of memory the decoder holds after them, at most."""
    tracemalloc.start()
    try:
        for piece in pieces:
            assert list(decoder.feed(piece)) == []
        return _traced()
    finally:
        tracemalloc.stop()


def _traced() -> int:
    """Return the bytes that decoders hold: other tests' threads may still end."""
    ours = tracemalloc.Filter(True, frames.__file__)
    traced = tracemalloc.take_snapshot().filter_traces([ours])
    return sum(trace.size for trace in traced.traces)


def test_an_announced_length_takes_no_memory() -> None:
    limit = 1 << 40
    announced = b"\x82\xff" + limit.to_bytes(8, "big") + MASK
    assert held(Decoder(limit), [announced, b"a"]) < 5_000


def test_empty_fragments_take_no_memory() -> None:
    pieces = [frame(TEXT, final=False)]
    pieces += [frame(CONTINUATION, final=False)] * (MAX_FRAGMENTS - 1)
    assert held(Decoder(LIMIT), pieces) < 5_000


def test_a_decoder_between_messages_holds_nothing() -> None:
    decoder = Decoder(LIMIT)
    stream = fragments(TEXT, b"a" * 20_000, b"b" * 20_000)
    tracemalloc.start()
    try:
        for piece in (HELLO[:3], HELLO[3:] + stream[:30_000], stream[30_000:]):
            for _ in decoder.feed(piece):
                pass
        del _, piece
        assert _traced() < 1_000
    finally:
        tracemalloc.stop()


def test_a_message_in_single_bytes_costs_what_it_weighs() -> None:
    """Bounded by the suite's own deadline: quadratic, it would move 500 GB."""
    payload = b"a" * (1 << 20)
    pieces = singly(frame(BINARY, payload, mask=bytes(4)))
    assert decode(pieces, len(payload)) == ([(BINARY, payload)], None)


@pytest.mark.parametrize(
    ("opcode", "payload", "expected"),
    [
        pytest.param(TEXT, b"Hello", "810548656c6c6f", id="5.7 text"),
        pytest.param(PING, b"Hello", "890548656c6c6f", id="5.7 ping"),
        pytest.param(BINARY, b"a" * 256, "827e0100" + "61" * 256, id="5.7 256 bytes"),
        pytest.param(
            BINARY,
            b"a" * 65536,
            "827f0000000000010000" + "61" * 65536,
            id="5.7 64 KiB",
        ),
        pytest.param(TEXT, b"a" * 125, "817d" + "61" * 125, id="5.2 length 125"),
        pytest.param(TEXT, b"a" * 126, "817e007e" + "61" * 126, id="5.2 length 126"),
        pytest.param(
            TEXT, b"a" * 65535, "817effff" + "61" * 65535, id="5.2 length 65535"
        ),
        pytest.param(CLOSE, b"", "8800", id="5.5.1 empty close"),
    ],
)
def test_encodes(opcode: int, payload: bytes, expected: str) -> None:
    assert encode(opcode, payload).hex() == expected


@pytest.mark.parametrize("opcode", [CLOSE, PING, PONG])
def test_a_long_control_frame_is_not_made(opcode: int) -> None:
    assert len(encode(opcode, bytes(125))) == 127
    with pytest.raises(ValueError, match="at most 125 bytes, not 126"):
        encode(opcode, bytes(126))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("", b""),
        ("bye", b"bye"),
        ("a" * 124, b"a" * 123),
        ("a" + "€" * 41, b"a" + "€".encode() * 40),
        ("\ud800", b"?"),
    ],
)
def test_a_close_reason_fits_and_is_whole(reason: str, expected: bytes) -> None:
    assert close_payload(1001, reason) == b"\x03\xe9" + expected
    assert len(encode(CLOSE, close_payload(1001, reason))) <= 127


# What follows is drawn at random: the same each time in `make test`, more of it and
# other things in `make soak`.


def drawn(*strategies: st.SearchStrategy[object]) -> Callable[[Test], Test]:
    """Run a test for some examples, always the same ones."""

    def wrap(test: Test) -> Test:
        bounded = settings(
            max_examples=200,
            derandomize=True,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        return bounded(given(*strategies)(test))

    return wrap


MASKS = st.binary(min_size=4, max_size=4)
TEXTS = st.text(max_size=40) | st.integers(100, 300).map(lambda size: "é" * size)


@st.composite
def control_frames(draw: st.DrawFn) -> tuple[bytes, Messages]:
    opcode = draw(st.sampled_from((PING, PONG)))
    payload = draw(st.binary(max_size=125))
    return frame(opcode, payload, mask=draw(MASKS)), [(opcode, payload)]


@st.composite
def whole_messages(draw: st.DrawFn) -> tuple[bytes, Messages]:
    """A message, maybe in fragments with control frames between them."""
    content: str | bytes = draw(TEXTS | st.binary(max_size=300))
    opcode = TEXT if isinstance(content, str) else BINARY
    payload = content.encode() if isinstance(content, str) else content
    cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
    ends = [*cuts, len(payload)]
    stream = b""
    messages: Messages = []
    for number, (start, end) in enumerate(zip([0, *cuts], ends, strict=True)):
        stream += frame(
            CONTINUATION if number else opcode,
            payload[start:end],
            final=number == len(cuts),
            mask=draw(MASKS),
        )
        if number < len(cuts) and draw(st.booleans()):
            more, meant = draw(control_frames())
            stream += more
            messages += meant
    return stream, [*messages, (opcode, content)]


@st.composite
def closes(draw: st.DrawFn) -> tuple[bytes, Messages]:
    payload = b""
    if draw(st.booleans()):
        code = draw(st.sampled_from((1000, 1001, 1011, 1013, 3000, 4999)))
        payload = close_payload(code, draw(st.text(max_size=50)))
    return frame(CLOSE, payload, mask=draw(MASKS)), [(CLOSE, payload)]


@st.composite
def valid_streams(draw: st.DrawFn) -> tuple[bytes, Messages]:
    parts = draw(st.lists(whole_messages() | control_frames(), max_size=5))
    if draw(st.booleans()):
        parts.append(draw(closes()))
    return (
        b"".join(stream for stream, _ in parts),
        [message for _, messages in parts for message in messages],
    )


def any_frames() -> st.SearchStrategy[bytes]:
    """Frames of which any part may be wrong, though most parts are right."""

    def mostly(usual: object, *others: object) -> st.SearchStrategy[object]:
        return st.sampled_from((*[usual] * 12, *others))

    return st.builds(
        frame,
        st.sampled_from([*[CONTINUATION, TEXT, BINARY] * 4, CLOSE, PING, PONG, 3, 15]),
        st.binary(max_size=130)
        | st.text(max_size=20).map(str.encode)
        | st.integers(990, 5010).map(lambda code: code.to_bytes(2, "big")),
        final=st.booleans(),
        reserved=mostly(0, 1, 2, 4),
        mask=mostly(MASK, None),
        width=mostly(None, 8),
    )


@st.composite
def mutated_streams(draw: st.DrawFn) -> bytes:
    stream = bytearray(draw(valid_streams())[0])
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, len(stream)))
        match draw(st.sampled_from(("change", "flip", "insert", "take out", "cut"))):
            case "change":
                stream[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
            case "flip":
                for bit in stream[place : place + 1]:
                    stream[place] = bit ^ 1 << draw(st.integers(0, 7))
            case "insert":
                stream[place:place] = draw(st.binary(max_size=4))
            case "take out":
                del stream[place : place + draw(st.integers(1, 4))]
            case "cut":
                del stream[place:]
    return bytes(stream)


ANY_STREAMS = (
    st.lists(any_frames(), max_size=5).map(b"".join)
    | mutated_streams()
    | st.binary(max_size=60)
)
CUTS = st.lists(st.integers(0, 2000), max_size=12)


def cut(stream: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Cut it into pieces, some of them empty."""
    places = sorted(place % (len(stream) + 1) for place in cuts)
    return [
        stream[start:end]
        for start, end in zip([0, *places], [*places, len(stream)], strict=True)
    ]


def referee(stream: bytes) -> tuple[Messages, int | None]:
    """Return what wsproto makes of it: messages, and the code of an error."""
    protocol = FrameProtocol(client=False, extensions=[])
    protocol.receive_bytes(stream)
    messages: Messages = []
    parts: list[str | bytes] = []
    try:
        for found in protocol.received_frames():
            payload = found.payload
            if isinstance(payload, tuple):
                code, reason = payload
                closed = code.to_bytes(2, "big") + reason.encode()
                messages.append((CLOSE, b"" if code == 1005 else closed))
            elif found.opcode.iscontrol():
                messages.append((int(found.opcode), payload))
            else:
                parts.append(payload)
                if found.message_finished:
                    whole = type(payload)().join(parts)  # type: ignore[arg-type]
                    messages.append((int(found.opcode), whole))
                    parts = []
    except ParseFailed as failed:
        return messages, int(failed.code)
    return messages, None


def check_pieces(stream: tuple[bytes, Messages], cuts: Sequence[int]) -> None:
    assert decode([stream[0]]) == (stream[1], None)
    assert decode(cut(stream[0], cuts)) == (stream[1], None)
    assert referee(stream[0]) == (stream[1], None)


def check_same_in_pieces(stream: bytes, cuts: Sequence[int]) -> None:
    messages, error = decode([stream])
    in_pieces, error_in_pieces = decode(cut(stream, cuts))
    assert in_pieces == messages
    assert str(error_in_pieces) == str(error)


def is_bad_gateway(message: tuple[int, str | bytes]) -> bool:
    opcode, payload = message
    return opcode == CLOSE and payload[:2] == (1014).to_bytes(2, "big")


def check_against_wsproto(stream: bytes) -> None:
    """Agree with wsproto, but for what is named here."""
    messages, error = decode([stream])
    code = error.code if error else None
    theirs, their_code = referee(stream)
    if their_code == 1007 and (messages, code) != (theirs, 1007):
        # wsproto looks at a text while it comes; we, once it is whole, so that control
        # frames, or another error, may be met before.
        assert messages[: len(theirs)] == theirs
        assert all(opcode & 8 for opcode, _ in messages[len(theirs) :])
        return
    if any(is_bad_gateway(message) for message in messages):
        # The code is in IANA's registry, but wsproto does not know it.
        assert (theirs, their_code, code) == (messages[:-1], 1002, None)
        return
    if code == 1009:
        # wsproto has no limit, and waits for what is announced.
        assert (theirs, their_code) == (messages, None)
        return
    if code == 1002 and their_code is None:
        # We refuse a header by its first bytes; wsproto waits for the last.
        theirs, their_code = referee(stream + bytes(16))
    assert (messages, code) == (theirs, their_code)


@drawn(valid_streams(), CUTS)
def test_any_pieces_of_a_valid_stream_yield_its_messages(
    stream: tuple[bytes, Messages], cuts: list[int]
) -> None:
    check_pieces(stream, cuts)


@drawn(ANY_STREAMS, CUTS)
def test_any_pieces_of_any_stream_yield_the_same(
    stream: bytes, cuts: list[int]
) -> None:
    check_same_in_pieces(stream, cuts)


@drawn(ANY_STREAMS)
def test_agrees_with_wsproto(stream: bytes) -> None:
    check_against_wsproto(stream)


@drawn(st.binary(max_size=300) | st.text(max_size=100))
def test_wsproto_reads_what_is_encoded(content: bytes | str) -> None:
    client = FrameProtocol(client=True, extensions=[])
    if isinstance(content, str):
        client.receive_bytes(encode(TEXT, content.encode()))
    else:
        client.receive_bytes(encode(BINARY, content))
    (found,) = client.received_frames()
    assert found.message_finished
    assert found.payload == content


@pytest.mark.soak
@pytest.mark.parametrize(
    ("check", "streams"),
    [
        pytest.param(check_pieces, (valid_streams(), CUTS), id="valid"),
        pytest.param(check_same_in_pieces, (ANY_STREAMS, CUTS), id="any"),
        pytest.param(check_against_wsproto, (ANY_STREAMS,), id="wsproto"),
    ],
)
def test_many_streams(
    check: Callable[..., None], streams: tuple[st.SearchStrategy[object], ...]
) -> None:
    """A failure prints the example that it found."""
    many = settings(
        max_examples=10_000,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    many(given(*streams)(check))()
