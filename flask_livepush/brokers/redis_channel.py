"""One plain channel for what an application emits by Socket.IO itself.

At most once and to all processes, as Socket.IO's own message queues are: it keeps
nothing, and finds no holes. It knows no rooms and does not read what it carries.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator

from redis.exceptions import RedisError

from ..errors import BrokerError
from ..logs import logger
from .redis_format import Names
from .redis_servers import Command, Servers, Wire

log = logger(__name__)

# Seconds of silence after which a sign of life is asked for, and waited for.
_QUIET = 10.0
_LONGEST_PAUSE = 1.0


class PlainChannel:
    """A channel of any kind of Redis; in a cluster a classic one, not a sharded one.

    Args:
        servers: Where Redis is.
        prefix: The application's name.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        sleep: Callable[[float], object],
        now: Callable[[], float],
    ) -> None:
        self._servers = servers
        self._name = Names(prefix).plain
        self._sleep = sleep
        self._now = now
        self._lock = threading.Lock()  # guards when the log was last written to
        self._logged = float("-inf")

    def publish(self, message: str) -> bool:
        """Send a message; say whether it was taken. A failure is logged, not raised.

        It waits no longer than a publication does.
        """
        try:
            words = ("PUBLISH", self._name, message)
            self._servers.run([Command(self._name, words)])
        except BrokerError as error:
            with self._lock:
                silent = self._now() - self._logged < 1
                if not silent:
                    self._logged = self._now()
            if not silent:
                log.error("An emit of Socket.IO stayed in this process: %s", error)
            return False
        return True

    def listen(self) -> Iterator[bytes]:
        """Yield messages for ever; what comes while the connection is lost is lost."""
        failures = 0
        while True:
            try:
                for message in self._messages():
                    failures = 0
                    if message is not None:
                        yield message
            except (BrokerError, RedisError, OSError) as error:
                level = logging.DEBUG if failures else logging.WARNING
                log.log(level, "Plain Socket.IO emits are not received: %s", error)
            failures += 1
            self._sleep(min(0.05 * 2 ** min(failures, 10), _LONGEST_PAUSE))

    def _messages(self) -> Iterator[bytes | None]:
        self._servers.refresh()
        address = self._servers.address(self._name)
        if address is None:
            raise BrokerError("nobody serves the channel")
        connection = self._servers.connect(address)
        try:
            connection.send_command("SUBSCRIBE", self._name, check_health=False)
            yield from self._read(connection)
        finally:
            connection.disconnect()

    def _read(self, connection: Wire) -> Iterator[bytes | None]:
        asked = False
        while True:
            if connection.can_read(_QUIET):
                asked = False
                reply = connection.read_response()
                yield reply[2] if reply[0] == b"message" else None
            elif asked:
                raise BrokerError("the server gave no sign of life")
            else:
                asked = True
                connection.send_command("PING", check_health=False)
