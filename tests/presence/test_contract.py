"""What every presence store guarantees, one body for all of them."""

from __future__ import annotations

import threading
from itertools import count

import pytest

from flask_livepush.brokers.redis import servers
from flask_livepush.presence.base import SILENT, Change, Listing, PresenceStore
from flask_livepush.presence.memory import MemoryPresence
from flask_livepush.presence.redis import RedisPresence
from tests.support.brokers import Clock
from tests.support.redis import until

_prefixes = count(1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def store(request: pytest.FixtureRequest, clock: Clock) -> PresenceStore:
    """Return a store that nobody else uses."""
    if request.param == "memory":
        return MemoryPresence(now=clock)
    url = request.getfixturevalue(f"{request.param}_url")
    return RedisPresence(
        servers(url, quick=5.0), prefix=f"here{next(_prefixes)}", silent=0.5
    )


def enter(store: PresenceStore, node: str, room: str = "a", **users: str) -> object:
    step = store.change([Change(room, node, users)])[0]
    return dict(step.joined)


def take_out(store: PresenceStore, node: str, *users: str, room: str = "a") -> object:
    return store.change([Change(room, node, left=users)])[0].left


def users(store: PresenceStore, room: str = "a") -> dict[str, dict[str, str]]:
    listing = store.read([room])[0]
    return {node: dict(found) for node, found in listing.entries.items()}


def test_a_user_joins_with_the_first_node_and_leaves_with_the_last(
    store: PresenceStore,
) -> None:
    assert enter(store, "n", ada='{"x":1}', ben="") == {"ada": '{"x":1}', "ben": ""}
    assert enter(store, "m", ada='{"x":1}') == {}
    assert users(store) == {"n": {"ada": '{"x":1}', "ben": ""}, "m": {"ada": '{"x":1}'}}
    assert take_out(store, "n", "ada", "ben", "nobody") == ("ben",)
    assert users(store) == {"m": {"ada": '{"x":1}'}}
    assert take_out(store, "m", "ada") == ("ada",)
    assert users(store) == {}


def test_entering_again_is_no_joining(store: PresenceStore) -> None:
    enter(store, "n", ada="1")
    before = store.versions(["a"])
    assert enter(store, "n", ada="1") == {}
    assert store.versions(["a"]) == before
    assert enter(store, "n", ada="2") == {}
    assert store.versions(["a"]) != before
    assert users(store) == {"n": {"ada": "2"}}
    assert take_out(store, "n", "ada") == ("ada",)


def test_each_step_follows_the_version_before_it(store: PresenceStore) -> None:
    version = ""
    for step in store.change(
        [
            Change("a", "n", {"ada": ""}),
            Change("a", "m", {"ada": ""}),
            Change("a", "n", {}, ("ada",)),
        ]
    ):
        assert step.was == version
        assert step.version != version
        version = step.version
    assert store.versions(["a"]) == [version]
    assert store.read(["a"])[0].version == version
    unchanged = store.change([Change("a", "n", {}, ("ada",))])[0]
    assert unchanged.was == unchanged.version == version


def test_a_list_that_begins_again_has_another_epoch(store: PresenceStore) -> None:
    seen = set()
    for _ in range(3):
        step = store.change([Change("a", "n", {"ada": ""})])[0]
        assert step.was == ""
        seen.add(step.version)
        take_out(store, "n", "ada")
        assert store.versions(["a"]) == [""]
    assert len(seen) == 3


def test_rooms_are_apart_and_asked_for_together(store: PresenceStore) -> None:
    names = [f"room {n} }}{{ é\n" for n in range(20)]
    store.change([Change(name, "n", {str(n): ""}) for n, name in enumerate(names)])
    listings = store.read([*names, "empty"])
    assert [dict(found.entries) for found in listings] == [
        *({"n": {str(n): ""}} for n in range(20)),
        {},
    ]
    assert listings[-1] == Listing("", {})
    assert store.versions([*names, "empty"]) == [found.version for found in listings]
    assert store.read([]) == store.versions([]) == store.change([]) == []


@pytest.mark.parametrize("user", ["version", "é💬", "a b\n", "n\0m", ""])
def test_takes_any_id(user: str, store: PresenceStore) -> None:
    assert enter(store, "n", **{user: ""}) == {user: ""}
    assert users(store) == {"n": {user: ""}}
    assert take_out(store, "n", user) == (user,)


def test_a_silent_node_is_gone(store: PresenceStore, clock: Clock) -> None:
    assert store.beat(None) == set()
    assert store.beat("n") == {"n"}
    clock.now += SILENT / 2
    assert store.beat("m") == {"n", "m"}
    clock.now += SILENT / 2

    def alive() -> bool:
        return store.beat("m") == {"m"}

    until(alive)
    assert store.beat(None) == {"m"}


def test_a_last_sign_counts_for_as_long_as_it_says(
    store: PresenceStore, clock: Clock
) -> None:
    assert store.beat("n", lasts=0) == set()
    assert store.beat("n") == {"n"}
    assert store.beat("n", lasts=SILENT / 2) == {"n"}
    assert store.beat("m", lasts=3 * SILENT) == {"n", "m"}
    clock.now += SILENT

    def alive() -> bool:
        return store.beat(None) == {"m"}

    until(alive)


def test_changes_at_once_lose_nothing(store: PresenceStore) -> None:
    def come_and_go(node: str) -> None:
        for number in range(20):
            enter(store, node, ada="", **{f"{node}{number}": ""})
            take_out(store, node, "ada")

    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in "nmo"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert users(store) == {
        node: {f"{node}{number}": "" for number in range(20)} for node in "nmo"
    }
    assert enter(store, "n", ada="") == {"ada": ""}
