"""What tests of ended logins share: a listener that notes, and each kind of them."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from flask_livepush.brokers.logins import Ended, Recheck
from flask_livepush.brokers.memory_logins import MemoryLogins
from flask_livepush.brokers.redis import servers
from flask_livepush.brokers.redis_logins import RedisLogins

from .brokers import new_prefix, spawn
from .waiting import DEADLINE

LIFETIME = 3600.0


def new_login() -> str:
    """Return an id as logins have it."""
    return secrets.token_urlsafe(16)


def new_ends(count: int) -> list[Ended]:
    """Return logins that end."""
    return [Ended(new_login()) for _ in range(count)]


class LoginRecorder:
    """A listener that notes what it is told."""

    def __init__(self) -> None:
        self.ends: list[Ended] = []
        self.orders: list[Recheck] = []
        self.problem: Callable[[], None] = lambda: None
        self._changed = threading.Condition()

    def ended(self, logins: Sequence[Ended]) -> None:
        """Note ends; then do what the test wants, such as raise."""
        with self._changed:
            self.ends += logins
            self._changed.notify_all()
        self.problem()

    def recheck(self, orders: Sequence[Recheck]) -> None:
        """Note orders; then do what the test wants."""
        with self._changed:
            self.orders += orders
            self._changed.notify_all()
        self.problem()

    def wait(self, condition: Callable[[], Any], within: float = DEADLINE) -> None:
        """Wait until something is true of what was noted."""
        with self._changed:
            assert self._changed.wait_for(condition, within), (
                self.ends[-5:],
                self.orders[-5:],
            )


def on_redis(url: str, **options: Any) -> RedisLogins:
    """Make one process's logins on Redis; under a new prefix unless one is given."""
    given: dict[str, Any] = {
        "lifetime": LIFETIME,
        "spawn": spawn,
        "sleep": time.sleep,
        "now": time.monotonic,
        "prefix": new_prefix(),
        **options,
    }
    return RedisLogins(servers(url), **given)


def in_memory(**options: Any) -> MemoryLogins:
    """Make the logins of a single process."""
    given: dict[str, Any] = {
        "lifetime": LIFETIME,
        "spawn": spawn,
        "sleep": time.sleep,
        "now": time.monotonic,
        **options,
    }
    return MemoryLogins(**given)
