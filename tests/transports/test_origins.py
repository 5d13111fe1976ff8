"""Which origins are one, however they are written."""

from __future__ import annotations

from typing import Any

import pytest
from flask_socketio import SocketIO

from flask_livepush.transports import origins
from tests.support.connections import Site

SAME = [
    ("http://chat.example", "chat.example", {}),
    ("http://chat.example", "Chat.Example", {}),
    ("http://chat.example", "chat.example:80", {}),
    ("http://chat.example:80", "chat.example:80", {}),
    ("http://chat.example:8080", "CHAT.example:8080", {}),
    ("http://chat.example", "CHAT.example:80", {}),
    ("http://[::1]:5000", "[::1]:5000", {}),
    ("https://chat.example", "chat.example", {"HTTP_X_FORWARDED_PROTO": "https"}),
    ("https://chat.example", "chat.example:443", {"HTTP_X_FORWARDED_PROTO": "https"}),
    (
        "https://chat.example",
        "10.0.0.1:8000",
        {
            "HTTP_X_FORWARDED_PROTO": "https, http",
            "HTTP_X_FORWARDED_HOST": "Chat.example:443, inner",
        },
    ),
    ("https://chat.example", "chat.example:443", {"wsgi.url_scheme": "https"}),
]
OTHERS = [
    # Browsers write none of these.
    ("http://chat.example:80", "chat.example", {}),
    ("HTTP://CHAT.EXAMPLE", "chat.example", {}),
    ("http://chat.example.com", "chat.example", {}),
    ("http://chat.example:8080", "chat.example", {}),
    ("http://chat.example", "chat.example:443", {}),
    ("https://chat.example", "chat.example", {}),
    ("http://chat.example:443", "chat.example", {"wsgi.url_scheme": "https"}),
    ("null", "chat.example", {}),
    ("http://chat.example@evil.example", "chat.example", {}),
    ("http://evil.example/chat.example", "chat.example", {}),
    ("http://chat.example:nonsense", "chat.example", {}),
    ("http://chat.example:99999", "chat.example", {}),
    ("http://[", "chat.example", {}),
    ("//chat.example", "chat.example", {}),
    ("http://chat.example", "chat.example/", {}),
]


@pytest.mark.parametrize("kind", ["loop", "stock", "adopted"])
@pytest.mark.parametrize(
    ("origin", "host", "more", "is_same"),
    [*((*case, True) for case in SAME), *((*case, False) for case in OTHERS)],
)
def test_the_same_origin_is_let_in_however_it_is_written(
    kind: str, origin: str, host: str, more: dict[str, Any], is_same: bool
) -> None:
    """Bug: a Host with the default port, or with capitals, was another origin."""
    own = SocketIO() if kind == "adopted" else None
    engine = "loop" if kind == "adopted" else kind
    client = Site(own, LIVEPUSH_ENGINE=engine).app.test_client()
    environ = {"HTTP_HOST": host, "wsgi.url_scheme": "http", "HTTP_ORIGIN": origin}
    answer = client.get(
        "/socket.io/?EIO=4&transport=polling", environ_overrides=environ | more
    )
    assert answer.status_code == (200 if is_same else 400)
    allowed = answer.headers.get("Access-Control-Allow-Origin")
    assert allowed == (origin if is_same else None)


def test_other_origins_may_be_written_in_more_than_one_way_too() -> None:
    listed = ["https://Front.example:443", "http://localhost:3000"]
    assert origins.is_among("https://front.example", listed)
    assert origins.is_among("http://localhost:3000", listed)
    assert not origins.is_among("http://front.example", listed)
    assert not origins.is_among("http://localhost", listed)


def test_a_request_that_names_no_host_has_no_origin() -> None:
    assert not origins.is_own("http://chat.example", {"wsgi.url_scheme": "http"})
