"""Junk, drawn at random, against a server that serves somebody else meanwhile.

Whatever comes, it gets an answer of the protocol or the end of its own connection: no
traceback, nothing that stays behind, and nobody else notices.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.protocol_servers import (
    POLLING,
    WEBSOCKET,
    Place,
    problems,
    serving,
)
from tests.support.raw import BINARY, CLOSE, TEXT, UPGRADE, Raw, frame
from tests.support.waiting import DEADLINE, until

# Short texts that mean something to the one parser or the other, and any others.
WORDS = st.sampled_from(
    [
        *("0", "1", "2", "3", "4", "5", "6", "b", "2probe", "3probe", "40", "41", "42"),
        *("40/custom,", "41/custom,", '40/none,{"a":1}', '42["message",1]', "43", "44"),
        *('421["message-with-ack",[]]', '42["livepush.subscribe",{"room":"lobby"}]'),
        *(
            '42["livepush.subscribe",{"room":7}]',
            '42["livepush.subscribe"]',
            "45",
            "46",
        ),
        *('451-["message",{"_placeholder":true,"num":0}]', '450-["message"]'),
        *('451-["message",{"_placeholder":true,"num":7}]', '451-["message"]'),
        *('451-["message",{"_placeholder":true,"num":"x"}]', "461-1[]", "4310[1]"),
        *(
            '459999999999-["message"]',
            "4599999999999-[]",
            '42[["message"]]',
            "42[null]",
        ),
        *(
            "42" + "9" * 101 + '["a"]',
            "42" + "[" * 90 + "]" * 90,
            '42["x"' + ",[" * 5000,
        ),
        *('42{"a":' * 40, "4\u00b2", "4\u0663", '42["connect"]', '42["disconnect"]'),
        *('42["message",NaN,1e999,"\\ud800"]', '42["__class__"]', '40"text"', "40[]"),
        *(
            '42/custom,["message"]',
            '42/none,["message"]',
            "4" + "/" * 1000,
            "bAQID",
            "b=",
        ),
    ]
)
TEXTS = WORDS | st.text(max_size=40) | WORDS.map(lambda word: word[:-1])
PAYLOADS = st.lists(TEXTS, max_size=4).map("\x1e".join) | TEXTS


@st.composite
def any_frames(draw: st.DrawFn) -> bytes:
    """Return a frame, right or wrong in a way."""
    opcode = draw(st.sampled_from([TEXT, TEXT, BINARY, CLOSE, 9, 10, 0, 3, 7, 11, 15]))
    first = draw(st.sampled_from([0x80, 0x80, 0x80, 0, 0xC0, 0xA0, 0x90, 0xF0]))
    masked = draw(st.sampled_from([True, True, True, False]))
    length = draw(
        st.sampled_from(
            [None] * 8 + [0, 1, 126, 65_536, 2**31, 2**62, 2**63, 2**64 - 1]
        )
    )
    payload = draw(TEXTS.map(str.encode) | st.binary(max_size=200))
    return frame(opcode, payload, first, masked, length)


HEADER_VALUES = st.text(
    st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=30
) | st.sampled_from(["websocket", "Upgrade", "13", "8", UPGRADE["Sec-WebSocket-Key"]])
UPGRADES = st.fixed_dictionaries(
    {},
    optional={
        name: st.just(value) | HEADER_VALUES
        for name, value in (
            *UPGRADE.items(),
            ("Sec-WebSocket-Extensions", "permessage-deflate"),
            ("Sec-WebSocket-Protocol", "chat"),
            ("Origin", "http://localhost"),
        )
    },
)
QUERIES = st.sampled_from(
    [
        *(POLLING, WEBSOCKET, f"{POLLING}&sid=x", f"{WEBSOCKET}&sid=x", "EIO=4", ""),
        *("EIO=4&EIO=3&transport=polling", "EIO=4&transport=polling&transport=abc"),
        *("EIO=4&transport=polling&j=0", "EIO=%FF&transport=%00", f"{POLLING}&sid="),
    ]
)


class Bystander:
    """A client that behaves: it is in a room, and notes what comes."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._raw = place.websocket()
        self._raw.read()
        self._raw.text("40")
        self._raw.read()
        self._raw.text('421["livepush.subscribe",{"v":1,"room":"lobby"}]')
        assert '"ok":true' in str(self._raw.read())
        self._raw.socket.settimeout(None)
        self._seen: list[int] = []
        self._emitted = 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError, ValueError):
            while (message := self._raw.read()) is not None:
                assert isinstance(message, str)
                self._seen.append(json.loads(message[2:])[1])

    def check(self) -> None:
        """Let something happen in its room: it learns of that, and of nothing else."""
        self._place.request(f"number={self._emitted}", "POST", path="/emit")
        self._emitted += 1
        until(lambda: len(self._seen) >= self._emitted)
        assert self._seen == list(range(self._emitted))

    def close(self) -> None:
        """Go."""
        self._raw.socket.shutdown(2)
        self._thread.join(DEADLINE)
        self._raw.close()


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """A server; afterwards its log has no error."""
    with serving("gunicorn-gthread") as server:
        place = Place(server)
        for prefix in ("", "/short"):  # what the process opens once, it opens now
            Place(server, prefix).websocket().close()
        yield place
        assert problems(server) == []


@pytest.fixture
def bystander(place: Place) -> Iterator[Bystander]:
    """Somebody else; when it has gone, nothing is left of anybody."""
    place.state()
    before = place.state()
    found = Bystander(place)
    yield found
    found.check()
    found.close()
    until(lambda: place.state()["sockets"] == 0)
    # Sessions that only polled are there until they are silent for too long.
    until(lambda: place.state()["descriptors"] <= before["descriptors"])
    assert place.state()["binary"] == 0


# -- what is sent ----------------------------------------------------------------------
def send_requests(
    place: Place, asked: list[tuple[str, str, str, dict[str, str]]]
) -> None:
    """Make requests of any kind, one after the other on a connection while it lives."""
    with place.connect() as raw:
        for query, method, body, headers in asked:
            with suppress(ConnectionError):
                raw.send_request(query, method, body=body, headers=headers)
                answer = raw.answer()
                assert answer.status in (101, 200, 400, 401, 404, 405, 413, 426), answer
                assert b"Traceback" not in answer.body
                if answer.status == 101 or answer.headers.get("connection") == "close":
                    return


def send_frames(place: Place, stream: list[bytes], entered: bool, half: bool) -> None:
    """Send frames of any kind, cut off or not, and let the server end it."""
    with place.websocket() as raw:
        raw.read()
        with suppress(ConnectionError):
            if entered:
                raw.text("40")
            raw.socket.sendall(b"".join(stream))
            if not half:
                raw.frame(CLOSE)  # or the rest of a longer frame
            raw.socket.shutdown(1)
            drain(raw)


def send_messages(place: Place, messages: list[str | bytes], entered: bool) -> None:
    """Send Engine.IO packets of any kind by WebSocket."""
    with place.websocket() as raw:
        raw.read()
        with suppress(ConnectionError):
            if entered:
                raw.text("40")
            for message in messages:
                if isinstance(message, bytes):
                    raw.frame(BINARY, message)
                else:
                    raw.frame(TEXT, message.encode("utf-8", "surrogatepass"))
            raw.frame(CLOSE)
            drain(raw)


def drain(raw: Raw) -> None:
    """Read to the end, which comes."""
    while (found := raw.read_frame()) is not None:
        assert b"Traceback" not in found[1]


def send_polls(place: Place, turns: list[tuple[str, str]], parallel: bool) -> None:
    """Make requests of one session, one after the other or all at once."""
    session = place.open()
    problems: list[BaseException] = []

    def ask(kind: str, body: str) -> None:
        query = session if kind != "websocket" else session.replace("polling", kind)
        data = body.encode("utf-8", "surrogatepass")
        try:
            with place.connect() as raw:
                if kind == "websocket":
                    if raw.upgrade(query).status == 101:
                        raw.text(body)
                        raw.frame(CLOSE)
                    return
                answer = raw.request(query, kind, body=data)
                assert answer.status in (200, 400, 413), answer
                assert b"Traceback" not in answer.body
        except ConnectionError:
            pass
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = []
    for kind, body in turns:
        thread = threading.Thread(target=ask, args=(kind, body), daemon=True)
        threads.append(thread)
        thread.start()
        if not parallel and kind != "GET":
            thread.join(DEADLINE)
    with suppress(AssertionError):
        place.request(session, "POST", body="1")
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert problems == []
    until(lambda: place.request(session).status == 400)


METHODS = st.sampled_from(["GET", "GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
CASES: dict[str, tuple[Callable[..., None], tuple[st.SearchStrategy[Any], ...]]] = {
    "requests": (
        send_requests,
        (
            st.lists(
                st.tuples(QUERIES, METHODS, TEXTS, UPGRADES), min_size=1, max_size=4
            ),
        ),
    ),
    "frames": (
        send_frames,
        (st.lists(any_frames(), max_size=5), st.booleans(), st.booleans()),
    ),
    "messages": (
        send_messages,
        (st.lists(TEXTS | st.binary(max_size=20), max_size=8), st.booleans()),
    ),
    "polls": (
        send_polls,
        (
            st.lists(
                st.tuples(
                    st.sampled_from(["GET", "POST", "POST", "websocket"]), PAYLOADS
                ),
                max_size=5,
            ),
            st.booleans(),
        ),
    ),
}


def run(case: str, place: Place, bystander: Bystander, **options: Any) -> None:
    """Send junk, and look after each whether somebody else is served."""
    send, strategies = CASES[case]

    def check(drawn: tuple[Any, ...]) -> None:
        send(place, *drawn)
        bystander.check()

    bounded = settings(
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        **options,
    )
    bounded(given(st.tuples(*strategies))(check))()


@pytest.mark.parametrize("case", CASES)
def test_junk_harms_nobody_else(case: str, place: Place, bystander: Bystander) -> None:
    run(case, place, bystander, max_examples=60, derandomize=True)


@pytest.mark.soak
@pytest.mark.parametrize("case", CASES)
def test_much_junk_harms_nobody_else(
    case: str, place: Place, bystander: Bystander
) -> None:
    """A failure prints the example that it found."""
    run(case, place, bystander, max_examples=5000)


def test_a_thousand_packets_come_at_once(place: Place, bystander: Bystander) -> None:
    """What is more than allowed is refused; what is allowed is taken."""
    session = place.open()
    assert place.request(session, "POST", body="40").status == 200
    most = "\x1e".join(['42["message"]'] * 2000)
    assert place.request(session, "POST", body=most).status == 400
    assert place.request(session).status == 400


def test_attachments_have_a_bound(place: Place, bystander: Bystander) -> None:
    with place.websocket() as raw:
        raw.read()
        raw.text("40")
        raw.read()
        raw.text('45900-["message",{"_placeholder":true,"num":0}]')
        with suppress(ConnectionError):
            for _ in range(20):
                raw.frame(BINARY, b"x" * 100_000)
        drain(raw)


def test_connections_that_say_nothing_more_are_given_up(
    place: Place, bystander: Bystander
) -> None:
    """In the middle of a request, of a frame, of a message, of a packet."""
    short = Place(place.program, "/short")
    with ExitStack() as stack:
        for said in (b"", b"\x81", b"\x81\xfe\x10", frame(TEXT, b"42[", 0)):
            raw = stack.enter_context(short.websocket(pings=False))
            raw.read()
            raw.socket.sendall(said)
            stack.callback(drain, raw)
    until(lambda: not short.state()["sessions"])
