"""Logins without a broker, and what judges handshakes, for tests."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Flask

from flask_livepush.auth import Auth
from flask_livepush.brokers.logins import Ended, LoginListener, Logins, Recheck
from flask_livepush.errors import BrokerUnavailable
from flask_livepush.login.handshakes import Handshakes
from flask_livepush.login.identity import Identities
from flask_livepush.login.ids import LoginIds
from flask_livepush.login.tickets import Tickets
from flask_livepush.rooms import Pattern


class FakeLogins(Logins):
    """Fulfils the contract in memory, and notes what it was told."""

    def __init__(self) -> None:
        self.told: list[Ended] = []
        self.orders: list[Recheck] = []
        self.tickets: set[str] = set()
        #: Whether nobody can say anything new.
        self.away = False

    @property
    def ended(self) -> set[str]:
        """The ids that have ended."""
        return {one.login for one in self.told}

    def listen(self, listener: LoginListener) -> None:
        pass

    def end(self, logins: Iterable[Ended]) -> None:
        self.told += logins

    def recheck(self, orders: Iterable[Recheck]) -> None:
        self.orders += orders

    def has_ended(self, login: str) -> bool:
        return login in self.ended

    def is_current(self) -> bool:
        return not self.away

    def confirm(self) -> None:
        if self.away:
            raise BrokerUnavailable("away")

    def spend(self, ticket: str, seconds: float) -> bool:
        self.confirm()
        if ticket in self.tickets:
            return False
        self.tickets.add(ticket)
        return True

    def finish(self, seconds: float) -> bool:
        return True

    def close(self) -> None:
        pass


def own_rooms() -> Pattern:
    """Return the pattern of users' own rooms."""
    return Pattern("user:<path:user_id>")


def handshakes_of(app: Flask, **options: Any) -> Handshakes:
    """Return what judges handshakes of an application, with logins of its own."""
    ids = LoginIds(app)
    given: dict[str, Any] = {
        "logins": FakeLogins(),
        "ids": ids,
        "identities": Identities(own_rooms()),
        "tickets": Tickets(app, ids, now=lambda: 1_000.0),
        "allow_anonymous": False,
        **options,
    }
    return Handshakes(app, **given)


def auth_of(site: Any, *, allow_anonymous: bool = False) -> Auth:
    """Return what asks the rules of a site: what has an app and its livepush."""
    return auth(site.app, site.livepush, allow_anonymous=allow_anonymous)


def auth(
    app: Flask, livepush: Any, *, allow_anonymous: bool = False, **options: Any
) -> Auth:
    """Return what asks the rules of an application."""
    identities = livepush._identities
    handshakes = handshakes_of(
        app,
        identities=identities,
        allow_anonymous=allow_anonymous,
        authenticate=lambda: livepush._authenticate,
        users_loader=lambda: livepush._users_loader,
        **options,
    )
    return Auth(
        handshakes, livepush._rooms, identities, allow_anonymous=allow_anonymous
    )
