"""Requests with a session's id that do not bear what its first request did."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from werkzeug.test import Client, TestResponse

from flask_livepush.metrics import Meters
from flask_livepush.transports.bearing import CLOSED, NOTHING, may_use
from tests.support.connections import Site

POLLING = "EIO=4&transport=polling"
UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "Sec-WebSocket-Version": "13",
}
ORIGIN = {"Origin": "http://localhost"}


@pytest.fixture(params=["loop", "stock"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve connections by both."""
    monkeypatch.setattr(Site, "engine", request.param)


class Web:
    """An application, and requests to its socket."""

    def __init__(self, **config: Any) -> None:
        self.site = Site(LIVEPUSH_ALLOW_ANONYMOUS=True, **config)
        self.client = Client(self.site.app, use_cookies=False)
        meters = self.site.events._metrics
        assert isinstance(meters, Meters)
        meters.switch_on()

    def cookie(self, user: str, more: str = "") -> dict[str, str]:
        """Return the cookies of a user who logs in now."""
        client = self.site.app.test_client()
        client.get(f"/login/{user}")
        found = client.get_cookie("session")
        assert found is not None
        return {"Cookie": f"{more}session={found.value}"}

    def ask(
        self, query: str, method: str = "GET", body: str = "", **headers: Any
    ) -> TestResponse:
        given = headers.pop("headers", {})
        return self.client.open(
            f"/socket.io/?{query}", method=method, data=body, headers=given
        )

    def open(self, headers: dict[str, str]) -> str:
        answer = self.ask(POLLING, headers=headers)
        assert answer.status_code == 200
        sid = json.loads(answer.text[1:])["sid"]
        return f"{POLLING}&sid={sid}"

    def unborne(self) -> float:
        meters = self.site.events._metrics
        found: float = meters._series["unborne_total", ""]._value.get()
        return found

    def alive(self, query: str) -> bool:
        sid = query.partition("sid=")[2]
        return sid in self.site.livepush.socketio.server.eio.sockets


def thefts(web: Web) -> list[dict[str, str]]:
    """Return what somebody may send who has read the access log."""
    anonymous = web.site.app.test_client()
    assert anonymous.get_cookie("session") is None
    return [
        {},
        {"Cookie": ""},
        {"Cookie": "session=forged"},
        {"Cookie": "session="},
        web.cookie("2"),
        {"Authorization": "Bearer x"},
        {"Livepush-Key": "x"},
    ]


@pytest.mark.parametrize(
    "ask",
    [
        lambda web, query, headers: web.ask(query, headers=headers),
        lambda web, query, headers: web.ask(query, "POST", "40", headers=headers),
        lambda web, query, headers: web.ask(
            query.replace("polling", "websocket"),
            headers={**headers, **UPGRADE, **ORIGIN},
        ),
    ],
    ids=["poll", "post", "upgrade"],
)
def test_whoever_knows_the_id_alone_is_answered_as_if_there_were_no_session(
    ask: Callable[..., TestResponse],
) -> None:
    """Bug: it read and wrote as the user, and took the session over."""
    web = Web()
    query = web.open(web.cookie("1"))
    sid = query.partition("sid=")[2]
    unknown = ask(web, query.replace(sid, "x" * len(sid)), {})
    for number, headers in enumerate(thefts(web)):
        answer = ask(web, query, headers)
        assert answer.status_code == unknown.status_code == 400
        assert answer.text == unknown.text.replace("x" * len(sid), sid)
        assert web.unborne() == number + 1
    assert web.alive(query)


def test_the_owner_goes_on_with_other_cookies_beside_its_own() -> None:
    web = Web()
    own = web.cookie("1")
    query = web.open(own)
    assert web.ask(query, "POST", "40", headers=own).text.lower() == "ok"
    assert web.ask(query, headers=own).text.startswith("40{")
    more = {"Cookie": f"seen=yes; {own['Cookie']}"}
    assert web.ask(query, "POST", "3", headers=more).status_code == 200
    again = web.cookie("1", "other=1; ")
    assert web.unborne() == 0
    assert again["Cookie"] != own["Cookie"]


@pytest.mark.parametrize("name", ["Authorization", "Livepush-Key"])
def test_a_header_of_the_first_request_must_come_with_all(name: str) -> None:
    web = Web()
    own = {name: "Bearer a"}
    query = web.open(own)
    assert web.ask(query, "POST", "40", headers=own).status_code == 200
    for headers in ({}, {name: "Bearer b"}, web.cookie("1")):
        assert web.ask(query, "POST", "3", headers=headers).status_code == 400
    assert web.ask(query, headers=own).text.startswith("40{")


def test_who_is_nobody_bears_nothing() -> None:
    web = Web()
    query = web.open({})
    assert web.ask(query, "POST", "40").status_code == 200
    assert web.ask(query, headers={"Cookie": "seen=yes"}).status_code == 200


def test_an_upgrade_of_a_session_with_a_cookie_must_say_where_it_is_from() -> None:
    web = Web()
    own = web.cookie("1")
    query = web.open(own).replace("polling", "websocket")
    assert web.ask(query, headers={**own, **UPGRADE}).status_code == 400
    assert web.unborne() == 1


def test_what_may_use_a_session() -> None:
    assert may_use(None, {})
    assert not may_use(CLOSED, {})
    assert not CLOSED.is_proved("", b"")
    assert NOTHING.bond({}) is None
    assert NOTHING.proofs({}, b"") == ""
