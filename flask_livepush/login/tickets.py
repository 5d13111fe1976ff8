"""Tickets: what lets a page on another origin connect, for a minute and once.

A ticket names a login; it is given with the CONNECT, where no log of addresses sees it.
Nothing in here knows whether that login still holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from flask import Flask
from itsdangerous import BadData, URLSafeSerializer

from .ids import LoginIds, secret_keys

#: Seconds in which a ticket must be used.
LIFETIME = 60
_SALT = "flask_livepush.ticket"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A ticket that was signed by us.

    Args:
        number: Its own, which nobody else's is.
        issued: When, in seconds since 1970.
        key: What Flask-Login's user loader takes.
        logins: The ids of the login.
    """

    number: str
    issued: float
    key: str = field(repr=False)
    logins: frozenset[str]


class Tickets:
    """Writes and reads tickets of one application.

    Args:
        app: The application; its secret keys are read each time.
        ids: Makes numbers.
        now: Seconds since 1970, as other processes have them.
    """

    def __init__(self, app: Flask, ids: LoginIds, *, now: Callable[[], float]) -> None:
        self._app = app
        self._ids = ids
        self._now = now

    def issue(self, key: str, logins: frozenset[str]) -> str:
        """Return a ticket of a login."""
        content = [self._ids.new(), int(self._now()), key, sorted(logins)]
        return str(self._signer().dumps(content))

    def read(self, text: str) -> Ticket | None:
        """Return a ticket, however old; None: it is none of ours."""
        if not secret_keys(self._app):
            return None
        try:
            number, issued, key, logins = self._signer().loads(text)
        except (BadData, ValueError, TypeError):
            return None
        return Ticket(number, issued, key, frozenset(logins))

    def is_young(self, ticket: Ticket) -> bool:
        """Say whether a ticket may be used for the first time now."""
        # A clock that is behind the one of the process that made it is no fault of its.
        return self._now() - ticket.issued <= LIFETIME

    def _signer(self) -> URLSafeSerializer:
        return URLSafeSerializer(
            secret_keys(self._app)[::-1],
            salt=_SALT,
            signer_kwargs={"digest_method": hashlib.sha256},
        )
