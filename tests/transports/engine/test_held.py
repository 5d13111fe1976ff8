"""Servers whose sockets can't be taken: they encrypt, or show none."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import trustme

from tests.support.protocol_app import LIMIT
from tests.support.protocol_servers import (
    APP,
    SERVERS,
    WEBSOCKET,
    Place,
    answer_of,
    later,
    problems,
    serving,
)
from tests.support.raw import BINARY, CLOSE, PING, PONG, UPGRADE, Raw
from tests.support.servers import running
from tests.support.waiting import DEADLINE, until

SAYS = "This process encrypts WebSockets itself"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the server's certificate."""
    return trustme.CA()


@pytest.fixture(scope="module", params=SERVERS)
def secure(
    request: pytest.FixtureRequest,
    authority: trustme.CA,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Place]:
    """A server that speaks TLS; afterwards its log has one line on that, no error."""
    file = str(tmp_path_factory.mktemp("tls") / "server.pem")
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(file)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    gunicorn = request.param.startswith("gunicorn")
    args = (
        ("--certfile", file, "--keyfile", file) if gunicorn else ("--encrypted", file)
    )
    with serving(request.param, *args) as server:
        yield Place(server, tls=client)
        assert problems(server) == []
        # There are two applications, and one line of each.
        assert server.log.count(SAYS) in (1, 2)


@pytest.fixture
def client(secure: Place) -> Iterator[Raw]:
    """A client that is connected to the main namespace by WebSocket."""
    with secure.websocket() as raw:
        assert answer_of(str(raw.read()))["upgrades"] == []
        raw.text("40")
        assert str(raw.read()).startswith('40{"sid":')
        yield raw


def test_serves_a_websocket_over_tls(client: Raw) -> None:
    for number in range(100):
        client.text(f'42["message",{number}]')
    for number in range(100):
        assert client.read() == f'42["message-back",{number}]'
    client.text('451-["message",{"_placeholder":true,"num":0}]')
    client.frame(BINARY, b"x" * 100_000)
    assert client.read() == '451-["message-back",{"_placeholder":true,"num":0}]'
    assert client.read() == b"x" * 100_000
    client.frame(PING, b"there?")
    assert client.read_frame() == (PONG, b"there?")
    client.frame(CLOSE, b"\x0f\xa0bye")
    assert client.closing() == 4000


def test_upgrades_over_tls(secure: Place) -> None:
    session = secure.open()
    secure.request(session, "POST", body="40")
    assert secure.request(session).text.startswith("40")
    poll = later(lambda: secure.request(session))
    until(lambda: secure.polled(session))
    with secure.websocket(session.replace("polling", "websocket")) as raw:
        raw.text("2probe")
        assert raw.read() == "3probe"
        assert poll.result(DEADLINE).text == "6"
        raw.text("5")
        raw.text('42["message",1]')
        assert raw.read() == '42["message-back",1]'
        assert secure.request(session).status == 400
        with secure.websocket(session.replace("polling", "websocket")) as second:
            second.closing()
        raw.text('42["end"]')
        assert raw.read() == '42["farewell"]'
        assert raw.read() == "1"
        assert raw.closing() == 1000


def test_a_probe_over_tls_that_fails_leaves_the_session_polling(secure: Place) -> None:
    session = secure.open()
    with secure.websocket(session.replace("polling", "websocket")) as raw:
        raw.text("4hello")
        assert raw.closing() == 1002
    secure.request(session, "POST", body="40")
    assert secure.request(session).text.startswith("40")


def test_what_is_no_frame_or_packet_ends_it(secure: Place) -> None:
    with secure.websocket() as raw:
        raw.frame(3)
        assert raw.closing() == 1002
    with secure.websocket() as raw:
        raw.text("nonsense")
        assert raw.read() is not None
        assert raw.read() == "1"
        assert raw.closing() == 1000


def test_a_client_over_tls_that_is_silent_is_given_up(secure: Place) -> None:
    short = Place(secure.program, "/short", secure.tls)
    with short.websocket(pings=False) as raw:
        raw.read()
        assert raw.read() == "2"
        assert raw.read() == "1"
    with short.websocket(short.open().replace("polling", "websocket")) as raw:
        raw.closing()
    until(lambda: not short.state()["environ"])


def test_a_client_over_tls_that_reads_nothing_costs_what_is_allowed(
    secure: Place,
) -> None:
    with secure.websocket(buffer=8192) as raw:
        raw.read()
        raw.text("40")
        raw.read()
        before = secure.state()["environ"]
        raw.text(f'42["storm",{LIMIT // 1000 * 100}]')
        until(lambda: secure.state()["environ"] < before)


def test_websockets_over_tls_leave_nothing_behind(secure: Place) -> None:
    secure.state()
    before = secure.state()
    for _ in range(3):
        with ExitStack() as stack:
            for _ in range(3):
                raw = stack.enter_context(secure.websocket())
                assert answer_of(str(raw.read()))
            assert secure.state()["environ"] >= before["environ"] + 3
        until(lambda: secure.state()["environ"] <= before["environ"])
    until(lambda: secure.state()["descriptors"] <= before["descriptors"])


def test_a_server_without_sockets_is_polled() -> None:
    with running(APP, "--plain") as server:
        place = Place(server)
        answer = place.request(WEBSOCKET, headers=UPGRADE)
        # wsgiref's server calls every answer HTTP/1.0, and every request what it is.
        assert (answer.status, answer.json["code"]) == (400, 3)
        assert "connect by polling" in answer.json["message"]
        session = place.open()
        place.request(session, "POST", body="40")
        assert place.request(session).text.startswith("40")
        assert problems(server) == []
