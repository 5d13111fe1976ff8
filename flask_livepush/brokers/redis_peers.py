"""Messages from one process to another one, by a channel that each has for itself.

At most once: nothing is kept. It knows neither rooms nor what it carries.
"""

from __future__ import annotations

import base64
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ..errors import BrokerError
from ..logs import logger
from .peers import NAME_LENGTH, Lost
from .redis_format import Names
from .redis_reader import Reader
from .redis_servers import Command, Servers
from .redis_url import Address

log = logger(__name__)

# Seconds from the first use within which somebody waits until the name is known, and
# seconds to wait for more to send.
_ENTERING = 1.0
_LINGER = 1.0
# Bytes that may wait to be sent, and messages that are sent together.
_MAX_WAITING = 64 * 1024 * 1024
_BATCH = 100
_FULL = BrokerError("there is no room for more")


class _Message(NamedTuple):
    name: str
    text: bytes
    lost: Lost | None


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
        _all.add(self)

    def _begin(self) -> None:
        """Be nobody yet; also in a child, which is another process than its parent."""
        size = NAME_LENGTH * 3 // 4
        self._name = base64.urlsafe_b64encode(os.urandom(size)).decode()
        self._channel = self._names.peer(self._name)
        self._reader: Reader | None = None
        # Whether messages come, and whether it has been tried to let them come.
        self._known = False
        self._tried = threading.Event()
        self._patient_until = 0.0
        # Guards the reader's beginning, what waits, and whether somebody sends it.
        self._lock = threading.Lock()
        self._more = threading.Condition(self._lock)
        self._waiting: deque[_Message] = deque()
        self._size = 0
        self._sends = False
        self._logged = float("-inf")

    @property
    def name(self) -> str:
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
        if self._reader is None:
            with self._lock:
                if self._reader is None:
                    self._patient_until = self._now() + _ENTERING
                    self._reader = self._listening()
        patience = self._patient_until - self._now()
        if patience > 0:
            self._tried.wait(patience)
        return self._known

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
        self._known = True
        self._tried.set()

    def received(self, reader: Reader, channel: str, message: bytes) -> None:
        self._tell(self._received, message)

    def interrupted(self, reader: Reader) -> None:
        self._known = False
        if reader.address is not None:
            self._tried.set()
        reader.look_at([self._channel])
        self._tell(self._interrupted)

    def killed(self, reader: Reader) -> None:
        self._known = False
        with self._lock:
            if self._reader is reader:
                self._reader = self._listening()
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
    def post(self, name: str, message: bytes, lost: Lost | None = None) -> None:
        with self._lock:
            if fits := self._size + len(message) <= _MAX_WAITING:
                self._size += len(message)
                self._waiting.append(_Message(name, message, lost))
                begins = not self._sends
                self._sends = True
                self._more.notify()
        if not fits:
            self._give_up([_Message(name, message, lost)], _FULL)
        elif begins:
            try:
                self._spawn(self._send_waiting)
            except BaseException:
                self._sends = False
                raise

    def _send_waiting(self) -> None:
        try:
            self._send_all()
        except BaseException:
            self._sends = False  # whoever posts next begins another one
            raise

    def _send_all(self) -> None:
        while batch := self._next():
            # A shard that is away must not cost others their messages.
            by_address: dict[Address | None, list[_Message]] = {}
            for message in batch:
                address = self._servers.address(self._names.peer(message.name))
                by_address.setdefault(address, []).append(message)
            for messages in by_address.values():
                self._send(messages)

    def _send(self, messages: list[_Message]) -> None:
        try:
            found = self._servers.run([self._command(each) for each in messages])
        except BrokerError as error:
            self._give_up(messages, error)
            return
        except Exception as error:
            log.exception("Sending to other processes failed; going on")
            self._give_up(messages, BrokerError(str(error)))
            return
        for message, receivers in zip(messages, found, strict=True):
            if not receivers and message.lost is not None:
                self._tell(message.lost, None)

    def _give_up(self, messages: list[_Message], error: BrokerError) -> None:
        """Tell whose messages are lost, and the log once a second."""
        now = self._now()
        if now - self._logged >= 1:
            self._logged = now
            log.error("Messages to other processes are lost: %s", error)
        for message in messages:
            if message.lost is not None:
                self._tell(message.lost, error)

    def _next(self) -> list[_Message]:
        """Return what to send; nothing: for a while there was none."""
        with self._lock:
            if not self._waiting:
                self._more.wait(_LINGER)
            count = min(len(self._waiting), _BATCH)
            batch = [self._waiting.popleft() for _ in range(count)]
            self._size -= sum(len(message.text) for message in batch)
            self._sends = bool(batch)
            return batch

    def _command(self, message: _Message) -> Command:
        channel = self._names.peer(message.name)
        verb = "SPUBLISH" if self._servers.sharded else "PUBLISH"
        return Command(channel, (verb, channel, message.text))


def _begin_again() -> None:
    for peers in _all:
        peers._begin()


_all: weakref.WeakSet[RedisPeers] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    # Before a thread of the child can ask for a name.
    os.register_at_fork(after_in_child=_begin_again)
