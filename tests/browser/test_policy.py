"""The client under a content security policy without ``unsafe-inline``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from tests.support.servers import Server, running
from tests.support.waiting import DEADLINE, until


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(Path(__file__).with_name("strict.py")) as server:
        yield server


def post(server: Server, path: str) -> None:
    with urlopen(Request(server.url + path, method="POST"), timeout=DEADLINE):
        pass


def wait_until(page: Page, expression: str) -> None:
    """Wait for something; Playwright's own waiting needs eval in the page."""
    until(lambda: page.evaluate(expression), what=expression)


@pytest.mark.parametrize("transports", ["websocket", "polling"])
def test_nothing_is_violated_under_the_strictest_policy(
    new_user: Callable[..., Page], server: Server, transports: str
) -> None:
    """The page connects, follows, is cut off, comes back, and breaks no rule."""
    page = new_user(base_url=server.url)
    if transports == "polling":
        page.add_init_script("delete globalThis.WebSocket")
    page.goto("/")
    wait_until(page, "states.at(-1) === 'live'")
    post(server, "/number/1")
    wait_until(page, "numbers.includes(1)")
    if transports == "websocket":
        post(server, "/end")
        wait_until(page, "states.filter((s) => s === 'live').length > 1")
    post(server, "/number/2")
    wait_until(page, "numbers.includes(2)")
    assert page.evaluate("violations") == []
    # The position's element is data: it needs no nonce to be read.
    assert (
        page.evaluate(
            "document.querySelector('[data-livepush-room]').getAttribute('nonce')"
        )
        is None
    )


def test_the_policy_is_one(new_user: Callable[..., Page], server: Server) -> None:
    """Without this the test above would pass under no policy at all."""
    page = new_user(base_url=server.url)
    page.goto("/inline")
    wait_until(page, "states.at(-1) === 'live'")
    assert page.evaluate("numbers") == []
    assert page.evaluate("violations") == ["script-src-elem inline"]
