"""What the tests of the chat do and look at, as its users do."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any, Protocol

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, expect

from tests.support.browser import MILLISECONDS

LOUNGE, RELEASES, ENGINE_ROOM = "/rooms/1", "/rooms/2", "/rooms/3"

expect.set_options(timeout=MILLISECONDS)


class OpenChat(Protocol):
    """Opens a window, logs a user in, and waits until a room is live."""

    def __call__(self, name: str, path: str = ..., **options: Any) -> Page: ...


def collect_errors(context: BrowserContext, errors: list[str]) -> None:
    def look(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            errors.append(message.text)

    context.on("console", look)
    context.on("weberror", lambda error: errors.append(str(error.error)))


def log_in(page: Page, name: str, **fields: str) -> None:
    """Get the cookie, without the form; one test uses that."""
    request = page.context.request
    token = re.search(r'csrf_token" value="([^"]+)"', request.get("/login").text())
    assert token
    form = {"csrf_token": token[1], "name": name, "password": "demo", **fields}
    answer = request.post("/login", form=form, max_redirects=0)
    assert answer.status == 302, answer.text()


def expect_live(page: Page) -> None:
    expect(page.locator("#badge")).to_have_attribute("data-state", "live")


def say(page: Page, text: str) -> None:
    """Write a message as a user does."""
    page.get_by_role("textbox", name="Message to").fill(text)
    page.keyboard.press("Enter")


def post(page: Page, text: str, room: str = LOUNGE) -> int:
    """Commit a message with the page's cookies, but not by the page; return its id."""
    return int(send(page, f"{room}/messages", body=text)["id"])


def send(page: Page, path: str, **fields: str) -> dict[str, Any]:
    token = page.locator("[name=csrf_token]").first.get_attribute("value")
    answer = page.context.request.post(
        path,
        form={"csrf_token": token or "", **fields},
        headers={"Accept": "application/json"},
    )
    assert answer.ok, answer.text()
    return dict(answer.json())


def message(page: Page, text: str) -> Locator:
    return page.get_by_role("listitem").filter(has=page.get_by_text(text, exact=True))


def bodies(page: Page) -> Locator:
    return page.locator("#messages .body")


def expect_same_messages(*pages: Page) -> None:
    """Wait until they show the same, none of it twice."""
    for one, other in combinations(pages, 2):
        expect(bodies(other)).to_have_text(bodies(one).all_text_contents())
    ids = [item.get_attribute("data-id") for item in pages[0].locator(".message").all()]
    assert len(ids) == len(set(ids))
    assert ids == sorted(ids, key=lambda text: int(text or 0))


def unread(page: Page, room: str) -> Locator:
    link = page.get_by_role("navigation").locator(f"a[href='{room}']")
    return link.locator(".count")
