"""The HTTP servers on which the engine takes sockets, each with the protocol's app."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from .raw import Answer, Raw
from .servers import ROOT, Mode, Program, Server, running

T = TypeVar("T")

APP = Path(__file__).with_name("protocol_app.py")
#: All, and the async mode of each.
SERVERS: dict[str, Mode] = {
    "werkzeug": "threading",
    "gunicorn-gthread": "threading",
    "gunicorn-gevent": "gevent",
    "gunicorn-flask_livepush.gunicorn.EventletWorker": "eventlet",
    "gevent-pywsgi": "gevent",
    "eventlet-wsgi": "eventlet",
}

POLLING = "EIO=4&transport=polling"
WEBSOCKET = "EIO=4&transport=websocket"


class Place:
    """A running server.

    Args:
        program: It.
        prefix: Of the application that is asked: ``/short`` has a short heartbeat.
    """

    def __init__(self, program: Server, prefix: str = "", tls: Any = None) -> None:
        self.program = program
        self.prefix = prefix
        self.tls = tls

    def connect(self, **options: Any) -> Raw:
        """Open a connection."""
        return Raw(self.program.port, prefix=self.prefix, tls=self.tls, **options)

    def request(self, query: str, method: str = "GET", **options: Any) -> Answer:
        """Make a request on a connection of its own."""
        with self.connect() as raw:
            return raw.request(query, method, **options)

    def open(self) -> str:
        """Open a session by polling, and return what else its requests say."""
        answer = self.request(POLLING)
        assert answer.status == 200, answer
        return f"{POLLING}&sid={answer_of(answer.text)['sid']}"

    def websocket(self, query: str = WEBSOCKET, **options: Any) -> Raw:
        """Open a WebSocket."""
        raw = self.connect(**options)
        answer = raw.upgrade(query)
        if answer.status != 101:
            raw.close()
            raise AssertionError(answer)
        return raw

    def state(self) -> dict[str, Any]:
        """Return what the process holds."""
        found: dict[str, Any] = self.request("", path="/state").json
        return found

    def polled(self, query: str) -> bool:
        """Say whether a poll of a session is in flight."""
        sid = query.partition("sid=")[2]
        return bool(self.state()["sessions"].get(sid, {}).get("polled"))


def answer_of(packet: str) -> dict[str, Any]:
    """Return what an opening packet says."""
    import json

    assert packet[0] == "0", packet
    found: dict[str, Any] = json.loads(packet[1:])
    return found


def later(work: Callable[[], T]) -> Future[T]:
    """Do something in the background."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


@contextmanager
def serving(
    kind: str,
    *args: str,
    target: str = "tests.support.protocol_app:serving",
    env: Mapping[str, str] | None = None,
) -> Iterator[Server]:
    """Run the protocol's application on a server.

    Args:
        kind: One of :data:`SERVERS`.
        args: More for gunicorn, else for the program.
    """
    worker = kind.removeprefix("gunicorn-")
    if worker == kind:
        with running(APP, *args, mode=SERVERS[kind], env=env) as server:
            yield server
        return
    program = Server(
        [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"),
            *("--worker-class", worker, "--threads", "8"),
            *("--worker-connections", "20", *args, target),
        ],
        name=f"gunicorn ({worker})",
        env=env,
        cwd=ROOT,
    )
    try:
        found = program.wait_for(r"Listening at: https?://127\.0\.0\.1:(\d+)")
        program.port = int(found[1])
        yield program
    finally:
        program.stop(patience=3)


def problems(program: Program) -> list[str]:
    """Return the lines of a log that tell of an error."""
    signs = ("Traceback", "Exception", "Error", "ERROR", "CRITICAL")
    return [
        line for line in program.log.splitlines() if any(sign in line for sign in signs)
    ]
