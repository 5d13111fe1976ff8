"""What others have written into the lists of presence, and servers that are away."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from flask_livepush.brokers.redis import servers
from flask_livepush.brokers.redis_format import Names
from flask_livepush.errors import BrokerError
from flask_livepush.presence.base import Change
from flask_livepush.presence.redis import RedisPresence
from flask_livepush.protocol.relayed import Users
from tests.support.redis import RedisServer, redis_cluster, redis_server
from tests.support.waiting import DEADLINE


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with redis_server() as started:
        yield started


def entered(store: RedisPresence, room: str) -> dict[str, Users]:
    found = store.read([room])[0]
    assert not isinstance(found, BrokerError)
    return dict(found.entries)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", b"\xff"),
        ("version", "nan"),
        ("version", "e:1e300"),
        ("version", f"e:{2**53}"),
        ("version", "e:-5"),
        ("\0ada", "nan"),
        ("\0ada", "-5"),
        ("\0ada", "1e300"),
        ("\0ada", str(2**62)),
        ("\0ada", b"\xff"),
    ],
)
def test_a_list_that_is_none_begins_anew_and_takes_no_other_along(
    field: str, value: str | bytes, server: RedisServer
) -> None:
    """Bug: no list of any room was told any more, as the whole batch was refused."""
    store = RedisPresence(servers(server.url), prefix="p")
    store.change([Change("a", "node", {"ada": ""}), Change("b", "node", {"ada": ""})])
    with server.client() as client:
        client.hset(Names("p").room("a").here, field, value)
    assert store.versions(["a", "b"])[1]
    assert len(store.read(["a", "b"])) == 2
    steps = store.change(
        [
            Change("a", "other", {"bob": ""}, ("ada",)),
            Change("b", "other", {"bob": ""}),
        ]
    )
    for step in steps:
        assert not isinstance(step, BrokerError)
    broken, whole = steps
    # Whoever has another version reads the list, and enters its own users again.
    assert (broken.was, whole.version.rpartition(":")[2]) == ("", "2")
    assert broken.version.rpartition(":")[2] == "1"
    assert entered(store, "a") == {"other": {"bob": ""}}
    assert entered(store, "b") == {"node": {"ada": ""}, "other": {"bob": ""}}


@pytest.mark.parametrize("info", [b"\xff", b"{", b"nope"])
def test_what_is_no_json_reaches_no_client(info: bytes, server: RedisServer) -> None:
    store = RedisPresence(servers(server.url), prefix="p")
    store.change([Change("a", "node", {"ada": json.dumps({"n": 1})})])
    with server.client() as client:
        client.hset(Names("p").room("a").here, "node\0eve", info)
    assert entered(store, "a") == {"node": {"ada": '{"n": 1}'}}


@pytest.mark.parametrize("score", ["inf", "1e300", "9999999999999"])
def test_a_node_of_others_making_does_not_live_for_ever(
    score: str, server: RedisServer
) -> None:
    store = RedisPresence(servers(server.url), prefix="p")
    with server.client() as client:
        client.zadd(Names("p").nodes, {"ghost": float(score), b"\xff": 1e300})
    assert store.beat("node") == {"node"}


def test_a_server_that_is_away_has_its_own_rooms_alone() -> None:
    with redis_cluster() as cluster:
        found = servers(cluster.url, quick=DEADLINE)
        found.refresh()
        store = RedisPresence(found, prefix="p")
        rooms = [f"r{number}" for number in range(20)]
        at = {r: found.address(Names("p").room(r).here) for r in rooms}
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        gone = cluster.nodes[0]
        gone.kill()
        steps = store.change([Change(r, "node", {"ada": ""}) for r in rooms])
        for room, step in zip(rooms, steps, strict=True):
            away = at[room] == ("127.0.0.1", gone.port)
            assert isinstance(step, BrokerError) is away
        found.close()
