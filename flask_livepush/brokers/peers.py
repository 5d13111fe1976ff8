"""The contract of what carries messages from one process to another, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

#: Characters of a process's name: letters, digits, ``-`` and ``_``.
NAME_LENGTH = 8


class Peers(Protocol):
    """Carries messages to processes that are named; at most once, in order.

    All methods may be called from any thread or greenlet.
    """

    @property
    def name(self) -> str:
        """What this process is called; a child of it is called otherwise."""

    def listen(
        self,
        received: Callable[[bytes], object],
        interrupted: Callable[[], object],
    ) -> None:
        """Say what to call with messages, and where some may be lost.

        Both are called by one thread or greenlet, and must hand over.
        """

    def enter(self) -> bool:
        """Make this process known by its name, and wait until it is, for a moment.

        Returns:
            Whether it is.
        """

    def send(self, name: str, message: bytes) -> bool:
        """Send a message; wait no longer than a view may.

        Returns:
            Whether there is a process of this name.

        Raises:
            BrokerUnavailable: Nobody knows.
        """

    def post(self, name: str, message: bytes) -> None:
        """Let a message be sent soon. Never blocks; it may be lost."""
