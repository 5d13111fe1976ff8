"""Whose pages may connect: one table, which both engines must answer alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.raw import UPGRADE, Raw
from tests.support.servers import Server, running

APP = Path(__file__).parents[1] / "support" / "origins_app.py"
POLLING = "EIO=4&transport=polling"
WEBSOCKET = "EIO=4&transport=websocket"
EVIL = "https://evil.example"
LISTED = "https://pages.example"


@dataclass(frozen=True)
class Row:
    """One case.

    Args:
        what: In words.
        headers: What the request says, beside ``Host: localhost``.
        may: Whether it is let in.
    """

    what: str
    headers: Mapping[str, str]
    may: bool

    def __str__(self) -> str:
        return self.what


TLS = {"X-Forwarded-Proto": "https"}
TABLE = [
    Row("the site's own", {"Origin": "http://localhost"}, True),
    Row("one that is listed", {"Origin": LISTED}, True),
    Row("another site", {"Origin": EVIL}, False),
    Row("a sandboxed frame", {"Origin": "null"}, False),
    Row("one that only begins like it", {"Origin": "http://localhost.evil"}, False),
    Row("another port of the host", {"Origin": "http://localhost:8080"}, False),
    Row("another case", {"Origin": "HTTPS://PAGES.EXAMPLE"}, False),
    Row(
        "https before a proxy that says so", {"Origin": "https://localhost"} | TLS, True
    ),
    Row("https before a proxy in silence", {"Origin": "https://localhost"}, False),
    Row("another site before a proxy", {"Origin": EVIL} | TLS, False),
    Row(
        "the host that a proxy was asked for",
        {"Origin": "https://www.example", "X-Forwarded-Host": "www.example"} | TLS,
        True,
    ),
    Row(
        "the first of two proxies",
        {
            "Origin": "https://www.example",
            "X-Forwarded-Proto": "https, http",
            "X-Forwarded-Host": "www.example, inner.example",
        },
        True,
    ),
    Row(
        "the second of two proxies",
        {
            "Origin": "http://inner.example",
            "X-Forwarded-Proto": "https, http",
            "X-Forwarded-Host": "www.example, inner.example",
        },
        False,
    ),
]
TRANSPORTS = ("poll", "websocket", "preflight")


@pytest.fixture(scope="module", params=["loop", "stock"])
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with running(APP, env={"FLASK_LIVEPUSH_ENGINE": request.param}) as server:
        yield server


def status(server: Server, transport: str, headers: Mapping[str, str]) -> int:
    """Return what a request is answered."""
    with Raw(server.port) as raw:
        if transport == "websocket":
            return raw.upgrade(WEBSOCKET, headers={**UPGRADE, **headers}).status
        method = "OPTIONS" if transport == "preflight" else "GET"
        return raw.request(POLLING, method, headers=headers).status


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_origins_are_judged_alike_by_both_engines(
    server: Server, row: Row, transport: str
) -> None:
    passed = 101 if transport == "websocket" else 200
    assert status(server, transport, row.headers) == (passed if row.may else 400)


@pytest.mark.parametrize("row", [r for r in TABLE if not r.may], ids=str)
def test_another_sites_page_posts_into_no_session(server: Server, row: Row) -> None:
    """It may know the id of one, as access logs have it."""
    with Raw(server.port) as raw:
        sid = json.loads(raw.request(POLLING).text[1:])["sid"]
    for headers, expected in ((row.headers, 400), ({}, 200)):
        with Raw(server.port) as raw:
            query = f"{POLLING}&sid={sid}"
            answer = raw.request(query, "POST", body="40", headers=headers)
        assert answer.status == expected
        assert "access-control-allow-origin" not in answer.headers


def test_a_request_without_an_origin_may_poll(server: Server) -> None:
    """It is of no browser's script, or of the site's own page."""
    assert status(server, "poll", {}) == 200


def test_an_answer_can_be_read_by_those_who_may(server: Server) -> None:
    for origin, allowed in ((LISTED, LISTED), (EVIL, None)):
        with Raw(server.port) as raw:
            answer = raw.request(POLLING, headers={"Origin": origin})
        assert answer.headers.get("access-control-allow-origin") == allowed


def test_no_answer_is_a_script_that_another_site_could_include(server: Server) -> None:
    """``j=`` wraps an answer in a call, which a script element of any page may load.

    A script element sends no Origin. What it would get is the id of a new session of
    nobody's, since a CONNECT needs a POST.
    """
    with Raw(server.port) as raw:
        answer = raw.request(f"{POLLING}&j=0")
    if answer.status == 200:  # python-engineio's own
        assert '\\"sid\\"' in answer.text
    else:
        assert answer.status == 400
