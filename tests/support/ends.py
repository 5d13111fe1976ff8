"""Ended logins, kept in a dict: what others ask is answered as a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import flask

from flask_livepush.brokers.logins import Ended, LoginListener, Logins, Recheck
from flask_livepush.errors import BrokerUnavailable
from flask_livepush.login.caller import Caller, Claim, Handshake


class DictLogins(Logins):
    """Fulfils the contract within one process, at once."""

    def __init__(self) -> None:
        self.known: dict[str, Ended] = {}
        #: Whether the mirror can be vouched for, and whether it can be in a moment.
        self.current = True
        self.recovers = False
        self.confirmed = 0
        self.listener: LoginListener | None = None
        self._spent: set[str] = set()

    def listen(self, listener: LoginListener) -> None:
        self.listener = listener

    def end(self, logins: Iterable[Ended]) -> None:
        new = [one for one in logins if one.login not in self.known]
        self.known.update((one.login, one) for one in new)
        if new and self.listener is not None:
            self.listener.ended(new)

    def recheck(self, orders: Iterable[Recheck]) -> None:
        if self.listener is not None:
            self.listener.recheck(list(orders))

    def has_ended(self, login: str) -> bool:
        return login in self.known

    def is_current(self) -> bool:
        return self.current

    def confirm(self) -> None:
        self.confirmed += 1
        self.current = self.current or self.recovers
        if not self.current:
            raise BrokerUnavailable("Nobody can say which logins have ended.")

    def spend(self, ticket: str, seconds: float) -> bool:
        fresh = ticket not in self._spent
        self._spent.add(ticket)
        return fresh

    def finish(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        self.listener = None


def caller(user: str | None = "1", *logins: str, source: Any = "session") -> Caller:
    """Return whose a connection is; a login of the user's name unless told."""
    given = logins or (() if user is None else (f"login-{user}",))
    return Caller(user, Claim(user, frozenset(given), source))


def by_header(
    meanwhile: Callable[[], object] = lambda: None,
) -> Callable[[Handshake], Caller]:
    """Return a judge: ``user`` and ``login`` stand in the environment.

    Args:
        meanwhile: Called while the user is loaded.
    """

    def judge(handshake: Handshake) -> Caller:
        environ = handshake.environ
        meanwhile()
        user = environ.get("user")
        login = environ.get("login")
        return caller(user, *([login] if login else []))

    return judge


def wire(site: Any) -> DictLogins:
    """Let an application's connections be those of logins; return which have ended.

    Each user has one login, ``login-<id>``. In a handshake without cookies nobody is
    logged in.

    Args:
        site: A :class:`tests.support.connections.Site`.
    """

    def judge(handshake: Handshake) -> Caller:
        environ = {**handshake.environ}
        environ.pop("werkzeug.request", None)
        with site.app.request_context(environ):
            return caller(flask.session.get("_user_id"))

    logins = DictLogins()
    connections = site.events._connections
    connections._judge = judge
    connections._may_be_somebody = lambda handshake: "HTTP_COOKIE" in handshake.environ
    connections._logins = logins
    logins.listen(connections)
    return logins
