"""Whose a connection is: values, without Flask."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

# Where a login came from: Flask's session; the request itself, by a request loader;
# what was given with the CONNECT, by ``livepush.authenticate``; a ticket; nowhere.
Source = Literal["session", "request", "payload", "ticket", "nobody"]


@dataclass(frozen=True, slots=True, eq=False)
class Handshake:
    """What a connection has said of itself, kept as long as it lives.

    Args:
        environ: The WSGI environment of its first request.
        payload: What it gave with the CONNECT to the default namespace (``auth`` in
            Socket.IO's words); never logged.
    """

    environ: dict[str, Any]
    payload: Any = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Claim:
    """What a handshake claims, before any user is loaded.

    Args:
        key: What Flask-Login's user loader takes; None: it is another's to say.
        logins: The ids of the login; the end of any of them ends the connection. Empty:
            nobody is logged in.
        source: Where the login came from.
    """

    key: str | None = field(repr=False)
    logins: frozenset[str]
    source: Source


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose a connection is.

    Args:
        identity: The user's id in ``user:<id>`` and presence; None: an anonymous
            visitor, or a user without such an id.
        claim: What it was let in by.
    """

    identity: str | None
    claim: Claim
