"""The protocol documents' cases over real sockets, on each server.

Source: the documents of Engine.IO, version 4, and Socket.IO, version 5, and what their
own suites of tests look at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.protocol_servers import (
    POLLING,
    SERVERS,
    WEBSOCKET,
    Place,
    answer_of,
    later,
    problems,
    serving,
)
from tests.support.raw import PING, PONG, TEXT, UPGRADE, Raw
from tests.support.servers import Server
from tests.support.waiting import DEADLINE, until

KEYS = {"sid", "upgrades", "pingInterval", "pingTimeout", "maxPayload"}


@pytest.fixture(scope="module", params=SERVERS)
def program(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A server; afterwards its log has no error in it."""
    with serving(request.param) as server:
        yield server
        assert problems(server) == []


@pytest.fixture
def place(program: Server) -> Place:
    """The application with a usual heartbeat."""
    return Place(program)


@pytest.fixture
def short(program: Server) -> Place:
    """The application with a short heartbeat."""
    return Place(program, "/short")


@pytest.fixture
def client(place: Place) -> Iterator[Raw]:
    """A client that is connected to the main namespace by WebSocket."""
    with place.websocket() as raw:
        raw.read()
        raw.text("40")
        assert str(raw.read()).startswith('40{"sid":')
        yield raw


# -- Engine.IO: handshake --------------------------------------------------------------
def test_opens_a_session_by_polling(short: Place) -> None:
    answer = short.request(POLLING)
    assert (answer.status, answer.text[0]) == (200, "0")
    told = answer_of(answer.text)
    assert set(told) == KEYS
    assert isinstance(told["sid"], str)
    assert told["upgrades"] == ["websocket"]
    assert (told["pingInterval"], told["pingTimeout"]) == (300, 200)
    assert told["maxPayload"] == 1_000_000


def test_opens_a_session_by_websocket(short: Place) -> None:
    with short.websocket() as raw:
        told = answer_of(str(raw.read()))
    assert set(told) == KEYS
    assert told["upgrades"] == []
    assert (told["pingInterval"], told["pingTimeout"]) == (300, 200)


REFUSED = {
    "no version": ("GET", "transport=polling", 5),
    "another version": ("GET", "EIO=3&transport=polling", 5),
    "a version that is none": ("GET", "EIO=abc&transport=polling", 5),
    "no transport": ("GET", "EIO=4", 0),
    "another transport": ("GET", "EIO=4&transport=abc", 0),
    "a handshake by POST": ("POST", POLLING, 2),
    "a handshake by PUT": ("PUT", POLLING, 2),
    "an unknown session": ("GET", f"{POLLING}&sid=abc", 1),
    "an unknown session, POST": ("POST", f"{POLLING}&sid=abc", 1),
    "a WebSocket without an upgrade": ("GET", WEBSOCKET, 3),
}


def test_refuses_with_a_code_and_keeps_the_connection(place: Place) -> None:
    with ExitStack() as stack:
        raw = stack.enter_context(place.connect())
        for case, (method, query, code) in REFUSED.items():
            body = "x" * 5000 if method != "GET" else b""
            answer = raw.request(query, method, body=body)
            assert answer.status == 400, case
            assert set(answer.json) == {"code", "message"}, case
            assert answer.json["code"] == code, case
            raw = _goes_on(stack, place, raw, answer.headers)


def _goes_on(stack: ExitStack, place: Place, raw: Raw, headers: dict[str, str]) -> Raw:
    """Return the connection for the next request; a new one if that was said."""
    if headers.get("connection", "").lower() == "close":
        assert raw.ended()
        return stack.enter_context(place.connect())
    assert raw.request(POLLING).status == 200
    return raw


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"Sec-WebSocket-Key": "short"}, 400),
        ({"Connection": "keep-alive"}, 400),
        ({"Upgrade": "h2c"}, 400),
        ({"Sec-WebSocket-Version": "8"}, 426),
    ],
)
def test_refuses_an_upgrade_that_is_none_and_keeps_the_connection(
    place: Place, change: dict[str, str], status: int
) -> None:
    with ExitStack() as stack:
        raw = stack.enter_context(place.connect())
        answer = raw.upgrade(WEBSOCKET, headers={**UPGRADE, **change})
        assert (answer.status, answer.json["code"]) == (status, 3)
        if status == 426:
            assert answer.headers["sec-websocket-version"] == "13"
        _goes_on(stack, place, raw, answer.headers)
        for query in ("transport=websocket", "EIO=3&transport=websocket"):
            assert place.request(query, headers=UPGRADE).json["code"] == 5
        unknown = place.request(f"{WEBSOCKET}&sid=abc", headers=UPGRADE)
        assert (unknown.status, unknown.json["code"]) == (400, 1)


def test_refuses_a_body_that_is_too_large(place: Place) -> None:
    with ExitStack() as stack:
        raw = stack.enter_context(place.connect())
        session = place.open()
        answer = raw.request(session, "POST", body="4" + "x" * 1_000_000)
        assert answer.status in (400, 413)
        assert set(answer.json) == {"code", "message"}
        _goes_on(stack, place, raw, answer.headers)
        assert place.request(session).status == 400


# -- Engine.IO: messages ---------------------------------------------------------------
def test_takes_and_gives_payloads_by_polling(place: Place) -> None:
    session = place.open()
    assert place.request(session, "POST", body="40").text == "ok"
    assert place.request(session).text.startswith('40{"sid":')
    events = [f'42["message","test{n}"]' for n in range(3)]
    events.append('451-["message",{"_placeholder":true,"num":0}]\x1ebAQIDBA==')
    answer = place.request(session, "POST", body="\x1e".join(events))
    assert (answer.status, answer.text) == (200, "ok")
    assert answer.headers["content-type"].startswith("text/")
    packets: list[str] = []
    while len(packets) < 5:
        packets += place.request(session).text.split("\x1e")
    assert packets == [
        *(f'42["message-back","test{n}"]' for n in range(3)),
        '451-["message-back",{"_placeholder":true,"num":0}]',
        "bAQIDBA==",
    ]


@pytest.mark.parametrize("body", ["abc", "", "4\x1e\x1e", "b*", "\xff", "2", "5"])
def test_closes_a_polling_session_that_sends_what_is_no_packet(
    place: Place, body: str
) -> None:
    session = place.open()
    pushed = place.request(session, "POST", body=body.encode("latin-1"))
    assert pushed.status == 400
    assert place.request(session).status == 400


@pytest.mark.parametrize("text", ["abc", "", "2", "b", "9", "4abc", "42", "44{}"])
def test_closes_a_websocket_that_sends_what_is_no_packet(
    place: Place, text: str
) -> None:
    with place.websocket() as raw:
        raw.text(text)
        raw.closing()


def test_a_second_poll_ends_the_session(place: Place) -> None:
    session = place.open()
    first = later(lambda: place.request(session))
    until(lambda: place.polled(session))
    second = place.request(session)
    answer = first.result(DEADLINE)
    assert (answer.status, answer.text) == (200, "1")
    assert second.status == 400
    assert place.request(session).status == 400


def test_another_method_is_refused_and_ends_nothing(place: Place) -> None:
    session = place.open()
    refused = place.request(session, "PUT", body="x")
    assert (refused.status, refused.json["code"]) == (400, 2)
    assert place.request(session, "POST", body="40").status == 200


# -- Engine.IO: heartbeat --------------------------------------------------------------
def test_asks_for_signs_of_life(program: Server) -> None:
    beating = Place(program, "/beating")
    with beating.websocket(pings=False) as raw:
        raw.read()
        for _ in range(3):
            assert raw.read() == "2"
            raw.text("3")
    session = beating.open()
    for _ in range(3):
        assert beating.request(session).text == "2"
        assert beating.request(session, "POST", body="3").text == "ok"


def test_ends_sessions_that_give_none(short: Place) -> None:
    """Bug: python-engineio's polling sessions outlive their timeout."""
    polling, polled = short.open(), short.open()
    with short.websocket(pings=False) as raw:
        poll = later(lambda: [short.request(polled), short.request(polled)])
        raw.read()
        assert raw.read() == "2"
        raw.closing()
        ping, end = poll.result(DEADLINE)
        assert ping.text == "2"
        assert (end.status, end.text) in ((200, "1"), (400, end.text))
        until(lambda: not short.state()["sessions"])
        assert short.request(polling).status == 400
        assert short.request(polled, "POST", body="3").status == 400
        until(lambda: not short.state()["environ"])


# -- Engine.IO: close ------------------------------------------------------------------
def test_a_client_ends_a_session_by_polling(place: Place) -> None:
    session = place.open()
    poll = later(lambda: place.request(session))
    until(lambda: place.polled(session))
    assert place.request(session, "POST", body="1").status == 200
    answer = poll.result(DEADLINE)
    assert (answer.status, answer.text) == (200, "6")
    for method in ("GET", "POST"):
        again = place.request(session, method)
        assert (again.status, again.json["code"]) == (400, 1)


def test_a_client_ends_a_session_by_websocket(place: Place) -> None:
    with place.websocket() as raw:
        raw.read()
        raw.text("1")
        assert raw.closing() == 1000


def test_a_server_ends_a_session_after_what_waits_for_it(place: Place) -> None:
    for event, end in (("leave", "41"), ("end", "1")):
        with place.websocket() as raw:
            raw.read()
            raw.text("40")
            raw.read()
            raw.text(f'42["{event}"]')
            assert raw.read() == '42["farewell"]'
            assert raw.read() == end
            if end == "1":
                assert raw.closing() == 1000
        session = place.open()
        place.request(session, "POST", body="40")
        assert place.request(session).text.startswith("40")
        place.request(session, "POST", body=f'42["{event}"]')
        text = ""
        while end not in text.split("\x1e"):
            text += "\x1e" + place.request(session).text
        assert text.split("\x1e")[1:] == ['42["farewell"]', end]
    assert place.request(session).status == 400


# -- Engine.IO: upgrade ----------------------------------------------------------------
def probe(place: Place, session: str) -> Raw:
    """Open a WebSocket and let it answer a probe."""
    raw = place.websocket(session.replace("polling", "websocket"))
    raw.text("2probe")
    assert raw.read() == "3probe"
    return raw


def test_upgrades_with_what_waits(place: Place) -> None:
    session = place.open()
    place.request(session, "POST", body="40")
    assert place.request(session).text.startswith("40")
    poll = later(lambda: place.request(session))
    until(lambda: place.polled(session))
    with probe(place, session) as raw:
        assert poll.result(DEADLINE).text == "6"
        place.request(session, "POST", body='42["message",1]')
        # While it is tried out, polls are answered at once.
        until(lambda: "message-back" in place.request(session).text)
        raw.text("5")
        raw.text('42["message",2]')
        assert raw.read() == '42["message-back",2]'
        for method in ("GET", "POST"):
            refused = place.request(session, method, body="")
            assert refused.status == 400, method
        with place.websocket(session.replace("polling", "websocket")) as second:
            assert second.closing() in (1000, None)
        raw.text('42["message",3]')
        assert raw.read() == '42["message-back",3]'


@pytest.mark.parametrize("text", ["4hello", "5", "2other", "1"])
def test_a_probe_that_fails_leaves_the_session_polling(place: Place, text: str) -> None:
    session = place.open()
    with place.websocket(session.replace("polling", "websocket")) as raw:
        raw.text(text)
        raw.closing()
    place.request(session, "POST", body="40")
    assert place.request(session).text.startswith("40")
    with probe(place, session) as raw:
        raw.text("5")
        raw.text('42["message",2]')
        assert raw.read() == '42["message-back",2]'


def test_a_probe_that_does_not_end_is_closed(short: Place) -> None:
    session = short.open()
    with probe(short, session) as raw:
        raw.closing()


def test_only_one_websocket_at_a_time_is_tried_out(place: Place) -> None:
    session = place.open()
    with probe(place, session) as raw:
        with place.websocket(session.replace("polling", "websocket")) as second:
            second.closing()
        raw.text("5")
        raw.text("40")
        assert str(raw.read()).startswith("40")


# -- Socket.IO -------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("packet", "prefix", "auth"),
    [
        ("40", "40", "{}"),
        ('40{"token":"123"}', "40", '{"token":"123"}'),
        ("40/custom,", "40/custom,", "{}"),
        ('40/custom,{"token":"abc"}', "40/custom,", '{"token":"abc"}'),
    ],
)
def test_connects_to_a_namespace(
    place: Place, packet: str, prefix: str, auth: str
) -> None:
    with place.websocket() as raw:
        raw.read()
        raw.text(packet)
        answer = str(raw.read())
        assert answer.startswith(prefix)
        assert set(json.loads(answer.removeprefix(prefix))) == {"sid"}
        raw.text(f'42{prefix[2:]}["auth"]')
        assert raw.read() == f'42{prefix[2:]}["auth",{auth}]'


def test_refuses_an_unknown_namespace(place: Place) -> None:
    """Bug: python-socketio answers with a bare string."""
    with place.websocket() as raw:
        raw.read()
        raw.text("40/random")
        assert raw.read() == '44/random,{"message":"Invalid namespace"}'
        raw.text("40")
        assert str(raw.read()).startswith('40{"sid":')


@pytest.mark.parametrize("first", ['42["message",1]', "41", "431[]", '451-["a"]'])
def test_closes_a_connection_that_does_not_begin_with_connect(
    place: Place, first: str
) -> None:
    with place.websocket() as raw:
        raw.read()
        raw.text(first)
        raw.closing()


def test_a_second_connect_changes_nothing(client: Raw) -> None:
    client.text("40")
    client.text('42["message",1]')
    assert client.read() == '42["message-back",1]'


def test_disconnects_from_a_namespace(client: Raw, place: Place) -> None:
    client.text("40/custom")
    assert str(client.read()).startswith("40/custom,")
    client.text("41/custom")
    client.text('42["message","message to main namespace"]')
    assert client.read() == '42["message-back","message to main namespace"]'


def test_sends_events_back(client: Raw) -> None:
    client.text('42["message",1,"2",{"3":[true]}]')
    assert client.read() == '42["message-back",1,"2",{"3":[true]}]'


def test_sends_binary_back(client: Raw) -> None:
    placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
    client.text(f'452-["message",{placeholders}]')
    client.frame(2, b"\1\2\3")
    client.frame(2, b"\4\5\6")
    assert client.read() == f'452-["message-back",{placeholders}]'
    assert (client.read(), client.read()) == (b"\1\2\3", b"\4\5\6")


def test_acknowledges(client: Raw) -> None:
    client.text('42456["message-with-ack",1,"2",{"3":[false]}]')
    assert client.read() == '43456[1,"2",{"3":[false]}]'
    placeholders = '{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}'
    client.text(f'452-789["message-with-ack",{placeholders}]')
    client.frame(2, b"\1\2\3")
    client.frame(2, b"\4\5\6")
    assert client.read() == f"462-789[{placeholders}]"
    assert (client.read(), client.read()) == (b"\1\2\3", b"\4\5\6")


@pytest.mark.parametrize(
    "packet",
    [
        "49",
        "4abc",
        "42[",
        "42" + "[" * 200 + "]" * 200,
        '40/custom,"text"',
        '451-["message",{"_placeholder":true,"num":9}]',
    ],
)
def test_closes_a_connection_that_sends_what_is_no_packet(
    client: Raw, packet: str
) -> None:
    client.text(packet)
    if packet.startswith("45"):
        client.frame(2, b"\1")
    client.closing()


@pytest.mark.parametrize(
    "packet", ["42", "42{}", "42[]", "42[{}]", '42["connect"]', "43", "431{}", "439[]"]
)
def test_ignores_a_packet_that_says_nothing(client: Raw, packet: str) -> None:
    client.text(packet)
    client.text('42["message",1]')
    assert client.read() == '42["message-back",1]'


def test_closes_a_connection_whose_binary_does_not_fit(place: Place) -> None:
    for announced, opcode, payload in (
        (True, TEXT, "40"),
        (True, TEXT, '42["message"]'),
        (False, 2, "\1\2"),
    ):
        with place.websocket() as raw:
            raw.read()
            raw.text("40")
            raw.read()
            if announced:
                raw.text('451-["message",{"_placeholder":true,"num":0}]')
            raw.frame(opcode, payload if opcode == 2 else f"4{payload[1:]}")
            raw.closing()


# -- WebSockets and servers ------------------------------------------------------------
def test_answers_pings_of_the_websocket_itself(client: Raw) -> None:
    client.frame(PING, b"are you there")
    assert client.read_frame() == (PONG, b"are you there")


def test_fifty_websockets_leave_nothing_behind(place: Place) -> None:
    """Views are answered meanwhile: a WebSocket is no connection of gunicorn's.

    Bug: counted down twice, gunicorn's connections were never limited again.
    """
    place.state()
    until(lambda: not place.state()["sockets"])
    before = place.state()
    with ExitStack() as stack:
        for _ in range(50):
            raw = stack.enter_context(place.websocket())
            assert answer_of(str(raw.read()))
        # The last has been told before the loop knows of it.
        during = until(lambda: (found := place.state())["sockets"] == 50 and found)
        assert all(0 < number < 20 for number in during["connections"])
        assert during["threads"] <= before["threads"] + 8
    after = until(lambda: (found := place.state())["sockets"] == 0 and found)
    assert all(0 < number < 20 for number in after["connections"])
    until(lambda: place.state()["descriptors"] <= before["descriptors"])
    until(lambda: place.state()["environ"] <= before["environ"])
