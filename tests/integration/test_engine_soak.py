"""A server after much coming and going weighs what it did, and keeps nobody.

``SOAK_SEED`` and ``SOAK_SECONDS`` repeat a run.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.protocol_servers import problems, serving
from tests.support.raw import Raw
from tests.support.servers import Server, running
from tests.support.soaking import PING_INTERVAL, PING_TIMEOUT, Soak
from tests.support.waiting import DEADLINE, until

APP = Path(__file__).parents[1] / "support" / "soak_app.py"
# Seconds a session may outlive its socket, and what a machine adds that is left alone.
OUTLIVES = PING_INTERVAL + PING_TIMEOUT
SLACK = 5.0
# What the process may weigh at the end, after the first round of the same load.
GROWTH = 1.05
WEIGHTS = ("resident", "descriptors", "objects")


@contextmanager
def soaked(kind: str) -> Iterator[Server]:
    """Run a server of one process.

    An allocator that gives each thread an arena of its own keeps what was freed in
    whichever thread had needed most, which says nothing of what is kept: there are two.
    """
    env = {"MALLOC_ARENA_MAX": "2"}
    if kind.startswith("gunicorn"):
        args = ("--workers", "1", "--worker-connections", "1000")
        target = "tests.support.soak_app:app"
        with serving(kind, *args, target=target, env=env) as server:
            yield server
    else:
        with running(APP, mode="eventlet", env=env) as server:
            yield server


def ask(server: Server, path: str) -> Any:
    with Raw(server.port) as raw:
        return raw.request("", path=path).json


def outliving(soak: Soak, server: Server, slack: float) -> list[str]:
    """Return what is wrong: sessions whose clients have gone for too long."""
    asked = time.monotonic()
    return [
        f"the session of a client that {how} outlived it by {asked - ended:.1f} s"
        for sid in ask(server, "/sids")
        if sid in soak.ended
        for ended, how in [soak.ended[sid]]
        if asked - ended > OUTLIVES + slack
    ]


def settled(server: Server) -> dict[str, int]:
    """Wait until nothing is kept for clients; return what the process weighs then.

    All is asked on one connection, which is then the only one: one that has just been
    closed here is still a descriptor there for a moment.
    """
    kept: dict[str, int] = {}
    with Raw(server.port) as raw:

        def is_empty() -> bool:
            nonlocal kept
            kept = raw.request("", path="/held").json
            return not kept

        try:
            until(is_empty)
        except AssertionError:
            raise AssertionError(f"kept for clients that have gone: {kept}") from None
        weight: dict[str, int] = raw.request("", path="/weight").json
    return weight


def run(
    kind: str, *, seconds: float, load: float, slack: float = DEADLINE
) -> list[str]:
    """Let clients come and go, in rounds after each of which all have gone.

    Args:
        seconds: Of all rounds; there are two at least.
        load: Seconds of one round's load, at most.
        slack: Seconds that a session may exist longer than it should.

    Returns:
        What was wrong.
    """
    seed = int(os.environ.get("SOAK_SEED") or secrets.randbelow(1_000_000))
    seconds = float(os.environ.get("SOAK_SECONDS") or seconds)
    load = min(load, max(4, seconds / 2))
    print(f"SOAK_SEED={seed} SOAK_SECONDS={seconds:g} {kind}")
    wrong: list[str] = []
    weights: list[dict[str, int]] = []
    with soaked(kind) as server, closing(Soak(server.port, seed)) as soak:
        end = time.monotonic() + seconds
        while not wrong and (len(weights) < 2 or time.monotonic() < end):
            begun = time.monotonic()
            while not wrong and time.monotonic() < begun + load:
                soak.load(0.5)
                wrong += outliving(soak, server, slack)
            soak.leave(deadline=DEADLINE)
            weights.append(settled(server))
            soak.ended.clear()
            print(f"{weights[-1]} {dict(soak.counts)}")
        wrong += problems(server)
    for what in WEIGHTS:
        first, last = weights[0][what], weights[-1][what]
        if last > first * GROWTH:
            wrong.append(f"{what} grew from {first} to {last}")
    return wrong


def test_all_that_came_has_gone_and_the_process_weighs_the_same() -> None:
    assert run("gunicorn-gthread", seconds=0, load=4) == []


@pytest.mark.soak
@pytest.mark.parametrize(
    "kind", ["gunicorn-gthread", "eventlet-wsgi", "gunicorn-gevent"]
)
def test_ten_minutes_of_coming_and_going_leave_nothing(kind: str) -> None:
    assert run(kind, seconds=600, load=50, slack=SLACK) == []
