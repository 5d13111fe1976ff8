"""Private Redis servers for the tests: one, a primary under Sentinel, a cluster.

Each is started on free ports and removed at the end. The fixtures ``redis_url``,
``sentinel_url`` and ``cluster_url`` are shared by all tests, which keep apart by their
prefixes; whoever kills, stops or flushes starts its own::

    with redis_server() as server:
        server.restart(keep=False)
"""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import RedisError

from . import waiting
from .servers import Program, Timeout, unused_port
from .system import find, require
from .waiting import DEADLINE

SERVICE = "main"
# Milliseconds of silence after which servers are taken for dead. A busy machine makes
# them silent for a second: they would fail over, or refuse commands, in the middle of a
# test that is about something else.
_NEVER = 600_000


def until(
    condition: Callable[[], Any],
    what: str = "the condition did not come true",
    within: float = DEADLINE,
) -> Any:
    """Wait until something is true; return it. An error of Redis counts as not yet."""

    def asked() -> Any:
        with suppress(RedisError):
            return condition()

    return waiting.until(asked, within, what=what)


class RedisServer:
    """A running server, and its data in a directory of its own.

    Args:
        options: More of its settings, as on its command line.
        cluster: Whether it is to be a cluster's node.
    """

    def __init__(self, *options: str, cluster: bool = False) -> None:
        self._options = options
        self._cluster = cluster
        self._home = Path(tempfile.mkdtemp(prefix="livepush-redis-"))
        self.program: Program
        self.port = self.bus = 0
        for attempt in range(5):
            # Both anew: whichever is taken is not tried again.
            self.port, self.bus = unused_port(), unused_port()
            with suppress(Timeout):
                self._start()
                return
            self.program.stop(patience=1)
            assert attempt < 4, self.program.log
        raise AssertionError

    def _start(self) -> None:
        cluster: tuple[str, ...] = ()
        if self._cluster:
            cluster = ("--cluster-enabled", "yes", "--cluster-port", str(self.bus))
        self.program = Program(
            [
                *_ends_with_the_tests(),
                require("redis-server"),
                *("--port", str(self.port), "--bind", "127.0.0.1"),
                *("--dir", str(self._home), "--save", "", "--appendonly", "yes"),
                *("--unixsocket", self.socket, "--repl-diskless-sync-delay", "0"),
                *("--cluster-node-timeout", str(_NEVER), *cluster),
                *self._options,
            ],
            name=f"redis-server {self.port}",
            cwd=self._home,
        )
        self.program.wait_for("Ready to accept connections")

    @property
    def url(self) -> str:
        """Its URL."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def socket(self) -> str:
        """The path of its Unix socket."""
        return str(self._home / "socket")

    @contextmanager
    def client(self) -> Iterator[Redis]:
        """Return a client of redis-py's own."""
        with Redis(port=self.port, socket_timeout=DEADLINE) as client:
            yield client

    def ask(self, *words: str | int) -> Any:
        """Send one command on a connection of its own; return the answer."""
        with self.client() as client:
            return client.execute_command(*words)

    def info(self, section: str) -> dict[str, Any]:
        """Return a section of what it says of itself."""
        with self.client() as client:
            return dict(client.info(section))  # type: ignore[arg-type]

    def pause(self) -> None:
        """Let it hang: connections stay, answers don't come."""
        self.program.send(signal.SIGSTOP)

    def go_on(self) -> None:
        """End :meth:`pause`."""
        self.program.send(signal.SIGCONT)

    def kill(self) -> None:
        """End it as a power cut would."""
        self.program.kill()

    def restart(self, *, keep: bool) -> None:
        """Kill it and start it again on the same port.

        Args:
            keep: Whether it finds its data again.
        """
        self.kill()
        self.start(keep=keep)

    def start(self, *, keep: bool) -> None:
        """Start it again after :meth:`kill`."""
        if not keep:
            shutil.rmtree(self._home)
            self._home.mkdir()
        self._start()

    def close(self) -> None:
        """End it and remove its data."""
        self.go_on()
        self.program.stop(ask=signal.SIGKILL)
        shutil.rmtree(self._home, ignore_errors=True)


def _ends_with_the_tests() -> list[str]:
    setpriv = find("setpriv")
    return [str(setpriv), "--pdeathsig", "KILL"] if setpriv else []


@contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """Run a server until the block ends."""
    server = RedisServer(*options)
    try:
        yield server
    finally:
        server.close()


class Wiretap:
    """A way to a server on which what it sends is counted.

    Args:
        port: The server's.
    """

    def __init__(self, port: int) -> None:
        self.received = 0
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = [self._listener]

    def __enter__(self) -> Wiretap:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for wire in self._open:
            with suppress(OSError):
                wire.shutdown(socket.SHUT_RDWR)
            wire.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._open += (near, far)
                for source, target in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._copy,
                        args=(source, target, source is far),
                        daemon=True,
                    ).start()

    def _copy(self, source: socket.socket, target: socket.socket, count: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.received += len(data) if count else 0
                target.sendall(data)


class Sentinels:
    """A primary, a replica, and three sentinels that watch over them."""

    def __init__(self, primary: RedisServer, replica: RedisServer, ports: list[int]):
        self.primary = primary
        self.replica = replica
        self.ports = ports

    @property
    def url(self) -> str:
        """The URL that names the sentinels."""
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.ports)
        return f"redis+sentinel://{hosts}/{SERVICE}"

    def current(self) -> int:
        """Return the port of the primary, as the sentinels see it."""
        with Redis(port=self.ports[0], socket_timeout=DEADLINE) as client:
            return int(
                client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)[
                    1
                ]
            )

    def watch(self, silence: int) -> None:
        """Have the primary taken for dead, and replaced, when it is silent.

        Args:
            silence: For how many milliseconds; until this is called, practically never.
        """
        words = ("SENTINEL", "SET", SERVICE, "down-after-milliseconds", silence)
        for port in self.ports:
            with Redis(port=port, socket_timeout=DEADLINE) as client:
                client.execute_command(*words)


@contextmanager
def redis_sentinels() -> Iterator[Sentinels]:
    """Run a primary with a replica under Sentinel until the block ends."""
    with ExitStack() as stack:
        primary = stack.enter_context(redis_server())
        replica = stack.enter_context(
            redis_server("--replicaof", f"127.0.0.1 {primary.port}")
        )
        until(
            lambda: replica.info("replication")["master_link_status"] == "up",
            "the replica did not connect",
        )
        ports = [stack.enter_context(_sentinel(primary.port)) for _ in range(3)]
        for port in ports:
            until(lambda port=port: _knows_all(port), "the sentinels are not complete")
        yield Sentinels(primary, replica, ports)


def _knows_all(port: int) -> bool:
    with Redis(port=port, socket_timeout=DEADLINE) as client:
        found: Any = client.sentinel_master(SERVICE)
        return bool(found["num-slaves"] == 1 and found["num-other-sentinels"] == 2)


@contextmanager
def _sentinel(primary: int) -> Iterator[int]:
    home = Path(tempfile.mkdtemp(prefix="livepush-sentinel-"))
    program, port = _start_sentinel(home, primary)
    try:
        yield port
    finally:
        program.stop(ask=signal.SIGKILL)
        shutil.rmtree(home, ignore_errors=True)


def _start_sentinel(home: Path, primary: int) -> tuple[Program, int]:
    settings = home / "sentinel.conf"
    for attempt in range(5):
        port = unused_port()
        settings.write_text(
            f"port {port}\n"
            "bind 127.0.0.1\n"
            f"dir {home}\n"
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary} 2\n"
            f"sentinel down-after-milliseconds {SERVICE} {_NEVER}\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        program = Program(
            [
                *_ends_with_the_tests(),
                require("redis-server"),
                str(settings),
                "--sentinel",
            ],
            name=f"sentinel {port}",
            cwd=home,
        )
        with suppress(Timeout):
            program.wait_for("Sentinel ID is")
            return program, port
        program.stop(patience=1)
        assert attempt < 4, program.log
    raise AssertionError


class Cluster:
    """Three nodes that share the slots."""

    def __init__(self, nodes: list[RedisServer]) -> None:
        self.nodes = nodes

    @property
    def url(self) -> str:
        """The URL that names its nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis+cluster://{hosts}"

    def move(self, slot: int, source: RedisServer, target: RedisServer) -> None:
        """Give an empty or full slot to another node, keys and all."""
        ids = [node.ask("CLUSTER", "MYID") for node in (source, target)]
        names = [id.decode() if isinstance(id, bytes) else id for id in ids]
        target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
        with source.client() as client:
            while keys := client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 100):
                client.execute_command(
                    "MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys
                )
        for node in (target, source, *self.nodes):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", names[1])


@contextmanager
def redis_cluster() -> Iterator[Cluster]:
    """Run a cluster of three primaries until the block ends."""
    with ExitStack() as stack:
        nodes = []
        for _ in range(3):
            node = RedisServer(cluster=True)
            stack.callback(node.close)
            nodes.append(node)
        bounds = (0, 5461, 10923, 16384)
        for number, node in enumerate(nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            first, last = bounds[number], bounds[number + 1] - 1
            node.ask("CLUSTER", "ADDSLOTSRANGE", first, last)
        for node in nodes[1:]:
            node.ask("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, nodes[0].bus)
        for node in nodes:
            until(lambda node=node: _complete(node), "the cluster is not complete")
        yield Cluster(nodes)


def _complete(node: RedisServer) -> bool:
    found = node.ask("CLUSTER", "INFO")
    return b"cluster_state:ok" in found and b"cluster_known_nodes:3" in found


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The URL of a server; tests keep apart by their prefixes."""
    with redis_server() as server:
        yield server.url


@pytest.fixture(scope="session")
def sentinel_url() -> Iterator[str]:
    """The URL of a primary under Sentinel."""
    with redis_sentinels() as sentinels:
        yield sentinels.url


@pytest.fixture(scope="session")
def cluster_url() -> Iterator[str]:
    """The URL of a cluster of three nodes."""
    with redis_cluster() as cluster:
        yield cluster.url
