"""What may still be done after a login, a user or a right has gone: one table.

Each row is played with real sockets, in two processes: the login and what ends it are
at one, the connection is at the other. What is asked is what once went on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from tests.support.login_client import Login, LoginSocket
from tests.support.polling_client import LoginPolling
from tests.support.redis import redis_server
from tests.support.servers import MODES, Mode, Server, running
from tests.support.table_app import create
from tests.support.waiting import until

APP = Path(__file__).parents[1] / "support" / "table_app.py"
ROOM, OTHER = "chat:1", "chat:2"
TRANSPORTS: dict[str, type[LoginSocket]] = {
    "websocket": LoginSocket,
    "polling": LoginPolling,
}
#: Somebody whom nothing happens to.
WITNESS = 1


@dataclass
class Place:
    """Two processes; each test takes a user of its own."""

    home: Server
    away: Server
    numbers: Iterator[int] = field(default_factory=lambda: count(WITNESS + 1))


@dataclass
class Case:
    """What a row has at hand.

    Args:
        user: The number.
        login: The browser's.
        cookie: What it had when it connected.
    """

    place: Place
    user: int
    login: Login
    cookie: str
    connect: Callable[..., LoginSocket]


@dataclass(frozen=True)
class Row:
    """One row.

    Args:
        what: Happens, in words.
        act: Does it.
        connection: What becomes of the connection: it is ended for good, "sent away" to
            come back, or stays "open".
        same, other: The answers to joining the same room and another, of a connection
            that is open.
        cookie: The answers that a new connection with the old cookie may get: True, or
            codes.
        browser: The same with the cookie that the browser has now.
    """

    what: str
    act: Callable[[Case], object]
    connection: str = "ended"
    same: Any = None
    other: Any = None
    cookie: frozenset[Any] = frozenset({103, 109})
    browser: frozenset[Any] = frozenset({103, 109})

    def __str__(self) -> str:
        return self.what


IN = frozenset({True})
TABLE = [
    Row("logged out", lambda case: case.login.post("/logout")),
    Row(
        "logged out in another tab, at the other process",
        lambda case: case.login.post("/logout", case.place.away.url),
    ),
    Row("session cleared", lambda case: case.login.post("/clear")),
    Row(
        "logged out, another user logged in",
        lambda case: (
            case.login.post("/logout"),
            case.login.post(f"/login/{WITNESS}"),
        ),
        browser=IN,
    ),
    Row(
        "another user logged in over it",
        lambda case: case.login.post(f"/login/{WITNESS}"),
        browser=IN,
    ),
    Row(
        "the same user logged in over it",
        lambda case: case.login.post(f"/login/{case.user}"),
        "sent away",
        browser=IN,
    ),
    Row("user deleted", lambda case: case.login.post(f"/delete/{case.user}")),
    Row("user deactivated", lambda case: case.login.post(f"/deactivate/{case.user}")),
    Row(
        "alternative id changed",
        lambda case: case.login.post(f"/rename/{case.user}"),
    ),
    Row(
        "disconnected by the application",
        lambda case: case.login.post(f"/disconnect/{case.user}"),
        cookie=IN,
        browser=IN,
    ),
    Row(
        "right to one room lost",
        lambda case: case.login.post(f"/leave/{case.user}/1"),
        "open",
        same=103,
        other=True,
        cookie=IN,
        browser=IN,
    ),
    Row(
        "nothing",
        lambda case: None,
        "open",
        same=True,
        other=True,
        cookie=IN,
        browser=IN,
    ),
]


@contextmanager
def place_of(
    folder: Path, engine: str, mode: Mode = "threading", **more: str
) -> Iterator[Place]:
    """Run two processes."""
    file = str(folder / "table.db")
    create(file)
    env = {"FLASK_LIVEPUSH_ENGINE": engine, **more}
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        home, away = (
            stack.enter_context(running(APP, redis.url, file, mode=mode, env=env))
            for _ in range(2)
        )
        yield Place(home, away)


@pytest.fixture(
    scope="module",
    params=[(e, m) for e in ("loop", "stock") for m in MODES],
    ids="-".join,
)
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    engine, mode = request.param
    with place_of(tmp_path_factory.mktemp("table"), engine, mode) as found:
        yield found


@contextmanager
def case_of(place: Place, transport: str, query: str = "") -> Iterator[Case]:
    """Log a new user in."""
    opened: list[Any] = []

    def connect(cookie: str, url: str = "", **more: Any) -> LoginSocket:
        found = TRANSPORTS[transport](url or place.away.url, cookie, **more)
        opened.append(found)
        return found

    user = next(place.numbers)
    login = Login(place.home.url, f"{user}{query}")
    opened.append(login)
    try:
        yield Case(place, user, login, login.cookie, connect)
    finally:
        for one in reversed(opened):
            one.close()


def joined(socket: LoginSocket, room: str = ROOM) -> LoginSocket:
    assert socket.is_in, socket.answer
    until(lambda: socket.join(room, presence=True)["ok"], what="it has not joined")
    return socket


def answer(reply: Any) -> Any:
    """Return True, an error's code, or None: the connection has ended."""
    return reply and (True if reply["ok"] else reply["error"]["code"])


def outcome(socket: LoginSocket) -> Any:
    """Return True, or the code of a refusal."""
    return True if socket.is_in else (socket.answer or {}).get("code")


def settle(socket: LoginSocket, row: Row) -> None:
    """Wait until the row's connection is what it becomes."""
    if row.connection != "open":
        socket.wait(lambda: socket.ended is not None)
    elif row.same is not True:
        socket.wait(lambda: any(e[1] == "livepush.revoked" for e in socket.events))
    told = [event[2]["code"] for event in socket.events if event[1] == "livepush.ended"]
    assert told == ([103] if row.connection == "ended" else [])
    if row.connection == "sent away":
        assert not socket.dismissed  # else its client would not come back


def texts(socket: LoginSocket) -> list[str]:
    return [e[2]["text"] for e in socket.events if e[1] == "note.created"]


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("row", TABLE, ids=str)
def test_what_may_still_be_done(place: Place, row: Row, transport: str) -> None:
    with case_of(place, transport) as case:
        socket = joined(case.connect(case.cookie))
        witness = Login(place.home.url, str(WITNESS))
        seeing = joined(witness.connect(place.away.url))
        try:
            witness.post("/write/1/before")
            socket.wait(lambda: "before" in texts(socket))
            row.act(case)
            settle(socket, row)
            stays = row.connection == "open" and row.same is True
            # Pushes, with what proves that they would have come.
            after = f"after-{case.user}"
            witness.post(f"/write/1/{after}")
            seeing.wait(lambda: after in texts(seeing))
            other = answer(socket.join(OTHER))
            assert other == row.other
            if stays:  # it may be a moment behind the answer
                socket.wait(lambda: after in texts(socket))
            assert (after in texts(socket)) is stays
            # Whispers, in and out.
            whisper = {"v": 1, "room": ROOM, "event": "typing", "data": case.user}
            said = answer(socket.call("livepush.whisper", whisper))
            assert said == (True if stays else 103 if row.same else None)
            seeing.call("livepush.whisper", whisper)
            assert answer(socket.join(ROOM)) == row.same
            if stays:
                socket.wait(lambda: "typing" in socket.names())
            assert ("typing" in socket.names()) is stays
            # Who is there.
            is_listed = stays or None
            until(
                lambda: (
                    (str(case.user) in witness.get("/presence/1")) is bool(is_listed)
                ),
                what="presence is another",
            )
            # A new connection.
            assert outcome(case.connect(case.cookie)) in row.cookie
            assert outcome(case.connect(case.login.cookie)) in row.browser
        finally:
            seeing.close()
            witness.close()


# -- what is over by itself, and cookies that are no session ---------------------------


@pytest.fixture(scope="module", params=["loop", "stock"])
def hasty(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """Sessions and connections that last for seconds alone."""
    with place_of(
        tmp_path_factory.mktemp("table"),
        request.param,
        FLASK_PERMANENT_SESSION_LIFETIME="4",
        FLASK_LIVEPUSH_MAX_CONNECTION_AGE="6",
    ) as found:
        yield found


@pytest.fixture(scope="module", params=["loop", "stock"])
def strict(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    """A session is good for the browser and address alone that it was made with."""
    with place_of(
        tmp_path_factory.mktemp("table"),
        request.param,
        FLASK_SESSION_PROTECTION="strong",
        FLASK_SESSION_PERMANENT="false",
    ) as found:
        yield found


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_session_whose_time_is_over_is_sent_for_a_new_one(
    hasty: Place, transport: str
) -> None:
    with case_of(hasty, transport) as case:
        socket = joined(case.connect(case.cookie))
        socket.wait(lambda: socket.ended is not None)
        assert "livepush.ended" not in socket.names()
        assert not socket.dismissed
        until(lambda: outcome(case.connect(case.cookie)) == 109, what="it is let in")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_browser_that_goes_on_is_let_in_again_with_its_newer_cookie(
    hasty: Place, transport: str
) -> None:
    """The cookie of the handshake grows old while HTTP renews the browser's."""
    with case_of(hasty, transport) as case:
        socket = joined(case.connect(case.cookie))

        def has_gone() -> bool:
            assert case.login.get("/who") == case.user
            return socket.ended is not None

        until(has_gone, what="it is still there")
        assert "livepush.ended" not in socket.names()
        assert outcome(case.connect(case.login.cookie)) is True


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_connection_that_ignores_its_age_is_closed(
    hasty: Place, transport: str
) -> None:
    with case_of(hasty, transport) as case:
        socket = joined(case.connect(case.cookie))
        socket.wait(lambda: socket.ended is not None)
        # Nothing of ours keeps it alive: it has not gone by itself.
        assert socket.join(OTHER) is None


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_remember_me_alone_opens_nothing_until_http_has_made_a_session_of_it(
    place: Place, transport: str
) -> None:
    with case_of(place, transport, "?remember=1") as case:
        copied = f"remember_token={case.login.http.cookies['remember_token']}"
        assert outcome(case.connect(copied)) == 109
        case.login.post("/logout")
        # A copy is good for HTTP for a year, whatever is logged out.
        thief = case.login.http
        thief.cookies.clear()
        name, _, value = copied.partition("=")
        thief.cookies.set(name, value)
        assert case.login.get("/livepush/login") == {"ok": True}
        socket = joined(case.connect(case.login.cookie))
        # Alternative ids alone end it.
        case.login.post(f"/rename/{case.user}")
        socket.wait(lambda: socket.ended is not None)
        thief.cookies.clear()
        thief.cookies.set(name, value)
        assert case.login.get("/who") is None
        assert outcome(case.connect(copied)) in (103, 109)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_who_connects_before_logging_in_stays_nobody(
    place: Place, transport: str
) -> None:
    with case_of(place, transport) as case:
        assert outcome(case.connect("")) == 103
        assert outcome(case.connect(case.cookie)) is True


@pytest.mark.parametrize(
    "headers",
    [{"User-Agent": "another"}, {"X-Forwarded-For": "198.51.100.7"}],
    ids=["another browser", "another address"],
)
def test_a_protected_session_is_good_for_its_browser_alone(
    strict: Place, headers: dict[str, str]
) -> None:
    with case_of(strict, "polling") as case:
        agent = {"User-Agent": str(case.login.http.headers["User-Agent"])}
        assert outcome(case.connect(case.cookie, headers=agent)) is True
        assert outcome(case.connect(case.cookie, headers={**agent, **headers})) == 109
        # It is a judgement, which takes nothing away from whom it belongs to.
        assert case.login.get("/who") == case.user
        assert outcome(case.connect(case.cookie, headers=agent)) is True


def test_a_poll_with_a_stolen_id_reads_nothing_at_either_process(place: Place) -> None:
    with case_of(place, "polling") as case, case_of(place, "polling") as other:
        socket = joined(case.connect(case.cookie))
        assert isinstance(socket, LoginPolling)
        for server in (place.away, place.home):
            for cookie in ("", other.cookie):
                thief = socket.stolen(server.url, cookie)
                for method, data in (("GET", None), ("POST", '42["livepush.x"]')):
                    answered = thief._request(method, data)
                    assert answered.status_code == 400
                    other_id = thief.unknown()
                    unknown = other_id._request(method, data)
                    # They say the id that was asked for, and no more.
                    assert unknown.text.replace(other_id.sid, "") == (
                        answered.text.replace(thief.sid, "")
                    )
        case.login.post("/write/1/unhurt")
        socket.wait(lambda: "unhurt" in texts(socket))
