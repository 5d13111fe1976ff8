"""What is kept of a handshake's WSGI environment while its connection lives."""

from __future__ import annotations

import io
import sys
from typing import Any

# Streams and sockets of a request that has been answered, and what is made of them.
_DEAD = frozenset(
    (
        "eventlet.input",
        "eventlet.set_idle",
        "gunicorn.socket",
        "werkzeug.request",
        "werkzeug.socket",
        "wsgi.early_hints",
        "wsgi.file_wrapper",
    )
)
# Different in each connection.
_OWN = frozenset(
    (
        "HTTP_AUTHORIZATION",
        "HTTP_COOKIE",
        "HTTP_SEC_WEBSOCKET_KEY",
        "QUERY_STRING",
        "RAW_URI",
        "REMOTE_PORT",
        "REQUEST_URI",
    )
)
# Values that connections share: most come from a handful of browsers.
_MAX_SHARED = 4096
_MAX_SHARED_LENGTH = 512
_shared: dict[str, str] = {}


def slim(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the environment without what is dead; equal texts are one object.

    The body has been read: whoever asks for it finds it empty.
    """
    if len(_shared) > _MAX_SHARED:
        _shared.clear()
    kept: dict[str, Any] = {}
    for key, value in environ.items():
        if key in _DEAD:
            continue
        if type(value) is str and key not in _OWN and len(value) < _MAX_SHARED_LENGTH:
            value = _shared.setdefault(value, value)
        kept[_shared.setdefault(key, key)] = value
    kept["wsgi.errors"] = sys.stderr
    # Flask reads it when a rule or a handler looks at the request's form or data.
    kept["wsgi.input"] = io.BytesIO()
    return kept
