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
from collections.abc import Callable, Iterable, Iterator, Sequence
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
# A command as it is sent.
Words = tuple[str | int | bytes, ...]
# Says whether nobody may wait any longer.
Late = Callable[[], bool]
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


def _never() -> bool:
    return False


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
    args: Words
    script: Script | None = None
    keys: int = 0

    @property
    def words(self) -> Words:
        """What is sent."""
        if self.script is None:
            return self.args
        return ("EVALSHA", self.script.sha, self.keys, *self.args)

    @property
    def whole(self) -> Words:
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
            if _is_quiet(connection):
                return connection
            connection.disconnect()  # the server has closed it
        return _opened(self._make())

    def close(self) -> None:
        while self._idle:
            self._idle.pop().disconnect()


def _is_quiet(connection: Wire) -> bool:
    """Say whether nothing has arrived on a connection that waits for nothing."""
    try:
        return not connection.can_read(0)
    except FAILED:
        return False
    except BaseException:
        connection.disconnect()
        raise


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
            answers = self._follow(address, asked, answers, patient=patient)
            for number, answer in zip(numbers, answers, strict=True):
                if isinstance(answer, BrokerError):
                    raise answer
                replies[number] = answer
        return replies

    def run_each(
        self,
        commands: Sequence[Command],
        *,
        patient: bool = False,
        late: Late = _never,
        apart: bool = False,
    ) -> list[Reply]:
        """Do what :meth:`run` does; what fails is in its place among the answers.

        Args:
            late: Says whether nobody may wait any longer.
            apart: Whether servers are asked also after another one was away; else
                nobody waits twice.

        Raises:
            BrokerUnavailable: The guard refuses; nothing was sent.
        """
        if self.guard is not None:
            self.guard.admit(patient=patient)
        replies: list[Reply] = [None] * len(commands)
        by_address: dict[Address, list[int]] = {}
        away: BrokerUnavailable | None = None
        for number, command in enumerate(commands):
            address: Address | None = None
            if away is None:
                try:
                    address = self._find(command.key)
                except BrokerUnavailable as error:
                    away = error  # asked once: they would not know of others either
            else:
                address = self.address(command.key)
            if address is None:
                replies[number] = away
            else:
                by_address.setdefault(address, []).append(number)
        away = None
        for address, numbers in by_address.items():
            asked = [commands[number] for number in numbers]
            answers: list[Reply] = []
            if away is None:  # else nobody waits for the next one as well
                try:
                    answers = self._ask(address, asked, patient=patient, late=late)
                    answers = self._follow(
                        address, asked, answers, patient=patient, late=late
                    )
                except BrokerUnavailable as error:
                    away = error
            for place, number in enumerate(numbers):
                replies[number] = answers[place] if away is None else away
            if apart:
                away = None
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
        self,
        address: Address,
        commands: Sequence[Command],
        *,
        patient: bool,
        asking: bool = False,
        late: Late = _never,
    ) -> list[Reply]:
        """Send commands to a server, together; a refusal is returned, not raised.

        Args:
            asking: Whether it is asked for slots that are on their way to it.
        """
        answers: list[Reply] = [None] * len(commands)
        words = [c.words for c in commands]
        numbers = list(range(len(commands)))
        try:
            with self.pool(address, patient).connection() as connection:
                # At first with the scripts' names alone; then each script once; and
                # should somebody remove them at this moment, each time.
                for again in range(3):
                    found = exchange(connection, words, asking=asking, late=late)
                    for number, answer in zip(numbers, found, strict=True):
                        answers[number] = answer
                    numbers = [
                        number
                        for number in numbers
                        if isinstance(answers[number], problems.NoScriptError)
                    ]
                    if not numbers:
                        break
                    words = _with_scripts(
                        [commands[n] for n in numbers], all_=again > 0
                    )
                return answers
        except _Busy as error:
            raise self.unavailable(error) from error
        except FAILED as error:
            self.lost(address)
            raise self.unavailable(error) from error

    def _follow(
        self,
        address: Address,
        commands: Sequence[Command],
        answers: Sequence[Reply],
        *,
        patient: bool,
        late: Late = _never,
    ) -> list[Reply]:
        """Follow redirections once; put errors of ours in the place of refusals."""
        found = list(answers)
        redirected: dict[tuple[Address, bool], list[int]] = {}
        for number, answer in enumerate(answers):
            # Of redis-py's two errors the one is derived from the other.
            if isinstance(answer, problems.AskError):
                to = (answer.host or address[0], answer.port)
                moved = isinstance(answer, problems.MovedError)
                if moved:
                    self.moved(answer.slot_id, to)
                redirected.setdefault((to, not moved), []).append(number)
        for (to, asking), numbers in redirected.items():
            asked = [commands[number] for number in numbers]
            try:
                again = self._ask(to, asked, patient=patient, asking=asking, late=late)
            except BrokerUnavailable as error:
                again = [error] * len(asked)
            for number, answer in zip(numbers, again, strict=True):
                found[number] = answer
        return [self._judged(address, answer) for answer in found]

    def _judged(self, address: Address, answer: Reply) -> Reply:
        """Return the answer; in place of what the server has refused, our error."""
        if not isinstance(answer, Exception) or isinstance(answer, BrokerError):
            return answer
        text = str(answer)
        if isinstance(answer, problems.ReadOnlyError):
            self.lost(address)  # it was the primary
        if isinstance(answer, _TEMPORARY) or text.startswith(_TEMPORARY_WORDS):
            return _caused(self.unavailable(answer), answer)
        kind = WrongType if "WRONGTYPE" in text else BrokerError
        text = text.partition(", with args beginning")[0]  # with keys and values
        return _caused(kind(f"{self.target.url} refuses a command: {text}"), answer)

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
    connection: Wire,
    commands: Sequence[Words],
    *,
    asking: bool = False,
    late: Late = _never,
) -> list[Reply]:
    """Send commands, then read their answers; a refusal is returned, not raised.

    Args:
        asking: Whether each is for a slot that is on its way to the server.
        late: Says whether nobody may wait any longer; asked before each answer.
    """
    if asking:
        commands = [words for asked in commands for words in (("ASKING",), asked)]
    connection.send_packed_command([_packed(commands)], check_health=False)
    answers: list[Reply] = []
    for _ in commands:
        if late():
            raise problems.TimeoutError("the answers take too long")
        try:
            answers.append(_answer(connection))
        except problems.ResponseError as error:
            answers.append(error)
    return answers[1::2] if asking else answers


def _packed(commands: Iterable[Words]) -> bytes:
    """Return commands as they go over the wire, which redis-py takes its time for.

    Source: https://redis.io/docs/latest/develop/reference/protocol-spec/
    """
    parts = []
    for words in commands:
        parts.append(b"*%d\r\n" % len(words))
        for word in words:
            text = word if isinstance(word, bytes) else str(word).encode()
            parts.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(parts)


def _with_scripts(commands: Sequence[Command], *, all_: bool) -> list[Words]:
    """Return what is sent to a server that does not have the commands' scripts.

    Args:
        all_: Whether each command brings its script; else the first that needs it.
    """
    brought: set[Script | None] = set()
    found = []
    for command in commands:
        brings = all_ or command.script not in brought
        found.append(command.whole if brings else command.words)
        brought.add(command.script)
    return found


def _caused(error: BrokerError, cause: Exception) -> BrokerError:
    error.__cause__ = cause
    return error


def _answer(connection: Wire) -> Reply:
    try:
        return connection.read_response(disconnect_on_error=False)
    except problems.TimeoutError:
        # A process that was busy itself finds the time over and the answer there: the
        # hubs of eventlet and gevent look at the clock first.
        if not connection.can_read(0):
            raise
        return connection.read_response(disconnect_on_error=False)
