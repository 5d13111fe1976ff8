"""How the servers behind a message queue are set up, as they say themselves.

Asks; what is good and what is bad is not known here. What a provider forbids to ask is
None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import BrokerError, BrokerUnavailable
from .redis_ended import Place, RedisEnded
from .redis_format import Names
from .redis_namespace import Namespace
from .redis_servers import Command, Servers
from .redis_topologies import servers_of
from .redis_url import Address, parse

# Rooms that are read from each part of the index: those used last.
_ROOMS = 4
# How often the time of an answer is taken; what counts is the way, not a busy moment.
_TIMES = 5


@dataclass(frozen=True, slots=True)
class ServerSetup:
    """One server.

    Args:
        where: Its host and port, or the path of its socket.
        seconds: What one question and its answer take, at best.
        info: What ``INFO`` says.
        pubsub_limit: ``client-output-buffer-limit pubsub``: bytes at once, bytes for
            so long, seconds. 0 is no limit.
        timeout: Seconds after which it closes idle connections; 0: never.
        on_disk: Whether it keeps what it has on a disk.
    """

    where: str
    seconds: float
    info: Mapping[str, str] | None
    pubsub_limit: tuple[int, int, int] | None
    timeout: int | None
    on_disk: bool | None


@dataclass(frozen=True, slots=True)
class QueueSetup:
    """All servers of one message queue, and what is in them under a prefix.

    Args:
        url: Without its passwords.
        servers: Those that have keys.
        refusal: Why this application may not use the prefix; None: it may.
        failure: Why nothing can be written there, as in a replica or a full memory.
        rooms: Names of some rooms that were used last.
        logins: Why ended logins can't be read, as where rules forbid it.
    """

    url: str
    servers: tuple[ServerSetup, ...]
    refusal: str | None
    failure: str | None
    rooms: tuple[str, ...]
    logins: str | None


def ask(
    url: str,
    prefix: str,
    secrets: Mapping[str, Any],
    *,
    now: Callable[[], float],
    logins_prefix: str | None = None,
) -> QueueSetup:
    """Ask a message queue how it is set up.

    As any start does, it leaves a sign of life under the application's ``SECRET_KEY``.

    Args:
        url: Where it is.
        prefix: What stands before the application's keys.
        secrets: The application's own settings, for its ``SECRET_KEY``.
        now: Seconds of a clock that never falls.
        logins_prefix: What stands before the keys of ended logins; None: the same.

    Raises:
        ConfigError: The URL is wrong, or the server refuses our name or password.
        BrokerUnavailable: It does not answer.
    """
    servers = servers_of(parse(url))
    try:
        servers.check()
        names = Names(prefix)
        # As many keys as parts of the index: some of them are on each server.
        found: dict[Address | None, str] = {}
        for key in names.indexes:
            found.setdefault(servers.address(key), key)
        setups = [_server(servers, address, key, now) for address, key in found.items()]
        namespace = Namespace(servers, prefix=prefix, config=secrets, now=now)
        refusal = failure = None
        try:
            if not namespace.enter(patient=True):
                refusal = namespace.refusal
        except BrokerError as error:
            failure = str(error)
        return QueueSetup(
            servers.target.url,
            tuple(setups),
            refusal,
            failure,
            _rooms(servers, names),
            None if failure else _logins(servers, logins_prefix or prefix),
        )
    finally:
        servers.close()


def _server(
    servers: Servers, address: Address | None, key: str, now: Callable[[], float]
) -> ServerSetup:
    seconds = math.inf
    for _ in range(_TIMES):
        began = now()
        servers.send([Command(key, ("PING",))], patient=True)
        seconds = min(seconds, now() - began)
    host, port = address or ("", 0)
    info = _allowed(servers, key, "INFO")
    limits = _setting(servers, key, "client-output-buffer-limit")
    timeout = _setting(servers, key, "timeout")
    return ServerSetup(
        host if host.startswith("/") else f"{host}:{port}",
        seconds,
        None if info is None else _read_info(info),
        None if limits is None else _read_limit(limits),
        None if timeout is None else int(timeout),
        _on_disk(servers, key),
    )


def _on_disk(servers: Servers, key: str) -> bool | None:
    found = [_setting(servers, key, name) for name in ("save", "appendonly")]
    if found[0] is None or found[1] is None:
        return None
    return bool(found[0].strip()) or found[1] == "yes"


def _logins(servers: Servers, prefix: str) -> str | None:
    ended = RedisEnded(servers, prefix=prefix, node="doctor", lifetime=3600)
    try:
        ended.read(Place(), listens=False)
    except BrokerUnavailable:
        return None  # what it is now, it was not before
    except BrokerError as error:
        return str(error)
    return None


def _allowed(servers: Servers, key: str, *words: str) -> Any:
    """Return an answer; None if this user may not ask."""
    try:
        return servers.send([Command(key, words)], patient=True)[0]
    except BrokerUnavailable:
        raise
    except BrokerError:
        return None


def _setting(servers: Servers, key: str, name: str) -> str | None:
    answer = _allowed(servers, key, "CONFIG", "GET", name)
    return answer[1].decode() if answer and len(answer) == 2 else None


def _read_info(text: bytes) -> dict[str, str]:
    pairs = (line.partition(":") for line in text.decode().splitlines())
    return {name: value for name, colon, value in pairs if colon}


def _read_limit(text: str) -> tuple[int, int, int] | None:
    words = text.split()
    if "pubsub" not in words:
        return None
    at = words.index("pubsub")
    hard, soft, seconds = words[at + 1 : at + 4]
    return int(hard), int(soft), int(seconds)


def _rooms(servers: Servers, names: Names) -> tuple[str, ...]:
    commands = [
        Command(index, ("ZRANGE", index, -_ROOMS, -1)) for index in names.indexes
    ]
    try:
        answers = servers.send(commands, patient=True)
    except BrokerUnavailable:
        raise
    except BrokerError:
        return ()
    return tuple(room.decode(errors="replace") for answer in answers for room in answer)
