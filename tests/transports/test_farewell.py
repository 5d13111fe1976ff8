"""Who is asked to come back, when, and how often."""

from __future__ import annotations

import json
from typing import Any

import pytest
import socketio

from flask_livepush.transports.fanout import Fanout, StockOutlet
from flask_livepush.transports.farewell import Farewell
from tests.support.brokers import Clock


class Socket:
    """What a server has of a connection."""

    def __init__(self, *, entered: bool = True) -> None:
        self.closed = False
        self.entered = entered

    def close(self, wait: bool = True) -> None:
        assert not wait
        self.closed = True


class Site:
    """A server whose connections are opened by a test."""

    def __init__(self, max_age: float | None = 100, dice: float = 0.5) -> None:
        self.clock = Clock()
        self.dice = dice
        self.server = socketio.Server(async_mode="threading")
        self.written: list[tuple[str, float]] = []
        self.server._send_eio_packet = self._write
        self.farewell = Farewell(
            self.server,
            Fanout(self.server, StockOutlet(self.server), reset_within=1),
            max_age=max_age,
            now=self.clock,
            dice=lambda: self.dice,
        )

    def _write(self, eio_sid: str, frame: Any) -> None:
        name, data = json.loads(frame.data[1:])
        assert name == "livepush.reconnect"
        self.written.append((eio_sid, data["within"]))

    def open(self, eio_sid: str, *, entered: bool = True) -> Socket:
        socket = self.server.eio.sockets[eio_sid] = Socket(entered=entered)
        sid = self.server.manager.pre_connect(eio_sid, "/")
        self.server.manager.connect(sid, "/")
        self.farewell.opened(eio_sid)
        return socket

    def look(self, at: float) -> list[str]:
        """Look at so many seconds; return who was asked then."""
        self.clock.now = 1000 + at
        self.written.clear()
        self.farewell.ask_the_old()
        return [eio_sid for eio_sid, _ in self.written]


def test_each_is_asked_once_at_its_own_moment() -> None:
    site = Site(max_age=100, dice=0)
    site.open("early")
    site.dice = 1
    site.open("late")
    assert site.look(89.9) == []
    assert site.look(90) == ["early"]
    assert site.look(95.9) == []
    assert site.look(96) == ["late"]
    assert site.look(200) == []


@pytest.mark.parametrize("max_age", [0.5, 10, 3300])
def test_nobody_grows_older_than_allowed(max_age: float) -> None:
    site = Site(max_age=max_age, dice=1)
    site.open("one")
    every = site.farewell.look_every
    assert every is not None
    at = 0.0
    while not site.look(at):
        at += every
    assert at + site.written[0][1] <= max_age
    assert at >= 0.9 * max_age


def test_who_came_later_or_has_gone_is_not_asked() -> None:
    site = Site(max_age=100)
    site.open("gone")
    site.open("old")
    site.clock.now += 50
    site.open("young")
    site.farewell.closed("gone")
    assert site.look(99) == ["old"]
    assert list(site.farewell._ages) == ["young"]
    site.farewell.closed("young")
    site.farewell.closed("young")
    assert site.farewell._ages == {}


def test_without_a_limit_nothing_is_kept() -> None:
    site = Site(max_age=None)
    site.open("one")
    assert site.farewell.look_every is None
    assert site.farewell._ages == {}
    assert site.look(1e9) == []


def test_all_are_asked_once_and_newcomers_when_they_have_entered() -> None:
    site = Site()
    site.open("a")
    entering = site.open("b", entered=False)
    site.farewell.ask_all(5)
    site.farewell.ask_all(4)
    assert site.written == [("a", 5)]
    entering.entered = True
    site.open("c")
    site.farewell.ask_all(3.12345)
    assert site.written == [("a", 5), ("b", 3.123), ("c", 3.123)]


def test_closes_those_that_are_open() -> None:
    site = Site()
    first, second = site.open("a"), site.open("b")
    assert site.farewell.connections() == ["a", "b"]
    site.farewell.close("a")
    assert (first.closed, second.closed) == (True, False)
    assert site.farewell.connections() == ["b"]
    site.farewell.close("nobody")


def test_who_was_asked_and_does_not_go_is_closed() -> None:
    """Bug: a client that ignored it went on for ever."""
    site = Site(max_age=100, dice=0)
    stays, goes = site.open("stays"), site.open("goes")
    assert site.look(90) == ["stays", "goes"]
    site.farewell.closed("goes")
    site.look(92)  # what it was given, which is no time to be late
    assert not stays.closed
    site.look(94)
    assert (stays.closed, goes.closed) == (True, False)
    site.farewell.closed("stays")
    assert site.farewell._leaving == site.farewell._ages == {}


@pytest.mark.parametrize("max_age", [0.5, 10, 3300])
@pytest.mark.parametrize("dice", [0, 0.5, 1])
def test_nobody_is_open_for_longer_than_allowed(max_age: float, dice: float) -> None:
    site = Site(max_age=max_age, dice=dice)
    socket = site.open("one")
    every = site.farewell.look_every
    assert every is not None
    asked = at = 0.0
    while not socket.closed:
        at += every
        if site.look(at):
            asked = at
            within = site.written[0][1]
    assert at <= max_age
    assert at >= asked + within


def test_who_is_in_no_namespace_is_closed_when_it_is_too_old() -> None:
    """Bug: who had left the namespace can't be asked, and was left alone."""
    site = Site(max_age=100, dice=0)
    socket = site.server.eio.sockets["one"] = Socket(entered=False)
    site.farewell.opened("one")
    assert site.look(90) == []
    site.look(95)
    assert socket.closed
