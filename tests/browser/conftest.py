"""Fixtures of the tests that use the chat."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.request import Request, urlopen

import pytest

from tests.support.servers import Mode, Server, running
from tests.support.waiting import DEADLINE

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .chatting import OpenChat

CHAT = Path(__file__).with_name("chat.py")


@pytest.fixture
def mode() -> Mode:
    return "threading"


@pytest.fixture(scope="module")
def servers(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Callable[..., Server]]:
    """One server for each async mode, started by the first test that wants it."""
    with ExitStack() as stack:

        @cache
        def server(mode: Mode) -> Server:
            database = tmp_path_factory.mktemp(mode) / "chat.sqlite3"
            env = {"DATABASE_URL": f"sqlite:///{database}", "SECRET_KEY": "test"}
            return stack.enter_context(running(CHAT, mode=mode, env=env))

        yield server


@pytest.fixture
def server(servers: Callable[..., Server], mode: Mode) -> Server:
    """The server of the test's mode, its chat as new."""
    server = servers(mode)
    with urlopen(Request(f"{server.url}/reset", method="POST"), timeout=DEADLINE):
        return server


@pytest.fixture
def errors() -> Iterator[list[str]]:
    """What the pages complained of; a test takes out what it expects.

    Violations of the content security policy are among the console's errors.
    """
    errors: list[str] = []
    yield errors
    assert errors == []


@pytest.fixture
def open_chat(
    new_user: Callable[..., Page], server: Server, errors: list[str]
) -> OpenChat:
    from .chatting import LOUNGE, collect_errors, expect_live, log_in

    def open_chat(name: str, path: str = LOUNGE, **options: Any) -> Page:
        page = new_user(base_url=server.url, **options)
        collect_errors(page.context, errors)
        log_in(page, name)
        page.goto(path)
        if options.get("java_script_enabled", True):
            expect_live(page)
        return page

    return open_chat
