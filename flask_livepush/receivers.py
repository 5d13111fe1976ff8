"""Receivers of Flask's signals, each of one application, which no signal holds.

A receiver that a signal of blinker's knows weakly is taken out when it is collected,
in whichever thread that happens, while another may be at the same tables. So a signal
has one receiver of ours for good, and the applications have theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from flask import Flask

Receiver = Callable[..., object]

# In an application's extensions: its receivers, by their signals.
_KEY = "livepush.receivers"
_lock = threading.Lock()  # guards the following
_heard: set[Any] = set()


def connect(signal: Any, receiver: Receiver, app: Flask) -> None:
    """Call a function with each signal of an application; once, if said twice."""
    found = app.extensions.setdefault(_KEY, {})
    present = found.get(signal, ())
    if receiver not in present:
        found[signal] = (*present, receiver)
    with _lock:
        if signal in _heard:
            return
        _heard.add(signal)

    def receive(sender: Any, **arguments: Any) -> None:
        known = getattr(sender, "extensions", {}).get(_KEY, {})
        for one in known.get(signal, ()):
            one(sender, **arguments)

    signal.connect(receive, weak=False)


def disconnect(signal: Any, receiver: Receiver, app: Flask) -> None:
    """Call it no more."""
    found = app.extensions.get(_KEY, {})
    found[signal] = tuple(one for one in found.get(signal, ()) if one != receiver)
