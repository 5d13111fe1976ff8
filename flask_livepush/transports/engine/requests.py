"""What a polling client's request brings: its body, and what tells it from others."""

from __future__ import annotations

import re
from typing import Any

# Bytes of a request's body that are read and thrown away past what is allowed, and how
# many at a time. What is longer costs the client its connection.
_DISCARDED = 4 * 1024 * 1024
_CHUNK = 65_536
# What tells a poll from the one before, in its address; all else is as if it were not.
_MARK = re.compile(r"(?:^|&)t=([A-Za-z0-9._-]{1,64})(?:&|$)")


def body_of(environ: dict[str, Any], limit: int) -> bytes | None:
    """Return the body of a request; None: it is too large, and thrown away.

    Args:
        limit: Bytes it may have.
    """
    try:
        size = int(environ.get("CONTENT_LENGTH") or 0)
    except ValueError:
        return None
    if size < 0:
        return None
    if not size and "chunked" in environ.get("HTTP_TRANSFER_ENCODING", ""):
        size = _DISCARDED
    stream = environ["wsgi.input"]
    body: bytes = stream.read(min(size, limit + 1)) if size else b""
    if len(body) <= limit:
        return body
    left = min(size - len(body), _DISCARDED)
    while left > 0 and (data := stream.read(min(left, _CHUNK))):
        left -= len(data)
    return None


def mark_of(environ: dict[str, Any]) -> str:
    """Return what a client puts into a request's address so that no cache answers it.

    Source: timestampParam in github.com/socketio/engine.io-client, lib/transports/
    polling.ts; python-engineio's and others have it too.
    """
    found = _MARK.search(environ.get("QUERY_STRING", ""))
    return "" if found is None else found[1]
