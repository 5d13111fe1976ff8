"""What waits for descriptors: epoll, and what ``selectors`` has elsewhere."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest

from flask_livepush.transports.engine import poller
from flask_livepush.transports.engine.poller import Poller
from tests.support.waiting import DEADLINE


@pytest.fixture(params=["epoll", "selectors"])
def waiting(request: pytest.FixtureRequest) -> Iterator[Poller]:
    """One of both; closed afterwards."""
    made: Poller
    if request.param == "epoll":
        made = poller._Epoll(select.epoll(), None)
    else:
        made = poller._Selector(None)
    yield made
    made.close()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two connected sockets."""
    ends = socket.socketpair()
    for end in ends:
        end.setblocking(False)
    yield ends
    for end in ends:
        end.close()


Pair = tuple[socket.socket, socket.socket]


def test_reports_what_can_be_read_until_it_is(waiting: Poller, pair: Pair) -> None:
    ours, theirs = pair
    waiting.watch(ours.fileno())
    waiting.wait(0)
    assert waiting.wait(0) == []
    theirs.send(b"x")
    for _ in range(2):
        assert waiting.wait(DEADLINE) == [(ours.fileno(), True, False)]
    ours.recv(10)
    assert waiting.wait(0) == []
    theirs.close()
    assert waiting.wait(DEADLINE)[0][:2] == (ours.fileno(), True)


def test_lets_others_have_their_turn_before_each_wait() -> None:
    """In eventlet and gevent: what is always ready would keep them waiting for ever."""
    for make in (lambda sleep: poller._Epoll(select.epoll(), sleep), poller._Selector):
        turns: list[float] = []
        waiting: Poller = make(turns.append)
        waiting.wake()
        waiting.wait(DEADLINE)
        waiting.wait(0)
        assert turns == [0, 0]
        waiting.close()


def test_reports_what_can_be_written_while_that_is_wanted(
    waiting: Poller, pair: Pair
) -> None:
    ours, _ = pair
    waiting.watch(ours.fileno())
    waiting.watch_writes(ours.fileno(), True)
    waiting.wait(0)
    assert waiting.wait(0) == [(ours.fileno(), False, True)]
    waiting.watch_writes(ours.fileno(), False)
    assert waiting.wait(0) == []


def test_reports_nothing_of_what_is_forgotten(waiting: Poller, pair: Pair) -> None:
    ours, theirs = pair
    waiting.watch(ours.fileno())
    theirs.send(b"x")
    waiting.forget(ours.fileno())
    waiting.forget(ours.fileno())
    waiting.watch_writes(ours.fileno(), True)
    waiting.wait(0)
    assert waiting.wait(0) == []


@pytest.mark.parametrize("what", ["wake", "watch", "watch_writes"])
def test_a_wait_ends_when_another_thread_says_something(
    waiting: Poller, pair: Pair, what: str
) -> None:
    ours, theirs = pair
    if what == "watch_writes":
        waiting.watch(ours.fileno())
        waiting.wait(0)
    else:
        theirs.send(b"x")
    ended = threading.Event()

    def wait() -> None:
        waiting.wait(None)
        ended.set()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    if what == "wake":
        waiting.wake()
    elif what == "watch":
        waiting.watch(ours.fileno())
    else:
        waiting.watch_writes(ours.fileno(), True)
    assert ended.wait(DEADLINE)
    thread.join(DEADLINE)


def test_many_wakes_cost_one_turn(waiting: Poller) -> None:
    for _ in range(10_000):
        waiting.wake()
    while waiting.wait(0):
        pass
    assert waiting.wait(0) == []


def test_closing_leaves_no_descriptor() -> None:
    before = len(os.listdir("/proc/self/fd"))
    for made in (poller._Epoll(select.epoll(), None), poller._Selector(None)):
        made.close()
    assert len(os.listdir("/proc/self/fd")) == before
