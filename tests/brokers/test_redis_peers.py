"""Messages from one process to another one, on each kind of Redis."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest

from flask_livepush.brokers import redis
from flask_livepush.brokers.redis_peers import RedisPeers
from flask_livepush.errors import BrokerUnavailable
from tests.support.brokers import DEADLINE, spawn
from tests.support.redis import redis_server, until


class Process:
    """One process's peers, and what they told it."""

    def __init__(self, url: str) -> None:
        self.messages: list[bytes] = []
        self.interruptions = 0
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


def test_a_message_reaches_the_process_that_is_named(processes: list[Process]) -> None:
    one, other = processes
    assert other.peers.enter()
    assert one.peers.send(other.peers.name, b"\x00hello")
    until(lambda: other.messages == [b"\x00hello"])
    assert one.messages == []


def test_says_when_there_is_no_process_of_a_name(processes: list[Process]) -> None:
    one, other = processes
    assert not one.peers.send(other.peers.name, b"hello")
    assert other.peers.enter()
    assert one.peers.send(other.peers.name, b"hello")


def test_what_is_posted_arrives_in_order(processes: list[Process]) -> None:
    one, other = processes
    assert other.peers.enter()
    sent = [b"%d" % number for number in range(1000)]
    for message in sent:
        one.peers.post(other.peers.name, message)
    until(lambda: len(other.messages) == 1000)
    assert other.messages == sent


def test_an_error_of_the_receiver_costs_nobody_else_a_message(
    processes: list[Process], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = processes

    def receive(message: bytes) -> None:
        other.messages.append(message)
        raise RuntimeError("not mine")

    other.peers.listen(receive, other.interrupted)
    assert other.peers.enter()
    for message in (b"1", b"2"):
        one.peers.send(other.peers.name, message)
    until(lambda: other.messages == [b"1", b"2"])
    assert "going on" in caplog.text


def test_goes_on_after_the_server_was_away(caplog: pytest.LogCaptureFixture) -> None:
    with redis_server() as server:
        one, other = Process(server.url), Process(server.url)
        assert other.peers.enter()
        server.kill()
        until(lambda: other.interruptions)
        with pytest.raises(BrokerUnavailable):
            one.peers.send(other.peers.name, b"lost")
        one.peers.post(other.peers.name, b"lost")
        until(lambda: "Messages to other processes are lost" in caplog.text)
        server.start(keep=False)
        until(other.peers.enter)
        assert one.peers.send(other.peers.name, b"hello")
        until(lambda: other.messages == [b"hello"])
        one.close()
        other.close()


def test_a_child_is_another_process(redis_url: str) -> None:
    parent = Process(redis_url)
    assert parent.peers.enter()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            known = parent.peers.enter()
            told = threading.Event()
            parent.peers.listen(lambda message: told.set(), lambda: None)
            os.write(write, parent.peers.name.encode())
            os._exit(0 if known and told.wait(DEADLINE) else 1)
        finally:
            os._exit(2)
    name = os.read(read, 100).decode()
    assert name != parent.peers.name
    assert parent.peers.send(name, b"hello")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert parent.messages == []
    for descriptor in (read, write):
        os.close(descriptor)
    parent.close()
