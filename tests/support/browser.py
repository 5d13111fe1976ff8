"""The machine's Chromium, driven by Playwright: one window per user.

Use the fixture ``new_user``: each call opens an own browser context (cookies, storage)
and returns its page. When the test fails, a screenshot and the console of every page
are kept and shown::

    def test_says_hello(new_user, server):
        page = new_user(base_url=server.url)
        page.goto("/")

Playwright's own browsers are never downloaded, and no page reaches anything but this
machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from .system import require
from .waiting import DEADLINE

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Page

#: Milliseconds a page's own waits may take before the test fails.
MILLISECONDS = 1000 * DEADLINE

#: What the fixtures need to know of the test when they are torn down (conftest).
FAILED = pytest.StashKey[bool]()

_ARGUMENTS = [
    "--headless=new",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    # A page that needs another host does not work behind every firewall; here none
    # resolves, so such a page fails its test.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """The browser, started by the first test that wants it."""
    executable = require("chromium")
    from playwright.sync_api import sync_playwright

    # Chromium refuses to run as root with its sandbox.
    arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=arguments, timeout=MILLISECONDS
        )
        yield browser
        browser.close()


@pytest.fixture
def new_user(
    browser: Browser, request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Callable[..., Page]]:
    """Open a browser window of a new user, with the options of ``new_context``."""
    users: list[tuple[BrowserContext, list[str]]] = []

    def new_user(**options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(MILLISECONDS)
        console: list[str] = []
        context.on("console", lambda message: console.append(message.text))
        context.on("weberror", lambda error: console.append(str(error.error)))
        users.append((context, console))
        return context.new_page()

    yield new_user
    failed = request.node.stash.get(FAILED, False)
    for number, (context, console) in enumerate(users, 1):
        if failed:
            report = _screenshots(context, tmp_path, number) + console
            text = "\n".join(report)
            request.node.add_report_section("teardown", f"user {number}", text)
        context.close()


def _screenshots(context: BrowserContext, directory: Path, user: int) -> list[str]:
    from playwright.sync_api import Error

    report = []
    for number, page in enumerate(context.pages, 1):
        path = directory / f"user-{user}-page-{number}.png"
        try:
            page.screenshot(path=path, timeout=MILLISECONDS)
            report.append(f"{page.url}: {path}")
        except Error as error:
            report.append(f"{page.url}: no screenshot, {error}")
    return report
