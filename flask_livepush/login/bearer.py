"""What the requests of one session must bear, so that its id alone opens nothing.

Of each request there may be: the login it claims, by Flask's session or a credential;
the text of ``Authorization``; the key that our client draws for a session whose login
comes with the CONNECT. What the first request bore, all later ones must.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence
from typing import Any

from .caller import Claim, Handshake

#: A header with a random text, by which a client binds a session to itself where its
#: requests bear nothing else.
KEY = "HTTP_LIVEPUSH_KEY"

_AUTHORIZATION = "HTTP_AUTHORIZATION"
# Bytes of a proof: 128 bits, which nobody guesses.
_PROOF = 16
_PURPOSE = b"livepush bearer\0"

_NOBODY = Claim(None, frozenset(), "nobody")


class Bearer:
    """Fulfils :class:`flask_livepush.transports.bearing.Bearing`.

    Args:
        claim: Says what a handshake claims, without loading a user.
        keys: Returns the application's secret keys, the one it signs with first.
        may_be_somebody: Says without waiting whether a handshake may claim anything.
    """

    def __init__(
        self,
        claim: Callable[[Handshake], Claim],
        keys: Callable[[], Sequence[str | bytes]],
        may_be_somebody: Callable[[Handshake], bool] = lambda handshake: True,
    ) -> None:
        self._claim = claim
        self._keys = keys
        self._may_be_somebody = may_be_somebody

    def bond(self, environ: dict[str, Any]) -> Bond | None:
        """Return what a session's first request binds it to; None: to nothing."""
        cookie = environ.get("HTTP_COOKIE", "")
        authorization = environ.get(_AUTHORIZATION, "")
        key = environ.get(KEY, "")
        claim = self.claim(environ)
        logins = None if claim is None else claim.logins or _users(claim)
        if logins == frozenset() and not (authorization or key):
            return None
        return Bond(
            self,
            cookie=cookie,
            authorization=authorization,
            key=key,
            logins=logins,
            source="session" if claim is None else claim.source,
        )

    def claim(self, environ: dict[str, Any]) -> Claim | None:
        """Return what a request claims; None: that can't be told."""
        handshake = Handshake(environ)
        if not self._may_be_somebody(handshake):
            return _NOBODY
        try:
            return self._claim(handshake)
        except Exception:  # noqa: BLE001
            # Such as a login that has ended, or a store of sessions that is away.
            return None

    def proofs(self, environ: dict[str, Any], about: bytes) -> str:
        """Return what proves to another process what a request bears.

        Each is made with the application's key for this one request: whoever reads it
        on its way learns nothing, and can use it for no other.
        """
        cookie = environ.get("HTTP_COOKIE", "")
        claim = self.claim(environ)
        found = () if claim is None else claim.logins | _users(claim)
        texts = [f"login:{login}" for login in sorted(found)]
        if cookie:
            texts.append(f"cookie:{cookie}")
        for name in (_AUTHORIZATION, KEY):
            if environ.get(name):
                texts.append(f"{name}:{environ[name]}")
        key = self.keys()[0]
        return ",".join(_proof(key, about, text) for text in texts)

    def keys(self) -> list[bytes]:
        """Return the keys that proofs may be made with, ours first."""
        found = [key.encode() if isinstance(key, str) else key for key in self._keys()]
        return found or [b""]


class Bond:
    """What a session's first request bore.

    Args:
        logins: The ids of the logins, any of which is enough; None: that could not be
            told, so that the cookie must be the same.
        source: Where they came from.
    """

    __slots__ = ("_authorization", "_bearer", "_cookie", "_key", "_logins", "_source")

    def __init__(
        self,
        bearer: Bearer,
        *,
        cookie: str,
        authorization: str,
        key: str,
        logins: frozenset[str] | None,
        source: str,
    ) -> None:
        self._bearer = bearer
        # Of the last request that was found to bear the login.
        self._cookie = cookie
        self._authorization = authorization
        self._key = key
        self._logins = logins
        self._source = source

    @property
    def needs_origin(self) -> bool:
        """Whether the login came from a cookie, which browsers send by themselves."""
        return self._source == "session" and not self._key

    def is_borne(self, environ: dict[str, Any]) -> bool:
        """Say whether a request bears the same."""
        given = environ.get(_AUTHORIZATION, "")
        if self._authorization and not _same(self._authorization, given):
            return False
        if self._key and not _same(self._key, environ.get(KEY, "")):
            return False
        logins = self._logins
        if logins is not None and not logins:
            return True
        cookie = environ.get("HTTP_COOKIE", "")
        if self._source == "request":
            # What a request loader looks at, if it is not that header, only it knows.
            if self._authorization:
                return True
        elif cookie and _same(self._cookie, cookie):
            return True
        claim = None if logins is None else self._bearer.claim(environ)
        if logins is None or claim is None:
            return False
        found = claim.logins | _users(claim)
        if not any(_same(one, other) for one in logins for other in found):
            return False
        self._cookie = cookie
        return True

    def is_proved(self, proofs: str, about: bytes) -> bool:
        """Say whether proofs of another process are of the same."""
        given = proofs.split(",")
        return any(self._is_proved(given, about, key) for key in self._bearer.keys())

    def _is_proved(self, given: Sequence[str], about: bytes, key: bytes) -> bool:
        def has(text: str) -> bool:
            expected = _proof(key, about, text)
            return any(_same(expected, one) for one in given)

        if self._authorization and not has(f"{_AUTHORIZATION}:{self._authorization}"):
            return False
        if self._key and not has(f"{KEY}:{self._key}"):
            return False
        logins = self._logins
        if logins is not None and not logins:
            return True
        if self._source == "session" and self._cookie and has(f"cookie:{self._cookie}"):
            return True
        return logins is not None and any(has(f"login:{login}") for login in logins)


def _users(claim: Claim) -> frozenset[str]:
    """Return by what a session is known again that had no login id yet."""
    return frozenset() if claim.key is None else frozenset({f"user:{claim.key}"})


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(
        one.encode("utf-8", "surrogatepass"), other.encode("utf-8", "surrogatepass")
    )


def _proof(key: bytes, about: bytes, text: str) -> str:
    message = _PURPOSE + about + b"\0" + text.encode("utf-8", "surrogatepass")
    digest = hmac.digest(key, message, "sha256")[:_PROOF]
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
