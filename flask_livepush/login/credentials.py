"""Which parts of a handshake may be what a login is known by: tokens, keys.

What an application's request loader looks at, nobody but it knows. So all that may be a
credential is taken for one: an id too many is never ended, one too few can't be.
Nothing in here is kept or logged.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from werkzeug.datastructures import MultiDict

from ..errors import NotAuthorised

#: As many are looked at. Whoever sends more is refused: else what is to be ended could
#: be hidden behind the others.
MAX_CREDENTIALS = 64
#: Characters of one.
MAX_LENGTH = 16 * 1024

_NAMED = re.compile(
    r"auth|token|key|secret|jwt|api|access|credential|bearer|passw|session|sign|ticket",
    re.IGNORECASE,
)
# What looks like a token wherever it is: long, of the letters tokens are made of.
_TOKEN = re.compile(r"(?=[^\s]*\d)[A-Za-z0-9._~+/=:|-]{16,}")
# What every client sends of itself, and proxies add.
_COMMON = re.compile(
    r"HTTP_(HOST|USER_AGENT|ACCEPT.*|CONNECTION|UPGRADE.*|ORIGIN|REFERER|CACHE_CONTROL|"
    r"PRAGMA|SEC_.*|X_FORWARDED_.*|X_REAL_IP|X_REQUEST_.*|FORWARDED|VIA|DNT|COOKIE|"
    r"CONTENT_.*|PRIORITY|TE|IF_.*|TRACEPARENT|TRACESTATE|X_CLOUD_TRACE_CONTEXT|"
    r"X_AMZN_TRACE_ID)"
)
# Engine.IO's own.
_ENGINES = frozenset({"EIO", "transport", "sid", "t", "j", "b64"})


def in_request(
    environ: Mapping[str, Any], query: MultiDict[str, str], cookies: Mapping[str, str]
) -> tuple[list[str], bool]:
    """Return what may be a credential in a request.

    Args:
        cookies: Those that are not Flask's or Flask-Login's.

    Returns:
        The values, and whether any of them is in a header or in the query.

    Raises:
        NotAuthorised: There is more than can be looked at.
    """
    headers = [
        value
        for name, value in environ.items()
        if name.startswith("HTTP_")
        and isinstance(value, str)
        and not _COMMON.fullmatch(name)
        and _may_be(name, value)
    ]
    asked = [
        value
        for name, values in query.lists()
        if name not in _ENGINES
        for value in values
    ]
    kept = [value for name, value in cookies.items() if _may_be(name, value)]
    return _bounded([*headers, *asked, *kept]), bool(headers or asked)


def in_payload(payload: object) -> list[str]:
    """Return the texts in what was given with a CONNECT.

    Raises:
        NotAuthorised: There is more than can be looked at.
    """
    found: list[str] = []
    level = [payload]
    while level:
        deeper: list[object] = []
        for item in level:
            if isinstance(item, str):
                found.append(item)
            elif isinstance(item, Mapping):
                deeper += item.values()
            elif isinstance(item, list):
                deeper += item
        if len(found) + len(deeper) > 16 * MAX_CREDENTIALS:
            raise _too_much()
        level = deeper
    return _bounded(found)


def _may_be(name: str, value: str) -> bool:
    return bool(_NAMED.search(name) or _TOKEN.fullmatch(value.strip()))


def _bounded(values: Iterable[str]) -> list[str]:
    found = list(dict.fromkeys(value for value in values if value.strip()))
    if len(found) > MAX_CREDENTIALS or any(len(value) > MAX_LENGTH for value in found):
        raise _too_much()
    return found


def _too_much() -> NotAuthorised:
    return NotAuthorised(
        "What the connection says of itself is more than can be looked at: at most "
        f"{MAX_CREDENTIALS} tokens and the like of {MAX_LENGTH} characters."
    )
