"""Upgrade requests, right and wrong, and the answer to the right ones."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto.utilities import generate_accept_token

from flask_livepush.transports.engine import handshake

# The request of RFC 6455, section 1.3.
REQUEST = {
    "REQUEST_METHOD": "GET",
    "SERVER_PROTOCOL": "HTTP/1.1",
    "HTTP_UPGRADE": "websocket",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_SEC_WEBSOCKET_KEY": "dGhlIHNhbXBsZSBub25jZQ==",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
}


def without(name: str) -> dict[str, str]:
    return {key: value for key, value in REQUEST.items() if key != name}


@pytest.mark.parametrize(
    "different",
    [
        pytest.param({}, id="1.3"),
        pytest.param({"HTTP_UPGRADE": "WebSocket"}, id="4.2.1 case"),
        pytest.param({"HTTP_UPGRADE": "h2c, websocket"}, id="4.2.1 several protocols"),
        pytest.param({"HTTP_CONNECTION": "keep-alive, upgrade"}, id="4.2.1 Firefox"),
        pytest.param({"HTTP_CONNECTION": "\tUpgrade ,close"}, id="4.2.1 blanks"),
        pytest.param(
            {
                "HTTP_SEC_WEBSOCKET_EXTENSIONS": "permessage-deflate",
                "HTTP_SEC_WEBSOCKET_PROTOCOL": "chat",
            },
            id="4.2.2 offers that are not taken up",
        ),
    ],
)
def test_passes(different: dict[str, str]) -> None:
    environ = REQUEST | different
    assert handshake.check(environ) is None
    assert handshake.response(environ) == (
        b"HTTP/1.1 101 Switching Protocols\r\n"
        b"Upgrade: websocket\r\n"
        b"Connection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"
        b"\r\n"
    )


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("REQUEST_METHOD", ["POST", "HEAD", "get"], "a GET"),
        ("HTTP_UPGRADE", ["", "h2c", "websockets"], "'websocket'"),
        ("HTTP_CONNECTION", ["", "keep-alive", "upgraded"], "'Upgrade'"),
        (
            "HTTP_SEC_WEBSOCKET_KEY",
            [
                "",
                "dGhlIHNhbXBsZSBub25jZQ",
                "dGhlIHNhbXBsZSBub25jZQ= ",
                "dGhlIHNhbXBsZSBub25j",
                "dGhlIHNhbXBsZSBub25jZSEh",
                "dGhlIHNhbXBsZSBub25jZS!=",
                "dGhlIHNhbXBsZSBub25j\u00e9Q==",
                "dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ==",
            ],
            "'Sec-WebSocket-Key'",
        ),
    ],
)
def test_refuses_a_bad_request(name: str, values: list[str], said: str) -> None:
    """Section 4.2.1."""
    for environ in (without(name), *(REQUEST | {name: value} for value in values)):
        problem = handshake.check(environ)
        assert problem is not None
        assert said in problem
        assert problem.endswith(".")
        assert handshake.refusal(problem) == ("400 Bad Request", [])


@pytest.mark.parametrize("version", ["", "8", "014", "13, 13", "x"])
def test_tells_the_version_to_speak(version: str) -> None:
    """Sections 4.2.2 and 4.4."""
    name = "HTTP_SEC_WEBSOCKET_VERSION"
    for environ in (without(name), REQUEST | {name: version}):
        problem = handshake.check(environ)
        assert problem == handshake.BAD_VERSION
        assert handshake.refusal(problem) == (
            "426 Upgrade Required",
            [("Sec-WebSocket-Version", "13")],
        )
    # What is no request of WebSocket at all is not told so.
    other = handshake.check(without("HTTP_UPGRADE") | {name: version})
    assert other != handshake.BAD_VERSION


def test_carries_other_headers() -> None:
    answer = handshake.response(REQUEST, [("Set-Cookie", "a=b"), ("X-Name", "\u00e9")])
    assert answer.endswith(b"=\r\nSet-Cookie: a=b\r\nX-Name: \xe9\r\n\r\n")


@pytest.mark.parametrize(
    "header", [("X", "a\r\nSet-Cookie: b"), ("X", "a\n"), ("X\r", "a")]
)
def test_a_header_cannot_bring_another(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="holds a line break"):
        handshake.response(REQUEST, [header])


@settings(derandomize=True, database=None, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(REQUEST)), st.text(max_size=30)))
def test_any_request_is_passed_or_refused(different: dict[str, str]) -> None:
    environ = REQUEST | different
    problem = handshake.check(environ)
    if problem is None:
        key = environ["HTTP_SEC_WEBSOCKET_KEY"].strip().encode()
        assert generate_accept_token(key) in handshake.response(environ)
    else:
        assert handshake.refusal(problem)[0][:3] in ("400", "426")
