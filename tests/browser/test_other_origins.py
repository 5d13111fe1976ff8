"""A page on another site, whose cookies the browser keeps to itself.

The page is at 127.0.0.1, what it connects to at localhost: for cookies these are two
sites. The browser's windows block third-party cookies, which is looked at first. What
the pages do is what the docs tell, word for word but for the address.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from playwright.sync_api import Page

from tests.support.servers import ROOT, Server, running, start
from tests.support.waiting import DEADLINE, until

HERE = Path(__file__).parent
TRANSPORTS = ["websocket", "polling"]
TOKEN = "auth: async () => ({ token: await freshToken() })"


class Api:
    """The API, which a test may start again where it was."""

    def __init__(self, engine: str, origin: str) -> None:
        self._env = {"FLASK_LIVEPUSH_ENGINE": engine}
        self._origin = origin
        self.server = start(HERE / "api.py", origin, env=self._env)
        self.port = self.server.port
        #: As pages of the other site know it.
        self.url = f"http://localhost:{self.port}"

    def start_again(self) -> None:
        self.server.stop()
        self.server = start(HERE / "api.py", self._origin, self.port, env=self._env)

    def get(self, path: str, method: str = "GET") -> str:
        request = Request(f"{self.server.url}{path}", method=method)
        with urlopen(request, timeout=DEADLINE) as answer:
            return str(answer.read().decode())

    @property
    def seen(self) -> dict[str, Any]:
        return dict(json.loads(self.get("/seen")))

    def asked(self, method: str, path: str) -> list[dict[str, Any]]:
        found = self.seen["requests"]
        return [one for one in found if (one["method"], one["path"]) == (method, path)]


@pytest.fixture(scope="module")
def pages() -> Iterator[Server]:
    with running(HERE / "elsewhere.py") as server:
        yield server


@pytest.fixture(params=["loop", "stock"])
def api(request: pytest.FixtureRequest, pages: Server) -> Iterator[Api]:
    api = Api(request.param, pages.url)
    yield api
    api.server.stop()


@pytest.fixture
def page(new_user: Callable[..., Page], api: Api) -> Page:
    """A window in which the API has logged a user in by a cookie."""
    page = new_user()
    page.goto(f"{api.url}/login")
    return page


def snippet(path: str, words: str, api: Api) -> str:
    """Return the example of a page of the docs that has some words in it."""
    blocks = (ROOT / path).read_text().split("```js\n")[1:]
    (found,) = [text.split("```")[0] for text in blocks if words in text]
    address = "https://api.example"
    return found.replace(f"{address}.com", api.url).replace(address, api.url)


def visit(page: Page, url: str, transport: str) -> None:
    if transport == "polling":
        page.add_init_script("delete globalThis.WebSocket")
    page.goto(url)


def give(page: Page, token: str) -> None:
    """Let the page have a token; it asks for one with each connection."""
    page.evaluate("text => { globalThis.freshToken = async () => text }", token)


def becomes(page: Page, state: str) -> None:
    page.wait_for_function("state => client?.state === state", arg=state)


def hears(page: Page, api: Api, text: str) -> None:
    api.get(f"/say/{text}", "POST")
    page.wait_for_function("text => said.includes(text)", arg=text)


def codes(page: Page) -> list[int]:
    return list(page.evaluate("refusals.map((error) => error.code)"))


def ask_with_cookies(page: Page, api: Api) -> None:
    """Ask the API by HTTP and by WebSocket for what cookies are good for."""
    page.evaluate(
        """async (url) => {
          const answer = fetch(url + "/livepush/login", { credentials: "include" });
          await answer.catch(() => null);
          const address = url.replace("http", "ws") + "/socket.io/?EIO=4&transport=";
          const socket = new WebSocket(address + "websocket");
          await new Promise((done) => { socket.onmessage = socket.onerror = done; });
          socket.close();
        }""",
        api.url,
    )


def cookies_of(api: Api, origin: str) -> list[bool]:
    found = [one for one in api.seen["requests"] if one["origin"] == origin]
    return [one["cookie"] is not None for one in found]


@pytest.mark.parametrize("api", ["loop"], indirect=True)
def test_no_cookie_comes_from_another_site(page: Page, api: Api, pages: Server) -> None:
    """What all the rest stands on; the same page on the same site does send it."""
    page.goto(pages.url)
    ask_with_cookies(page, api)
    assert cookies_of(api, pages.url) == [False, False]
    same_site = f"http://localhost:{pages.port}"
    page.goto(same_site)
    ask_with_cookies(page, api)
    assert cookies_of(api, same_site) == [True, True]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_token_says_who_it_is(
    page: Page, api: Api, pages: Server, transport: str
) -> None:
    visit(page, pages.url, transport)
    give(page, api.get("/token/60"))
    page.add_script_tag(content=snippet("client/README.md", TOKEN, api))
    becomes(page, "live")
    assert page.evaluate("client.transport") == transport
    hears(page, api, "one")
    assert api.seen["connects"] == [{}]
    if transport == "polling":
        preflights = api.asked("OPTIONS", "/socket.io/")
        assert {one["asked"] for one in preflights} >= {"livepush-key"}
        keys = {one["key"] for one in api.asked("GET", "/socket.io/")}
        assert len(keys) == 1
        assert None not in keys
    # A deploy: the page comes back with the token that is good by then.
    give(page, api.get("/token/3600"))
    api.start_again()
    until(lambda: api.seen["connects"])
    becomes(page, "live")
    hears(page, api, "two")
    assert codes(page) == []
    # It has expired by the time that it is asked for again.
    give(page, api.get("/token/-1"))
    api.get("/cut", "POST")
    becomes(page, "refused")
    assert codes(page) == [103]
    api.get("/say/secret", "POST")
    assert "secret" not in page.evaluate("said")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_token_that_expires_meanwhile_ends_its_connection(
    page: Page, api: Api, pages: Server, transport: str
) -> None:
    visit(page, pages.url, transport)
    give(page, api.get("/token/8"))
    page.add_script_tag(content=snippet("client/README.md", TOKEN, api))
    becomes(page, "live")
    becomes(page, "refused")
    assert codes(page) == [103]
    until(lambda: api.seen["open"] == 0)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("doc", ["docs/logins.md", "client/README.md"])
def test_a_ticket_is_got_for_each_connection(
    page: Page, api: Api, pages: Server, transport: str, doc: str
) -> None:
    visit(page, pages.url, transport)
    page.evaluate("globalThis.token = globalThis.key = 'key-of-1'")
    page.add_script_tag(content=snippet(doc, "/livepush/ticket", api))
    becomes(page, "live")
    hears(page, api, "one")
    (preflight,) = api.asked("OPTIONS", "/livepush/ticket")
    assert preflight["asked"] == "authorization"
    assert len(api.asked("GET", "/livepush/ticket")) == 1
    api.get("/cut", "POST")
    until(lambda: len(api.seen["connects"]) == 2)
    becomes(page, "live")
    hears(page, api, "two")
    assert len(api.asked("GET", "/livepush/ticket")) == 2
    assert api.seen["connects"] == [{}, {}]
    assert codes(page) == []


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_ticket_is_good_once(
    page: Page, api: Api, pages: Server, transport: str
) -> None:
    visit(page, pages.url, transport)
    page.evaluate(
        """async (url) => {
          const headers = { Authorization: "Bearer key-of-1" };
          const answer = await fetch(url + "/livepush/ticket", { headers });
          LivePush.connect({ url, auth: await answer.json() });
        }""",
        api.url,
    )
    becomes(page, "live")
    hears(page, api, "one")
    api.get("/cut", "POST")
    becomes(page, "refused")
    assert codes(page) == [103]
    assert len(api.seen["connects"]) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_origin_that_is_not_listed_gets_nothing(
    page: Page, api: Api, transport: str, host: str
) -> None:
    """Neither one of another site nor one of the API's own, whose cookies are sent."""
    with running(HERE / "elsewhere.py") as others:
        origin = f"http://{host}:{others.port}"
        visit(page, origin, transport)
        give(page, api.get("/token/60"))
        page.add_script_tag(content=snippet("client/README.md", TOKEN, api))

        def tried() -> int:
            found = api.seen["requests"]
            return sum(
                one["origin"] == origin and one["path"] == "/socket.io/"
                for one in found
            )

        until(lambda: tried() >= 2)
        got = page.evaluate(
            """(url) => fetch(url + "/livepush/ticket", {
              headers: { Authorization: "Bearer key-of-1" },
            }).then(() => "something", () => "nothing")""",
            api.url,
        )
        assert got == "nothing"
        assert api.asked("GET", "/livepush/ticket") == []
        assert page.evaluate("states.includes('live')") is False
        assert api.seen["connects"] == []
        assert api.seen["open"] == 0
