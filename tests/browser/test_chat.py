"""The chat in a real browser, as its users see it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from tests.support.servers import MODES, Server
from tests.support.system import require

from .chatting import (
    ENGINE_ROOM,
    LOUNGE,
    RELEASES,
    OpenChat,
    bodies,
    collect_errors,
    expect_live,
    expect_same_messages,
    log_in,
    message,
    post,
    say,
    send,
    unread,
)

# What a browser says when it has no network; the page can't keep it from doing so.
NO_NETWORK = re.compile(r"ERR_INTERNET_DISCONNECTED|ERR_CONNECTION_REFUSED")


# -- messages ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_two_users_see_what_each_other_says(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    expect(ada.locator("#state")).to_have_text("live · WebSocket")
    before = bodies(ada).count()
    say(ada, "Hello Bob")
    expect(message(bob, "Hello Bob")).to_be_visible()
    say(bob, "Hello Ada")
    say(bob, "Are you there?")
    expect(message(ada, "Are you there?")).to_be_visible()
    expect(bodies(ada)).to_have_count(before + 3)
    expect_same_messages(ada, bob)


def test_own_messages_are_shown_once_when_sent_faster_than_they_return(
    open_chat: OpenChat,
) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    before = bodies(ada).count()
    texts = [f"number {n}" for n in range(10)]
    for text in texts:
        say(ada, text)
    # Requests may overtake each other, on the way to the server: any order, but one.
    expect(bodies(bob)).to_have_count(before + 10)
    expect(bodies(ada)).to_have_count(before + 10)
    expect_same_messages(bob, ada)
    assert sorted(bodies(ada).all_text_contents()[before:]) == sorted(texts)


def test_own_message_is_shown_while_the_connection_is_cut(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    ada.get_by_role("button", name="Cut the connection").click()
    say(bob, "Before")
    expect(message(bob, "Before")).to_be_visible()
    say(ada, "After")
    expect(message(ada, "After")).to_be_visible()
    expect(message(ada, "Before")).to_have_count(0)
    ada.get_by_role("button", name="Reconnect").click()
    expect(ada.locator("#notice")).to_have_text(
        re.compile(r"^Back after \d+ s: 1 message caught up\.$")
    )
    expect_same_messages(bob, ada)


def test_edits_and_deletions_follow(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    ada.on("dialog", lambda dialog: dialog.accept())
    say(ada, "Helo")
    expect(message(bob, "Helo")).to_be_visible()
    expect(message(bob, "Helo").get_by_role("link", name="Edit")).to_have_count(0)

    message(ada, "Helo").hover()
    message(ada, "Helo").get_by_role("link", name="Edit").click()
    field = ada.get_by_role("textbox", name="Edit the message")
    expect(field).to_be_focused()
    field.fill("Hello")
    ada.get_by_role("button", name="Save").click()
    for page in (ada, bob):
        expect(message(page, "Hello").get_by_text("edited")).to_be_visible()
        expect(message(page, "Helo")).to_have_count(0)

    message(ada, "Hello").hover()
    message(ada, "Hello").get_by_role("button", name="Delete").click()
    for page in (bob, ada):
        expect(message(page, "Hello")).to_have_count(0)
    expect_same_messages(ada, bob)


def test_an_open_editor_survives_what_others_change(open_chat: OpenChat) -> None:
    ada, other_device = open_chat("ada"), open_chat("ada")
    number = post(other_device, "One")
    message(ada, "One").get_by_role("link", name="Edit").click()
    field = ada.get_by_role("textbox", name="Edit the message")
    field.fill("A draft")
    send(other_device, f"/messages/{number}/edit", body="Two")
    expect(message(other_device, "Two")).to_be_visible()
    expect(ada.locator(f"#body-{number}")).to_have_text("Two")
    expect(field).to_have_value("A draft")
    send(other_device, f"/messages/{number}/delete")
    expect(field).to_have_count(0)
    expect(ada.get_by_role("textbox", name="Message to")).to_be_focused()


def test_what_was_written_is_text_and_never_markup(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    text = "<img src=x onerror=\"document.title='broken'\"> </script> & {{ 7 * 7 }}"
    say(ada, text)
    for page in (ada, bob):
        expect(bodies(page).last).to_have_text(text)
    bob.reload()
    expect_live(bob)
    expect(bodies(bob).last).to_have_text(text)
    expect(bob.locator("#messages img")).to_have_count(0)


def test_keeps_the_text_when_it_could_not_be_sent(
    open_chat: OpenChat, errors: list[str]
) -> None:
    ada = open_chat("ada")
    ada.context.set_offline(True)
    say(ada, "Anybody?")
    expect(ada.locator("#notice")).to_have_text(
        "Not sent. The server cannot be reached; try again in a moment."
    )
    expect(ada.get_by_role("textbox", name="Message to")).to_have_value("Anybody?")
    ada.context.set_offline(False)
    expect_live(ada)
    ada.keyboard.press("Enter")
    expect(message(ada, "Anybody?")).to_be_visible()
    errors[:] = [text for text in errors if not NO_NETWORK.search(text)]


# -- convergence -------------------------------------------------------------------


def go_offline(page: Page) -> Callable[[], None]:
    page.context.set_offline(True)
    expect(page.locator("#badge")).to_have_attribute("data-state", "offline")
    return lambda: page.context.set_offline(False)


def cut(page: Page) -> Callable[[], None]:
    page.get_by_role("button", name="Cut the connection").click()
    expect(page.locator("#state")).to_have_text("offline")
    return page.get_by_role("button", name="Reconnect").click


@pytest.mark.parametrize("leave", [go_offline, cut])
def test_catches_up_with_what_it_missed(
    open_chat: OpenChat,
    errors: list[str],
    leave: Callable[[Page], Callable[[], None]],
) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    come_back = leave(bob)
    shown = bodies(bob).all_text_contents()
    missed = [f"number {n}" for n in range(20)]
    for text in missed:
        post(ada, text)
    expect(bodies(ada).last).to_have_text(missed[-1])
    expect(bodies(bob)).to_have_text(shown)
    come_back()
    expect(bob.locator("#notice")).to_have_text(
        re.compile(r"^Back after \d+ s: 20 messages caught up\.$")
    )
    expect(bodies(bob)).to_have_text([*shown, *missed])
    expect_same_messages(ada, bob)
    errors[:] = [text for text in errors if not NO_NETWORK.search(text)]


def test_starts_over_when_it_missed_more_than_is_kept(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    come_back = cut(bob)
    ada.context.request.post("/import/110")
    expect(bodies(ada).last).to_have_text("number 109")
    come_back()
    expect(bob.locator("#notice")).to_have_text(re.compile(": 100 messages caught up"))
    expect(bodies(bob)).to_have_text([f"number {n}" for n in range(10, 110)])


def test_shows_what_was_committed_between_rendering_and_joining(
    open_chat: OpenChat,
) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    edited, deleted = post(ada, "Edit me"), post(ada, "Delete me")
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    bob.route("**/livepush.js*", hold)
    bob.goto(LOUNGE, wait_until="commit")
    expect(message(bob, "Delete me")).to_be_visible()
    expect(bob.locator("#state")).to_have_text("connecting")
    post(ada, "New")
    send(ada, f"/messages/{edited}/edit", body="Edited")
    send(ada, f"/messages/{deleted}/delete")
    expect(message(ada, "Delete me")).to_have_count(0)
    assert message(bob, "New").count() == 0
    assert message(bob, "Delete me").count() == 1
    held[0].continue_()
    expect(message(bob, "New")).to_be_visible()
    expect(message(bob, "Edited")).to_be_visible()
    expect(message(bob, "Delete me")).to_have_count(0)
    expect_same_messages(ada, bob)


def test_converges_when_the_page_is_left_and_brought_back(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    bob.goto(RELEASES)
    post(ada, "While Bob was elsewhere")
    bob.go_back()
    expect_live(bob)
    expect(message(bob, "While Bob was elsewhere")).to_be_visible()
    bob.go_forward()
    post(ada, "Something for this room", room=RELEASES)
    expect(message(bob, "Something for this room")).to_be_visible()
    bob.go_back()
    bob.reload()
    say(ada, "And now live")
    expect(message(bob, "And now live")).to_be_visible()
    expect_same_messages(ada, bob)


def test_converges_when_the_browser_kept_the_page_as_it_was(
    browser: Browser, open_chat: OpenChat, server: Server, errors: list[str]
) -> None:
    """Playwright turns the back/forward cache off; this is a browser that has it."""
    ada = open_chat("ada")
    # Chromium refuses to run as root with its sandbox.
    root = ["--no-sandbox"] if os.geteuid() == 0 else []
    with browser.browser_type.launch(
        executable_path=require("chromium"),
        ignore_default_args=["--disable-back-forward-cache"],
        args=["--headless=new", "--disable-gpu", *root],
    ) as keeping:
        bob = keeping.new_context(base_url=server.url).new_page()
        collect_errors(bob.context, errors)
        log_in(bob, "bob")
        bob.goto(LOUNGE)
        expect_live(bob)
        bob.evaluate(
            "addEventListener('pageshow', e => { document.body.dataset.kept ="
            " e.persisted })"
        )
        bob.goto(RELEASES)
        expect_live(bob)
        post(ada, "While Bob was elsewhere")
        bob.evaluate("history.back()")
        expect(bob.locator("body")).to_have_attribute("data-kept", "true")
        expect(message(bob, "While Bob was elsewhere")).to_be_visible()
        say(ada, "And now live")
        expect(message(bob, "And now live")).to_be_visible()
        expect_same_messages(ada, bob)


def test_works_over_polling_alone(open_chat: OpenChat, errors: list[str]) -> None:
    ada = open_chat("ada")
    bob = open_chat("bob", RELEASES)
    # As with a proxy that knows nothing of WebSockets.
    bob.add_init_script(
        """window.WebSocket = class extends WebSocket {
            constructor(url, ...others) {
                super(url.replace("/socket.io/", "/not-found/"), ...others);
            }
        }"""
    )
    bob.goto(LOUNGE)
    expect(bob.locator("#state")).to_have_text("live · polling")
    say(ada, "Hello Bob")
    expect(message(bob, "Hello Bob")).to_be_visible()
    say(bob, "Hello Ada")
    expect(message(ada, "Hello Ada")).to_be_visible()
    expect_same_messages(ada, bob)
    assert all("/not-found/" in text for text in errors)
    errors.clear()


# -- who may see what, and what is unread --------------------------------------------


def test_a_private_room_refuses_who_is_no_member(
    open_chat: OpenChat, errors: list[str]
) -> None:
    ada, bob = open_chat("ada", ENGINE_ROOM), open_chat("bob")
    expect(ada.get_by_role("link", name="Engine room private")).to_be_visible()
    expect(bob.get_by_role("link", name="Engine room")).to_have_count(0)
    refused = bob.evaluate(
        """() => new Promise((resolve) => {
            const room = LivePush.connect().room("chat:3");
            const seen = [];
            room.on("message.created", (row) => seen.push(row));
            room.status.subscribe((state) => {
                if (state === "refused") resolve({ ...room.error, seen });
            });
        })"""
    )
    assert refused["code"] == 103
    assert not refused["temporary"]
    assert refused["seen"] == []
    [warning] = errors
    assert 'refused the room "chat:3" (code 103;' in warning
    errors.clear()

    for room in (ENGINE_ROOM, "/rooms/99"):
        answer = bob.goto(room)
        assert answer is not None
        assert answer.status == 404
        heading = bob.get_by_role("heading", name="Not Found")
        expect(heading).to_be_visible()
    assert "Only the two of us" not in bob.content()
    bob.get_by_role("link", name="To the chat").click()
    expect_live(bob)
    assert all("404" in text for text in errors)
    errors.clear()


def test_counts_what_is_unread_as_it_comes(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    other_device = open_chat("bob")
    expect(unread(bob, RELEASES)).to_have_text("2")
    number = post(ada, "Three", room=RELEASES)
    post(ada, "Four", room=RELEASES)
    for page in (bob, other_device):
        expect(unread(page, RELEASES)).to_have_text("4")
        expect(page).to_have_title(re.compile(r"^\(4\) Lounge"))
    send(ada, f"/messages/{number}/delete")
    expect(unread(bob, RELEASES)).to_have_text("3")
    # One's own are read, and so is what is on the screen.
    post(bob, "Five", room=RELEASES)
    say(ada, "In the room that is open")
    expect(message(bob, "In the room that is open")).to_be_visible()
    expect(unread(bob, LOUNGE)).to_be_hidden()

    come_back = cut(other_device)
    post(ada, "Six", room=RELEASES)
    expect(unread(bob, RELEASES)).to_have_text("4")
    come_back()
    expect(unread(other_device, RELEASES)).to_have_text("4")

    bob.get_by_role("link", name="Releases").click()
    expect(unread(bob, RELEASES)).to_be_hidden()
    expect(unread(other_device, RELEASES)).to_be_hidden()
    # What comes while the room is open is read, on the other devices too.
    say(ada, "Elsewhere")
    expect(unread(bob, LOUNGE)).to_have_text("1")
    post(ada, "Seven", room=RELEASES)
    expect(message(bob, "Seven")).to_be_visible()
    expect(unread(other_device, RELEASES)).to_be_hidden()
    other_device.reload()
    expect_live(other_device)
    expect(unread(other_device, RELEASES)).to_be_hidden()


def test_shows_who_is_here_and_who_is_typing(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    expect(ada.locator("#here")).to_have_text("Here: Bob, you")
    expect(bob.locator("#here")).to_have_text("Here: Ada, you")
    again = open_chat("bob")
    expect(again.locator("#here")).to_have_text("Here: Ada, you")
    typing = ada.locator("#typing")
    expect(typing).to_have_text("")
    bob.get_by_role("textbox", name="Message to").press_sequentially("Hm")
    expect(typing).to_have_text("Bob is typing…")
    expect(again.locator("#typing")).to_have_text("")
    expect(typing).to_have_text("")  # after three seconds of nothing
    bob.get_by_role("textbox", name="Message to").press_sequentially("Yes")
    expect(typing).to_have_text("Bob is typing…")
    bob.keyboard.press("Enter")
    expect(message(ada, "HmYes")).to_be_visible()
    expect(typing).to_have_text("")
    bob.close()
    again.close()
    expect(ada.locator("#here")).to_have_text("Here: you")


def test_a_member_of_no_private_room_hears_nothing_of_it(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    post(ada, "Secret", room=ENGINE_ROOM)
    post(ada, "Public", room=RELEASES)
    expect(unread(bob, RELEASES)).to_have_text("3")
    expect(bob).to_have_title(re.compile(r"^\(3\) "))


def test_works_without_javascript(open_chat: OpenChat) -> None:
    ada = open_chat("ada", java_script_enabled=False)
    bob = open_chat("bob")
    expect(ada.get_by_text("Without JavaScript, reload")).to_be_visible()
    expect(ada.get_by_role("button", name="Cut the connection")).to_be_hidden()
    ada.get_by_role("textbox", name="Message to").fill("Helo\nBob")
    ada.get_by_role("button", name="Send").click()
    expect(message(ada, "Helo Bob")).to_be_visible()
    expect(message(bob, "Helo Bob")).to_be_visible()

    message(ada, "Helo Bob").get_by_role("link", name="Edit").click()
    field = ada.get_by_label("Message")
    expect(field).to_have_value("Helo\nBob")
    field.fill("Hello")
    ada.get_by_role("button", name="Save").click()
    expect(message(ada, "Hello").get_by_text("edited")).to_be_visible()
    expect(message(bob, "Hello")).to_be_visible()

    say(bob, "Do you see me?")
    expect(message(bob, "Do you see me?")).to_be_visible()
    ada.reload()
    expect(message(ada, "Do you see me?")).to_be_visible()

    message(ada, "Hello").get_by_role("button", name="Delete").click()
    for page in (ada, bob):
        expect(message(page, "Hello")).to_have_count(0)
    expect(unread(ada, RELEASES)).to_have_text("1")
    ada.get_by_role("link", name="Releases").click()
    expect(unread(ada, RELEASES)).to_be_hidden()
    ada.get_by_role("button", name="Log out").click()
    expect(ada.get_by_role("button", name="Log in")).to_be_visible()


def test_logs_in_by_name_and_password(
    new_user: Callable[..., Page], server: Server, errors: list[str]
) -> None:
    page = new_user(base_url=server.url)
    collect_errors(page.context, errors)
    page.goto(RELEASES)
    expect(page.get_by_label("Name")).to_be_focused()
    for password in ("wrong", "demo"):
        page.get_by_label("Name").fill("ADA")
        page.get_by_label("Password").fill(password)
        page.keyboard.press("Enter")
        if password == "wrong":
            alert = page.get_by_role("alert")
            expect(alert).to_have_text("No user has this name and password.")
            expect(page.get_by_label("Name")).to_have_value("ADA")
    expect(page.get_by_role("heading", name="Lounge")).to_be_visible()
    expect_live(page)
    assert all("401" in text for text in errors)
    errors.clear()


def test_goes_to_the_login_when_it_is_logged_out_elsewhere(open_chat: OpenChat) -> None:
    ada = open_chat("ada")
    ada.context.clear_cookies()
    say(ada, "Am I still here?")
    expect(ada.get_by_role("button", name="Log in")).to_be_visible()


# -- everybody can use it --------------------------------------------------------------


def test_can_be_used_with_the_keyboard_alone(open_chat: OpenChat) -> None:
    ada, bob = open_chat("ada"), open_chat("bob")
    ada.on("dialog", lambda dialog: dialog.accept())
    ada.keyboard.press("Tab")
    expect(ada.get_by_role("link", name="Skip to writing")).to_be_focused()
    expect(ada.get_by_role("link", name="Skip to writing")).to_be_in_viewport()
    ada.keyboard.press("Enter")
    composer = ada.get_by_role("textbox", name="Message to Lounge")
    expect(composer).to_be_focused()
    ada.keyboard.type("Line one")
    ada.keyboard.press("Shift+Enter")
    ada.keyboard.type("line two")
    ada.keyboard.press("Enter")
    expect(bodies(bob).last).to_have_text("Line one\nline two", use_inner_text=True)
    expect(composer).to_be_focused()
    expect(composer).to_have_value("")

    own = ada.locator(".message").last
    # Bob may have it before she does.
    expect(own).to_contain_text("Line one")
    expect(own.get_by_role("button", name="Delete")).to_be_attached()
    ada.keyboard.press("Shift+Tab")
    expect(own.get_by_role("button", name="Delete")).to_be_focused()
    expect(own.locator(".actions")).to_have_css("opacity", "1")
    ada.keyboard.press("Shift+Tab")
    expect(own.get_by_role("link", name="Edit")).to_be_focused()
    ada.keyboard.press("Enter")
    field = ada.get_by_role("textbox", name="Edit the message")
    expect(field).to_be_focused()
    ada.keyboard.press("Escape")
    expect(field).to_have_count(0)
    expect(own.get_by_role("link", name="Edit")).to_be_focused()
    ada.keyboard.press("Enter")
    expect(field).to_be_focused()
    ada.keyboard.press("Control+a")
    ada.keyboard.type("Better")
    ada.keyboard.press("Enter")
    expect(message(bob, "Better")).to_be_visible()
    expect(own.get_by_role("link", name="Edit")).to_be_focused()
    ada.keyboard.press("Tab")
    ada.keyboard.press("Enter")
    expect(message(bob, "Better")).to_have_count(0)
    expect(composer).to_be_focused()

    outlines = []
    for _ in range(6):
        ada.keyboard.press("Shift+Tab")
        outlines.append(
            ada.evaluate("getComputedStyle(document.activeElement).outline")
        )
    assert all("solid 3px" in outline or "3px" in outline for outline in outlines)


def test_says_what_everything_is(open_chat: OpenChat) -> None:
    ada = open_chat("ada")
    expect(ada.locator("body")).to_match_aria_snapshot(
        """
        - banner:
          - navigation "Rooms":
            - list:
              - listitem:
                - link "Lounge"
              - listitem:
                - link "Releases 1 unread"
              - listitem:
                - link "Engine room private 1 unread"
          - button "Log out"
        - main:
          - heading "Lounge" [level=1]
          - status: live · WebSocket
          - button "Cut the connection"
          - log "Messages in Lounge":
            - list
          - textbox "Message to Lounge"
          - button "Send"
        """
    )
    link = ada.get_by_role("link", name="Lounge")
    expect(link).to_have_attribute("aria-current", "page")
    log = ada.get_by_role("log")
    expect(log).to_have_attribute("aria-live", "polite")
    own = ada.locator(".message.mine").first
    expect(own.get_by_role("button", name="Delete")).to_have_accessible_description(
        "Thanks, I will have a look at it before lunch."
    )
    assert ada.evaluate(
        "new Set([...document.querySelectorAll('[id]')].map(e => e.id)).size"
    ) == (ada.locator("[id]").count())


# Relative luminance and contrast as WCAG 2.2 defines them, of each element that has a
# text of its own against the first background behind it that is not transparent.
CONTRASTS = """() => {
    const channels = (colour) => colour.match(/[\\d.]+/g).map(Number);
    const luminance = (colour) => channels(colour).slice(0, 3).map((c) => c / 255)
        .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
        .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (let e = element; e; e = e.parentElement) {
            const colour = getComputedStyle(e).backgroundColor;
            const alpha = channels(colour)[3] ?? 1;
            if (alpha === 1) return colour;
            if (alpha !== 0) throw new Error(`${colour} can be seen through`);
        }
        return "rgb(255, 255, 255)";
    };
    const found = [];
    const ratio = (name, colour, element) => {
        const [light, dark] = [luminance(colour), luminance(behind(element))]
            .sort((a, b) => b - a);
        found.push([name, (light + 0.05) / (dark + 0.05)]);
    };
    for (const element of document.querySelectorAll("body, body *")) {
        if (!element.checkVisibility() || element.closest("script, template")) continue;
        const name = `${element.tagName}.${element.className}`;
        const isText = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
        const pseudo = element.placeholder ? "::placeholder" : null;
        if (pseudo || [...element.childNodes].some(isText)) {
            ratio(name, getComputedStyle(element, pseudo).color, element);
        }
    }
    return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_their_background(
    open_chat: OpenChat, scheme: str
) -> None:
    ada = open_chat("ada", color_scheme=scheme)
    say(ada, "A message of my own")
    message(ada, "A message of my own").hover()
    cut(ada)
    for _ in range(2):
        contrasts = ada.evaluate(CONTRASTS)
        assert len(contrasts) >= 5
        assert [found for found in contrasts if found[1] < 4.5] == []
        ada.context.clear_cookies()
        ada.goto("/login")
    assert ada.evaluate("getComputedStyle(document.body).colorScheme") == scheme


@pytest.mark.parametrize("width", [360, 1280])
def test_fits_the_screen_and_nothing_moves_while_it_starts(
    open_chat: OpenChat, width: int
) -> None:
    ada = open_chat("ada", viewport={"width": width, "height": 700})
    say(ada, "A word as long as a line, or even longer: " + "M" * 300)
    expect(bodies(ada).last).to_have_text(re.compile("M{300}"))
    ada.reload()
    expect_live(ada)
    for size in ("scrollWidth", "scrollHeight"):
        client = size.replace("scroll", "client")
        root = "document.documentElement"
        assert ada.evaluate(f"{root}.{size} <= {root}.{client}")
    expect(bodies(ada).last).to_be_in_viewport()
    expect(ada.get_by_role("button", name="Send")).to_be_in_viewport(ratio=1)
    expect(ada.get_by_role("button", name="Cut")).to_be_in_viewport(ratio=1)
    shifts = ada.evaluate(
        """() => new Promise((resolve) => {
            const seen = (list) => resolve(list.getEntries().map((e) => e.value));
            const wanted = { type: "layout-shift", buffered: true };
            new PerformanceObserver(seen).observe(wanted);
            requestAnimationFrame(() => requestAnimationFrame(() => resolve([])));
        })"""
    )
    assert sum(shifts) < 0.001
