"""What a hanging Redis costs a decorated view, and what screens show afterwards.

Redis is stopped (SIGSTOP) and continued, while a view that commits one tracked row is
requested steadily in one process, and screens are open in it and in another.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

from tests.support.redis import redis_server
from tests.support.servers import Mode

from .load import Wire, ack_of, subscribe
from .processes import DEADLINE, get, publications, site

# Seconds from the stop until the breaker must be open, and requests count as after it.
OPEN_AFTER = 1.0
# Seconds a request may be slower than the slowest before; the target.
BAR = 0.3


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Args:
        mode: The async mode of all processes.
        hang: Seconds for which Redis is stopped.
        around: Seconds before and after that.
        threads: How many request the view at the same time.
        rate: Requests a second of each of them.
    """

    mode: Mode
    hang: float
    around: float
    threads: int
    rate: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What was found; times of requests in milliseconds.

    Args:
        slowest_before: Before the stop.
        slowest: From the stop on.
        median_before: Before the stop.
        median_open: While the breaker was open: from a second after the stop to the
            end of it.
        median_after: From two seconds after Redis went on.
        requests: How many there were.
        failed: Those that did not answer 200.
        rows: What the database has in the end.
        missing: Rows that a screen did not show in the end, or showed in excess.
        repeated: Publications of the room beyond one for each row.
        converged: Seconds from the last request until all screens showed all rows.
        outcomes: What became of the publications of the process.
    """

    slowest_before: float
    slowest: float
    median_before: float
    median_open: float
    median_after: float
    requests: int
    failed: int
    rows: int
    missing: int
    repeated: int
    converged: float
    outcomes: dict[str, int]


class Screen:
    """A connection that shows a room as the JavaScript store does.

    Args:
        port: The server's.
        room: The room's name.
    """

    def __init__(self, port: int, room: str) -> None:
        self._room = room
        self._wire = Wire(port, blocking=True)
        self._wire.sock.settimeout(0.2)
        self._stop = threading.Event()
        self._again: float | None = None  # when to subscribe again
        self.rows: set[int] = set()
        self.at: dict[str, Any] | None = None
        self.subscribed = threading.Event()
        self.error: Exception | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._stop.set()
        self._thread.join()
        self._wire.sock.close()

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                if self._again is not None and time.monotonic() >= self._again:
                    self._again = None
                    self._wire.send(subscribe(self._room, self.at))
                try:
                    texts = self._wire.read()
                except TimeoutError:
                    continue
                for text in texts:
                    self._take(text)
        except Exception as error:  # noqa: BLE001
            self.error = error

    def _take(self, text: bytes) -> None:
        if text[:2] == b"43":
            self._acknowledged(ack_of(text))
        elif not self._wire.answer(text, subscribe(self._room)):
            name, *arguments = json.loads(text[text.index(b"[") :])
            self._told(name, *arguments)

    def _acknowledged(self, ack: Any) -> None:
        if not ack["ok"]:
            self._again = time.monotonic() + 0.5
            return
        if ack["recovered"]:
            self.rows |= {each["data"]["id"] for each in ack["publications"]}
        else:
            found = ack["snapshot"]["kinds"]["message"]["rows"]
            self.rows = {row["id"] for row in found}
        self.at = {"epoch": ack["epoch"], "offset": ack["offset"]}
        self.subscribed.set()

    def _told(self, name: str, data: Any, meta: Any = None) -> None:
        if name == "livepush.reset":
            self._again = time.monotonic()
        elif name == "message.invalidated":
            self.at, self._again = None, time.monotonic()
        else:
            if self.at is None or meta["offset"] != self.at["offset"] + 1:
                raise RuntimeError(f"After {self.at} came {meta}.")
            self.at = {"epoch": meta["epoch"], "offset": meta["offset"]}
            self.rows.add(data["id"])


@dataclass(frozen=True, slots=True)
class _Request:
    """When a request began, by the monotonic clock; how long it took, in ms."""

    began: float
    took: float
    good: bool

    @property
    def ended(self) -> float:
        return self.began + self.took / 1000


def _keep_asking(
    address: str, rate: float, stop: threading.Event, found: list[_Request]
) -> None:
    due = time.monotonic()
    with requests.Session() as session:
        while not stop.wait(max(0.0, due - time.monotonic())):
            began = time.monotonic()
            answer = session.post(address, timeout=DEADLINE)
            took = (time.monotonic() - began) * 1000
            found.append(_Request(began, took, answer.status_code == 200))
            due = max(due + 1 / rate, time.monotonic())


def measure(options: Options, folder: Path) -> Figures:
    """Stop Redis for a while; return what requests took and screens showed."""
    found: list[_Request] = []
    stop = threading.Event()
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        servers = [
            stack.enter_context(site("livepush", folder, redis.url, options.mode))
            for _ in range(2)
        ]
        screens = []
        for server in servers:
            screen = Screen(server.port, "chat:1")
            stack.callback(screen.close)
            screens.append(screen)
        for screen in screens:
            if not screen.subscribed.wait(DEADLINE):
                raise RuntimeError("A screen could not subscribe.") from screen.error
        writer = servers[0]
        arguments = (f"{writer.url}/decorated/1", options.rate, stop, found)
        threads = [
            threading.Thread(target=_keep_asking, args=arguments)
            for _ in range(options.threads)
        ]
        for thread in threads:
            thread.start()
        try:
            time.sleep(1)  # what is made once: connections, compiled statements
            began = time.monotonic()
            time.sleep(options.around)
            stopped = time.monotonic()
            redis.pause()
            time.sleep(options.hang)
            redis.go_on()
            went_on = time.monotonic()
            time.sleep(options.around)
        finally:
            redis.go_on()
            stop.set()
            for thread in threads:
                thread.join()
        ended = time.monotonic()
        ids = set(get(f"{writer.url}/ids/1"))
        _await(screens, ids, deadline=30)
        converged = time.monotonic() - ended
        outcomes = publications(writer)
    before = [
        r for r in found if began <= r.began and r.began + r.took / 1000 < stopped
    ]
    hung = [r for r in found if r.began + r.took / 1000 >= stopped]
    opened = [r for r in hung if stopped + OPEN_AFTER <= r.began < went_on]
    after = [r for r in hung if r.began >= went_on + 2]
    offsets = [screen.at["offset"] if screen.at else 0 for screen in screens]
    return Figures(
        slowest_before=max(r.took for r in before),
        slowest=max(r.took for r in hung),
        median_before=statistics.median(r.took for r in before),
        median_open=statistics.median(r.took for r in opened),
        median_after=statistics.median(r.took for r in after),
        requests=len(found),
        failed=sum(not r.good for r in found),
        rows=len(ids),
        missing=max(len(screen.rows ^ ids) for screen in screens),
        repeated=max(offsets) - len(ids),
        converged=converged,
        outcomes=outcomes,
    )


def _await(screens: list[Screen], ids: set[int], *, deadline: float) -> None:
    end = time.monotonic() + deadline
    while any(s.rows != ids for s in screens) and time.monotonic() < end:
        for screen in screens:
            if screen.error is not None:
                raise RuntimeError("A screen failed.") from screen.error
        time.sleep(0.02)


def lines(found: Figures) -> list[str]:
    """Return the figures as text."""
    slower = found.slowest - found.slowest_before
    ratio = found.median_open / found.median_before
    return [
        f"slowest request: {found.slowest_before:.1f} ms before, "
        f"{found.slowest:.1f} ms from the stop on: {slower:+.1f} ms "
        f"(at most {BAR * 1000:+.0f})",
        f"median: {found.median_before:.2f} ms before, {found.median_open:.2f} ms "
        f"while the breaker was open ({ratio:.2f} of it), "
        f"{found.median_after:.2f} ms after",
        f"{found.requests} requests, {found.failed} failed; {found.outcomes}",
        f"{found.rows} rows; screens differ by {found.missing}, "
        f"{found.converged:.2f} s after the last request; "
        f"{found.repeated} publications in excess",
    ]
