"""An application's own Socket.IO emits, carried to the other processes.

Flask-SocketIO's ``message_queue`` knows fewer kinds of URL, and waits for seconds where
Redis hangs. This is the same protocol on a channel that is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import socketio


class Channel(Protocol):
    """Carries text to all processes, this one too."""

    def publish(self, message: str) -> object:
        """Send a message. Never raises for a channel that fails."""

    def listen(self) -> Iterator[bytes]:
        """Yield what is sent, for ever."""


class Relay(socketio.PubSubManager):  # type: ignore[misc]
    """Socket.IO's client manager over a channel.

    Args:
        channel: What carries it.
    """

    name = "flask_livepush"

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._carrier = channel

    def _publish(self, data: Any) -> None:
        self._carrier.publish(self.json.dumps(data))

    def _listen(self) -> Iterator[bytes]:
        return self._carrier.listen()
