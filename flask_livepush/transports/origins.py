"""Which origins are one: the same scheme, host and port, however they are written.

Browsers leave a default port out of ``Origin`` and write hosts in small letters;
proxies and people write ``Host`` and settings as they like.

Source: RFC 6454, section 5; RFC 3986, section 6.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443}


def written(text: str) -> str | None:
    """Return an origin as browsers write it; None: it is none."""
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return None
    host = parts.hostname
    is_more = parts.path or parts.query or parts.fragment or "@" in parts.netloc
    if not parts.scheme or not host or is_more:
        return None
    scheme = parts.scheme.lower()
    shown = f"[{host}]" if ":" in host else host
    usual = port is None or port == _PORTS.get(scheme)
    return f"{scheme}://{shown}" if usual else f"{scheme}://{shown}:{port}"


def is_own(origin: str, environ: Mapping[str, Any]) -> bool:
    """Say whether a request's origin is where the request goes to."""
    return is_among(origin, own(environ))


def is_among(origin: str, origins: Iterable[str]) -> bool:
    """Say whether an origin, as a browser writes it, is one of some."""
    return any(origin in (other, written(other)) for other in origins if written(other))


def own(environ: Mapping[str, Any]) -> Iterator[str]:
    """Return the origins of the server that a request goes to, as proxies tell them."""
    host, scheme = environ.get("HTTP_HOST"), environ.get("wsgi.url_scheme")
    if not host or not scheme:
        return
    yield f"{scheme}://{host}"
    forwarded = [environ.get(f"HTTP_X_FORWARDED_{name}") for name in ("PROTO", "HOST")]
    if any(value is not None for value in forwarded):
        scheme, host = (
            (given if value is None else value).split(",")[0].strip()
            for given, value in zip((scheme, host), forwarded, strict=True)
        )
        yield f"{scheme}://{host}"
