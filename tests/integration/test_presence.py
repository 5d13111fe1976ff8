"""Two servers on one Redis: who is there, who whispers, and who is there no more."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.live_client import LiveClient
from tests.support.redis import redis_server, until
from tests.support.servers import Mode, Server, running
from tests.support.waiting import DEADLINE

APP = Path(__file__).parents[1] / "support" / "presence_app.py"


def here(client: LiveClient) -> list[str]:
    """Return who is there, by what a client was told."""
    users: dict[str, Any] = {}
    for name, data, _ in list(client.frames):
        if name == "ack livepush.subscribe":
            users = {user["id"]: user for user in data["presence"]}
        elif name == "livepush.presence":
            users.update((user["id"], user) for user in data["joined"])
            for user in data["left"]:
                users.pop(user["id"], None)
    return sorted(users)


def client_of(server: Server, user: str) -> LiveClient:
    return LiveClient(f"{server.url}?user={user}")


def subscribe(client: LiveClient) -> Any:
    ack = client.call(
        "livepush.subscribe", {"v": 1, "room": "chat:1", "presence": True}
    )
    assert ack["ok"], ack
    return ack


@pytest.mark.parametrize("modes", [("threading", "threading"), ("gevent", "eventlet")])
def test_a_killed_process_s_users_vanish_and_whispers_cross(
    modes: tuple[Mode, Mode],
) -> None:
    with (
        redis_server() as redis,
        running(APP, redis.url, mode=modes[0]) as stays,
        running(APP, redis.url, mode=modes[1]) as dies,
    ):
        clients = [client_of(stays, "ada"), client_of(dies, "ben")]
        ada, ben = clients
        try:
            first = subscribe(ada)["presence"]
            assert first == [{"id": "ada", "info": {"name": "Ada"}}]
            subscribe(ben)
            for client in clients:
                client.wait(lambda client=client: here(client) == ["ada", "ben"])
            answer = requests.get(f"{dies.url}/present/1", timeout=DEADLINE).json()
            assert sorted(user["info"]["name"] for user in answer) == ["Ada", "Ben"]
            message = {"v": 1, "room": "chat:1", "event": "typing", "data": [1]}
            assert ben.call("livepush.whisper", message) == {"ok": True}
            heard = ada.wait(lambda: [f for f in ada.frames if f[0] == "typing"])
            meta = {"room": "chat:1", "whisper": True, "from": "ben"}
            assert heard == [("typing", [1], meta)]
            assert not [f for f in ben.frames if f[0] == "typing"]
            dies.kill()
            until(lambda: here(ada) == ["ada"], within=15)
            answer = requests.get(f"{stays.url}/present/1", timeout=DEADLINE).json()
            assert [user["id"] for user in answer] == ["ada"]
        finally:
            for client in clients:
                client.close()
