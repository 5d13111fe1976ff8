"""The contract of what carries messages from one process to another, by its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from ..errors import BrokerError

#: Characters of a process's name: letters, digits, ``-`` and ``_``.
NAME_LENGTH = 8

#: Called with None where there is no process of the name, else with what went wrong:
#: then nobody knows whether the message has arrived.
Lost = Callable[[BrokerError | None], object]


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
        """Make this process known by its name; only at first wait a moment for that.

        Returns:
            Whether messages reach it now.
        """

    def post(self, name: str, message: bytes, lost: Lost | None = None) -> None:
        """Let a message be sent soon. Never blocks.

        Args:
            lost: Called if it may not have arrived, by any thread or greenlet, this
                one too; it must hand over.
        """
