"""Everything breaks at random while writers write: afterwards all screens are right.

Each run prints its seed; ``CHAOS_SEED`` repeats one (its faults, not the moments at
which processes meet them), ``CHAOS_SECONDS`` says how long writers write.
"""

from __future__ import annotations

import gc
import os
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.chaos_screens import ROOMS, ChaosScreen
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer, redis_server
from tests.support.servers import Server, launch, start
from tests.support.waiting import DEADLINE

APP = Path(__file__).parents[1] / "support" / "chaos_app.py"
TRANSPORTS = ("websocket", "polling")
SCREENS = 12
# Seconds that a fault is looked for, once the writers have stopped.
ENOUGH = 10.0

# A client whose server is killed leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


class Chaos:
    """The processes of one run, and what is done to them.

    Args:
        seed: Of everything that is random.
        fault: What is taken away that the run has to miss; see ``chaos_app.py``.
    """

    def __init__(
        self, redis: RedisServer, database: str, *, seed: int, fault: str, stack: Any
    ) -> None:
        self.faults: Counter[str] = Counter()
        # So that each happens, also in a short run.
        self._deck: list[Callable[[], None]] = []
        self._redis = redis
        self._random = random.Random(seed)
        self._args = (database, redis.url, seed)
        self._env = {"CHAOS_FAULT": fault}
        self.writer = start(APP, "writer", *self._args, 0, env=self._env)
        stack.callback(self.writer.stop)
        self._servers: list[Server] = []
        for number in range(2):
            self._servers.append(start(APP, "server", *self._args, 0, env=self._env))
            stack.callback(lambda number=number: self._servers[number].stop())
        urls = [server.url for server in self._servers]
        self.screens: list[ChaosScreen] = []
        for number in range(SCREENS):
            transport = TRANSPORTS[number % 2]
            self.screens.append(ChaosScreen(urls, transport, (seed, number)))
            stack.callback(self.screens[-1].close)

    def wrong(self) -> list[str]:
        """Return what screens were told that they must not be."""
        return [what for screen in self.screens for what in screen.wrong]

    def break_something(self) -> None:
        """Do one fault, and wait a moment."""
        if not self._deck:
            self._deck = [
                *(self._kill_server, self._kill_server),
                *(self._hang_redis, self._hang_redis),
                self._restart_redis,
                self._cut_listeners,
                self._cut_screens,
            ]
            self._random.shuffle(self._deck)
        what = self._deck.pop()
        self.faults[what.__name__[1:]] += 1
        what()
        self._wait(0.1, 1)

    def mend_everything(self) -> None:
        """Wait until all processes run."""
        for server in self._servers:
            server.wait_for("^LISTENING")

    def _wait(self, least: float, most: float) -> None:
        time.sleep(self._random.uniform(least, most))

    def _kill_server(self) -> None:
        number = self._random.randrange(2)
        server = self._servers[number]
        server.wait_for("^LISTENING")  # it may not have come back yet
        port = server.port
        server.kill()
        self._wait(0, 0.5)
        self._servers[number] = launch(APP, "server", *self._args, port, env=self._env)
        self._servers[number].port = port

    def _hang_redis(self) -> None:
        self._redis.pause()
        self._wait(0.1, 3)
        if self._random.random() < 0.3:
            self._kill_server()
        self._redis.go_on()

    def _restart_redis(self) -> None:
        self._redis.kill()
        self._wait(0, 1.5)
        self._redis.start(keep=self._random.random() < 0.5)

    def _cut_listeners(self) -> None:
        for _ in range(20):
            for kind in self._random.choice((("pubsub",), ("pubsub", "normal"))):
                self._redis.ask("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
            self._wait(0, 0.1)

    def _cut_screens(self) -> None:
        for screen in self._random.sample(self.screens, SCREENS // 2):
            screen.cut()


def rows(writer: Server) -> dict[int, dict[int, Any]]:
    """Return what the database has, by room and id."""
    found = requests.get(f"{writer.url}/rows", timeout=DEADLINE).json()
    return {
        number: {row["id"]: row for row in found if row["room_id"] == number}
        for number in ROOMS
    }


def differing(chaos: Chaos, within: float) -> list[str]:
    """Wait until all screens show what the database has; return those that do not."""
    truth = rows(chaos.writer)
    end = time.monotonic() + within
    while True:
        differ = [s for s in chaos.screens if s.shown() != truth]
        if not differ or time.monotonic() > end:
            return [
                f"{screen}: {_difference(screen.shown(), truth)}" for screen in differ
            ]
        time.sleep(0.05)


def _difference(shown: Any, truth: Any) -> str:
    parts = []
    for number in ROOMS:
        for id in sorted({*shown[number], *truth[number]}):
            one, other = shown[number].get(id), truth[number].get(id)
            if one != other:
                parts.append(f"room {number} shows {one}, the database has {other}")
    return "; ".join(parts[:5])


def run(postgres: Postgres, *, seed: int, seconds: float, fault: str = "") -> list[str]:
    """Let things break for some time; return what was wrong."""
    print(f"CHAOS_SEED={seed} CHAOS_SECONDS={seconds:g} CHAOS_FAULT={fault}")
    with ExitStack() as stack:
        database = stack.enter_context(postgres.database())
        redis = stack.enter_context(redis_server())
        chaos = Chaos(redis, database, seed=seed, fault=fault, stack=stack)
        requests.post(f"{chaos.writer.url}/begin", timeout=DEADLINE)
        end = time.monotonic() + seconds
        while time.monotonic() < end and not chaos.wrong():
            chaos.break_something()
        chaos.mend_everything()
        transactions = requests.post(f"{chaos.writer.url}/end", timeout=DEADLINE).json()
        problems = (
            chaos.wrong()
            or differing(chaos, ENOUGH if fault else DEADLINE) + chaos.wrong()
        )
        counts: Counter[str] = Counter()
        for screen in chaos.screens:
            counts += screen.counts
        print(f"{transactions} transactions; {dict(chaos.faults)}; {dict(counts)}")
    gc.collect()
    return problems


def test_all_screens_are_right_after_chaos(postgres: Postgres) -> None:
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    seconds = float(os.environ.get("CHAOS_SECONDS") or 20)
    assert run(postgres, seed=seed, seconds=seconds) == []


@pytest.mark.soak
def test_all_screens_are_right_after_an_hour_of_chaos(postgres: Postgres) -> None:
    """A run a minute, each with a seed of its own."""
    seed = int(os.environ.get("CHAOS_SEED") or secrets.randbelow(1_000_000))
    end = time.monotonic() + float(os.environ.get("CHAOS_SECONDS") or 3600)
    while time.monotonic() < end:
        assert run(postgres, seed=seed, seconds=60) == []
        seed += 1


@pytest.mark.parametrize("fault", ["stamps", "gaps", "history"])
def test_chaos_misses_what_was_taken_away(fault: str, postgres: Postgres) -> None:
    """Three faults in the program, each of which the test must find."""
    assert any(
        run(postgres, seed=seed, seconds=10, fault=fault) for seed in range(1, 4)
    )
