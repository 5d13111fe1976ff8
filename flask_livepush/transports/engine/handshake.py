"""The opening handshake of a WebSocket, server side (RFC 6455, section 4.2).

Pure: no I/O, clock, lock or logging here. No subprotocol and no extension is agreed on,
and who may connect is not decided here.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Said of a request that would do but for its version: `refusal` knows it.
BAD_VERSION = "The header 'Sec-WebSocket-Version' of an upgrade must be 13."

_VERSION = "13"
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # section 1.3
# 16 bytes in base64.
_KEY = re.compile(r"[A-Za-z0-9+/]{22}==")


def check(environ: Mapping[str, Any]) -> str | None:
    """Return what is wrong with an upgrade request, as a sentence; None if nothing is.

    The version is looked at last, so that its sentence means a WebSocket client. That
    of HTTP is not: eventlet's server calls every request HTTP/1.0.
    """
    if environ.get("REQUEST_METHOD") != "GET":
        return "An upgrade to WebSocket must be a GET."
    if "websocket" not in _tokens(environ.get("HTTP_UPGRADE", "")):
        return "The header 'Upgrade' of an upgrade must contain 'websocket'."
    if "upgrade" not in _tokens(environ.get("HTTP_CONNECTION", "")):
        return "The header 'Connection' of an upgrade must contain 'Upgrade'."
    if not _KEY.fullmatch(_key(environ)):
        return (
            "The header 'Sec-WebSocket-Key' of an upgrade must be 16 bytes in base64."
        )
    if environ.get("HTTP_SEC_WEBSOCKET_VERSION", "").strip() != _VERSION:
        return BAD_VERSION
    return None


def refusal(problem: str) -> tuple[str, list[tuple[str, str]]]:
    """Return the status, and headers of its own, of the answer to a bad request.

    Section 4.4: a client that speaks another version is told which one to speak. The
    'Upgrade' that should stand in a 426 is a header that WSGI forbids to applications.

    Args:
        problem: What `check` returned.
    """
    if problem == BAD_VERSION:
        return "426 Upgrade Required", [("Sec-WebSocket-Version", _VERSION)]
    return "400 Bad Request", []


def response(
    environ: Mapping[str, Any], headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """Make the bytes of the 101 answer to a request that `check` passed.

    Args:
        environ: The request.
        headers: What the answer carries besides, such as cookies.

    Raises:
        ValueError: A header holds a line break, or what Latin-1 has not.
    """
    # The digest proves that a WebSocket server read the key; it protects nothing.
    digest = hashlib.sha1(_key(environ).encode() + _GUID, usedforsecurity=False)
    lines = ["HTTP/1.1 101 Switching Protocols"]
    for name, value in (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", base64.b64encode(digest.digest()).decode()),
        *headers,
    ):
        line = f"{name}: {value}"
        if "\r" in line or "\n" in line:
            raise ValueError(f"The header {line!r} holds a line break; take it out.")
        lines.append(line)
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _key(environ: Mapping[str, Any]) -> str:
    key: str = environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
    return key.strip()
