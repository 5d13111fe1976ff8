"""The client in a browser, with a server that says no in every way there is.

The server is a script on python-socketio alone, so what is asked here holds with any
release of ours. Time is the page's own: hours pass when a test says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from tests.support.servers import Server, running
from tests.support.waiting import DEADLINE, until

REFUSING = Path(__file__).with_name("refusing.py")
TRANSPORTS = ["websocket", "polling"]
RENEW = {"code": 109, "message": "Renew the login.", "temporary": True}
SIGNED_OUT = {"code": 103, "message": "Signed out.", "temporary": False}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(REFUSING) as server:
        yield server


class Visit:
    """A page that connects, and a server that does what it is told."""

    def __init__(self, page: Page, server: Server) -> None:
        self.page = page
        self.url = server.url
        page.clock.install()

    def tell(self, path: str, content: Any) -> None:
        data = json.dumps(content).encode()
        headers = {"Content-Type": "application/json"}
        request = Request(self.url + path, data=data, headers=headers, method="POST")
        with urlopen(request, timeout=DEADLINE):
            pass

    def begin(self, transport: str, options: Any = None, **script: Any) -> None:
        self.tell("/script", script)
        chosen = {"transports": [transport], **(options or {})}
        self.page.goto(f"{self.url}/?{urlencode({'options': json.dumps(chosen)})}")

    @property
    def seen(self) -> dict[str, Any]:
        with urlopen(f"{self.url}/seen", timeout=DEADLINE) as answer:
            return dict(json.load(answer))

    @property
    def state(self) -> str:
        return str(self.page.evaluate("live.state"))

    @property
    def refusals(self) -> list[dict[str, Any]]:
        return list(self.page.evaluate("refusals"))

    def becomes(self, state: str) -> None:
        self.page.wait_for_function("state => live.state === state", arg=state)

    def pass_until(self, done: Callable[[], bool]) -> None:
        """Let the page's time pass until something has come of it."""

        def look() -> bool:
            # Not much at once: an answer that is on its way must not be late by it.
            self.page.clock.run_for(250)
            return done()

        until(look)


@pytest.fixture
def visit(new_user: Callable[..., Page], server: Server) -> Visit:
    return Visit(new_user(), server)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("events", [["livepush.ended"], []], ids=["told", "untold"])
def test_a_login_that_ended_is_refused_and_does_not_come_back(
    visit: Visit, transport: str, events: list[str]
) -> None:
    """Bug: the end of a login had code 0, and nobody could tell it from any other."""
    visit.begin(transport)
    visit.becomes("live")
    visit.tell("/end", events)
    visit.becomes("refused")
    untold = {"code": 0, "message": "the server ended the connection"}
    expected = SIGNED_OUT if events else {**untold, "temporary": False}
    assert visit.refusals == [expected]
    visit.page.clock.run_for(600_000)
    visit.page.evaluate("dispatchEvent(new Event('online'))")
    visit.page.clock.run_for(600_000)
    # Had anything been begun, it would be there before what is asked for now.
    visit.page.evaluate("live.connect()")
    visit.becomes("live")
    assert len(visit.seen["connects"]) == 2


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_is_not_let_in_is_refused(visit: Visit, transport: str) -> None:
    visit.begin(transport, refuse=SIGNED_OUT)
    visit.becomes("refused")
    assert visit.refusals == [SIGNED_OUT]
    visit.page.clock.run_for(600_000)
    assert visit.seen == {**visit.seen, "connects": [None], "renewals": 0}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_login_is_renewed_by_one_request(visit: Visit, transport: str) -> None:
    visit.begin(transport, refuse=RENEW)
    visit.pass_until(lambda: visit.state == "live")
    seen = visit.seen
    assert (seen["renewals"], len(seen["connects"])) == (1, 2)
    assert visit.refusals == []


def test_a_login_that_cannot_be_renewed_is_over(visit: Visit) -> None:
    visit.begin("websocket", refuse=RENEW, renewal=401)
    visit.pass_until(lambda: visit.state == "refused")
    assert [error["code"] for error in visit.refusals] == [103]
    visit.page.clock.run_for(600_000)
    seen = visit.seen
    assert (seen["renewals"], len(seen["connects"])) == (1, 1)


def test_a_server_that_wants_every_login_renewed_is_left_alone(visit: Visit) -> None:
    visit.begin("websocket", refuse=RENEW, always=True)
    visit.pass_until(lambda: visit.state == "refused")
    assert [error["code"] for error in visit.refusals] == [109]
    visit.page.clock.run_for(600_000)
    seen = visit.seen
    assert (seen["renewals"], len(seen["connects"])) == (5, 6)


def test_a_renewal_that_fails_is_tried_again(visit: Visit) -> None:
    visit.begin("websocket", refuse=RENEW, renewal=503)
    visit.pass_until(lambda: visit.seen["renewals"] >= 3)
    assert visit.page.evaluate("live.error.temporary")
    visit.tell("/script", {"refuse": RENEW})
    visit.pass_until(lambda: visit.state == "live")
    assert visit.refusals == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_each_connection_asks_anew_who_it_is(visit: Visit, transport: str) -> None:
    visit.begin(transport, {"asks": True, "fails": 2})
    visit.pass_until(lambda: visit.state == "live")
    assert visit.seen["connects"] == [{"token": 1}]
    visit.page.evaluate("live.disconnect()")
    visit.page.evaluate("live.connect()")
    visit.becomes("live")
    assert visit.seen["connects"] == [{"token": 1}, {"token": 2}]


@pytest.mark.parametrize("auth", [{"token": "t"}, None])
def test_requests_of_one_that_polls_bear_its_key(visit: Visit, auth: Any) -> None:
    visit.begin("polling", auth and {"auth": auth})
    visit.becomes("live")
    keys = visit.seen["keys"]
    assert len(keys) >= 3
    [key] = set(keys)
    assert len(key) == 32 if auth else key is None
