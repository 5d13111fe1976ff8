"""Pages start from the position they were rendered at, read before anything queries."""

from __future__ import annotations

import json
import logging
import re
from typing import Any

import pytest
from flask import Flask, render_template_string
from flask.signals import request_started
from flask.testing import FlaskClient
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush import BrokerUnavailable, LivePush, UsageError

ELEMENT = re.compile(
    r'<script type="application/json" data-livepush-room>(.*?)</script>', re.DOTALL
)


class Site:
    """An application with one page of a room, and a database."""

    def __init__(self, **config: Any) -> None:
        self.app = Flask("site")
        self.app.config.update(SQLALCHEMY_DATABASE_URI="sqlite://", **config)
        self.db = db = SQLAlchemy(self.app)
        self.livepush = livepush = LivePush(self.app)
        self.chat = livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
        self.lobby = livepush.room("lobby")(lambda user: True)

        @livepush.track(rooms=self.chat, fields=("id", "body"))
        class Message(db.Model):  # type: ignore[name-defined,misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int]
            body: Mapped[str]

        self.message = Message
        with self.app.app_context():
            db.create_all()

        @self.app.get("/rooms/<int:room_id>")
        @livepush.page("lobby")
        @livepush.page("chat:<int:room_id>")
        def show(room_id: int) -> str:
            count = db.session.query(Message).filter_by(room_id=room_id).count()
            return render_template_string(
                "{{ count }} {{ livepush_room('chat:%d' % room_id) }}"
                "{{ livepush_room('lobby') }}{{ livepush_script(nonce='a\"b') }}",
                count=count,
                room_id=room_id,
            )

        @self.app.get("/names/<name>")
        @livepush.page(livepush.user)
        def wrong(name: str) -> str:
            raise AssertionError

        @self.app.get("/plain")
        def plain() -> str:
            return render_template_string("{{ livepush_room('lobby') }}")

    def client(self) -> FlaskClient:
        return self.app.test_client()

    def commit(self) -> None:
        self.db.session.add(self.message(room_id=42, body="x"))
        self.db.session.commit()

    def page(self) -> tuple[str, dict[str, Any]]:
        """Return how many messages the page shows, and where it says it stands."""
        text = self.client().get("/rooms/42").text
        return text.split()[0], json.loads(ELEMENT.findall(text)[0])


def test_a_page_says_where_its_rooms_stand() -> None:
    site = Site()
    with site.app.app_context():
        site.commit()
        position = site.livepush.position("chat:42")
    count, place = site.page()
    assert count == "1"
    assert place == {"room": "chat:42", "epoch": position.epoch, "offset": 1}
    text = site.client().get("/rooms/42").text
    assert json.loads(ELEMENT.findall(text)[1])["room"] == "lobby"


def test_the_position_is_read_before_what_comes_before_the_view() -> None:
    """What is committed between is in the page and comes again, but is never missed."""
    site = Site()
    position = site.livepush.position("chat:42")

    def query_then_commit() -> None:
        site.db.session.query(site.message).count()
        site.db.session.rollback()
        site.commit()

    # Before all others, as one that was declared before the extension was set up.
    site.app.before_request_funcs.setdefault(None, []).insert(0, query_then_commit)
    count, place = site.page()
    assert count == "1"
    assert place["offset"] == position.offset == 0


def test_the_page_of_an_old_transaction_has_no_position() -> None:
    """What the view reads in it may be older than any position read now."""
    # Connected first, as by an extension that was set up before.
    early = Flask("early")
    early.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(early)

    def query(sender: Flask, **_: Any) -> None:
        db.session.execute(db.text("SELECT 1"))

    request_started.connect(query, early)
    livepush = LivePush(early)
    livepush.room("lobby")(lambda user: True)

    @early.get("/")
    @livepush.page("lobby")
    def show() -> str:
        return render_template_string("{{ livepush_room('lobby') }}")

    (element,) = ELEMENT.findall(early.test_client().get("/").text)
    assert json.loads(element) == {"room": "lobby", "epoch": None, "offset": None}


def test_a_page_is_shown_when_the_broker_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site()

    def away(room: str) -> None:
        raise BrokerUnavailable("away")

    pages = site.app.jinja_env.globals["livepush_room"].__self__
    monkeypatch.setattr(pages, "_position", away)
    with caplog.at_level(logging.ERROR):
        count, place = site.page()
    assert (count, place["epoch"]) == ("0", None)
    assert "away" in caplog.text


def test_the_element_works_in_the_page_of_that_room_alone() -> None:
    site = Site(TESTING=True)
    with pytest.raises(UsageError, match=r"@livepush\.page"):
        site.client().get("/plain")
    with (
        site.app.app_context(),
        pytest.raises(UsageError, match=r"livepush_room\('lobby'\)"),
    ):
        render_template_string("{{ livepush_room('lobby') }}")
    with (
        site.app.test_request_context("/rooms/42"),
        pytest.raises(UsageError),
    ):
        render_template_string("{{ livepush_room('chat:43') }}")


def test_says_when_a_views_url_lacks_the_rooms_variable() -> None:
    site = Site(TESTING=True)
    with pytest.raises(UsageError, match=r"'wrong': its URL has no 'user_id'; name"):
        site.client().get("/names/x")


def test_says_when_no_room_has_the_pattern() -> None:
    site = Site(TESTING=True)
    site.app.add_url_rule(
        "/x", "x", site.livepush.page("chats:<int:room_id>")(lambda: "")
    )
    with pytest.raises(UsageError, match="no room has this pattern"):
        site.client().get("/x")


def test_leaves_a_url_that_names_no_room_to_the_view() -> None:
    """Bug: any visitor could have an error 500, with a traceback in the log."""
    site = Site()

    @site.app.get("/any/<int:room_id>")
    @site.livepush.page(site.chat)
    def any_room(room_id: int) -> tuple[str, int]:
        return "no such room", 404

    assert site.client().get(f"/any/{10**30}").status_code == 404
    assert site.client().get("/any/7").status_code == 404


def test_the_script_may_be_cached_for_a_year_at_its_own_address() -> None:
    site = Site()
    text = site.client().get("/rooms/42").text
    source = re.search(r'<script src="(.*?)" nonce="(.*?)"></script>', text)
    assert source is not None
    assert source[2] == "a&#34;b"
    answer = site.client().get(source[1])
    assert answer.status_code == 200
    assert answer.mimetype == "text/javascript"
    assert "LivePush" in answer.text
    cache = answer.cache_control
    assert (cache.max_age, cache.public, cache.immutable) == (31536000, True, True)
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("query", ["", "?v=", "?v=0123456789abcdef"])
def test_the_script_is_checked_again_at_any_other_address(query: str) -> None:
    site = Site(LIVEPUSH_URL_PREFIX="/push/it")
    answer = site.client().get(f"/push/it/livepush.js{query}")
    assert answer.cache_control.no_cache
    assert answer.cache_control.max_age is None
    tag = answer.headers["ETag"]
    again = site.client().get(
        f"/push/it/livepush.js{query}", headers={"If-None-Match": tag}
    )
    assert again.status_code == 304
    assert again.data == b""
