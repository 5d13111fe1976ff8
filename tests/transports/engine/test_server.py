"""The engine's parts that real sockets reach too seldom."""

from __future__ import annotations

import _socket
import socket
import threading
from typing import Any

import pytest

from flask_livepush.transports.engine import frames, taking
from flask_livepush.transports.engine.connection import Connection
from flask_livepush.transports.engine.packets import message
from flask_livepush.transports.engine.probes import Probe
from tests.support.connections import Site
from tests.support.raw import KEY, TEXT
from tests.support.waiting import DEADLINE


def engine_of(site: Site) -> Any:
    return site.livepush.socketio.server.eio


def test_what_a_websocket_says_that_is_one_too_many_is_ignored() -> None:
    """Bug: the loop's turn failed, with a traceback.

    1. A second WebSocket comes for a session; the loop gets it, and nobody owns it.
    2. Its client speaks: the loop reads.
    3. The thread that brought it lets the loop close it.
    """
    ours, theirs = socket.socketpair()
    with theirs, _socket_of(ours) as taken:
        websocket = Connection(taken, frames.Decoder(100), None)
        engine_of(Site())._sessions._received(websocket, TEXT, "4hello")


def upgrade(site: Site, sock: Any) -> dict[str, Any]:
    """Return the environment of an upgrade under Werkzeug's server, or under none."""
    return {
        **site.environ("1"),
        "HTTP_UPGRADE": "websocket",
        "HTTP_CONNECTION": "Upgrade",
        "HTTP_SEC_WEBSOCKET_VERSION": "13",
        "HTTP_SEC_WEBSOCKET_KEY": KEY,
        "QUERY_STRING": "EIO=4&transport=websocket",
        **({} if sock is None else {"werkzeug.socket": sock}),
    }


def status(engine: Any, environ: dict[str, Any]) -> str:
    """Let a request be answered; return the answer's status."""
    told: list[str] = []
    engine.handle_request(environ, lambda line, headers: told.append(line))
    return told[0]


def test_says_once_that_a_server_shows_no_socket(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    for _ in range(2):
        assert status(engine_of(site), upgrade(site, None)).startswith("400 ")
    errors = [r.message for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1
    assert "shows no socket" in errors[0]
    assert engine_of(site).sockets == {}


def test_says_once_that_there_are_no_descriptors(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()

    def take(sock: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(taking, "take", take)
    for _ in range(2):
        assert status(engine_of(site), upgrade(site, object())).startswith("503 ")
    errors = [r.message for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == 1
    assert "ulimit -n" in errors[0]
    assert engine_of(site).sockets == {}


@pytest.mark.parametrize("several", [True, False])
def test_says_once_that_other_processes_do_not_hear_of_this_one(
    several: bool, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()
    for _ in range(2):
        environ = {**site.environ("1"), "wsgi.multiprocess": several}
        engine_of(site)._open(environ)
    errors = [r.message for r in caplog.records if r.levelname == "ERROR"]
    assert len(errors) == several
    assert all("LIVEPUSH_MESSAGE_QUEUE is not set" in error for error in errors)


def _taken(sock: socket.socket) -> _socket.socket:
    made = _socket.socket(fileno=sock.detach())
    made.setblocking(False)
    return made


def _socket_of(sock: socket.socket) -> Any:
    return socket.socket(fileno=sock.detach())


def test_what_follows_a_loss_waits_for_its_news_through_an_upgrade() -> None:
    """Bug: publications went over the new WebSocket that did not follow the last."""
    site = Site(LIVEPUSH_SEND_BUFFER_BYTES=100)
    engine = engine_of(site)
    lost: list[str] = []
    engine.on_full(lost.append)
    session = site.connection("1").socket
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(DEADLINE)
        sessions, decoder = engine._sessions, frames.Decoder(100)
        probe = Probe(sessions, session, sessions.loop, _taken(ours), decoder)
        sessions.loop.own(probe.connection, b"hello")
        for _ in range(2):
            engine.write((session,), (message("x" * 90),), droppable=True)
        assert lost == [session.sid]
        probe._complete(probe.connection)
        engine.write((session,), (message("hole"),), droppable=True)
        engine.accept_again(session.sid)
        engine.write((session,), (message("again"),), droppable=True)
        told = b""
        while b"again" not in told:
            told += theirs.recv(1000)
        assert b"hole" not in told
        session.close()
        while theirs.recv(1000):
            pass


def test_a_websocket_of_a_session_that_ended_meanwhile_is_closed() -> None:
    """Bug: it was nobody's, and open for as long as its client liked."""
    site = Site()
    engine = engine_of(site)
    open_session = engine._open

    def open_and_end(environ: Any) -> Any:
        session = open_session(environ)
        session.close()
        return session

    engine._open = open_and_end
    ours, theirs = socket.socketpair()
    with theirs, ours:
        theirs.settimeout(DEADLINE)
        environ = upgrade(site, ours)
        assert engine._upgrade(environ, lambda *_: None, None) == []
        while theirs.recv(1000):
            pass


def test_a_server_that_stops_ends_what_it_has_and_begins_nothing() -> None:
    """Bug: the end of the last connections began another loop."""
    site = Site()
    engine = engine_of(site)
    site.joined("1")
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(DEADLINE)
        session = site.connection("1").socket
        websocket = session.websocket = Connection(
            _taken(ours), frames.Decoder(100), session
        )
        engine._sessions.loop.own(websocket, b"hello")
        site.livepush.socketio.server.shutdown()
        while theirs.recv(1000):
            pass
    assert engine.sockets == {}
    assert engine._sessions.loop is None


def test_many_that_lose_at_once_are_told_by_one_thread() -> None:
    """Bug: each took a thread, and where none was left the hub's write raised."""
    site = Site(LIVEPUSH_SEND_BUFFER_BYTES=100)
    engine, hub = engine_of(site), site.hub
    sessions = [site.joined("1").socket for _ in range(50)]
    evicted = threading.Event()
    before = threading.active_count()
    with hub._lock:  # nobody is told yet
        for _ in range(2):
            engine.write(sessions, (message("x" * 200),), droppable=True)
        assert threading.active_count() <= before + 1
        assert all(session.lossy for session in sessions)
    for _ in range(int(DEADLINE / 0.01)):
        if not any(session.lossy for session in sessions):
            break
        evicted.wait(0.01)
    assert not any(session.lossy for session in sessions)
    assert site.emptied()


def test_attachments_are_forgotten_with_their_connection() -> None:
    site = Site()
    server = site.livepush.socketio.server
    connection = site.joined("1")
    connection.send('51-["a",{"_placeholder":true,"num":0}]')
    assert server._binary_packet
    connection.close()
    assert not server._binary_packet


def test_a_connection_that_enters_no_namespace_is_ended_after_a_time() -> None:
    site = Site()
    engine = engine_of(site)
    stranger, guest = site.connection("1"), site.joined("1")
    refused = site.connection("1")
    refused.send("0/nowhere")
    assert refused.read() == '4/nowhere,{"message":"Invalid namespace"}'
    for connection in (stranger, guest, refused):
        engine._sessions._check_connected(connection.socket)
    assert [c.socket.closed for c in (stranger, guest, refused)] == [True, False, True]


def test_a_session_is_given_up_when_it_does_not_answer() -> None:
    site = Site()
    engine = engine_of(site)
    silent, lively = site.joined("1"), site.joined("2")
    for connection in (silent, lively):
        engine._sessions._ask(connection.socket)
        assert connection.socket.take()[0].text == "2"
    engine._sessions._take(lively.socket, "3", "")
    for connection in (silent, lively):
        engine._sessions._check_answer((connection.socket, 1))
    assert (silent.socket.closed, lively.socket.closed) == (True, False)
    assert silent.eio_sid not in engine.sockets
