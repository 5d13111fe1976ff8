"""Which parts of a handshake may be what a login is known by."""

from __future__ import annotations

from typing import Any

import pytest
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Request

from flask_livepush.errors import NotAuthorised
from flask_livepush.login.credentials import (
    MAX_CREDENTIALS,
    MAX_LENGTH,
    in_payload,
    in_request,
)

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOjF9.x-_9"


def found(query: str = "", **headers: str) -> tuple[set[str], bool]:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    builder = EnvironBuilder(path="/socket.io/", query_string=query, headers=given)
    request = Request(builder.get_environ())
    values, is_said = in_request(request.environ, request.args, request.cookies)
    return set(values), is_said


@pytest.mark.parametrize(
    ("query", "headers", "values"),
    [
        ("", {"Authorization": "Bearer x"}, {"Bearer x"}),
        ("", {"X_Api_Key": "x"}, {"x"}),
        ("", {"X_Access_Token": "x", "Apikey": "y"}, {"x", "y"}),
        ("", {"X_Device": TOKEN}, {TOKEN}),
        ("token=x&EIO=4&transport=polling&t=123", {}, {"x"}),
        ("k=x&k=y", {}, {"x", "y"}),
    ],
)
def test_what_may_be_one_in_a_request_is_taken_for_one(
    query: str, headers: dict[str, str], values: set[str]
) -> None:
    assert found(query, **headers) == (values, True)


def test_what_every_browser_sends_is_none() -> None:
    assert found(
        "EIO=4&transport=websocket&sid=abc&t=Oz3&j=0",
        User_Agent="Mozilla/5.0",
        Accept="*/*",
        Accept_Language="de",
        Origin="https://example.org",
        Referer="https://example.org/a/very/long/path/of/16/letters",
        Connection="Upgrade",
        Upgrade="websocket",
        Sec_WebSocket_Key="dGhlIHNhbXBsZSBub25jZQ==",
        Sec_Fetch_Mode="websocket",
        X_Forwarded_For="10.0.0.1",
        X_Request_Id="0123456789abcdef0123",
    ) == (set(), False)


def test_cookies_that_may_be_ones_are_looked_at_too() -> None:
    cookie = f"access_token_cookie=x; theme=dark; thing={TOKEN}"
    assert found("", Cookie=cookie) == ({"x", TOKEN}, False)


def test_all_texts_of_a_payload_may_be_ones() -> None:
    payload = {"token": "x", "deep": [{"key": "y"}, 7, None], "n": 1.5, "empty": " "}
    assert set(in_payload(payload)) == {"x", "y"}
    assert in_payload("x") == ["x"]
    assert in_payload(7) == in_payload({}) == []


@pytest.mark.parametrize(
    "payload",
    [
        {str(n): str(n) for n in range(MAX_CREDENTIALS + 1)},
        {"token": "x" * (MAX_LENGTH + 1)},
        {"x": [[]] * 10_000},
        [{"x": "y"}] * 10_000,
    ],
    ids=["many", "long", "wide", "wide in objects"],
)
def test_nobody_hides_a_credential_behind_others(payload: Any) -> None:
    with pytest.raises(NotAuthorised, match="more than can be looked at"):
        in_payload(payload)


def test_nobody_hides_one_behind_other_headers() -> None:
    more = {f"X_Token_{n}": str(n) for n in range(MAX_CREDENTIALS + 1)}
    with pytest.raises(NotAuthorised):
        found("", Authorization="Bearer x", **more)
    with pytest.raises(NotAuthorised):
        found("&".join(f"{n}={n}" for n in range(MAX_CREDENTIALS + 1)))
