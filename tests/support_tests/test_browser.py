from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import running

if TYPE_CHECKING:
    from playwright.sync_api import Page

HELLO = Path(__file__).with_name("hello.py")


def test_each_user_has_cookies_of_their_own(new_user: Callable[..., Page]) -> None:
    with running(HELLO) as server:
        ada, bob = new_user(base_url=server.url), new_user(base_url=server.url)
        for page in (ada, bob):
            page.goto("/")
        ada.evaluate("document.cookie = 'name=ada'")
        assert ada.evaluate("document.cookie") == "name=ada"
        assert bob.evaluate("document.cookie") == ""


def test_no_page_reaches_another_host(new_user: Callable[..., Page]) -> None:
    from playwright.sync_api import Error

    with pytest.raises(Error, match="ERR_NAME_NOT_RESOLVED"):
        new_user().goto("http://example.com/")
