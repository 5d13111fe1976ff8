"""Everybody comes back at once, with missed events, against coming back with none.

Three kinds of return, in turn: a bare Socket.IO connect and join (Flask-SocketIO), a
subscription that has missed nothing, and one that has missed some events.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from tests.support.redis import redis_server
from tests.support.servers import Mode, Server

from .load import Load, subscribe
from .processes import DEADLINE, allow_files, get, post, site

ROOM = "chat:1"
SOCKETIO, BARE, MISSED = "socket.io", "bare", "missed"
# Times those of bare returns; the target.
BAR = 1.5


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured.

    Args:
        mode: The async mode of all processes.
        clients: How many come back.
        missed: Events that each of them missed.
        rounds: How many rounds each kind of return has.
    """

    mode: Mode
    clients: int
    missed: int
    rounds: int


@dataclass(frozen=True, slots=True)
class Figures:
    """What was found of one kind of return: medians over its rounds.

    Args:
        seconds: Until the last client was live.
        cpu: Processor time of the server, in seconds.
        ratio: Median, over the rounds, of the seconds by those of a bare return in the
            same round.
        cpu_ratio: Like it, of the processor time.
        recovered: Clients that got all they had missed, in the worst round.
    """

    kind: str
    seconds: float
    cpu: float
    ratio: float
    cpu_ratio: float
    recovered: int


@dataclass(frozen=True, slots=True)
class _Round:
    seconds: float
    cpu: float
    recovered: int


def measure(options: Options, folder: Path) -> list[Figures]:
    """Let all come back in each way, in turn."""
    allow_files(options.clients + 1000)
    rounds: dict[str, list[_Round]] = {SOCKETIO: [], BARE: [], MISSED: []}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        ours = stack.enter_context(site("livepush", folder, redis.url, options.mode))
        peer = stack.enter_context(site("peer", folder, redis.url, options.mode))
        for turn in range(-1, options.rounds):
            clients = options.clients if turn >= 0 else min(200, options.clients)
            since = _position(ours)
            post(f"{ours.url}/write/1?count={options.missed}")
            now = _position(ours)
            ways: list[tuple[str, Server, Any, int]] = [
                (SOCKETIO, peer, None, 0),
                (BARE, ours, now, 0),
                (MISSED, ours, since, options.missed),
            ]
            for kind, server, start, missed in ways if turn % 2 else ways[::-1]:
                found = _return(server, clients, start, missed)
                if turn >= 0:  # the first only warms up
                    rounds[kind].append(found)
    return [_figures(kind, own, rounds[BARE]) for kind, own in rounds.items()]


def _position(server: Server) -> dict[str, Any]:
    with Load(server.port, 1, subscribe(ROOM)) as load:
        load.connect(deadline=DEADLINE)
        (ack,) = load.acks()
    _await_none(server)
    return {"epoch": ack["epoch"], "offset": ack["offset"]}


def _return(server: Server, clients: int, since: Any, missed: int) -> _Round:
    process = psutil.Process(server.pid)
    with Load(server.port, clients, subscribe(ROOM, since)) as load:
        before = process.cpu_times()
        seconds = load.connect(deadline=DEADLINE)
        after = process.cpu_times()
        acks = load.acks()
    _await_none(server)
    cpu = after.user - before.user + after.system - before.system
    return _Round(seconds, cpu, sum(_has_all(ack, since, missed) for ack in acks))


def _has_all(ack: Any, since: Any, missed: int) -> bool:
    if since is None or not ack["ok"]:
        return bool(ack["ok"])
    offsets = [publication["offset"] for publication in ack["publications"]]
    first = since["offset"] + 1
    return bool(ack["recovered"]) and offsets == list(range(first, first + missed))


def _await_none(server: Server) -> None:
    """Wait until the server has noticed that all are gone."""
    end = time.monotonic() + DEADLINE
    while get(f"{server.url}/connections"):
        if time.monotonic() > end:
            raise TimeoutError("The server still has connections that are closed.")
        time.sleep(0.1)


def _figures(kind: str, own: list[_Round], bare: list[_Round]) -> Figures:
    pairs = list(zip(own, bare, strict=True))
    return Figures(
        kind,
        seconds=statistics.median(r.seconds for r in own),
        cpu=statistics.median(r.cpu for r in own),
        ratio=statistics.median(a.seconds / b.seconds for a, b in pairs),
        cpu_ratio=statistics.median(a.cpu / max(b.cpu, 0.01) for a, b in pairs),
        recovered=min(r.recovered for r in own),
    )


def lines(found: list[Figures]) -> list[str]:
    """Return the figures as text."""
    header = f"{'':10} {'s':>7} {'CPU s':>7} {'ratio':>6} {'CPU':>6} {'recovered':>10}"
    rows = [
        f"{row.kind:10} {row.seconds:7.2f} {row.cpu:7.2f} {row.ratio:6.2f} "
        f"{row.cpu_ratio:6.2f} {row.recovered:10}"
        for row in found
    ]
    return [header, *rows, f"ratios to {BARE!r}; {MISSED!r} may have {BAR}"]
