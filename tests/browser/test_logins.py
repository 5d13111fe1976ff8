"""What a login's end, or a right's, looks like in the chat."""

from __future__ import annotations

from collections.abc import Callable
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page, expect

from tests.support.servers import MODES, Server
from tests.support.waiting import DEADLINE

from .chatting import (
    ENGINE_ROOM,
    LOUNGE,
    RELEASES,
    OpenChat,
    bodies,
    collect_errors,
    expect_live,
    log_in,
    message,
    post,
    say,
)

#: A session that polls, as where a proxy blocks WebSockets.
POLLING = "window.WebSocket = class { constructor() { throw new Error('blocked'); } };"


def expect_signed_out(page: Page) -> None:
    end = page.get_by_role("status").filter(has_text="Signed out")
    expect(end.get_by_role("heading", name="Signed out")).to_be_visible()
    link = end.get_by_role("link", name="Log in")
    expect(link).to_have_attribute("href", "/login")
    expect(bodies(page).first).to_be_hidden()
    expect(page.get_by_role("textbox", name="Message to")).not_to_be_editable()


def begun_connections(page: Page) -> list[str]:
    """Note down each connection that is begun from now on."""
    begun: list[str] = []
    page.on("websocket", lambda websocket: begun.append(websocket.url))

    def look(request: object) -> None:
        url = str(getattr(request, "url", ""))
        if "/socket.io/" in url and "sid=" not in url:
            begun.append(url)

    page.on("request", look)
    return begun


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_a_logout_in_another_tab_is_shown(open_chat: OpenChat, transport: str) -> None:
    """Bug: pushes went on after a logout, and a shared computer showed them."""
    bob, ada = open_chat("bob"), open_chat("ada")
    if transport == "polling":
        ada.context.add_init_script(POLLING)
        ada.reload()
        expect_live(ada)
    ada.get_by_role("textbox", name="Message to").fill("half a thought")
    other = ada.context.new_page()
    other.goto(RELEASES)
    expect_live(other)
    ada.clock.install()
    begun = begun_connections(ada)
    other.get_by_role("button", name="Log out").click()
    expect_signed_out(ada)
    expect(ada.get_by_role("textbox", name="Message to")).to_have_value(
        "half a thought"
    )
    say(bob, "Nobody else may see this")
    expect(message(bob, "Nobody else may see this")).to_be_visible()
    # An hour later it still has not tried to come back.
    ada.clock.run_for(3_600_000)
    assert begun == []
    assert "Nobody else may see this" not in ada.content()
    ada.get_by_role("link", name="Log in").click()
    expect(ada.get_by_role("button", name="Log in")).to_be_visible()


def test_another_user_who_logs_in_ends_the_page_of_the_first(
    open_chat: OpenChat,
) -> None:
    ada = open_chat("ada")
    log_in(ada, "bob")
    expect_signed_out(ada)
    ada.goto(LOUNGE)
    expect_live(ada)
    expect(ada.locator(".me .name")).to_have_text("Bob")


def test_a_page_that_was_away_while_another_logged_in_says_so(
    open_chat: OpenChat,
) -> None:
    ada = open_chat("ada")
    ada.get_by_role("button", name="Cut the connection").click()
    log_in(ada, "bob")
    ada.get_by_role("button", name="Reconnect").click()
    expect_signed_out(ada)


def test_a_login_that_a_cookie_remembers_is_renewed_by_one_request(
    new_user: Callable[..., Page], server: Server, errors: list[str]
) -> None:
    page = new_user(base_url=server.url)
    collect_errors(page.context, errors)
    log_in(page, "ada", remember="on")
    renewals: list[str] = []
    page.on("request", lambda r: "/livepush/login" in r.url and renewals.append(r.url))
    page.goto(LOUNGE)
    expect_live(page)
    page.get_by_role("button", name="Cut the connection").click()
    # As after the browser was closed and came back with its tabs.
    page.context.clear_cookies(name="session")
    page.get_by_role("button", name="Reconnect").click()
    expect_live(page)
    assert len(renewals) == 1
    names = {cookie["name"] for cookie in page.context.cookies()}
    assert {"session", "remember_token"} <= names
    post(page, "Still here")
    expect(message(page, "Still here")).to_be_visible()


def test_a_login_that_nothing_remembers_is_over(open_chat: OpenChat) -> None:
    ada = open_chat("ada")
    ada.get_by_role("button", name="Cut the connection").click()
    ada.context.clear_cookies()
    ada.get_by_role("button", name="Reconnect").click()
    expect_signed_out(ada)


@pytest.mark.parametrize("mode", MODES)
def test_who_is_put_out_of_a_room_sees_nothing_more_of_it(
    open_chat: OpenChat, server: Server
) -> None:
    ada, grace = open_chat("ada", ENGINE_ROOM), open_chat("grace", ENGINE_ROOM)
    expect(ada.locator("#here")).to_have_text("Here: Grace, you")
    put_out = Request(f"{server.url}/put-out/1/3", method="POST")
    with urlopen(put_out, timeout=DEADLINE):
        pass
    end = ada.get_by_role("status").filter(has_text="You can no longer read this room")
    expect(end).to_be_visible()
    expect(bodies(ada).first).to_be_hidden()
    expect(ada.locator("#here")).to_be_hidden()
    say(grace, "Without Ada")
    expect(message(grace, "Without Ada")).to_be_visible()
    expect(grace.locator("#here")).to_have_text("Here: you")
    # She is told that Releases has something new, over the same connection.
    post(grace, "For all", RELEASES)
    expect(ada.locator("a[href='/rooms/2'] .count")).to_have_text("2")
    assert "Without Ada" not in ada.content()
    end.get_by_role("link", name="To the other rooms").click()
    expect(ada.get_by_role("heading", name="Lounge")).to_be_visible()
    expect_live(ada)
