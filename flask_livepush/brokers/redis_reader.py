"""One connection that listens to channels, and the thread or greenlet that reads it.

It subscribes to what it is told to want, hands messages over in their order, and says
when what it wanted is subscribed and when a connection was lost. It knows no
positions and no publications.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Protocol

from redis.exceptions import RedisError

from ..errors import BrokerError
from ..logs import logger
from .redis_servers import Wire
from .redis_url import Address

log = logger(__name__)

# Seconds of silence after which a sign of life is asked for, and waited for.
_QUIET = 10.0
_PATIENCE = 5.0
# Seconds between attempts to connect: at first, and at most.
_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_BATCH = 500


class Owner(Protocol):
    """Whoever wants channels; called by the reader's own thread or greenlet alone."""

    def wants(self, reader: Reader, channel: str) -> bool:
        """Say whether the channel is to be listened to, by this reader."""

    def subscribed(self, reader: Reader, channels: list[str]) -> None:
        """Take notice that messages of these arrive from now on."""

    def received(self, reader: Reader, channel: str, message: bytes) -> None:
        """Take a message."""

    def interrupted(self, reader: Reader) -> None:
        """Take notice that messages may be missing, in any of its channels."""

    def killed(self, reader: Reader) -> None:
        """Take notice that the reader has ended without being asked to."""

    def may_end(self, reader: Reader) -> bool:
        """Say whether the reader is of no more use; asked when it has no connection."""

    def tick(self, reader: Reader) -> float:
        """Do what is due; return in how many seconds the next thing is."""


class Reader:
    """Listens on one connection, made again whenever it is lost.

    A channel is *asked* for, then *in*, then being *left*; a command about it is sent
    only when the last one was answered, so that no answer can be taken for another's.

    Args:
        address: The server; None if it is not known yet.
        connect: Opens a connection to it.
        sharded: Whether channels belong to slots.
        now: Seconds of a clock that never falls.
        sleep: Waits for seconds.
        longest_pause: Seconds between attempts to connect, at most.
    """

    def __init__(
        self,
        address: Address | None,
        owner: Owner,
        *,
        connect: Callable[[Address], Wire],
        sharded: bool,
        now: Callable[[], float],
        sleep: Callable[[float], object],
        longest_pause: float = _LONGEST_PAUSE,
    ) -> None:
        self.address = address
        self._owner = owner
        self._connect = connect
        self._command = "S" if sharded else ""
        # A cluster refuses channels of different slots in one command.
        self._batch = 1 if sharded else _BATCH
        self._now = now
        self._sleep = sleep
        self._longest_pause = longest_pause
        self._lock = threading.Lock()  # guards what is to be looked at, and the bell
        self._changed: dict[str, None] = {}
        self._rung = False
        self._closed = False
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._phases: dict[str, str] = {}
        self._answered: list[str] = []
        self._failures = 0

    def look_at(self, channels: Iterable[str]) -> None:
        """Ask the owner about these channels soon. Never blocks."""
        with self._lock:
            self._changed.update(dict.fromkeys(channels))
            self._ring()

    def close(self) -> None:
        """End, soon."""
        with self._lock:
            self._closed = True
            self._ring()

    def _ring(self) -> None:
        if not self._rung:
            self._rung = True
            with suppress(OSError):  # full, or closed with the reader
                self._bell.send(b"\0")

    def run(self) -> None:
        """Listen until closed, or until the owner says that it may end."""
        try:
            self._run()
        except BaseException:
            self._end()
            self._owner.killed(self)
            raise
        self._end()

    def _run(self) -> None:
        while not self._closed:
            try:
                self._serve()
            except (BrokerError, RedisError, OSError) as error:
                if not self._closed:
                    level = logging.DEBUG if self._failures else logging.WARNING
                    log.log(level, "Listening to the message queue failed: %s", error)
            except Exception:
                log.exception("Listening to the message queue failed; going on")
            self._phases.clear()
            self._answered.clear()
            self._owner.interrupted(self)
            if self._closed or self._owner.may_end(self):
                break
            self._failures += 1
            pause = _FIRST_PAUSE * 2 ** min(self._failures, 10)
            self._sleep(min(pause, self._longest_pause))

    def _end(self) -> None:
        with self._lock:
            self._closed = True
            self._bell.close()
            self._ear.close()

    def _serve(self) -> None:
        if self.address is None:
            return  # the owner finds out where its channels are
        connection = self._connect(self.address)
        try:
            # redis-py has no public name for the socket.
            wire = connection._sock
            with selectors.DefaultSelector() as selector:
                selector.register(wire, selectors.EVENT_READ)
                selector.register(self._ear, selectors.EVENT_READ)
                self._listen(connection, selector)
        finally:
            connection.disconnect()

    def _listen(self, connection: Wire, selector: selectors.BaseSelector) -> None:
        heard = asked = self._now()
        while not self._closed:
            self._send_what_changed(connection)
            if self._answered:
                answered, self._answered = self._answered, []
                self._owner.subscribed(self, answered)
                self._failures = 0  # only now it is of use
            if self._read(connection):
                heard = self._now()
            due = self._owner.tick(self)
            now = self._now()
            if now - heard > _QUIET and asked <= heard:
                asked = now
                connection.send_command("PING", check_health=False)
            elif asked > heard and now - asked > _PATIENCE:
                raise BrokerError("the server gave no sign of life")
            wait = 0.0 if self._changed else max(0.0, min(due, _PATIENCE))
            if selector.select(wait):
                with self._lock, suppress(BlockingIOError):
                    self._rung = False
                    self._ear.recv(16)

    def _read(self, connection: Wire) -> bool:
        """Handle what has arrived, but not for ever; say whether there was anything."""
        for number in range(_BATCH):
            if not connection.can_read(0):
                return number > 0
            self._handle(connection.read_response())
        with self._lock:
            self._ring()  # some may be read already, which no selector tells
        return True

    def _handle(self, reply: Any) -> None:
        if not isinstance(reply, list) or len(reply) != 3:
            return  # the answer to a PING
        kind, channel = reply[0], reply[1].decode()
        if kind in (b"message", b"smessage"):
            self._owner.received(self, channel, reply[2])
        elif kind in (b"subscribe", b"ssubscribe"):
            self._phases[channel] = "in"
            self._look_again(channel)
        elif kind in (b"unsubscribe", b"sunsubscribe"):
            if self._phases.pop(channel, "") != "left":
                raise BrokerError("the server has given channels to another")
            self._look_again(channel)

    def _look_again(self, channel: str) -> None:
        with self._lock:
            self._changed[channel] = None

    def _send_what_changed(self, connection: Wire) -> None:
        with self._lock:
            changed, self._changed = self._changed, {}
        enter, leave = [], []
        for channel in changed:
            wanted = self._owner.wants(self, channel)
            phase = self._phases.get(channel)
            if wanted and phase is None:
                self._phases[channel] = "asked"
                enter.append(channel)
            elif wanted and phase == "in":
                self._answered.append(channel)
            elif not wanted and phase == "in":
                self._phases[channel] = "left"
                leave.append(channel)
        for command, channels in (("SUBSCRIBE", enter), ("UNSUBSCRIBE", leave)):
            words = [
                (self._command + command, *channels[start : start + self._batch])
                for start in range(0, len(channels), self._batch)
            ]
            if words:
                packed = connection.pack_commands(words)
                connection.send_packed_command(packed, check_health=False)
