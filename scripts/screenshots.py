"""Take the pictures of the chat for the documentation.

    .venv/bin/python -m scripts.screenshots

They go to ``docs/images``: two users side by side, and a phone in the dark. Chromium is
the system's, as for the browser tests; texts are in the system's own font.
"""

from __future__ import annotations

import base64
import os
import re
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.servers import Program
from tests.support.system import find

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
WINDOW = {"width": 800, "height": 620}
PHONE = {"width": 390, "height": 780}

SIDE_BY_SIDE = """
<style>
  body { display: flex; gap: 32px; margin: 0; padding: 36px; background: #dfe3ef; }
  figure { margin: 0; border-radius: 14px; overflow: hidden; background: #fff;
    box-shadow: 0 0 0 1px rgb(20 24 50 / 12%), 0 18px 40px rgb(20 24 50 / 16%); }
  figcaption { display: flex; gap: 8px; padding: 13px 16px; background: #f6f7fb;
    border-bottom: 1px solid #dde0ea; }
  i { width: 12px; height: 12px; border-radius: 50%; background: #c9cddb; }
  img { display: block; }
</style>
"""
FIGURE = "<figure><figcaption><i></i><i></i><i></i></figcaption>{}</figure>"


def main() -> int:
    """Take both; return the exit status."""
    executable = find("chromium")
    if executable is None:
        print("Chromium is not installed (as root on Debian: make system)")
        return 1
    IMAGES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        server = Program(
            [sys.executable, "-m", "example_app", "--port", "0"],
            name="example_app",
            env={"DATABASE_URL": f"sqlite:///{directory}/chat.sqlite3"},
        )
        try:
            url = server.wait_for(r"http://\S+:\d+")[0]
            # Chromium refuses to run as root with its sandbox.
            root = ["--no-sandbox"] if os.geteuid() == 0 else []
            browser = playwright.chromium.launch(
                executable_path=executable, args=["--headless=new", *root]
            )
            take(browser, url)
            browser.close()
        finally:
            server.stop()
    for path in sorted(IMAGES.glob("chat-*.png")):
        print(f"{path.relative_to(ROOT)}  {path.stat().st_size // 1000} kB")
    return 0


def take(browser: Browser, url: str) -> None:
    """Let the users talk, and take the pictures."""
    ada = open_chat(browser, url, "ada", viewport=WINDOW)
    bob = open_chat(browser, url, "bob", viewport=WINDOW)
    phone = open_chat(
        browser,
        url,
        "bob",
        viewport=PHONE,
        color_scheme="dark",
        device_scale_factor=2,
        has_touch=True,
        is_mobile=True,
    )
    say(bob, ada, "Then I am on my way. There is a tunnel, I may be gone for a moment.")
    for page in (bob, phone):
        page.get_by_role("button", name="Cut the connection").click()
    say(ada, ada, "Take your time.")
    say(ada, ada, "Meanwhile: the tests are green, all of them.")
    say(ada, ada, "I post the numbers in Releases.")
    ada.get_by_role("link", name="Releases").click()
    say(ada, ada, "612 tests, none skipped.")
    ada.get_by_role("link", name="Lounge").click()
    bob.wait_for_timeout(8_000)  # a tunnel of that length
    for page in (bob, phone):
        page.get_by_role("button", name="Reconnect").click()
        expect(page.locator("#notice")).to_have_text(re.compile("3 messages caught up"))
        page.evaluate("document.activeElement.blur()")
    expect(ada.locator("#badge")).to_have_attribute("data-state", "live")
    ada.locator(".message.mine").last.hover()
    ada.wait_for_timeout(500)  # for what fades in

    phone.screenshot(path=IMAGES / "chat-dark.png")
    pictures = [base64.b64encode(page.screenshot()).decode() for page in (ada, bob)]
    both = browser.new_page(viewport={"width": 1704, "height": 733})
    figures = [
        FIGURE.format(f'<img src="data:image/png;base64,{picture}">')
        for picture in pictures
    ]
    both.set_content(SIDE_BY_SIDE + "".join(figures))
    both.screenshot(path=IMAGES / "chat-light.png")


def open_chat(browser: Browser, url: str, name: str, **options: object) -> Page:
    """Open a window and log a user in."""
    page = browser.new_context(base_url=url, **options).new_page()  # type: ignore[arg-type]
    page.goto("/login")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill("demo")
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("#badge")).to_have_attribute("data-state", "live")
    return page


def say(page: Page, reader: Page, text: str) -> None:
    """Write a message, and wait until another page shows it."""
    page.get_by_role("textbox", name="Message to").fill(text)
    page.keyboard.press("Enter")
    expect(reader.get_by_text(text)).to_be_visible()


if __name__ == "__main__":
    sys.exit(main())
