"""Signals of Flask's kind, for an application's own collectors of errors.

No payload, no user and no room's name may be in one. The only module that knows
blinker, which Flask brings along.
"""

from __future__ import annotations

from contextvars import ContextVar

from blinker import Namespace
from flask import Flask

from .failures import Failure
from .logs import logger

log = logger(__name__)

_namespace = Namespace()
# Of the running thread, greenlet or task: what a receiver does may fail as well.
_telling: ContextVar[bool] = ContextVar("telling", default=False)

#: Something that was meant for screens does not reach them as it was meant. The sender
#: is the application, or None where several are set up and none is at hand; the
#: arguments are ``kind`` (of the rows concerned, or empty), ``room`` (the pattern of
#: the rooms, or empty) and ``reason`` (a sentence). Sent each time, in the thread or
#: greenlet where it happened, which may be in the middle of a commit: use no database
#: session in a receiver.
failed = _namespace.signal("livepush-failed")


def tell_failed(app: Flask | None, failure: Failure) -> None:
    """Send :data:`failed`; what a receiver raises is logged, and the others are told.

    What fails inside of a receiver is not told to receivers.
    """
    if not failed.receivers or _telling.get():
        return
    token = _telling.set(True)
    try:
        for receiver in list(failed.receivers_for(app)):
            try:
                receiver(
                    app,
                    kind=failure.kind,
                    room=failure.room,
                    reason=failure.reason,
                )
            except Exception:
                log.exception("A receiver of livepush.signals.failed raised")
    finally:
        _telling.reset(token)
