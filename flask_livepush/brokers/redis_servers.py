"""The servers behind one URL: which one has a key, and commands sent to it in time.

The only place that opens connections, and where redis-py's errors become ours. It
knows no rooms. Nothing in here tries again what may have been done: a command is sent
twice only when the server has said that it did not run it.
"""

from __future__ import annotations

import math
import os
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha1
from importlib import resources
from typing import Any, Protocol

from redis import connection as wires
from redis import exceptions as problems
from redis.backoff import NoBackoff
from redis.retry import Retry

from ..errors import BrokerError, BrokerUnavailable, ConfigError
from .redis_url import Address, Target

# Seconds a publish waits for the answer: a view that commits waits with it, and must
# not become 300 ms slower where Redis hangs.
QUICK = 0.25
# Seconds it may wait before for a connection that others use.
TURN = 0.04
# What nobody's view waits for; a history may be long.
_PATIENT = 3.0
# The same, where thousands join at once and each has to wait for its turn.
_PATIENT_TURN = 10.0
# A reader's connection, which waits for messages without a limit but asks for a sign of
# life itself.
_LISTENING = 5.0
_MAX_CONNECTIONS = 32

# Newer clients ask each server for notices of its maintenance, one more round trip a
# connection; readers find out themselves.
_NO_NOTIFICATIONS: dict[str, Any] = {}
with suppress(ImportError):
    from redis.maint_notifications import MaintNotificationsConfig

    _NO_NOTIFICATIONS["maint_notifications_config"] = MaintNotificationsConfig(
        enabled=False
    )

# In redis-py 5.0 the connections of its cluster client alone know what a cluster
# answers (MOVED, CLUSTERDOWN and the like); now all of them do.
_CLUSTER_ANSWERS: dict[str, Any] = {}
with suppress(ImportError):
    from redis.cluster import ClusterParser  # type: ignore[attr-defined, unused-ignore]

    _CLUSTER_ANSWERS["parser_class"] = ClusterParser

Reply = Any
# A connection of redis-py; its methods have no types.
Wire = Any
_UnixSocket: Any = wires.UnixDomainSocketConnection
FAILED = (problems.RedisError, OSError)
# Answers that another moment or another server would not give.
_TEMPORARY = (
    problems.BusyLoadingError,
    problems.ClusterDownError,
    problems.MasterDownError,
    problems.OutOfMemoryError,
    problems.ReadOnlyError,
    problems.TryAgainError,
)
_TEMPORARY_WORDS = ("BUSY", "MISCONF", "NOREPLICAS")


class Guard(Protocol):
    """Says whether this process may send commands to the servers."""

    def admit(self, *, patient: bool) -> None:
        """Return if it may.

        Raises:
            BrokerUnavailable: It may not, or it is not known yet.
        """

    def renew(self) -> float:
        """Do what is due to stay admitted; return in how many seconds to call again.

        Raises:
            BrokerUnavailable: It may not any more.
        """


class Script:
    """A Lua script of this package.

    Args:
        name: Of its file.
        head: The file that goes before it.
    """

    def __init__(self, name: str, head: str | None = "room.lua") -> None:
        folder = resources.files(__name__.partition(".")[0]) / "lua"
        parts = [(folder / file).read_text("utf-8") for file in (head, name) if file]
        self.source = "".join(parts)
        self.sha = sha1(self.source.encode(), usedforsecurity=False).hexdigest()


@dataclass(frozen=True, slots=True)
class Command:
    """Something to ask the server that has a key.

    Args:
        key: Any of its keys.
        args: The command, or a script's keys and arguments.
        script: The script that is run.
        keys: How many of the arguments are a script's keys.
    """

    key: str
    args: tuple[str | int | bytes, ...]
    script: Script | None = None
    keys: int = 0

    @property
    def words(self) -> tuple[str | int | bytes, ...]:
        """What is sent."""
        if self.script is None:
            return self.args
        return ("EVALSHA", self.script.sha, self.keys, *self.args)

    @property
    def whole(self) -> tuple[str | int | bytes, ...]:
        """What is sent to a server that may not have the script."""
        if self.script is None:
            return self.args
        return ("EVAL", self.script.source, self.keys, *self.args)


class WrongType(BrokerError):
    """A key holds what this package did not put there."""


class _Busy(problems.TimeoutError):
    """All connections are in use: by us, so that it says nothing of the server."""


class _Pool:
    """Connections to one server for commands; as many as are used at once.

    Args:
        turn: Seconds to wait for one that others use.
    """

    def __init__(self, make: Callable[[], Wire], *, turn: float) -> None:
        self._make = make
        self._turn = turn
        self._idle: list[Wire] = []
        self._free = threading.BoundedSemaphore(_MAX_CONNECTIONS)

    @contextmanager
    def connection(self) -> Iterator[Wire]:
        if not self._free.acquire(timeout=self._turn):
            raise _Busy("all connections are in use")
        try:
            connection = self._take()
            try:
                yield connection
            except BaseException:
                # Also of the kind of gevent's Timeout: an answer may be on its way.
                connection.disconnect()
                raise
            self._idle.append(connection)
        finally:
            self._free.release()

    def _take(self) -> Wire:
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                break
            with suppress(*FAILED):
                if not connection.can_read(0):
                    return connection
            connection.disconnect()  # the server has closed it
        return _opened(self._make())

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()


class Servers(ABC):
    """Where keys are, and commands to there.

    Args:
        target: What the URL says.
        quick: Seconds to wait where a view waits too.
    """

    #: Whether channels belong to slots, as keys do.
    sharded = False
    #: Asked before anything but :meth:`check` and :meth:`refresh`; None: nobody is.
    guard: Guard | None = None

    def __init__(self, target: Target, *, quick: float = QUICK) -> None:
        self.target = target
        self.quick = quick
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards the pools
        self._pools: dict[tuple[Address, bool], _Pool] = {}
        # Last: another thread of a child that sees it takes these for its own.
        self._pid = os.getpid()

    @abstractmethod
    def address(self, key: str) -> Address | None:
        """Return the server that has a key, as far as is known; asks nobody."""

    @abstractmethod
    def refresh(self) -> None:
        """Ask anew where keys are.

        Raises:
            BrokerUnavailable: Nobody knows.
        """

    def lost(self, address: Address) -> None:
        """Take notice that a server fails, or is not what it was."""
        with self._lock:
            gone = [self._pools.pop((address, p), None) for p in (False, True)]
        for pool in filter(None, gone):
            pool.close()

    def check(self) -> None:
        """Return if the servers can be used.

        Raises:
            ConfigError: They refuse our name or password.
            BrokerUnavailable: They don't answer.
        """
        try:
            self.refresh()
            self.send([Command("", ("PING",))], patient=True)
        except BrokerError as error:
            cause = error.__cause__
            if isinstance(
                cause, (problems.AuthenticationError, problems.AuthorizationError)
            ) or "NOAUTH" in str(cause):
                raise ConfigError(
                    f"LIVEPUSH_MESSAGE_QUEUE is {self.target.url!r}; the server "
                    f"refuses its name or password ({cause})."
                ) from error
            raise

    def run(self, commands: Sequence[Command], *, patient: bool = False) -> list[Reply]:
        """Send commands to the servers that have their keys; return the answers.

        Commands to one server go out together.

        Args:
            patient: Wait for seconds, not only for as long as a view may.

        Raises:
            BrokerUnavailable: A server does not answer; commands may have been run. Or
                the guard refuses.
            BrokerError: It refuses a command.
        """
        if self.guard is not None:
            self.guard.admit(patient=patient)
        return self.send(commands, patient=patient)

    def send(
        self, commands: Sequence[Command], *, patient: bool = False
    ) -> list[Reply]:
        """Do what :meth:`run` does without asking the guard."""
        replies: list[Reply] = [None] * len(commands)
        by_address: dict[Address, list[int]] = {}
        for number, command in enumerate(commands):
            by_address.setdefault(self._find(command.key), []).append(number)
        for address, numbers in by_address.items():
            asked = [commands[number] for number in numbers]
            answers = self._ask(address, asked, patient=patient)
            for number, command, answer in zip(numbers, asked, answers, strict=True):
                replies[number] = self._settle(address, command, answer, patient)
        return replies

    def connect(self, address: Address) -> Wire:
        """Open a connection for a reader.

        Raises:
            BrokerUnavailable: It can't be had, or the guard refuses.
        """
        if self.guard is not None:
            self.guard.admit(patient=True)
        try:
            return _opened(self.make(address, self.target.options, _LISTENING))
        except FAILED as error:
            raise self.unavailable(error) from error

    def renew(self) -> float:
        """Let the guard do what is due; return in how many seconds to call again.

        Raises:
            BrokerUnavailable: It refuses from now on.
        """
        return math.inf if self.guard is None else self.guard.renew()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        with self._lock:
            pools = list(self._pools.values())
            self._pools.clear()
        for pool in pools:
            pool.close()

    def _find(self, key: str) -> Address:
        address = self.address(key)
        if address is None:
            self.refresh()
            address = self.address(key)
        if address is None:
            raise BrokerUnavailable(f"Nobody serves a part of {self.target.url}.")
        return address

    def _ask(
        self, address: Address, commands: Sequence[Command], *, patient: bool
    ) -> list[Reply]:
        try:
            with self.pool(address, patient).connection() as connection:
                answers = exchange(connection, [c.words for c in commands])
                unknown = [
                    number
                    for number, answer in enumerate(answers)
                    if isinstance(answer, problems.NoScriptError)
                ]
                if unknown:
                    whole = [commands[number].whole for number in unknown]
                    again = exchange(connection, whole)
                    for number, answer in zip(unknown, again, strict=True):
                        answers[number] = answer
                return answers
        except _Busy as error:
            raise self.unavailable(error) from error
        except FAILED as error:
            self.lost(address)
            raise self.unavailable(error) from error

    def _settle(
        self, address: Address, command: Command, answer: Reply, patient: bool
    ) -> Reply:
        """Follow a redirection once; raise what the server has refused."""
        if isinstance(answer, problems.MovedError):  # an AskError too
            to = (answer.host or address[0], answer.port)
            self.moved(answer.slot_id, to)
            answer = self._redirect(to, [command.whole], patient)
        elif isinstance(answer, problems.AskError):
            to = (answer.host or address[0], answer.port)
            answer = self._redirect(to, [("ASKING",), command.whole], patient)
        if not isinstance(answer, Exception):
            return answer
        text = str(answer)
        if isinstance(answer, problems.ReadOnlyError):
            self.lost(address)  # it was the primary
        if isinstance(answer, _TEMPORARY) or text.startswith(_TEMPORARY_WORDS):
            raise self.unavailable(answer) from answer
        kind = WrongType if "WRONGTYPE" in text else BrokerError
        raise kind(f"{self.target.url} refuses a command: {text}") from answer

    def _redirect(
        self,
        address: Address,
        words: Sequence[tuple[str | int | bytes, ...]],
        patient: bool,
    ) -> Reply:
        try:
            with self.pool(address, patient).connection() as connection:
                return exchange(connection, words)[-1]
        except _Busy as error:
            raise self.unavailable(error) from error
        except FAILED as error:
            self.lost(address)
            raise self.unavailable(error) from error

    def moved(self, slot: int, address: Address) -> None:
        """Take notice that a slot has moved, as a cluster's do."""
        self.lost(address)

    def unavailable(self, error: Exception) -> BrokerUnavailable:
        """Return the error that says why, and names the URL without its password."""
        return BrokerUnavailable(f"{self.target.url} does not answer: {error}")

    def pool(self, address: Address, patient: bool) -> _Pool:
        """Return the connections to a server, for commands."""
        timeout = _PATIENT if patient else self.quick
        if self._pid != os.getpid():
            self._begin()  # after a fork the connections are the parent's
        pool = self._pools.get((address, patient))
        if pool is None:

            def make() -> Wire:
                return self.make(address, self.target.options, timeout)

            turn = _PATIENT_TURN if patient else TURN
            with self._lock:
                pool = self._pools.setdefault(
                    (address, patient), _Pool(make, turn=turn)
                )
        return pool

    def make(self, address: Address, options: dict[str, Any], timeout: float) -> Wire:
        """Return a connection that is not open yet.

        Args:
            options: As redis-py names them.
            timeout: Seconds to wait for it to open, and for each answer.
        """
        settings: dict[str, Any] = {
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            **_NO_NOTIFICATIONS,
            **_CLUSTER_ANSWERS,
            **options,
        }
        host, port = address
        if host.startswith("/"):
            return _UnixSocket(path=host, **settings)
        make = wires.SSLConnection if self.target.tls else wires.Connection
        return make(host=host, port=port, socket_keepalive=True, **settings)


def _opened(connection: Wire) -> Wire:
    """Return a connection when it is open; leave nothing behind where it can't be."""
    try:
        connection.connect()
    except BaseException:
        connection.disconnect()
        raise
    return connection


def exchange(
    connection: Wire, commands: Sequence[tuple[str | int | bytes, ...]]
) -> list[Reply]:
    """Send commands, then read their answers; a refusal is returned, not raised."""
    packed = connection.pack_commands(commands)
    connection.send_packed_command(packed, check_health=False)
    answers: list[Reply] = []
    for _ in commands:
        try:
            answers.append(_answer(connection))
        except problems.ResponseError as error:
            answers.append(error)
    return answers


def _answer(connection: Wire) -> Reply:
    try:
        return connection.read_response(disconnect_on_error=False)
    except problems.TimeoutError:
        # A process that was busy itself finds the time over and the answer there: the
        # hubs of eventlet and gevent look at the clock first.
        if not connection.can_read(0):
            raise
        return connection.read_response(disconnect_on_error=False)
