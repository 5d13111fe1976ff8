"""Clients that poll, of one server process: ours beside Flask-SocketIO, and forwarded.

Run as ``python -m bench.polling [--quick]``. Servers and clients are on a core each;
each server is measured in turn in each round, in a fresh process that is warmed up
first. Figures are medians over the rounds, ratios medians of the ratios within one.

What is asked of a peer is what its users run; clients are kept with their process, as
there is but one. ``forwarded`` compares polls that come to their session's process with
polls that come to another one, which asks the first through Redis.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import requests

from tests.support.redis import redis_server
from tests.support.servers import Server

from .clients import ROOM
from .load import subscribe
from .polling_load import PollingLoad
from .processes import DEADLINE, allow_files
from .subjects import SUBJECTS, Subject, serving
from .trial import on_first_core, on_last_core

# Of our gthread worker: they answer requests, and none waits with a poll.
THREADS = 16
JOIN = subscribe(ROOM)
# Seconds between two requests of a view, while clients poll.
VIEW_EVERY = 0.02


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything.

    Args:
        clients: That poll.
        burst: Events as fast as the server can.
        paced: Events with a pause after each.
        gap: Seconds of that pause.
        asked: Polls that are compared with forwarded ones.
    """

    clients: int
    burst: int
    paced: int
    gap: float
    asked: int


FULL, QUICK = Size(1000, 50, 8, 1.0, 500), Size(20, 10, 5, 0.05, 20)

Figures = dict[str, float]


def subjects() -> Iterator[Subject]:
    """Yield the servers: ours and Flask-SocketIO in each mode."""
    for subject in SUBJECTS:
        if subject.name == "livepush-threading":
            yield replace(subject, threads=THREADS)
        elif subject.mode is not None and subject.name != "livepush-stock":
            yield subject


def measure(subject: Subject, size: Size) -> Figures:
    """Let clients poll, publish, and look at the site beside it."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        with on_first_core():
            server = stack.enter_context(
                serving(subject, folder, clients=size.clients + 20)
            )
        root = psutil.Process(server.pid)
        load = stack.enter_context(PollingLoad(server.port, size.clients, JOIN))
        load.connect(deadline=2 * DEADLINE)
        _publish(server, load, size.clients, count=2, gap=0.05)  # a warm-up
        burst = _publish(server, load, size.clients, count=size.burst, gap=0)
        before = _cpu(root)
        answers = load.answers
        views = stack.enter_context(_views(server.url))
        paced = _publish(server, load, size.clients, count=size.paced, gap=size.gap)
        return {
            "burst_per_s": burst.per_s,
            "burst_p99_ms": burst.p99_ms,
            "paced_p99_ms": paced.p99_ms,
            "cpu_us": (_cpu(root) - before) / (load.answers - answers) * 1e6,
            "view_p99_ms": views(),
            "threads": sum(p.num_threads() for p in _family(root)),
        }


@dataclass(frozen=True, slots=True)
class _Found:
    per_s: float
    p99_ms: float


def _publish(
    server: Server, load: PollingLoad, clients: int, *, count: int, gap: float
) -> _Found:
    del load.ages[:]
    began = time.monotonic()
    requests.get(f"{server.url}/publish?count={count}&gap={gap}", timeout=DEADLINE)
    load.pump(lambda: len(load.ages) >= clients * count, deadline=2 * DEADLINE)
    took = time.monotonic() - began
    return _Found(clients * count / took, _p99(load.ages) * 1000)


def _p99(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _family(root: psutil.Process) -> list[psutil.Process]:
    return [root, *root.children(recursive=True)]


def _cpu(root: psutil.Process) -> float:
    return sum(sum(p.cpu_times()[:2]) for p in _family(root))


@contextmanager
def _views(url: str) -> Iterator[Callable[[], float]]:
    """Request a view again and again; give what returns the 99th percentile."""
    took: list[float] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(VIEW_EVERY):
            began = time.monotonic()
            requests.get(f"{url}/burn", timeout=DEADLINE)
            took.append(time.monotonic() - began)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield lambda: _p99(took) * 1000 if took else 0.0
    finally:
        stop.set()
        thread.join()


def forwarded(size: Size) -> Figures:
    """Time polls that find something, with the owner and with another process.

    Each is sent before the event, so that what is timed is the answer's way back.
    """
    subject = next(subjects())
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        queue = stack.enter_context(redis_server())
        shared = replace(subject, settings={"LIVEPUSH_MESSAGE_QUEUE": queue.url})
        owner, other = (
            stack.enter_context(serving(shared, folder, clients=20)) for _ in range(2)
        )
        found: dict[str, list[float]] = {"owner": [], "other": []}
        client = Poller(owner.port)
        for turn in range(size.asked):
            for name, server in (("owner", owner), ("other", other)):
                took = client.round_trip(server.port)
                if turn >= size.asked // 10:  # else it is a warm-up
                    found[name].append(took * 1000)
        return {name: statistics.median(each) for name, each in found.items()}


class Poller:
    """One client, of two processes in turn: what it asks is answered at once.

    Args:
        port: Of its session's process.
    """

    def __init__(self, port: int) -> None:
        self._query = "/socket.io/?EIO=4&transport=polling"
        opened = requests.get(f"http://127.0.0.1:{port}{self._query}", timeout=DEADLINE)
        sid = json.loads(opened.text[1:])["sid"]
        self._query += f"&sid={sid}"
        self._ask(port, b"40")
        self._ask(port)

    def round_trip(self, port: int) -> float:
        """Return the seconds from a poll's sending to its answer.

        What it finds is the ack of a message, sent just before to the owner.
        """
        self._ask(port, b'420["livepush.unsubscribe",{"v":1,"room":"bench"}]')
        began = time.monotonic()
        self._ask(port)
        return time.monotonic() - began

    def _ask(self, port: int, body: bytes | None = None) -> None:
        url = f"http://127.0.0.1:{port}{self._query}"
        if body is None:
            answer = requests.get(url, timeout=DEADLINE)
        else:
            answer = requests.post(url, data=body, timeout=DEADLINE)
        answer.raise_for_status()


COLUMNS = {
    "burst_per_s": "burst deliveries/s",
    "burst_p99_ms": "burst p99 ms",
    "paced_p99_ms": "paced p99 ms",
    "cpu_us": "CPU µs a poll",
    "view_p99_ms": "view p99 ms",
    "threads": "threads",
}


def main() -> int:
    """Measure and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="bench.polling", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    parser.add_argument("--rounds", type=int, help="of which the median is; 3")
    parser.add_argument("--only", help="servers, with commas between them; all")
    options = parser.parse_args()
    size = QUICK if options.quick else FULL
    chosen = [
        subject
        for subject in subjects()
        if options.only is None or subject.name in options.only.split(",")
    ]
    allow_files(size.clients + 1000)
    rounds: dict[str, list[Figures]] = {subject.name: [] for subject in chosen}
    with on_last_core():
        for turn in range(options.rounds or (1 if options.quick else 3)):
            for subject in chosen if turn % 2 == 0 else chosen[::-1]:
                rounds[subject.name].append(measure(subject, size))
        print(f"{size.clients} clients that poll; medians.")
        print(" " * 26 + "".join(f"{title:>20}" for title in COLUMNS.values()))
        for name, figures in rounds.items():
            cells = (statistics.median(f[key] for f in figures) for key in COLUMNS)
            print(f"{name:26}" + "".join(f"{cell:20,.1f}" for cell in cells))
        for line in _ratios(chosen, rounds):
            print(line)
        if options.only is None:
            found = forwarded(size)
            print(
                f"A poll with something to fetch: {found['owner']:.2f} ms at its "
                f"session's process, {found['other']:.2f} ms at another one (medians)."
            )
    return 0


def _ratios(chosen: list[Subject], rounds: dict[str, list[Figures]]) -> Iterator[str]:
    for ours in chosen:
        for peer in chosen:
            if ours.kind == "livepush" and peer.kind != "livepush":
                pairs = list(zip(rounds[ours.name], rounds[peer.name], strict=True))
                per_s, p99 = (
                    statistics.median(a[key] / b[key] for a, b in pairs)
                    for key in ("burst_per_s", "paced_p99_ms")
                )
                yield (
                    f"{ours.name} has {per_s:.2f} of the burst deliveries/s and "
                    f"{p99:.2f} of the paced p99 of {peer.name}"
                )


if __name__ == "__main__":
    sys.exit(main())
