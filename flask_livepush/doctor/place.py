"""Where an application is: what a URL says, without connecting to it."""

from __future__ import annotations

import base64
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote, unquote, urlsplit

from .wire import Address


@dataclass(frozen=True, slots=True)
class Place:
    """Where an application is.

    Args:
        address: Of what is in front of it.
        path: Where it is mounted, without a slash at its end.
        authorization: What the URL's user and password come to, as a header.
    """

    address: Address
    path: str
    authorization: str | None

    @property
    def origin(self) -> str:
        """The origin of its pages."""
        return f"{self.scheme}://{self.address.authority}"

    @property
    def scheme(self) -> str:
        """``"http"`` or ``"https"``."""
        return "http" if self.address.tls is None else "https"

    @property
    def url(self) -> str:
        """Its URL, without a password or a query."""
        return self.origin + self.path


def place(url: str, context: Callable[[], ssl.SSLContext]) -> Place:
    """Return where a URL points.

    Args:
        url: Of the site, as a browser shows it, without the path of Socket.IO.
        context: Makes what encrypts connections.

    Raises:
        ValueError: Nowhere; the message is a sentence without the URL's password.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
        name = parts.hostname or ""
        host = name.encode("ascii" if ":" in name else "idna").decode()
    except ValueError:
        raise ValueError("it has no such host or port.") from None
    scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
    if scheme not in ("http", "https") or not host:
        raise ValueError("write the site's address, such as https://example.org.")
    authorization = None
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        authorization = "Basic " + base64.b64encode(pair.encode()).decode()
    tls = context() if scheme == "https" else None
    path = quote(parts.path.rstrip("/"), safe="/%~")
    return Place(
        Address(host, port or (80 if tls is None else 443), tls), path, authorization
    )
