"""Receivers of an application's signals, which no signal holds."""

from __future__ import annotations

import gc
import threading
import weakref
from typing import Any

from blinker import Namespace
from flask import Flask

from flask_livepush import receivers
from tests.support.waiting import DEADLINE


def test_hears_of_its_own_application_once() -> None:
    signal, told = Namespace().signal("news"), []

    def receive(sender: Any, **arguments: Any) -> None:
        told.append((sender.name, arguments))

    one, other = Flask("one"), Flask("other")
    for _ in range(2):
        receivers.connect(signal, receive, one)
    signal.send(one, what=1)
    signal.send(other, what=2)
    signal.send("no application", what=3)
    assert told == [("one", {"what": 1})]
    receivers.connect(signal, receive, other)
    signal.send(other, what=4)
    receivers.disconnect(signal, receive, one)
    signal.send(one, what=5)
    assert told[1:] == [("other", {"what": 4})]


def test_applications_that_go_in_one_thread_disturb_none_that_come_in_another() -> None:
    """Bug: what blinker does of a receiver that was collected ran into its own tables.

    pytest tells of what the collector raised.
    """
    signal = Namespace().signal("news")

    class Part:
        def __init__(self, app: Flask) -> None:
            self.app = app
            receivers.connect(signal, self.receive, app)

        def receive(self, sender: Any) -> None: ...

    kept: list[weakref.ref[Flask]] = []

    def come_and_go() -> None:
        for _ in range(200):
            app = Flask("app")
            Part(app)
            kept.append(weakref.ref(app))

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    gc.collect()
    assert not any(ref() for ref in kept)
