"""Messages from one process to another one, by a channel that each has for itself.

At most once: nothing is kept. It knows neither rooms nor what it carries.
"""

from __future__ import annotations

import base64
import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import BrokerError
from .peers import NAME_LENGTH
from .redis_format import Names
from .redis_reader import Reader
from .redis_servers import Command, Servers

log = logging.getLogger(__name__)

# Seconds to wait until the name is known, and for more to send.
_ENTERING = 1.0
_LINGER = 1.0
# Bytes that may wait to be sent, and messages that are sent together.
_MAX_WAITING = 64 * 1024 * 1024
_BATCH = 100


class RedisPeers:
    """A channel for each process that has been asked for its name.

    Args:
        servers: Where Redis is.
        prefix: The application's name, before all channels.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
    ) -> None:
        self._servers = servers
        self._names = Names(prefix)
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._received: Callable[[bytes], object] = lambda message: None
        self._interrupted: Callable[[], object] = lambda: None
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        size = NAME_LENGTH * 3 // 4
        self._name = base64.urlsafe_b64encode(os.urandom(size)).decode()
        self._channel = self._names.peer(self._name)
        self._reader: Reader | None = None
        self._known = threading.Event()
        # Guards the reader's beginning, what waits, and whether somebody sends it.
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: deque[tuple[str, bytes]] = deque()
        self._size = 0
        self._sends = False
        self._logged = float("-inf")

    def _begin_in_child(self) -> None:
        if self._pid != os.getpid():
            self._begin()

    @property
    def name(self) -> str:
        self._begin_in_child()
        return self._name

    def listen(
        self,
        received: Callable[[bytes], object],
        interrupted: Callable[[], object],
    ) -> None:
        self._received = received
        self._interrupted = interrupted

    # -- in ----------------------------------------------------------------------------
    def enter(self) -> bool:
        self._begin_in_child()
        if self._reader is None:
            with self._lock:
                if self._reader is None:
                    self._reader = self._listening()
        return self._known.wait(_ENTERING)

    def _listening(self) -> Reader:
        reader = Reader(
            self._servers.address(self._channel),
            self,
            connect=self._servers.connect,
            sharded=self._servers.sharded,
            now=self._now,
            sleep=self._sleep,
        )
        reader.look_at([self._channel])
        self._spawn(reader.run)
        return reader

    def wants(self, reader: Reader, channel: str) -> bool:
        return channel == self._channel

    def subscribed(self, reader: Reader, channels: list[str]) -> None:
        self._known.set()

    def received(self, reader: Reader, channel: str, message: bytes) -> None:
        self._tell(self._received, message)

    def interrupted(self, reader: Reader) -> None:
        self._known.clear()
        reader.look_at([self._channel])
        self._tell(self._interrupted)

    def may_end(self, reader: Reader) -> bool:
        try:
            self._servers.refresh()
        except BrokerError as error:
            log.debug("Nobody says where this process's channel is: %s", error)
        reader.address = self._servers.address(self._channel)
        return False

    def tick(self, reader: Reader) -> float:
        return self._servers.renew()

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        try:
            function(*args)
        except Exception:
            log.exception("A message of another process failed; going on")

    # -- out ---------------------------------------------------------------------------
    def send(self, name: str, message: bytes) -> bool:
        return bool(self._servers.run([self._command(name, message)])[0])

    def post(self, name: str, message: bytes) -> None:
        self._begin_in_child()
        with self._lock:
            if self._size + len(message) > _MAX_WAITING:
                self._complain("there is no room for more")
                return
            self._size += len(message)
            self._waiting.append((name, message))
            begins = not self._sends
            self._sends = True
            self._more.notify()
        if begins:
            self._spawn(self._send_waiting)

    def _send_waiting(self) -> None:
        while batch := self._next():
            try:
                self._servers.run([self._command(*item) for item in batch])
            except BrokerError as error:
                with self._lock:
                    self._complain(str(error))

    def _next(self) -> list[tuple[str, bytes]]:
        """Return what to send; nothing: for a while there was none."""
        with self._lock:
            if not self._waiting:
                self._more.wait(_LINGER)
            count = min(len(self._waiting), _BATCH)
            batch = [self._waiting.popleft() for _ in range(count)]
            self._size -= sum(len(message) for _, message in batch)
            self._sends = bool(batch)
            return batch

    def _command(self, name: str, message: bytes) -> Command:
        channel = self._names.peer(name)
        verb = "SPUBLISH" if self._servers.sharded else "PUBLISH"
        return Command(channel, (verb, channel, message))

    def _complain(self, why: str) -> None:
        """Write to the log that messages are lost, once a second; under the lock."""
        now = self._now()
        if now - self._logged >= 1:
            self._logged = now
            log.error("Messages to other processes are lost: %s", why)
