"""The message queue under the doctor's eyes: real servers, each with one fault."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from flask_livepush.brokers.redis import servers
from flask_livepush.brokers.redis_format import Names
from flask_livepush.brokers.redis_namespace import Namespace
from flask_livepush.brokers.redis_setup import ServerSetup
from flask_livepush.doctor import queue
from flask_livepush.doctor.findings import Finding
from tests.support.brokers import new_prefix
from tests.support.redis import (
    RedisServer,
    redis_cluster,
    redis_sentinels,
    redis_server,
)
from tests.support.servers import unused_port
from tests.support.waiting import DEADLINE

SECRETS = {"SECRET_KEY": "the key of this test"}


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server("--maxmemory", "100mb") as server:
        yield server


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine be no fault of a server."""
    monkeypatch.setattr(queue, "_SLOW", DEADLINE)


def examine(url: str, prefix: str | None = None, **options: Any) -> list[Finding]:
    """Examine a message queue."""
    known = {"now": time.monotonic, "knows": None, **options}
    found = list(queue.check(url, prefix or new_prefix(), SECRETS, **known))
    assert "hidden" not in repr(found)
    assert SECRETS["SECRET_KEY"] not in repr(found)
    return found


def the(found: list[Finding], name: str, level: str) -> Finding:
    """Return the one finding of a name that is of a level."""
    (finding,) = [f for f in found if f.name == name and f.level == level]
    return finding


def test_finds_nothing_wrong_with_what_is_right(server: RedisServer) -> None:
    found = examine(server.url)
    assert [finding.level for finding in found] == ["ok"] * 4
    assert "is Redis 7" in found[0].sentence
    assert found[0].seconds is not None
    assert "of 100 MiB, noeviction" in found[1].sentence


def test_says_where_nothing_listens() -> None:
    port = unused_port()
    (found,) = examine(f"redis://user:hidden@127.0.0.1:{port}/1")
    assert found.level == "problem"
    assert f"redis://user:***@127.0.0.1:{port}/1" in found.sentence
    assert "Nothing listens" in (found.remedy or "")


def test_says_which_host_is_not_known() -> None:
    (found,) = examine("redis://:hidden@no-such-host.invalid")
    assert found.level == "problem"
    assert "no-such-host.invalid" in found.sentence
    assert "name is not known" in (found.remedy or "")


def test_says_that_a_password_is_refused() -> None:
    with redis_server("--requirepass", "another") as server:
        url = server.url.replace("://", "://:hidden@")
        (found,) = examine(url)
    assert found.level == "problem"
    assert "refuses its name or password" in found.sentence


@pytest.mark.parametrize(
    ("setting", "value", "name", "level", "said"),
    [
        ("maxmemory-policy", "allkeys-lru", "eviction", "problem", "index of rooms"),
        ("maxmemory-policy", "volatile-lru", "eviction", "hint", "left to chance"),
        ("maxmemory", "0", "memory", "hint", "maxmemory of"),
        ("maxmemory", "16mb", "memory", "hint", "is 16 MiB"),
        ("maxmemory", "1mb", "memory", "problem", "is 1 MiB"),
        ("timeout", "30", "redis", "hint", "idle for 30 s"),
        (
            "client-output-buffer-limit",
            "pubsub 1mb 1mb 60",
            "buffer",
            "problem",
            "one large commit cuts",
        ),
        (
            "client-output-buffer-limit",
            "pubsub 8mb 4mb 60",
            "buffer",
            "hint",
            "less than the default",
        ),
    ],
)
def test_finds(
    server: RedisServer, setting: str, value: str, name: str, level: str, said: str
) -> None:
    kept = dict(server.ask("CONFIG", "GET", setting))
    server.ask("CONFIG", "SET", setting, value)
    try:
        found = examine(server.url)
    finally:
        for key, old in kept.items():
            server.ask("CONFIG", "SET", key, old)
    finding = the(found, name, level)
    assert said in finding.sentence
    assert finding.remedy


def test_takes_no_limit_of_a_buffer_for_enough(server: RedisServer) -> None:
    server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 0 0 0")
    try:
        assert not [f for f in examine(server.url) if f.name == "buffer"]
    finally:
        server.ask("CONFIG", "SET", "client-output-buffer-limit", "pubsub 32mb 8mb 60")


def test_says_what_it_may_not_ask(server: RedisServer) -> None:
    """A managed server forbids CONFIG, and rules may forbid INFO."""
    words = ["on", ">hidden", "~*", "&*", "+@all", "-config", "-info"]
    server.ask("ACL", "SETUSER", "notes", *words)
    found = examine(server.url.replace("://", "://notes:hidden@"))
    assert "may not ask INFO" in the(found, "redis", "problem").sentence
    assert "CONFIG is not allowed" in the(found, "buffer", "hint").sentence


def test_finds_a_replica() -> None:
    with redis_sentinels() as sentinels:
        found = examine(sentinels.replica.url)
        said = [f.sentence for f in found if f.level == "problem"]
        assert len(said) == 2
        assert "is a replica, which takes no publications" in said[0]
        assert "Nothing can be written" in said[1]
        found = examine(sentinels.url)
        assert not [f for f in found if f.level == "problem"]


def test_looks_at_each_server_of_a_cluster() -> None:
    with redis_cluster() as cluster:
        found = examine(cluster.url)
    said = " ".join(f.sentence for f in found if f.name == "redis")
    assert all(f"127.0.0.1:{node.port}" in said for node in cluster.nodes)


def test_finds_another_application_with_the_prefix(server: RedisServer) -> None:
    prefix = new_prefix()
    other = servers(server.url)
    key = {"SECRET_KEY": "the key of another"}
    assert Namespace(other, prefix=prefix, config=key, now=time.monotonic).enter()
    finding = the(examine(server.url, prefix), "prefix", "problem")
    other.close()
    assert repr(prefix) in finding.sentence
    assert "another SECRET_KEY" in finding.sentence
    assert "LIVEPUSH_PREFIX" in (finding.remedy or "")


def test_finds_rooms_of_another_application_with_the_same_key(
    server: RedisServer,
) -> None:
    prefix = new_prefix()
    for room in ("shop:1", "chat:1"):
        server.ask("ZADD", Names(prefix).index(room), 1, room)
    found = examine(server.url, prefix, knows=lambda name: name.startswith("chat:"))
    finding = the(found, "prefix", "hint")
    assert "the room 'shop:1'" in finding.sentence
    found = examine(server.url, prefix, knows=lambda name: True)
    assert not [f for f in found if f.level == "hint"]


@pytest.mark.parametrize(
    ("info", "level", "said"),
    [
        ({"redis_version": "6.2.14"}, "problem", "needs 7.0 or newer"),
        ({"redis_version": "10.0.0"}, "ok", "is Redis 10.0.0"),
        (
            {"redis_version": "7.2.4", "valkey_version": "8.0.1"},
            "ok",
            "is Valkey 8.0.1",
        ),
        ({}, "hint", "no known version"),
        ({"redis_version": "7.4.0", "role": "slave"}, "problem", "is a replica"),
        ({"redis_version": "7.4.0", "evicted_keys": "12"}, "hint", "evicted 12 keys"),
    ],
)
def test_judges_what_servers_say_of_themselves(
    info: dict[str, str], level: str, said: str
) -> None:
    """Of what can't be had here: old and new versions, Valkey."""
    setup = ServerSetup("h:1", 0.001, info, (32 * 2**20, 8 * 2**20, 60), 0, True)
    found = [f for f in queue._server(setup) if said in f.sentence]
    assert [finding.level for finding in found] == [level]


def test_finds_a_slow_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queue, "_SLOW", 0.05)
    info = {"redis_version": "7.4.0"}
    setup = ServerSetup("h:1", 0.08, info, None, None, None)
    assert "takes 80 ms" in next(queue._server(setup)).sentence


def test_says_what_a_server_without_a_disk_means_for_ended_logins() -> None:
    with redis_server("--appendonly", "no") as server:
        found = the(examine(server.url), "logins", "hint")
        assert "keeps nothing on a disk" in found.sentence
        assert "LIVEPUSH_LOGINS = 'database'" in str(found.remedy)
        kept = examine(server.url, logins="database")
        assert [f for f in kept if f.name == "logins"] == []


def test_says_that_rules_forbid_what_ended_logins_need(server: RedisServer) -> None:
    """Bug: under the last release's rules all joins would be told to try again."""
    rules = ("on", ">hidden", "~*", "&*", "+@all", "-@stream")
    server.ask("ACL", "SETUSER", "old", *rules)
    found = examine(f"redis://old:hidden@127.0.0.1:{server.port}")
    assert "nobody can join" in the(found, "logins", "problem").sentence
