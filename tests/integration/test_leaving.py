"""Processes that are told to end while clients are there: gunicorn's, and our own."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_livepush import LivePush
from tests.support import gunicorns
from tests.support.gunicorns import WORKERS, development, gunicorn
from tests.support.live_client import LiveClient
from tests.support.protocol_servers import POLLING, WEBSOCKET, Place, problems
from tests.support.raw import Raw
from tests.support.redis import redis_server
from tests.support.roaming import Roaming, peak
from tests.support.servers import MODES, Mode, Program, Server, unused_port
from tests.support.waiting import DEADLINE, until

SECONDS = 4.0
SETTINGS = {"LIVEPUSH_DRAIN_SECONDS": SECONDS}
# Of processes that must not need them: more than anybody waits for here.
LONG = {"LIVEPUSH_DRAIN_SECONDS": 3 * DEADLINE}


def enter(server: Server, user: str = "") -> Raw:
    """Connect by WebSocket, up to the default namespace."""
    raw = Place(server).websocket(f"{WEBSOCKET}&user={user}")
    assert str(raw.read())[0] == "0"
    raw.text("40")
    assert str(raw.read())[:2] == "40"
    return raw


def enter_polling(server: Server) -> str:
    """Connect by polling, up to the default namespace; return the query of polls."""
    place = Place(server)
    query = place.open()
    place.request(query, "POST", body="40")
    assert place.request(query).text[:2] == "40"
    return query


def asked(packet: Any) -> float:
    """Return the seconds within which a client is asked to come back."""
    name, data = json.loads(str(packet).removeprefix("42"))
    assert name == "livepush.reconnect", packet
    return float(data["within"])


def ended(program: Program) -> float:
    """Wait until a program has ended; return how many seconds that took."""
    start = time.monotonic()
    until(lambda: not program.alive)
    return time.monotonic() - start


def is_refused(server: Server) -> bool:
    """Say whether nobody gets in any more: no connection, or 503."""
    try:
        with Raw(server.port) as raw:
            return raw.request(POLLING).status == 503
    except (ConnectionError, AssertionError):
        return True


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_ends_as_soon_as_its_clients_have_gone(worker: str) -> None:
    with gunicorn(worker, target="wrapped", settings=SETTINGS) as server:
        place = Place(server)
        ready = place.request("", path="/livepush/ready")
        assert (ready.status, ready.json["status"]) == (200, "ready")
        assert place.request("", path="/livepush/live").status == 200
        assert place.request("", path="/livepush/metrics").status == 401
        websocket, query = enter(server), enter_polling(server)
        with place.connect() as poll:
            poll.send_request(query)
            server.send(signal.SIGTERM)
            assert 0 < asked(websocket.read()) <= SECONDS / 2
            assert 0 < asked(poll.answer().text) <= SECONDS / 2
            until(lambda: is_refused(server))
        websocket.close()
        # Whoever polls can't say goodbye to a server that listens no more, and is
        # given the time.
        ended(server)
        assert server.returncode == 0
    assert problems(server) == []


@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_without_clients_ends_at_once(worker: str) -> None:
    with gunicorn(worker, settings=LONG) as server:
        enter(server).close()
        Place(server).request("", "POST", path="/emit/1/1")
        server.send(signal.SIGTERM)
        ended(server)
    assert problems(server) == []


def test_a_worker_that_still_answers_listens_no_more(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with gunicorn("gthread", settings=SETTINGS) as server:
        with Place(server).connect() as slow:
            slow.send_request(f"gate={gate}", path="/slow")
            server.send(signal.SIGTERM)
            until(lambda: not answers(server))
            gate.unlink()
            assert slow.answer().text == "done"
        ended(server)
    assert problems(server) == []


@pytest.mark.parametrize("worker", WORKERS)
def test_who_has_connected_before_the_signal_is_served(worker: str) -> None:
    """Bug: what lay in the backlog was reset when the worker closed its socket."""
    with gunicorn(worker, settings=SETTINGS) as server, ExitStack() as stack:
        pid = Place(server).request("", path="/pid").json["pid"]
        os.kill(pid, signal.SIGSTOP)
        waiting = [stack.enter_context(Place(server).connect()) for _ in range(5)]
        for raw in waiting:
            raw.send_request("", path="/pid")
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGCONT)
        # By this worker: where it was the last one, they would have been reset.
        for raw in waiting:
            assert raw.answer().json["pid"] == pid


@pytest.mark.parametrize("engine", ["loop", "stock"])
def test_who_does_not_go_is_closed_in_time(engine: str) -> None:
    settings = {**SETTINGS, "LIVEPUSH_ENGINE": engine}
    with gunicorn("gthread", "--threads", "30", settings=settings) as server:
        websockets = [enter(server) for _ in range(5)]
        server.send(signal.SIGTERM)
        start = time.monotonic()
        for websocket in websockets:
            assert 0 < asked(websocket.read()) <= SECONDS / 2
        for websocket in websockets:
            # Engine.IO's: after Socket.IO's, clients would not come back.
            assert websocket.read() == "1"
            websocket.close()
        assert time.monotonic() - start > SECONDS / 2
        ended(server)
    assert problems(server) == []


def test_a_reload_lets_the_old_worker_drain_beside_the_new_one() -> None:
    with gunicorn("gthread", settings=SETTINGS) as server:
        old = Place(server).request("", path="/pid").json["pid"]
        websocket = enter(server)
        server.send(signal.SIGHUP)
        asked(websocket.read())

        def new() -> bool:
            with suppress(ConnectionError, AssertionError):
                found = Place(server).request("", path="/pid").json["pid"]
                return bool(found != old)
            return False

        until(new)
        enter(server).close()  # who comes back is let in
        websocket.close()
        server.wait_for(rf"Worker exiting \(pid: {old}\)")
    assert problems(server) == []


def test_a_worker_that_has_served_its_requests_drains_quickly_when_it_is_alone() -> (
    None
):
    args = ("--max-requests", "6")
    with gunicorn("gthread", *args, settings=SETTINGS) as server:
        old = Place(server).request("", path="/pid").json["pid"]
        websocket = enter(server)
        for number in range(4):
            Place(server).request("", "POST", path=f"/emit/1/{number}")
        # Until it has ended nobody is served.
        assert 0 < asked(websocket.read()) <= 1
        websocket.close()
        # Who connects before it has stopped to listen is still served by it.
        until(lambda: Place(server).request("", path="/pid").json["pid"] != old)
        server.wait_for(rf"Worker exiting \(pid: {old}\)")
    assert problems(server) == []


@pytest.mark.parametrize("mode", MODES)
def test_our_own_server_drains_too(mode: Mode) -> None:
    with development(mode, SETTINGS) as server:
        until(lambda: answers(server))
        websocket = enter(server)
        server.send(signal.SIGTERM)
        assert 0 < asked(websocket.read()) <= SECONDS / 2
        until(lambda: is_refused(server))
        assert Place(server).request("", path="/livepush/ready").status == 503
        assert Place(server).request("", path="/livepush/live").status == 200
        websocket.close()
        ended(server)
        assert server.returncode == 0
    assert problems(server) == []


def test_a_second_signal_ends_our_own_server_at_once() -> None:
    with development("threading", LONG) as server:
        until(lambda: answers(server))
        websocket = enter(server)
        server.send(signal.SIGTERM)
        asked(websocket.read())
        server.send(signal.SIGTERM)
        ended(server)
        assert server.returncode == -signal.SIGTERM
        websocket.close()


def answers(server: Server) -> bool:
    """Say whether a server listens by now."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


def test_a_connection_is_asked_alone_before_it_is_too_old() -> None:
    with gunicorn("gthread", settings={"LIVEPUSH_MAX_CONNECTION_AGE": 2}) as server:
        start = time.monotonic()
        first = enter(server)
        query = enter_polling(server)
        assert asked(Place(server).request(query).text) < 0.1
        assert asked(first.read()) < 0.1
        assert time.monotonic() - start > 1.7
        # The later one is not asked with it; nor is anybody asked twice.
        start = time.monotonic()
        second = enter(server)
        assert asked(second.read()) < 0.1
        assert time.monotonic() - start > 1.7
        assert first.read() == "1"  # who does not go is closed
        first.close()
        second.close()


@pytest.mark.parametrize(
    ("args", "settings", "sentence"),
    [
        (["--threads", "1", "sync"], {}, "worker_class is 'sync'; .* Use worker_class"),
        (
            ["--preload", "gevent"],
            {},
            "preload_app loads the application before gevent has patched",
        ),
    ],
)
def test_gunicorn_does_not_start_with_nonsense(
    args: list[str], settings: dict[str, Any], sentence: str
) -> None:
    server = gunicorns.launch(args[-1], *args[:-1], settings=settings)
    try:
        server.wait_for(sentence)
        ended(server)
        assert server.returncode != 0
    finally:
        server.stop(patience=1)


# -- several processes -----------------------------------------------------------------


@pytest.fixture
def queue() -> Iterator[dict[str, Any]]:
    """Settings of applications on one Redis of their own."""
    with redis_server() as redis:
        yield {"LIVEPUSH_MESSAGE_QUEUE": redis.url, "LIVEPUSH_PREFIX": "leaving"}


def emitter(settings: dict[str, Any]) -> LivePush:
    """Return an application of the tests' own process that emits to the others."""
    app = Flask("leaving")
    app.config.update(SECRET_KEY="secret", LIVEPUSH_HISTORY_SIZE=10_000, **settings)
    livepush = LivePush(app)
    livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    return livepush


class Traffic:
    """Emits at a pace, until it is stopped."""

    def __init__(self, livepush: LivePush, pause: float) -> None:
        self.sent = 0
        self._livepush = livepush
        self._pause = pause
        self._stops = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stops.wait(self._pause):
            receipt = self._livepush.emit("chat:1", "tick", self.sent)
            assert receipt.outcome == "stored"
            self.sent += 1

    def stop(self) -> None:
        """Emit no more."""
        self._stops.set()
        self._thread.join()
        self._livepush._app().broker.close()


def restart_one_after_the_other(
    queue: dict[str, Any],
    *,
    clients: int,
    seconds: float,
    pause: float,
    offline: float = math.inf,
) -> None:
    """Restart three processes under traffic, and check what their clients saw.

    Args:
        seconds: What LIVEPUSH_DRAIN_SECONDS is.
        pause: Seconds between two events.
        offline: Seconds for which no client may be, on a machine left alone.
    """
    settings = {**queue, "LIVEPUSH_DRAIN_SECONDS": seconds}
    ports = [unused_port() for _ in range(3)]

    def begin(port: int) -> Server:
        server = gunicorns.start("gthread", port=port, settings=settings)
        until(lambda: Place(server).request("", path="/livepush/ready").status == 200)
        return server

    with ExitStack() as stack:
        servers = [begin(port) for port in ports]
        stack.callback(lambda: [server.stop(patience=1) for server in servers])
        roaming = stack.enter_context(Roaming(ports, clients))
        until(lambda: roaming.live == clients)
        traffic = Traffic(emitter(settings), pause)
        stack.callback(traffic.stop)
        # Not the time in which the next process begins, and nobody goes.
        lasted = 0.0
        for number, port in enumerate(ports):
            server = servers[number]
            server.send(signal.SIGTERM)
            lasted += ended(server)
            assert server.stop() == 0
            assert problems(server) == []
            servers[number] = begin(port)
        traffic.stop()
        until(lambda: roaming.all_at(traffic.sent))
        roaming.check()
        assert roaming.live == clients
        assert roaming.counts["closed"] == 0
        assert len(roaming.returns) == roaming.counts["asked"] >= clients
        mean = len(roaming.returns) / lasted
        print(
            f"{clients} clients, {lasted:.1f} s, {len(roaming.returns)} returns, at "
            f"most {peak(roaming.returns)} in a second ({mean:.1f} on average), "
            f"offline for {max(roaming.offline):.3f} s at most"
        )
        assert max(roaming.offline) < offline
        # When they come is for the machine to say; when they go, for us: evenly in half
        # of the time of each process.
        even = len(roaming.departures) / (len(ports) * seconds / 2)
        assert peak(roaming.departures) <= 3 * even


def test_a_rolling_restart_is_not_noticed(queue: dict[str, Any]) -> None:
    restart_one_after_the_other(queue, clients=120, seconds=5, pause=0.05)


@pytest.mark.soak
def test_a_rolling_restart_with_1000_clients_is_not_noticed(
    queue: dict[str, Any],
) -> None:
    restart_one_after_the_other(queue, clients=1000, seconds=10, pause=0.1, offline=2)


def test_who_polls_leaves_through_another_process(queue: dict[str, Any]) -> None:
    settings = {**queue, **LONG}
    with ExitStack() as stack:
        stays = stack.enter_context(gunicorn("gthread", settings=settings))
        goes = stack.enter_context(gunicorn("gthread", settings=settings))
        query = enter_polling(goes)
        with Place(goes).connect() as poll:
            poll.send_request(query)
            goes.send(signal.SIGTERM)
            asked(poll.answer().text)
        # It listens no more: whatever stands in front asks the other one.
        assert Place(stays).request(query, "POST", body="1").text == "ok"
        ended(goes)
        assert problems(goes) == problems(stays) == []


def test_who_polls_by_another_process_that_leaves_stays(queue: dict[str, Any]) -> None:
    """Bug: that process took the client's connection along."""
    settings = {**queue, **LONG}
    with ExitStack() as stack:
        stays = stack.enter_context(gunicorn("gthread", settings=settings))
        goes = stack.enter_context(gunicorn("gthread", settings=settings))
        query = enter_polling(stays)
        with Place(goes).connect() as poll:
            poll.send_request(query)
            sid = query.partition("sid=")[2]
            until(lambda: Place(stays).request("", path=f"/polled/{sid}").json)
            goes.send(signal.SIGTERM)
            assert poll.answer().text == "6"
        ended(goes)
        assert Place(stays).request(query, "POST", body="1").text == "ok"
        assert problems(goes) == problems(stays) == []


def test_who_moves_stays_in_the_room_and_who_leaves_is_soon_gone(
    queue: dict[str, Any],
) -> None:
    settings = {**queue, **SETTINGS}
    with ExitStack() as stack:
        stays = stack.enter_context(gunicorn("gthread", settings=settings))
        goes = stack.enter_context(gunicorn("gthread", settings=settings))
        clients = {
            user: stack.enter_context(client(server, user))
            for server, user in ((stays, "eve"), (goes, "ada"), (goes, "ben"))
        }
        eve = clients["eve"]
        eve.wait(lambda: present(eve) == ["ada", "ben", "eve"])
        before = len(eve.frames)
        goes.send(signal.SIGTERM)
        clients["ada"].wait(
            lambda: any(f[0] == "livepush.reconnect" for f in clients["ada"].frames)
        )
        stack.enter_context(client(stays, "ada"))
        clients["ada"].close()
        clients["ben"].close()
        ended(goes)
        eve.wait(lambda: present(eve) == ["ada", "eve"])
        told = [data for name, data, _ in eve.frames[before:]]
        assert [data["left"] for data in told if data["left"]] == [
            [{"id": "ben"}],
        ]
        assert [data["joined"] for data in told if data["joined"]] == []


class client:  # noqa: N801
    """A client in the room, until the block ends."""

    def __init__(self, server: Server, user: str) -> None:
        self._client = LiveClient(f"{server.url}?user={user}")

    def __enter__(self) -> LiveClient:
        message = {"v": 1, "room": "chat:1", "presence": True}
        assert self._client.call("livepush.subscribe", message)["ok"]
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()


def present(watcher: LiveClient) -> list[str]:
    """Return who is there, by what a client was told."""
    users: set[str] = set()
    for name, data, _ in list(watcher.frames):
        if name == "ack livepush.subscribe":
            users = {user["id"] for user in data["presence"]}
        elif name == "livepush.presence":
            users |= {user["id"] for user in data["joined"]}
            users -= {user["id"] for user in data["left"]}
    return sorted(users)
