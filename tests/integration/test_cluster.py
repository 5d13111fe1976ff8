"""Two servers on one Redis: what is committed in one is shown by the other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import socketio

from tests.support.redis import redis_cluster, redis_sentinels, redis_server, until
from tests.support.servers import MODES, Mode, Server, running
from tests.support.waiting import DEADLINE

APP = Path(__file__).parents[1] / "support" / "cluster_app.py"


class Screen:
    """A connection, and the events it was told in their order."""

    def __init__(self, server: Server) -> None:
        self.told: list[tuple[Any, ...]] = []
        self._changed = threading.Condition()
        self._client = socketio.Client(
            reconnection=False, handle_sigint=False, request_timeout=DEADLINE
        )
        # It would start a thread an event, which may run in any order.
        trigger = self._client.eio._trigger_event
        self._client.eio._trigger_event = lambda *args, **options: trigger(
            *args, **{**options, "run_async": False}
        )
        self._client.on("*", self._note)
        self._client.connect(server.url, transports=["websocket"])

    def _note(self, *event: Any) -> None:
        with self._changed:
            self.told.append(event)
            self._changed.notify_all()

    def subscribe(self, room: str, since: Any = None) -> Any:
        """Join a room; return the ack."""
        message = {"v": 1, "room": room, **({"since": since} if since else {})}
        return self._client.call("livepush.subscribe", message, timeout=DEADLINE)

    def wait(self, condition: Callable[[], Any]) -> None:
        """Wait until something is true of what was told."""
        with self._changed:
            assert self._changed.wait_for(condition, DEADLINE), self.told

    def bodies(self) -> list[str]:
        """Return the bodies of the messages that were told."""
        return [
            event[1]["body"] for event in self.told if event[0] == "message.created"
        ]

    def close(self) -> None:
        """Leave, and close what the client leaves open."""
        eio = self._client.eio
        task = eio.read_loop_task
        # A closing handshake would wait for a frame that the reader has taken.
        eio.ws.sock.shutdown(socket.SHUT_RDWR)
        task.join(DEADLINE)
        eio.ws.shutdown()
        if eio.http is not None:
            eio.http.close()


@contextmanager
def cluster(url: str, file: Path, *modes: Mode) -> Iterator[list[Server]]:
    """Run a server in each mode, on one message queue and one database."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(APP, str(file), url, mode=mode))
            for mode in modes
        ]


@contextmanager
def showing(server: Server) -> Iterator[Screen]:
    """Open a screen until the block ends."""
    screen = Screen(server)
    try:
        yield screen
    finally:
        screen.close()


def post(server: Server, path: str) -> Any:
    """Ask a server to do something."""
    answer = requests.post(server.url + path, timeout=DEADLINE)
    assert answer.ok, answer.text
    return answer


def check_that_they_are_joined(writer: Server, shower: Server) -> None:
    """Fail unless commits and plain emits cross from one server to the other."""
    with showing(shower) as screen, showing(writer) as own:
        for each in (screen, own):
            assert each.subscribe("chat:1")["ok"]
        for number in range(10):
            post(writer, f"/write/1/{number}")
            post(writer, "/write/2/elsewhere")
        for each in (screen, own):
            each.wait(lambda each=each: len(each.bodies()) == 10)
            assert each.bodies() == [str(number) for number in range(10)]
        metas = [event[2] for event in screen.told]
        assert [meta["offset"] for meta in metas] == list(range(1, 11))
        assert metas == [event[2] for event in own.told]
        post(writer, "/plain/hello")
        for each in (screen, own):
            each.wait(lambda each=each: ("news", "hello") in each.told)
    position = {"epoch": metas[3]["epoch"], "offset": metas[3]["offset"]}
    with showing(shower) as screen:
        ack = screen.subscribe("chat:1", position)
        assert ack["recovered"] is True
        assert [p["offset"] for p in ack["publications"]] == list(range(5, 11))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_committed_in_one_process_is_shown_by_another(
    mode: Mode, tmp_path: Path
) -> None:
    with (
        redis_server() as redis,
        cluster(redis.url, tmp_path / "db", "threading", mode) as (writer, shower),
    ):
        check_that_they_are_joined(writer, shower)
        check_that_it_survives_redis(redis.restart, writer, shower)


def check_that_it_survives_redis(
    restart: Callable[..., None], writer: Server, shower: Server
) -> None:
    """Fail unless a screen follows the database after Redis was lost."""
    with showing(shower) as screen:
        before = screen.subscribe("chat:3")
        restart(keep=False)
        screen.wait(lambda: ("livepush.reset",) in [e[:1] for e in screen.told])
        since = {"epoch": before["epoch"], "offset": before["offset"]}
        ack = until(lambda: answered(screen.subscribe("chat:3", since)))
        assert ack["recovered"] is False
        post(writer, "/write/3/again")
        screen.wait(lambda: screen.bodies() == ["again"])


def answered(ack: Any) -> Any:
    """Return an ack unless it says that the server has to be asked again."""
    return ack if ack["ok"] else None


@pytest.mark.parametrize("kind", ["unix", "sentinel", "cluster"])
def test_every_kind_of_message_queue_joins_them(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if kind == "unix":
            url = f"unix://{stack.enter_context(redis_server()).socket}"
        elif kind == "sentinel":
            url = stack.enter_context(redis_sentinels()).url
        else:
            url = stack.enter_context(redis_cluster()).url.replace("redis", "valkey")
        servers = stack.enter_context(
            cluster(url, tmp_path / "db", "threading", "threading")
        )
        check_that_they_are_joined(*servers)
