"""The ids of logins: random ones, and such as several processes find by themselves.

An id is 16 bytes as 22 letters, digits, ``-`` and ``_``. Those that are derived are
keyed with the application's secret key, so that nobody else can make one or find out
from it what it was made of. Nothing in here knows a request.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable

from flask import Flask

_BYTES = 16
_ID = re.compile(r"[A-Za-z0-9_-]{22}")
# Such as "Bearer" in front of a token.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,30} +(?=\S)")


def is_id(text: object) -> bool:
    """Say whether something is written as an id is."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def secret_keys(app: Flask) -> list[bytes]:
    """Return an application's secret keys, the current one first."""
    keys = [app.config.get("SECRET_KEY"), *(_fallbacks(app) or ())]
    return [k.encode() if isinstance(k, str) else bytes(k) for k in keys if k]


def _fallbacks(app: Flask) -> Iterable[str | bytes] | None:
    found: Iterable[str | bytes] | None = app.config.get("SECRET_KEY_FALLBACKS")
    return found


class LoginIds:
    """Makes the ids of one application's logins.

    Args:
        app: The application; its secret keys are read each time.
        random: Returns so many random bytes.
    """

    def __init__(
        self, app: Flask, *, random: Callable[[int], bytes] = secrets.token_bytes
    ) -> None:
        self._app = app
        self._random = random

    def new(self) -> str:
        """Return an id that nobody can guess."""
        return _text(self._random(_BYTES))

    def derived(self, purpose: str, *parts: str) -> tuple[str, ...]:
        """Return the ids of something, by each secret key, the current one's first.

        The same in all processes that share a key, also while it is being rotated.
        Empty: the application has no secret key.
        """
        made = b"".join(_counted(p) for p in (f"livepush.{purpose}", *parts))
        found = [
            _text(hmac.digest(_derived_key(key), made, hashlib.sha256)[:_BYTES])
            for key in secret_keys(self._app)
        ]
        # From a generator, it would be no tuple yet while other threads run, and fail
        # where one of them looks at all objects there are (gc.get_objects).
        return tuple(found)

    def of_credential(self, credential: str) -> tuple[str, ...]:
        """Return the ids of a token, a key or the like; with its scheme or without."""
        return self.derived("credential", without_scheme(credential))


def without_scheme(credential: str) -> str:
    """Return a credential as it is without ``Bearer`` or the like in front of it."""
    text = credential.strip()
    return _SCHEME.sub("", text, count=1)


@functools.lru_cache(maxsize=16)
def _derived_key(secret: bytes) -> bytes:
    # Flask signs with the same secret.
    return hmac.digest(secret, b"flask_livepush.login", hashlib.sha256)


def _counted(part: str) -> bytes:
    # So that "ab" and "c" are not "a" and "bc".
    text = part.encode("utf-8", "surrogatepass")
    return b"%d:%s" % (len(text), text)


def _text(found: bytes) -> str:
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode()
