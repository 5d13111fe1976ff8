"""The chat with LIVEPUSH_ENABLED=0, in a browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.support.servers import running

from .chatting import LOUNGE, log_in, say
from .conftest import CHAT


def test_the_chat_works_by_forms_alone(
    tmp_path: Path, new_user: Callable[..., Page]
) -> None:
    env = {
        "DATABASE_URL": f"sqlite:///{tmp_path}/chat.sqlite3",
        "SECRET_KEY": "test",
        "LIVEPUSH_ENABLED": "0",
        # Nobody listens there.
        "LIVEPUSH_MESSAGE_QUEUE": "redis://127.0.0.1:1",
    }
    with running(CHAT, env=env) as server:
        page = new_user(base_url=server.url)
        asked: list[str] = []
        errors: list[Any] = []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108
        page.on("websocket", lambda socket: asked.append(socket.url))
        log_in(page, "ada")
        page.goto(LOUNGE)
        expect(page.locator("#state")).to_have_text("off")
        say(page, "Does this work?")
        mine = page.locator(".message", has_text="Does this work?")
        expect(mine).to_have_count(1)
        mine.hover()
        mine.get_by_role("link", name="Edit").click()
        mine.locator("textarea").fill("It does.")
        mine.get_by_role("button", name="Save").click()
        changed = page.locator(".message", has_text="It does.")
        expect(changed).to_have_count(1)
        page.on("dialog", lambda dialog: dialog.accept())
        changed.hover()
        changed.get_by_role("button", name="Delete").click()
        expect(changed).to_have_count(0)
        expect(page.locator("#state")).to_have_text("off")
        assert not [url for url in asked if "socket.io" in url]
        assert errors == []
