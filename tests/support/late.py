"""A broker that publications reach late, for the tests of each row's order."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from flask_livepush import message_queue
from flask_livepush.brokers.base import Broker, History, Listener
from flask_livepush.protocol.publication import ONCE, Attempt, Draft, Position


class OtherBroker(Broker):
    """Does what another broker does; the base of those that disturb it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.max_bytes = broker.max_bytes

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        return self._broker.publish(room, drafts, attempt=attempt)

    def listen(self, listener: Listener) -> None:
        self._broker.listen(listener)

    def ping(self, room: str) -> None:
        self._broker.ping(room)

    def relay(self, room: str, message: str) -> None:
        self._broker.relay(room, message)

    def position(self, room: str, *, patient: bool = False) -> Position:
        return self._broker.position(room, patient=patient)

    def history(self, room: str, since: Position) -> History:
        return self._broker.history(room, since)

    def rooms(self, *, patient: bool = True) -> list[str]:
        return self._broker.rooms(patient=patient)

    def subscribe(self, room: str) -> None:
        self._broker.subscribe(room)

    def confirm(self, room: str) -> None:
        self._broker.confirm(room)

    def unsubscribe(self, room: str) -> None:
        self._broker.unsubscribe(room)

    def close(self) -> None:
        self._broker.close()


class LateBroker(OtherBroker):
    """Publishes after a random time.

    What comes out of a queue is not late once more: one sender would have to wait for
    each, and new commits could come faster than it is emptied.

    Args:
        broker: What publishes then.
        seed: Of the times.
        within: The longest, in seconds.
        share: Which part of the publications is late.
        stamps: False takes the stamps off, so that nothing orders a row's versions.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        seed: object,
        within: float,
        share: float = 1.0,
        stamps: bool = True,
    ) -> None:
        super().__init__(broker)
        self._within = within
        self._share = share
        self._stamps = stamps
        self._random = random.Random(repr(seed))
        # Guards the random numbers.
        self._lock = threading.Lock()

    def publish(
        self, room: str, drafts: Sequence[Draft], *, attempt: Attempt = ONCE
    ) -> Position:
        with self._lock:
            late = self._random.random() < self._share
            wait = self._random.uniform(0, self._within)
        if late and attempt.queued is None:
            time.sleep(wait)
        if not self._stamps:
            drafts = [replace(draft, stamp=None) for draft in drafts]
        return super().publish(room, drafts, attempt=attempt)


def disturb_brokers(wrapper: type[OtherBroker], **options: Any) -> None:
    """Let this program's applications have a broker behind another one."""
    make = message_queue.broker

    def disturbed(*args: Any) -> Broker:
        return wrapper(make(*args), **options)

    message_queue.broker = disturbed
