"""Whether this process may use an application's names in Redis: by its secret key.

Two applications with one prefix, or staging and production, would show each other's
rooms. What belongs together shares a ``SECRET_KEY``, or one is in the other's
``SECRET_KEY_FALLBACKS``: each process keeps the fingerprints of its keys in Redis, and
is refused where others live and none of its own. No secret key and no fingerprint may
be in an error or a log, nor anything of rooms in here.

A process that begins is refused once and for all (:mod:`flask_livepush.message_queue`).
One that can't be asked yet, as Redis is away, sends nothing before Redis has answered;
one that has run and finds itself among others, since it was silent for too long, stops.
Both ask again until they are let in.

A key that is changed, as a timeline:

1. All processes have the key A, and A lives.
2. New ones with B, and A as a fallback, share A; A and B live.
3. The old ones have ended. New ones with B alone share B; A is forgotten.
"""

from __future__ import annotations

import hashlib
import math
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import BrokerError, BrokerUnavailable
from ..logs import logger
from .redis_format import Names
from .redis_servers import Command, Script, Servers, WrongType

log = logger(__name__)

# Seconds between two signs of life of a process that listens.
_BEAT = 3.0
# Seconds of silence after which a fingerprint is forgotten, as long as presence waits
# for a node; and after which a process that does not listen asks again.
_SILENT = 10.0
# Seconds between two lines in the log.
_LOG_AGAIN = 60.0
# A fingerprint lets whoever reads Redis try out keys, as every session cookie lets
# every visitor. A try against a cookie is a few rounds of HMAC-SHA1
# (https://itsdangerous.palletsprojects.com/en/stable/concepts/#digest-method-security);
# with so many rounds of HMAC-SHA256 a fingerprint is more than a thousand times dearer,
# and costs a process some 5 ms, once. The salt has the prefix in it, so that no table
# of likely keys does for two applications. Versions that run side by side must
# compute the same.
_ROUNDS = 20_000
_SALT = "flask_livepush: fingerprint of SECRET_KEY\0"
_BYTES = 16


class Namespace:
    """One application's names, as far as this process may use them.

    May be called from any thread or greenlet. It has no lock: two that ask at once
    enter the same, and the next who asks corrects what the later answer left.

    Args:
        servers: Where Redis is.
        prefix: What stands before the application's names.
        config: The application's, which is read whenever Redis is asked: a key may be
            set late.
        now: Seconds of a clock that never falls.
        silent: Seconds of silence after which a fingerprint is forgotten.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        config: Mapping[str, Any],
        now: Callable[[], float],
        silent: float = _SILENT,
    ) -> None:
        self._servers = servers
        self._prefix = prefix
        self._config = config
        self._now = now
        self._silent = silent
        self._key = Names(prefix).secrets
        self._script = Script("secrets.lua", head=None)
        self._fingerprints: dict[bytes, str] = {}
        self._entered = False
        self._asked = self._logged = float("-inf")

    @property
    def refusal(self) -> str:
        """The sentence that says why it is refused."""
        return (
            f"LIVEPUSH_PREFIX is {self._prefix!r} (the application's name unless it is "
            f"set), and on {self._servers.target.url} another application, or another "
            "deployment such as staging, uses it with another SECRET_KEY: each would "
            "show the other's rooms. Give this one a LIVEPUSH_PREFIX or a database of "
            "its own. If its key was changed, keep the old one in "
            "SECRET_KEY_FALLBACKS until all processes have the new one, or start "
            f"{self._silent:g} s after the last one with the old key has ended."
        )

    def enter(self, *, patient: bool = False) -> bool:
        """Give a sign of life; say whether this process may be here.

        Without a secret key nothing is compared.

        Raises:
            BrokerError: Redis does not answer, or refuses.
        """
        keys = secret_keys(self._config)
        if not keys:
            return True
        self._asked = self._now()
        args: tuple[str | int, ...] = (
            self._key,
            math.ceil(self._silent * 1000),
            *(self._fingerprint(key) for key in keys),
        )
        command = Command(self._key, args, self._script, 1)
        try:
            reply = self._servers.send([command], patient=patient)[0]
        except WrongType as error:
            log.error("The key of secrets is of another type; it is removed: %s", error)
            removal = Command(self._key, ("DEL", self._key))
            reply = self._servers.send([removal, command], patient=patient)[1]
        self._entered = bool(reply)
        return self._entered

    def admit(self, *, patient: bool) -> None:
        """Return if this process may be here; asks only when it is time.

        Raises:
            BrokerUnavailable: It may not, or it is not known yet.
        """
        if self._entered and self._now() - self._asked < self._silent:
            return
        if not self.enter(patient=patient):
            self._refuse()

    def renew(self) -> float:
        """Give a sign of life when it is due; return in how many seconds the next is.

        Raises:
            BrokerUnavailable: This process must not be here any more.
        """
        wait = self._asked + _BEAT - self._now()
        if wait > 0 and self._entered:
            return wait
        try:
            entered = self.enter()
        except BrokerError as error:
            # One shard of a cluster may be away; the readers of others go on.
            log.debug("A sign of life with the secret key failed: %s", error)
        else:
            if not entered:
                self._refuse()
        return _BEAT

    def _refuse(self) -> None:
        if self._now() - self._logged >= _LOG_AGAIN:
            self._logged = self._now()
            log.error("No room is served and publications wait: %s", self.refusal)
        raise BrokerUnavailable(self.refusal)

    def _fingerprint(self, key: bytes) -> str:
        found = self._fingerprints.get(key)
        if found is None:
            salt = (_SALT + self._prefix).encode()
            digest = hashlib.pbkdf2_hmac("sha256", key, salt, _ROUNDS, _BYTES)
            found = self._fingerprints[key] = b64encode(digest).decode()
        return found


def secret_keys(config: Mapping[str, Any]) -> list[bytes]:
    """Return an application's secret key and its fallbacks, as far as they are texts.

    An empty list where there is no key: fallbacks alone sign nothing.
    """
    key = config.get("SECRET_KEY")
    fallbacks = config.get("SECRET_KEY_FALLBACKS") or ()
    if isinstance(fallbacks, (str, bytes)):  # a letter of it is no key
        fallbacks = (fallbacks,)
    found = []
    for text in (key, *fallbacks) if key else ():
        if isinstance(text, str):
            # The environment may give a text that is no Unicode.
            found.append(text.encode(errors="surrogatepass"))
        elif isinstance(text, bytes):
            found.append(text)
    return [text for text in found if text]
