"""Which broker an application has, by its settings: in this process, or on Redis.

No command is written in here, and there is no falling back: an application that names
a queue never works without it unnoticed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from .brokers.base import Broker
from .brokers.logins import Logins
from .brokers.memory import MemoryBroker
from .brokers.memory_logins import MemoryLogins
from .brokers.peers import Peers
from .config import Config
from .errors import BrokerError, BrokerUnavailable, ConfigError
from .failures import Failures
from .logs import logger
from .metrics import Metrics
from .presence.base import PresenceStore
from .presence.memory import MemoryPresence
from .transports.queue import Relay

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from .brokers.redis_servers import Servers

log = logger(__name__)

# Seconds that an end is known for longer than sessions last: a view that began before
# a logout may sign its session after it.
_LONGER = 300.0


class Server(Protocol):
    """What runs and waits as the application's async mode has it."""

    def start_background_task(self, target: Callable[[], None]) -> object:
        """Run a function in the background."""

    def sleep(self, seconds: float = 0) -> object:
        """Wait for seconds."""


class MessageQueue:
    """The servers that join an application's processes, and its name there.

    Args:
        url: Where they are.
        prefix: What stands before the application's keys and channels.
        secrets: The application's own settings, for its ``SECRET_KEY``.

    Raises:
        ConfigError: The URL is wrong.
    """

    def __init__(self, url: str, prefix: str, secrets: Mapping[str, Any]) -> None:
        # Redis's client is loaded only where it is used.
        from .brokers import redis, redis_channel, redis_logins, redis_peers
        from .brokers.redis_namespace import Namespace
        from .presence.redis import RedisPresence

        self._redis = redis
        self._presence = RedisPresence
        self._peers = redis_peers.RedisPeers
        self._logins = redis_logins.RedisLogins
        self._prefix = prefix
        self.servers: Servers = redis.servers(url)
        self._namespace = Namespace(
            self.servers, prefix=prefix, config=secrets, now=time.monotonic
        )
        self.servers.guard = self._namespace
        # Carries the application's own emits of Socket.IO.
        self.relay = Relay(
            redis_channel.PlainChannel(
                self.servers, prefix=prefix, sleep=time.sleep, now=time.monotonic
            )
        )

    def refusal(self) -> str | None:
        """Say why this process must not use the prefix; None: it may.

        Raises:
            ConfigError: The servers refuse our name or password.
            BrokerUnavailable: They don't answer.
        """
        self.servers.check()
        may = self._namespace.enter(patient=True)
        return None if may else self._namespace.refusal

    def broker(self, **options: Any) -> Broker:
        """Return the broker."""
        return self._redis.RedisBroker(self.servers, prefix=self._prefix, **options)

    def peers(self, **options: Any) -> Peers:
        """Return what carries messages to other processes by their names."""
        return self._peers(self.servers, prefix=self._prefix, **options)

    def logins(self, *, prefix: str | None, **options: Any) -> Logins:
        """Return what tells all processes which logins have ended.

        Args:
            prefix: What stands before its names; None: what stands before all.
        """
        return self._logins(self.servers, prefix=prefix or self._prefix, **options)

    def presence(self) -> PresenceStore:
        """Return the store of who is where, on the same servers."""
        return self._presence(self.servers, prefix=self._prefix)


def of(name: str, settings: Config, secrets: Mapping[str, Any]) -> MessageQueue | None:
    """Return an application's message queue if it has one.

    Args:
        name: The application's.
        secrets: Its own settings, for its ``SECRET_KEY``.

    Raises:
        ConfigError: Its URL is wrong, it refuses our name or password, or an
            application with another ``SECRET_KEY`` uses the prefix.
        BrokerUnavailable: It does not answer, and it is required.
    """
    if settings.message_queue is None:
        return None
    queue = MessageQueue(settings.message_queue, settings.prefix or name, secrets)
    refusal = None
    try:
        refusal = queue.refusal()
    except (BrokerError, ConfigError) as error:
        if settings.require_queue and isinstance(error, BrokerUnavailable):
            raise BrokerUnavailable(
                f"{str(error).rstrip('.')}. Start that server, or correct "
                "LIVEPUSH_MESSAGE_QUEUE; flask livepush doctor examines it. With "
                "LIVEPUSH_REQUIRE_QUEUE = False the application starts without it."
            ) from error
        if settings.require_queue:
            raise
        log.error("Starting without the message queue: %s", error)
    if refusal is not None:
        raise ConfigError(refusal)
    return queue


def broker(
    queue: MessageQueue | None, settings: Config, server: Server, metrics: Metrics
) -> Broker:
    """Return an application's broker."""
    if queue is None:
        return MemoryBroker(
            size=settings.history_size,
            ttl=settings.history_ttl,
            now=time.monotonic,
            spawn=server.start_background_task,
            max_bytes=settings.max_publication_bytes,
            metrics=metrics,
        )
    return queue.broker(
        size=settings.history_size,
        ttl=settings.history_ttl,
        now=time.monotonic,
        spawn=server.start_background_task,
        sleep=server.sleep,
        max_bytes=settings.max_publication_bytes,
        check_interval=settings.check_interval,
        metrics=metrics,
    )


def presence(queue: MessageQueue | None) -> PresenceStore:
    """Return the store of who is where, beside the application's broker."""
    if queue is None:
        return MemoryPresence(now=time.monotonic)
    return queue.presence()


def peers(queue: MessageQueue | None, server: Server) -> Peers | None:
    """Return what carries messages to the application's other processes, if any."""
    if queue is None:
        return None
    return queue.peers(
        spawn=server.start_background_task, sleep=server.sleep, now=time.monotonic
    )


def logins(
    queue: MessageQueue | None,
    settings: Config,
    *,
    session_lifetime: float,
    server: Server,
    failures: Failures,
    metrics: Metrics,
    engine: Callable[[], Engine | None] = lambda: None,
) -> Logins:
    """Return what tells an application's processes which logins have ended.

    Args:
        session_lifetime: Seconds for which Flask takes a session's signature for good.
        engine: Returns the database that keeps them with ``LIVEPUSH_LOGINS`` as
            ``"database"``; asked when they are first needed.
    """
    table = None
    lifetime = session_lifetime + _LONGER
    if settings.logins == "database":
        # SQLAlchemy is loaded only where it is used.
        from .ended_table import EndedTable

        table = EndedTable(engine, lifetime=lifetime, wall=time.time)
    options: dict[str, Any] = {
        "lifetime": lifetime,
        "spawn": server.start_background_task,
        "sleep": server.sleep,
        "now": time.monotonic,
        "table": table,
        "failures": failures,
        "metrics": metrics,
    }
    if queue is None:
        return MemoryLogins(**options)
    return queue.logins(prefix=settings.logins_prefix, **options)
