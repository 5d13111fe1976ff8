"""Logins that end, and ids that are stolen: over the network, in each async mode."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.protocol_servers import POLLING, WEBSOCKET, answer_of, later
from tests.support.raw import UPGRADE, Answer, Raw
from tests.support.redis import redis_server, redis_url
from tests.support.servers import MODES, Mode, Server, running
from tests.support.waiting import DEADLINE, until

__all__ = ["redis_server", "redis_url"]

APP = Path(__file__).parents[1] / "support" / "ending_app.py"
UNKNOWN = {"code": 1, "message": "Session ID unknown"}
ORIGIN = {"Origin": "http://localhost"}
NOTHING = [0, 0, 0, 0, 0, 0, 0]
MANY = 100

names = (f"user-{number}" for number in count())


@pytest.fixture(
    scope="module", params=[*((mode, "loop") for mode in MODES), ("threading", "stock")]
)
def site(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running server."""
    mode: Mode
    mode, engine = request.param
    env = {"FLASK_LIVEPUSH_ENGINE": engine}
    with running(APP, mode=mode, env=env) as server:
        yield server


@pytest.fixture(scope="module", params=MODES)
def nodes(request: pytest.FixtureRequest, redis_url: str) -> Iterator[list[Server]]:
    """Two processes of one application."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(APP, redis_url, mode=request.param))
            for _ in range(2)
        ]


def cookie(site: Server, name: str) -> dict[str, str]:
    """Log somebody in; return the headers of the browser's requests."""
    answer = requests.get(f"{site.url}/login/{name}", timeout=DEADLINE)
    return {"Cookie": f"session={answer.cookies['session']}", **ORIGIN}


def end(site: Server, *users: str, again: bool = False) -> None:
    body = {"users": users, "again": again}
    answer = requests.post(f"{site.url}/end", json=body, timeout=DEADLINE)
    assert answer.status_code == 200


def emit(site: Server, room: int, text: str) -> None:
    url = f"{site.url}/emit/{room}?text={text}"
    assert requests.post(url, timeout=DEADLINE).status_code == 200


def state(site: Server) -> dict[str, Any]:
    found: dict[str, Any] = requests.get(f"{site.url}/state", timeout=DEADLINE).json()
    return found


class Client:
    """A client that polls or has a WebSocket, and stays when it is told to go."""

    def __init__(
        self, site: Server, headers: dict[str, str], transport: str, room: int = 1
    ) -> None:
        self.site = site
        self.headers = headers
        self.raw: Raw | None = None
        self.frames: list[str] = []
        if transport == "websocket":
            self.raw = Raw(site.port)
            answer = self.raw.upgrade(WEBSOCKET, headers={**headers, **UPGRADE})
            assert answer.status == 101, answer
            first = self.raw.read()
            assert isinstance(first, str)
            self.sid = answer_of(first)["sid"]
        else:
            self.sid = answer_of(self.ask(POLLING).text)["sid"]
        self.query = f"{POLLING}&sid={self.sid}"
        self.send("40")
        self.opened = self.read()
        if self.opened.startswith("40"):
            subscribe = ["livepush.subscribe", {"v": 1, "room": f"chat:{room}"}]
            self.send(f"420{json.dumps(subscribe)}")
            assert self.read().startswith('430[{"ok":true')

    def ask(self, query: str, method: str = "GET", body: str = "") -> Answer:
        with Raw(self.site.port) as raw:
            return raw.request(query, method, body=body, headers=self.headers)

    def send(self, text: str) -> Answer | None:
        if self.raw is not None:
            self.raw.text(text)
            return None
        return self.ask(self.query, "POST", text)

    def read(self) -> str:
        """Return the next packet; ``end`` when there are no more."""
        while not self.frames:
            if self.raw is not None:
                found = self.raw.read()
                self.frames = ["end" if found is None else str(found)]
            else:
                answer = self.ask(self.query)
                self.frames = ["end"]
                if answer.status == 200:
                    self.frames = answer.text.split("\x1e")
            self.frames = [frame for frame in self.frames if frame not in ("2", "6")]
        return self.frames.pop(0)

    def close(self) -> None:
        if self.raw is not None:
            self.raw.close()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_who_has_logged_out_hears_why_and_nothing_more(
    site: Server, transport: str
) -> None:
    """Bug: pushes, whispers and joins went on, in all rooms, until the tab closed."""
    name, other = next(names), next(names)
    client = Client(site, cookie(site, name), transport)
    stays = Client(site, cookie(site, other), transport)
    end(site, name)
    assert json.loads(client.read()[2:]) == [
        "livepush.ended",
        {"code": 103, "message": "The login has ended."},
    ]
    assert client.read() == "41"
    emit(site, 1, "secret")
    assert "secret" in stays.read()
    # It stays, and asks for all that it can think of.
    if transport == "polling":
        for body in ("420[]", "40", "3"):
            assert client.ask(client.query, "POST", body).status == 400
    assert client.read() in ("1", "end")
    assert client.read() == "end"
    client.close()
    refused = Client(site, client.headers, transport)
    assert refused.opened.startswith("44")
    assert json.loads(refused.opened[2:])["data"]["code"] == 109
    for one in (refused, stays):
        one.close()
    end(site, other)
    until(lambda: state(site)["held"][0] == 0)


def test_a_poll_that_waits_is_answered_and_the_session_gone(site: Server) -> None:
    name = next(names)
    client = Client(site, cookie(site, name), "polling")
    poll = later(lambda: client.ask(client.query))
    end(site, name)
    answer = poll.result(DEADLINE)
    assert answer.status == 200
    assert answer.text.startswith('42["livepush.ended"')
    until(lambda: client.ask(client.query).status == 400)


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_who_is_to_come_back_is_closed(site: Server, transport: str) -> None:
    name = next(names)
    client = Client(site, cookie(site, name), transport)
    end(site, name, again=True)
    assert client.read() in ("1", "end")
    client.close()


def test_a_stolen_id_opens_nothing(site: Server) -> None:
    """Bug: access logs print it, and whoever knew it read and wrote as the user."""
    owner = Client(site, cookie(site, next(names)), "polling", room=2)
    thief = cookie(site, next(names))
    for headers in ({}, thief, {"Cookie": "session=x"}):
        for method, body in (("GET", ""), ("POST", '42["livepush.whisper",{}]')):
            with Raw(site.port) as raw:
                answer = raw.request(owner.query, method, body=body, headers=headers)
            assert answer.status == 400
        with Raw(site.port) as raw:
            query = owner.query.replace("polling", "websocket")
            answer = raw.upgrade(query, headers={**ORIGIN, **headers, **UPGRADE})
            assert answer.status == 400
    emit(site, 2, "still mine")
    assert "still mine" in owner.read()


def test_an_id_of_a_websocket_is_no_ones_elsewhere(site: Server) -> None:
    owner = Client(site, cookie(site, next(names)), "websocket")
    for headers in ({}, owner.headers):
        with Raw(site.port) as raw:
            assert raw.request(owner.query, headers=headers).status == 400
    owner.close()


def test_a_stolen_id_opens_nothing_by_another_process(nodes: list[Server]) -> None:
    """Bug: the other process said nothing of what the request bore."""
    owner, other = nodes
    client = Client(owner, cookie(owner, next(names)), "polling", room=3)
    thief = cookie(other, next(names))
    for headers in ({}, thief, {"Cookie": "session=x"}):
        for method, body in (("GET", ""), ("POST", "41")):
            with Raw(other.port) as raw:
                answer = raw.request(client.query, method, body=body, headers=headers)
            assert (answer.status, answer.json) == (400, UNKNOWN)
    emit(other, 3, "by another")
    client.site = other  # it goes where it is sent, and bears its login
    assert "by another" in client.read()
    assert client.send("3") is not None
    emit(owner, 3, "again")
    assert "again" in client.read()


@pytest.mark.parametrize("transport", ["websocket", "polling"])
def test_many_end_at_once_and_leave_nothing(site: Server, transport: str) -> None:
    first = Client(site, cookie(site, next(names)), transport)
    first.close()
    before = state(site)
    users = [next(names) for _ in range(MANY)]
    headers = [cookie(site, user) for user in users]
    with ThreadPoolExecutor(16) as pool:
        clients = list(
            pool.map(lambda one: Client(site, one, transport, room=4), headers)
        )
    assert state(site)["held"][0] >= len(clients)
    end(site, *users)
    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(Client.read, clients))
    assert all(one.startswith('42["livepush.ended"') for one in told)
    emit(site, 4, "secret")
    for client in clients:
        rest = [client.read(), client.read()]
        assert not any("secret" in one for one in rest)
        client.close()
    until(lambda: state(site)["files"] <= before["files"] + 2)
