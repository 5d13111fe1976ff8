"""A blog with a Flask-SocketIO of its own comes up live, by what the docs say alone.

It is made by a factory, mounted below a path, and served by a gunicorn of long ago.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import socketio
from playwright.sync_api import Page, expect

from tests.support.gunicorns import OLD
from tests.support.servers import ROOT, Server
from tests.support.waiting import DEADLINE, until


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The blog's address; its server has said nothing but that it listens."""
    home: Path = tmp_path_factory.mktemp("blog")
    server = Server(
        [
            *(sys.executable, "-m", "gunicorn", "-c", "python:flask_livepush.gunicorn"),
            *("--bind", "127.0.0.1:0", "--threads", "8"),
            "tests.support.microblog:create_site()",
        ],
        name="gunicorn 21.2 with the blog",
        env={
            "BLOG_DATABASE": f"sqlite:///{home / 'blog.db'}",
            "PYTHONPATH": str(ROOT / ".venv" / "gunicorns" / OLD[0]),
        },
        cwd=ROOT,
    )
    try:
        found = server.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")
        server.wait_for("Booting worker")
        yield f"http://127.0.0.1:{found[1]}/blog"
        assert "Traceback" not in server.log
        assert "WARNING" not in server.log
    finally:
        server.stop()


def test_a_post_is_on_every_page_and_a_logout_ends_its_own(
    site: str, new_user: Callable[..., Page]
) -> None:
    ann, bob = new_user(), new_user()
    for page, name in ((ann, "ann"), (bob, "bob")):
        page.goto(f"{site}/login/{name}")
    for body in ("first", "second"):
        ann.get_by_label("Post").fill(body)
        ann.get_by_role("button").click()
        expect(bob.get_by_text(f"ann: {body}")).to_have_count(1)
        expect(ann.get_by_text(f"ann: {body}")).to_have_count(1)
    ann.context.new_page().goto(f"{site}/logout")
    expect(ann.locator("#state")).to_have_text("Signed out")
    bob.get_by_label("Post").fill("third")
    bob.get_by_role("button").click()
    expect(bob.get_by_text("bob: third")).to_have_count(1)
    expect(ann.get_by_text("bob: third")).to_have_count(0)


@contextmanager
def own_client(
    site: str, name: str, told: list[Any], **options: Any
) -> Iterator[socketio.Client]:
    """Connect as the blog's own pages did before.

    Their cookie comes with each request, which what is given as headers does not.
    """
    browser = requests.Session()
    browser.get(f"{site}/login/{name}", timeout=DEADLINE)
    client = socketio.Client(reconnection=False, http_session=browser)
    for event in ("hello", "writing"):
        client.on(event, lambda data, event=event: told.append((event, data)))
    origin, _, path = site.rpartition("/")
    client.connect(
        origin,
        socketio_path=f"{path}/socket.io",
        wait_timeout=DEADLINE,
        **options,
    )
    try:
        yield client
    finally:
        client.disconnect()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_its_own_events_go_on_as_they_did(site: str, transport: str) -> None:
    told: list[Any] = []
    others: list[Any] = []
    transports = [transport]
    with (
        own_client(site, "ann", told, auth={"v": 1}, transports=transports) as ann,
        own_client(site, "bob", others, auth="as text", transports=transports),
    ):
        until(lambda: told and others)
        assert told == [("hello", {"name": "ann", "auth": {"v": 1}})]
        assert others == [("hello", {"name": "bob", "auth": "as text"})]
        assert ann.call("writing", timeout=DEADLINE) == "told"
        until(lambda: len(others) > 1)
        assert others[1:] == [("writing", {"name": "ann"})]


@pytest.mark.parametrize(("name", "lets_in"), [("ann", True), ("bob", False)])
def test_its_own_namespace_lets_in_whom_it_did(
    site: str, name: str, lets_in: bool
) -> None:
    try:
        with own_client(site, name, [], namespaces=["/moderators"]):
            assert lets_in
    except socketio.exceptions.ConnectionError:
        assert not lets_in
