"""Pages start from the position they were rendered at, read before anything queries."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, g, render_template_string, request
from flask.signals import appcontext_pushed
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_user
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column
from werkzeug.middleware.dispatcher import DispatcherMiddleware
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.test import Client

from flask_livepush import (
    BrokerUnavailable,
    ConfigError,
    LivePush,
    UsageError,
    signals,
)
from tests.support.following import outgoing_of

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
        @livepush.page(self.chat)
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
    # It comes first, as something that wraps the application may.
    early = Flask("early")
    early.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    db = SQLAlchemy(early)

    def query(sender: Flask, **_: Any) -> None:
        db.session.execute(db.text("SELECT 1"))

    appcontext_pushed.connect(query, early)
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
    """Bug: a view that asked for a position answered 500; each request was logged."""
    site = Site()

    def away(room: str) -> None:
        raise BrokerUnavailable("away")

    failures: list[str] = []

    def receive(sender: Any, *, reason: str, **_: Any) -> None:
        if sender is site.app:  # others' may still tell of theirs
            failures.append(reason)

    with monkeypatch.context() as patch, signals.failed.connected_to(receive):
        patch.setattr(outgoing_of(site.livepush), "position", away)
        for _ in range(3):
            count, place = site.page()
            assert (count, place["epoch"]) == ("0", None)
            assert site.livepush.position("chat:42") is None
    # Two rooms and a verb, three times: once an outage, not once a request.
    assert len(failures) == 9
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "away" in caplog.text
    assert site.page()[1]["epoch"] is not None
    caplog.clear()
    monkeypatch.setattr(outgoing_of(site.livepush), "position", away)
    site.page()
    assert [r.levelname for r in caplog.records] == ["ERROR"]


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
    with pytest.raises(UsageError, match=r"'wrong': its URL has no 'room_id'; name"):
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


class Members:
    """An application whose users have pages of their own rooms.

    Args:
        rooms: What its page is declared with; without: the visitor's own room.
    """

    def __init__(self, *rooms: Any, **config: Any) -> None:
        self.app = Flask("members")
        self.app.config.update(SECRET_KEY="secret", TESTING=True, **config)
        self.manager = LoginManager(self.app)
        self.livepush = LivePush(self.app)
        self.chat = self.livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
        self.loaded: list[str] = []
        #: Users by what the session says of them.
        self.ids: dict[str, str] = {}
        self.manager.user_loader(self.load)

        @self.app.get("/login/<name>")
        def login(name: str) -> str:
            login_user(self.user(name), remember="remember" in request.args)
            return ""

        @self.app.get("/")
        @self.livepush.page(*rooms or [self.livepush.user])
        def home() -> str:
            self.loaded_before_view = list(self.loaded)
            return render_template_string("{{ livepush_room() }}")

        @self.app.get("/<int:room_id>/<name>")
        @self.livepush.page(*rooms or [self.livepush.user])
        def named(room_id: int, name: str) -> str:
            return render_template_string("{{ livepush_room(name) }}", name=name)

    def user(self, name: str) -> Any:
        user = UserMixin()
        user.id = name
        return user

    def load(self, name: str) -> Any:
        self.loaded.append(name)
        return None if name == "gone" else self.user(self.ids.get(name, name))

    def client(self, name: str | None = None, query: str = "") -> FlaskClient:
        client = self.app.test_client()
        if name is not None:
            client.get(f"/login/{name}{query}")
        return client

    def places(self, client: FlaskClient, path: str = "/") -> dict[str, Any]:
        """Return the offsets that a page gives its rooms."""
        found = [json.loads(t) for t in ELEMENT.findall(client.get(path).text)]
        return {place["room"]: place["offset"] for place in found}

    def notify(self, *names: str) -> None:
        with self.app.app_context():
            for name in names:
                self.livepush.notify(name, "hello")


def test_a_page_starts_from_the_position_of_the_visitors_own_room() -> None:
    site = Members()
    site.notify("ada", "ada", "bob")
    assert site.places(site.client("ada")) == {"user:ada": 2}
    assert site.loaded_before_view == []
    assert site.places(site.client("bob")) == {"user:bob": 1}
    assert site.places(site.client()) == {}


def test_finds_the_visitor_whom_a_cookie_remembers_once_there_is_a_session() -> None:
    """What that cookie holds may be a credential, and names no room."""
    site = Members()
    site.notify("ada")
    client = site.client("ada", "?remember")
    client.delete_cookie("session")
    assert site.places(client) == {"user:ada": None}
    assert site.places(client) == {"user:ada": 1}
    client.delete_cookie("session")
    client.set_cookie("remember_token", "ada|forged")
    assert site.places(client) == {}


def test_gives_no_position_where_the_visitor_is_not_known_before_a_query() -> None:
    site = Members()
    site.notify("ada", "eve")

    @site.manager.request_loader
    def load(request: Any) -> Any:
        return site.user("ada") if request.args.get("token") else None

    assert site.places(site.client(), "/?token=x") == {"user:ada": None}
    # The session says eve, who is ada under another id by now.
    site.ids["eve"] = "ada"
    assert site.places(site.client("eve")) == {"user:ada": None}
    assert site.places(site.client("eve"), "/7/user:ada") == {"user:ada": None}
    assert site.places(site.client("gone")) == {}
    site.manager.id_attribute = "get_other_id"
    assert site.places(site.client(), "/?token=x") == {"user:ada": None}


def test_a_page_without_flask_login_has_no_own_room() -> None:
    app = Flask("app")
    livepush = LivePush(app)

    @app.get("/")
    @livepush.page(livepush.user)
    def home() -> str:
        return render_template_string("[{{ livepush_room() }}]")

    assert app.test_client().get("/").text == "[]"


def test_an_own_room_is_no_other_users() -> None:
    site = Members()
    with pytest.raises(UsageError, match="user:bob"):
        site.client("ada").get("/7/user:bob")


def test_a_room_whose_variable_the_url_has_is_that_one() -> None:
    site = Members()
    site.notify("bob")

    @site.app.get("/users/<user_id>")
    @site.livepush.page(site.livepush.user)
    def of(user_id: str) -> str:
        return render_template_string("{{ livepush_room() }}")

    assert site.places(site.client("ada"), "/users/bob") == {"user:bob": 1}


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (lambda: "chat:1", {"chat:1": 1}),
        (lambda: ["chat:1", "chat:2", "chat:1"], {"chat:1": 1, "chat:2": 0}),
        (lambda: (f"chat:{n}" for n in (1, 2)), {"chat:1": 1, "chat:2": 0}),
        (lambda: None, {}),
        (lambda: (), {}),
        (lambda: ["chat:1", "nobody's"], {"chat:1": 1}),
        (lambda **given: f"chat:{len(given) + 1}", {"chat:1": 1}),
    ],
)
def test_a_page_has_the_rooms_that_a_callable_names(
    names: Callable[..., Any], expected: dict[str, int]
) -> None:
    site = Members(names)
    site.livepush.emit("chat:1", "hello")
    assert site.places(site.client()) == expected


def test_a_callable_is_given_what_it_takes_of_the_url() -> None:
    site = Members(lambda room_id: f"chat:{room_id}")
    site.livepush.emit("chat:7", "hello")
    assert site.places(site.client(), "/7/chat:7") == {"chat:7": 1}
    # It may be a room that nobody could name before.
    assert site.places(site.client(), "/7/chat:8") == {"chat:8": None}


@pytest.mark.parametrize("names", [lambda: 1 / 0, lambda: 5, lambda x: x, lambda: [5]])
def test_a_callable_that_fails_costs_the_position_alone(
    names: Any, caplog: pytest.LogCaptureFixture
) -> None:
    site = Members(names)
    for _ in range(2):
        assert site.places(site.client()) == {}
        assert site.places(site.client(), "/7/chat:8") == {"chat:8": None}
    assert [r.levelname for r in caplog.records] == ["ERROR"] * 2  # one a view


def test_several_rooms_in_one_decorator() -> None:
    site = Members()

    @site.app.get("/both/<int:room_id>")
    @site.livepush.page(site.livepush.user, "chat:<int:room_id>", lambda: "chat:9")
    def both(room_id: int) -> str:
        return render_template_string("{{ livepush_room() }}")

    site.notify("ada")
    found = site.places(site.client("ada"), "/both/5")
    assert found == {"user:ada": 1, "chat:5": 0, "chat:9": 0}


def test_a_callable_that_queries_leaves_the_page_without_positions() -> None:
    site = Site()

    def names() -> str:
        site.db.session.query(site.message).all()
        return "chat:1"

    @site.app.get("/")
    @site.livepush.page("lobby", names)
    def home() -> str:
        return render_template_string("{{ livepush_room() }}")

    text = site.client().get("/").text
    places = [json.loads(t) for t in ELEMENT.findall(text)]
    assert [(p["room"], p["epoch"]) for p in places] == [
        ("lobby", None),
        ("chat:1", None),
    ]


@pytest.mark.parametrize("rooms", [(), (5,), (None,), (Site,), ("lobby", 5)])
def test_refuses_what_is_no_room(rooms: Any) -> None:
    livepush = LivePush(Flask("app"))
    with pytest.raises(ConfigError, match=r"@livepush\.page\('chat"):
        livepush.page(*rooms)


def test_says_so_when_it_is_used_without_a_room() -> None:
    app = Flask("app")
    app.testing = True
    livepush = LivePush(app)

    def show(room_id: int) -> str:
        return ""

    app.add_url_rule("/<int:room_id>", "show", livepush.page(show))
    with pytest.raises(UsageError, match="without saying which room"):
        app.test_client().get("/7")


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


def nonce_of(app: Flask, template: str = "{{ livepush_script() }}") -> str | None:
    """Return the nonce of the script in a template of an application."""
    with app.test_request_context():
        app.preprocess_request()
        found = re.search(r'<script src="\S+"(.*)>', render_template_string(template))
    assert found is not None
    attributes = re.fullmatch(r'(?: nonce="(.*?)")?></script', found[1])
    assert attributes is not None, found[1]
    return attributes[1]


def test_the_script_has_the_nonce_of_the_policy_as_flask_talisman_has_it() -> None:
    site = Site()
    site.app.before_request(lambda: setattr(request, "csp_nonce", "of-talisman"))
    site.app.jinja_env.globals["csp_nonce"] = lambda: getattr(request, "csp_nonce", "")
    assert nonce_of(site.app) == "of-talisman"


def test_the_script_has_the_nonce_of_a_context_processor_or_a_template() -> None:
    site = Site()
    site.app.context_processor(lambda: {"csp_nonce": "processed"})
    assert nonce_of(site.app) == "processed"
    template = "{% set csp_nonce = 'set' %}{{ livepush_script() }}"
    assert nonce_of(site.app, template) == "set"


def test_the_script_has_the_nonce_that_is_kept_in_g() -> None:
    site = Site()
    site.app.before_request(lambda: setattr(g, "csp_nonce", "kept"))
    assert nonce_of(site.app) == "kept"
    assert nonce_of(site.app, "{{ livepush_script(nonce='given') }}") == "given"


def test_the_script_has_no_nonce_where_the_policy_has_none() -> None:
    site = Site()
    assert nonce_of(site.app) is None
    site.app.jinja_env.globals["csp_nonce"] = lambda: ""  # what Talisman returns then
    assert nonce_of(site.app) is None


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


# -- how the script is sent ----------------------------------------------------------


@pytest.mark.parametrize(
    ("accepted", "encoding"),
    [
        (None, None),
        ("", None),
        ("gzip, deflate, br, zstd", "br"),
        ("gzip, deflate", "gzip"),
        ("gzip;q=1.0, br;q=0.1", "br"),
        ("GZIP", "gzip"),
        ("*", "br"),
        ("br;q=0, *", "gzip"),
        ("identity", None),
        ("identity;q=0.5, gzip;q=0.4", None),
        ("gzip;q=0, br;q=0", None),
        ("deflate, zstd", None),
        ("gzip;q=nonsense, ,;", None),
    ],
)
def test_the_script_is_sent_compressed_to_who_takes_that(
    accepted: str | None, encoding: str | None
) -> None:
    client = Site().client()
    plain = client.get("/livepush/livepush.js")
    headers = {} if accepted is None else {"Accept-Encoding": accepted}
    answer = client.get("/livepush/livepush.js", headers=headers)
    assert answer.headers.get("Content-Encoding") == encoding
    assert answer.headers["Vary"] == "Accept-Encoding"
    assert answer.headers["Content-Type"] == plain.headers["Content-Type"]
    assert int(answer.headers["Content-Length"]) == len(answer.data)
    if encoding is None:
        assert answer.data == plain.data
    else:
        assert len(answer.data) < len(plain.data) / 3
        # Two contents at one address: a cache must tell them apart.
        assert answer.headers["ETag"] != plain.headers["ETag"]
    if encoding == "gzip":
        assert gzip.decompress(answer.data) == plain.data
    again = {**headers, "If-None-Match": answer.headers["ETag"]}
    answer = client.get("/livepush/livepush.js", headers=again)
    assert (answer.status_code, answer.data) == (304, b"")
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_the_date_is_left_to_the_server() -> None:
    """Bug: gunicorn's and Werkzeug's answers had two headers of that name."""
    client = Site().client()
    for headers in ({}, {"Accept-Encoding": "gzip"}, {"If-None-Match": "*"}):
        answer = client.get("/livepush/livepush.js", headers=headers)
        assert "Date" not in answer.headers


# -- below a path --------------------------------------------------------------------


def below(app: Flask, how: str) -> Client:
    """Return a client of a site whose pages are below /app, in one of many ways."""

    def strips(environ: dict[str, Any], start_response: Any) -> Any:
        assert environ["PATH_INFO"].startswith("/app/")
        path = environ["PATH_INFO"].removeprefix("/app")
        told = {"HTTP_X_FORWARDED_PREFIX": "/app", "PATH_INFO": path}
        return app(environ | told, start_response)

    if how == "dispatcher":
        return Client(DispatcherMiddleware(Flask("main"), {"/app": app}))
    if how == "dispatchers":
        inner = DispatcherMiddleware(Flask("inner"), {"/b": app})
        return Client(DispatcherMiddleware(Flask("main"), {"/app/a": inner}))
    if how == "proxy that tells":
        app.wsgi_app = ProxyFix(app.wsgi_app, x_prefix=1)  # type: ignore[method-assign]
    if "proxy" in how:
        return Client(strips)
    return Client(app)


@pytest.mark.parametrize("path", ["/socket.io", "/own/path"])
@pytest.mark.parametrize(
    ("how", "root"),
    [
        ("dispatcher", "/app"),
        ("dispatchers", "/app/a/b"),
        ("proxy that tells", "/app"),
        ("APPLICATION_ROOT, and a proxy that says nothing", "/app"),
        ("APPLICATION_ROOT, and nothing in front", "/app"),
        ("APPLICATION_ROOT, dispatcher", "/app"),
        ("nothing", ""),
    ],
)
def test_the_script_and_socketio_are_found_below_a_path(
    how: str, root: str, path: str
) -> None:
    """Bug: the client asked for /socket.io, where another application is, or none."""
    app = Flask("site")
    app.config.update(LIVEPUSH_ALLOW_ANONYMOUS=True, SECRET_KEY="secret")
    if "APPLICATION_ROOT" in how:
        app.config["APPLICATION_ROOT"] = "/app/"
    own = None
    if path != "/socket.io":
        own = SocketIO(app, async_mode="threading", path=path)
    LivePush(app, socketio=own)

    @app.get("/page")
    def page() -> str:
        return render_template_string("{{ livepush_script() }}")

    client = below(app, how.split(", ")[-1])
    # Without a proxy the application's own pages are not below the path.
    at = "" if how.endswith("in front") else root
    found = re.fullmatch(
        r'<script src="(.+?)"(?: data-livepush-path="(.+?)")?></script>',
        client.get(f"{at}/page").text,
    )
    assert found is not None
    assert found[1].startswith(f"{root}/livepush/livepush.js?v=")
    script = client.get(found[1])
    assert script.status_code == 200
    assert script.cache_control.immutable
    assert found[2] == (None if how == "nothing" and own is None else f"{root}{path}")
    connected = client.get(f"{found[2] or path}/?EIO=4&transport=polling")
    assert connected.status_code == 200
    assert connected.text.startswith('0{"sid"')


def test_a_script_that_is_printed_outside_of_requests_is_below_the_root() -> None:
    app = Flask("site")
    app.config.update(SERVER_NAME="chat.example", APPLICATION_ROOT="/app")
    LivePush(app)
    with app.app_context():
        text = render_template_string("{{ livepush_script() }}")
    assert 'src="http://chat.example/app/livepush/livepush.js' in text
    assert 'data-livepush-path="/app/socket.io"' in text
