"""Messages from one process to another one, on each kind of Redis."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator

import pytest
from redis.crc import key_slot

from flask_livepush.brokers import redis, redis_peers
from flask_livepush.brokers.redis_format import Names
from flask_livepush.brokers.redis_peers import RedisPeers
from flask_livepush.errors import BrokerError, BrokerUnavailable
from tests.support.brokers import spawn
from tests.support.redis import redis_cluster, redis_server, until
from tests.support.servers import unused_port
from tests.support.waiting import DEADLINE

# Of the slots of a cluster's nodes.
BOUNDS = (0, 5461, 10923, 16384)


class Process:
    """One process's peers, and what they told it."""

    def __init__(self, url: str) -> None:
        self.messages: list[bytes] = []
        self.interruptions = 0
        self.lost: list[BrokerError | None] = []
        self.lose = self.lost.append
        self.servers = redis.servers(url)
        self.peers = RedisPeers(
            self.servers,
            prefix="peers",
            spawn=spawn,
            sleep=time.sleep,
            now=time.monotonic,
        )
        self.peers.listen(self.messages.append, self.interrupted)

    def interrupted(self) -> None:
        self.interruptions += 1

    def close(self) -> None:
        reader = self.peers._reader
        if reader is not None:
            reader.close()
        self.servers.close()


@pytest.fixture(params=["redis_url", "sentinel_url", "cluster_url"])
def processes(request: pytest.FixtureRequest) -> Iterator[list[Process]]:
    """Two processes on the same servers."""
    url = request.getfixturevalue(request.param)
    made = [Process(url), Process(url)]
    yield made
    for process in made:
        process.close()


def test_what_is_posted_arrives_in_order_at_the_process_that_is_named(
    processes: list[Process],
) -> None:
    one, other = processes
    until(other.peers.enter)
    sent = [b"\x00%d" % number for number in range(1000)]
    for message in sent:
        one.peers.post(other.peers.name, message, one.lose)
    until(lambda: len(other.messages) == 1000)
    assert other.messages == sent
    assert one.messages == one.lost == []


def test_says_when_there_is_no_process_of_a_name(processes: list[Process]) -> None:
    one, other = processes
    one.peers.post(other.peers.name, b"hello", one.lose)
    until(lambda: one.lost == [None])
    until(other.peers.enter)
    one.peers.post(other.peers.name, b"hello", one.lose)
    until(lambda: other.messages == [b"hello"])
    assert one.lost == [None]


def test_an_error_of_the_receiver_costs_nobody_else_a_message(
    processes: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = processes

    def receive(message: bytes) -> None:
        other.messages.append(message)
        raise RuntimeError("not mine")

    other.peers.listen(receive, other.interrupted)
    until(other.peers.enter)
    for message in (b"1", b"2"):
        one.peers.post(other.peers.name, message)
    until(lambda: other.messages == [b"1", b"2"])
    assert "going on" in caplog.text


class Killed(BaseException):
    """What ends a greenlet from outside."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_goes_on_when_who_reads_or_sends_is_killed(processes: list[Process]) -> None:
    """Bug: a process whose greenlet was killed heard, or said, nothing any more."""
    one, other = processes
    kills = [Killed("its greenlet"), Killed("its greenlet")]

    def receive(message: bytes) -> None:
        if kills:
            raise kills.pop()
        other.messages.append(message)

    other.peers.listen(receive, other.interrupted)
    until(other.peers.enter)
    for _ in range(2):
        reader = other.peers._reader
        one.peers.post(other.peers.name, b"1")
        until(lambda reader=reader: other.peers._reader is not reader)
        until(other.peers.enter)
    one.peers.post(other.peers.name, b"2")
    until(lambda: other.messages == [b"2"])

    def lose(_: object) -> None:
        raise Killed("its greenlet")

    one.peers.post("nobody", b"3", lose)
    until(lambda: not one.peers._sends)
    one.peers.post(other.peers.name, b"4")
    until(lambda: other.messages == [b"2", b"4"])


def test_goes_on_after_the_server_was_away(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        one, other = Process(server.url), Process(server.url)
        until(other.peers.enter)
        server.kill()
        until(lambda: other.interruptions)
        assert not other.peers.enter()
        one.peers.post(other.peers.name, b"lost", one.lose)
        until(lambda: one.lost)
        assert isinstance(one.lost[0], BrokerUnavailable)
        assert "Messages to other processes are lost" in caplog.text
        server.start(keep=False)
        until(other.peers.enter)
        one.peers.post(other.peers.name, b"hello")
        until(lambda: other.messages == [b"hello"])
        one.close()
        other.close()


def test_nobody_waits_for_a_server_that_is_known_to_be_away() -> None:
    """Bug: each request that opened a session waited for a second, with its thread."""
    process = Process(f"redis://127.0.0.1:{unused_port()}")
    assert not process.peers.enter()
    assert process.interruptions
    assert process.peers._tried.is_set()
    process.close()


def test_what_finds_no_room_is_lost(redis_url: str) -> None:
    one = Process(redis_url)
    halt = threading.Event()
    run = one.servers.run
    one.servers.run = lambda *args, **options: (  # type: ignore[method-assign]
        halt.wait(DEADLINE),
        run(*args, **options),
    )[1]
    big = b"x" * (redis_peers._MAX_WAITING // 2)
    for _ in range(4):  # one more may have been taken out already
        one.peers.post("nobody", big, one.lose)
    assert one.lost
    assert all("no room" in str(error) for error in one.lost)
    assert one.peers._size <= redis_peers._MAX_WAITING
    halt.set()
    until(lambda: len(one.lost) == 4)
    one.close()


def test_a_shard_that_is_away_costs_others_no_message() -> None:
    with redis_cluster() as cluster:
        one = Process(cluster.url)
        others = [Process(cluster.url) for _ in range(20)]
        for other in others:
            until(other.peers.enter)
        cluster.nodes[0].kill()
        away = {
            other
            for other in others
            if key_slot(Names("peers").peer(other.peers.name).encode()) < BOUNDS[1]
        }
        assert 0 < len(away) < len(others)
        for other in others:
            one.peers.post(other.peers.name, b"hello", one.lose)
        for other in others:
            if other not in away:
                until(lambda other=other: other.messages == [b"hello"])
        until(lambda: len(one.lost) == len(away))
        for process in (one, *others):
            process.close()


def test_follows_a_slot_that_moves() -> None:
    with redis_cluster() as cluster:
        one, other = Process(cluster.url), Process(cluster.url)
        until(other.peers.enter)
        one.peers.post(other.peers.name, b"before", one.lose)
        until(lambda: other.messages == [b"before"])
        slot = key_slot(Names("peers").peer(other.peers.name).encode())
        number = next(i for i in (1, 2, 3) if slot < BOUNDS[i]) - 1
        source, target = cluster.nodes[number], cluster.nodes[number - 1]
        cluster.move(slot, source, target)
        until(lambda: other.interruptions)
        until(other.peers.enter)
        one.peers.post(other.peers.name, b"after", one.lose)
        until(lambda: other.messages == [b"before", b"after"])
        assert one.lost == []
        for process in (one, other):
            process.close()


def test_a_child_is_another_process(redis_url: str) -> None:
    parent = Process(redis_url)
    until(parent.peers.enter)
    read, write = os.pipe()
    with warnings.catch_warnings():
        # Eventlet's, where another test has imported it: there is none of it in here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            known = until(parent.peers.enter)
            told = threading.Event()
            parent.peers.listen(lambda message: told.set(), lambda: None)
            os.write(write, parent.peers.name.encode())
            os._exit(0 if known and told.wait(DEADLINE) else 1)
        finally:
            os._exit(2)
    name = os.read(read, 100).decode()
    assert name != parent.peers.name
    parent.peers.post(name, b"hello")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parent.messages == []
    for descriptor in (read, write):
        os.close(descriptor)
    parent.close()
