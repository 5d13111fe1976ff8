"""Clients that come to any process with each request, while processes are killed.

Behind nginx that takes turns, and with several gunicorn workers on one port. Each run
prints its seed; ``SOAK_SEED`` repeats what is left to chance (not the moments at which
processes meet it), ``SOAK_SECONDS`` says how long it takes.
"""

from __future__ import annotations

import math
import os
import random
import re
import secrets
import signal
import time
from bisect import bisect
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.support.crowd import (
    DEFAULT,
    POLLING,
    UPGRADING,
    Crowd,
    Traffic,
)
from tests.support.protocol_servers import problems, serving
from tests.support.redis import redis_server
from tests.support.servers import Server, launch, on_unused_port, start
from tests.support.system import require
from tests.support.waiting import DEADLINE, until

APP = Path(__file__).parents[1] / "support" / "crowd_app.py"
NODES = 3
WORKERS = 4
# Seconds from a process's end to when all but one in a hundred of its clients are live
# again, at full length; one comes back after 0.5 to 1.5 s.
BACK = 2.0
# Seconds after which nobody has lost a connection because of that.
TOLD = 5.0
# A client whose server is killed leaves its socket to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

CONFIG = """\
daemon off; pid {folder}/nginx.pid; error_log stderr notice; worker_processes 1;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    {temporary}
    map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}
    upstream nodes {{ {nodes} }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection $connection_upgrade;
        }}
    }}
}}
"""


@contextmanager
def nginx(ports: list[int], folder: Path) -> Iterator[int]:
    """Run nginx in front of processes, which take turns; yield its port."""
    program = require("nginx")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

    def argv(port: int) -> list[str | Path]:
        config = CONFIG.format(
            folder=folder,
            port=port,
            nodes=" ".join(f"server 127.0.0.1:{node};" for node in ports),
            temporary=" ".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds),
        )
        (folder / "nginx.conf").write_text(config)
        return [program, "-p", folder, "-c", folder / "nginx.conf"]

    running, port = on_unused_port(
        argv,
        name="nginx",
        cwd=folder,
        ready="start worker process ",
        taken="Address already in use",
    )
    try:
        yield port
    finally:
        running.stop()


class Place:
    """Several processes behind one address.

    Args:
        port: Of the address.
    """

    def __init__(self, port: int) -> None:
        self.port = port
        #: When one was killed.
        self.killed: list[float] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self, dice: random.Random) -> None:
        """End one of them as a power cut would, and start another in its place."""
        raise NotImplementedError

    def kept(self) -> list[dict[str, int]]:
        """Return what each keeps for clients."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        """Return what they have printed of errors."""
        raise NotImplementedError


class BehindNginx(Place):
    """Processes with a port of their own each."""

    def __init__(self, port: int, servers: list[Server], env: dict[str, str]) -> None:
        super().__init__(port)
        self._servers = servers
        self._env = env
        self._past: list[Server] = []

    def kill(self, dice: random.Random) -> None:
        number = dice.randrange(NODES)
        before = self._servers[number]
        self.killed.append(time.monotonic())
        before.kill()
        self._past.append(before)
        again = launch(APP, before.port, env=self._env)
        again.port = before.port
        self._servers[number] = again
        again.wait_for("^LISTENING")

    def kept(self) -> list[dict[str, int]]:
        urls = [server.url for server in self._servers]
        return [
            requests.get(f"{url}/kept", timeout=DEADLINE).json()["kept"] for url in urls
        ]

    def problems(self) -> list[str]:
        every = [*self._past, *self._servers]
        return [line for server in every for line in problems(server)]


class OnOnePort(Place):
    """Gunicorn's workers."""

    def __init__(self, gunicorn: Server) -> None:
        super().__init__(gunicorn.port)
        self._gunicorn = gunicorn
        self._dead: set[int] = set()

    def _workers(self) -> list[int]:
        found = re.findall(r"Booting worker with pid: (\d+)", self._gunicorn.log)
        return [int(pid) for pid in found if int(pid) not in self._dead]

    def wait(self) -> None:
        until(lambda: len(self._workers()) == WORKERS)

    def kill(self, dice: random.Random) -> None:
        # Those that have nobody to lose are of no use.
        busy = [pid for pid, kept in self._kept().items() if kept["sessions"]]
        pid = dice.choice(sorted(busy))
        self._dead.add(pid)
        self.killed.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)
        self.wait()

    def kept(self) -> list[dict[str, int]]:
        return [*self._kept().values()]

    def _kept(self) -> dict[int, dict[str, int]]:
        found: dict[int, dict[str, int]] = {}

        def ask() -> bool:
            answer = requests.get(f"{self.url}/kept", timeout=DEADLINE).json()
            found[answer["pid"]] = answer["kept"]
            return len(found) == WORKERS

        until(ask)
        return found

    def problems(self) -> list[str]:
        return [line for line in problems(self._gunicorn) if "SIGKILL" not in line]


@contextmanager
def behind_nginx(env: dict[str, str], folder: Path) -> Iterator[Place]:
    with ExitStack() as stack:
        servers = []
        for number in range(NODES):
            servers.append(start(APP, 0, env=env))
            stack.callback(lambda number=number: servers[number].stop())
        ports = [server.port for server in servers]
        port = stack.enter_context(nginx(ports, folder))
        yield BehindNginx(port, servers, env)


@contextmanager
def on_one_port(env: dict[str, str], folder: Path) -> Iterator[Place]:
    args = ("--workers", str(WORKERS), "--worker-connections", "1000")
    target = "tests.support.crowd_app:app"
    with serving("gunicorn-gthread", *args, target=target, env=env) as gunicorn:
        place = OnOnePort(gunicorn)
        place.wait()
        yield place


PLACES = {"nginx": behind_nginx, "gunicorn": on_one_port}


def run(
    kind: str,
    folder: Path,
    *,
    clients: dict[str, int],
    rooms: int,
    pause: float,
    seconds: float,
    every: float,
    back: float = math.inf,
) -> list[str]:
    """Let clients follow what is written while processes are killed.

    Args:
        clients: How many of each kind.
        pause: Seconds between two writes.
        seconds: How long it is written, unless the environment says so.
        every: Seconds between two kills.
        back: Seconds to be live again, for 99 of 100.

    Returns:
        What was wrong.
    """
    seed = int(os.environ.get("SOAK_SEED") or secrets.randbelow(1_000_000))
    seconds = float(os.environ.get("SOAK_SECONDS") or seconds)
    print(f"SOAK_SEED={seed} SOAK_SECONDS={seconds:g} {kind} {clients}")
    dice = random.Random(seed)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        env = {"CROWD_DATABASE": str(folder / "crowd.db"), "CROWD_QUEUE": redis.url}
        place = stack.enter_context(PLACES[kind](env, folder))
        crowd = Crowd(place.port, clients, rooms=rooms, seed=seed)
        stack.enter_context(crowd)
        until(crowd.all_live)
        end = time.monotonic() + seconds
        with Traffic(place.port, rooms=rooms, seed=seed, pause=pause) as traffic:
            while time.monotonic() + every < end:
                time.sleep(every)
                place.kill(dice)
                until(crowd.all_live)
            time.sleep(max(0, end - time.monotonic()))
        rows = requests.get(f"{place.url}/rows", timeout=DEADLINE).json()
        with suppress(AssertionError):
            until(lambda: not crowd.differing(rows))
        wrong = crowd.wrong + crowd.differing(rows)
        print(f"{len(rows)} rows; {dict(traffic.counts)}; {dict(crowd.counts)}")
        wrong += late(crowd, place, back)
        crowd.leave()
        with suppress(AssertionError):
            until(lambda: not any(map(any_of, place.kept())))
        wrong += [f"a process keeps {kept}" for kept in place.kept() if any_of(kept)]
        return wrong + place.problems()


def any_of(kept: dict[str, int]) -> bool:
    return any(kept.values())


def late(crowd: Crowd, place: Place, back: float) -> list[str]:
    """Print when clients were live again after the last kill; return what was late."""
    after: dict[str, list[tuple[float, str]]] = {}
    found = []
    for outage in crowd.outages:
        number = bisect(place.killed, outage.noticed)
        kill = place.killed[number - 1] if number else -math.inf
        if outage.noticed - kill > TOLD:
            found.append(f"{outage.kind}: lost though nothing had died: {outage.why}")
        else:
            pair = (outage.live - kill, outage.why)
            after.setdefault(outage.kind, []).append(pair)
    for kind, pairs in sorted(after.items()):
        seconds = sorted(took for took, _ in pairs)
        last = len(seconds) - 1
        median, most = (seconds[int(share * last)] for share in (0.5, 0.99))
        told = (
            f"{kind}: {len(seconds)} were live again, half in {median:.2f} s, 99 % in "
            f"{most:.2f} s, all in {seconds[-1]:.2f} s"
        )
        print(told, dict(Counter(why for _, why in pairs)))
        if most > back:
            found.append(told)
    return found


def test_all_are_right_behind_a_proxy_that_takes_turns(tmp_path: Path) -> None:
    clients = {POLLING: 15, DEFAULT: 15}
    options = {"rooms": 3, "pause": 0.05, "seconds": 13, "every": 4}
    assert run("nginx", tmp_path, clients=clients, **options) == []


def test_all_are_right_with_four_workers_on_one_port(tmp_path: Path) -> None:
    clients = {POLLING: 10, DEFAULT: 10, UPGRADING: 10}
    options = {"rooms": 3, "pause": 0.05, "seconds": 9, "every": 4}
    assert run("gunicorn", tmp_path, clients=clients, **options) == []


@pytest.mark.soak
def test_hundreds_are_right_behind_a_proxy_that_takes_turns(tmp_path: Path) -> None:
    clients = {POLLING: 200, DEFAULT: 200}
    options = {"rooms": 20, "pause": 0.1, "seconds": 300, "every": 30, "back": BACK}
    assert run("nginx", tmp_path, clients=clients, **options) == []


@pytest.mark.soak
def test_hundreds_are_right_with_four_workers_on_one_port(tmp_path: Path) -> None:
    clients = {POLLING: 150, DEFAULT: 150, UPGRADING: 100}
    options = {"rooms": 20, "pause": 0.1, "seconds": 300, "every": 30, "back": BACK}
    assert run("gunicorn", tmp_path, clients=clients, **options) == []
