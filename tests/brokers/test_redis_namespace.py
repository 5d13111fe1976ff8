"""Who may use an application's names in Redis, on every kind of Redis."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flask_livepush.brokers.redis import servers
from flask_livepush.brokers.redis_channel import PlainChannel
from flask_livepush.brokers.redis_format import Names
from flask_livepush.brokers.redis_namespace import (
    _BEAT,
    _LOG_AGAIN,
    _ROUNDS,
    _SILENT,
    Namespace,
    secret_keys,
)
from flask_livepush.brokers.redis_servers import Command, Servers
from flask_livepush.errors import BrokerError, BrokerUnavailable
from flask_livepush.presence.base import SILENT
from flask_livepush.presence.redis import RedisPresence
from flask_livepush.protocol.publication import Draft
from tests.support.brokers import Clock, Recorder, begun, new_prefix, on_redis
from tests.support.redis import redis_server, until

KEYS = ("s3cret-A", "s3cret-B", "s3cret-C")
# Much longer than real seconds may pass between two lines of a test.
SILENCE = 1000.0


class Place:
    """A prefix that nobody else has, on one Redis, and processes that want it.

    Args:
        url: Of Redis.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.prefix = new_prefix()
        self.key = Names(self.prefix).secrets
        self.clock = Clock()
        self._opened: list[Servers] = []
        self._client = self.servers()

    def servers(self) -> Servers:
        """Open the servers, patiently."""
        found = servers(self.url, quick=5.0)
        self._opened.append(found)
        return found

    def namespace(
        self, key: Any, *fallbacks: str, servers: Servers | None = None
    ) -> Namespace:
        """Return what a process with these keys has."""
        return Namespace(
            servers or self.servers(),
            prefix=self.prefix,
            config={"SECRET_KEY": key, "SECRET_KEY_FALLBACKS": list(fallbacks)},
            now=self.clock,
            silent=SILENCE,
        )

    def ask(self, *words: str | int) -> Any:
        """Send one command about the key of fingerprints."""
        return self._client.send([Command(self.key, words)])[0]

    def pass_time(self, seconds: float) -> None:
        """Let the signs of life grow older, and the processes' clock go on."""
        self.clock.now += seconds
        for fingerprint in self.fingerprints():
            self.ask("ZINCRBY", self.key, str(-seconds * 1000), fingerprint)
        left = self.ask("PTTL", self.key)
        self.ask("PEXPIRE", self.key, max(0, left - int(seconds * 1000)))

    def fingerprints(self) -> list[str]:
        """Return what is in Redis."""
        return [found.decode() for found in self.ask("ZRANGE", self.key, 0, -1)]

    def close(self) -> None:
        """Close all connections."""
        for found in self._opened:
            found.close()


@pytest.fixture(params=["redis", "sentinel", "cluster"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    place = Place(request.getfixturevalue(f"{request.param}_url"))
    yield place
    place.close()


@pytest.fixture
def one_server(redis_url: str) -> Iterator[Place]:
    place = Place(redis_url)
    yield place
    place.close()


def test_is_for_those_who_share_a_key(place: Place) -> None:
    assert place.namespace("A").enter()
    assert place.namespace("A").enter()
    assert place.namespace(b"A").enter()
    assert place.namespace("C", "B", "A").enter()
    assert not place.namespace("D").enter()
    assert not place.namespace("D", "E").enter()
    assert place.namespace("C").enter()
    assert len(place.fingerprints()) == 3


def test_who_is_refused_leaves_nothing_behind(place: Place) -> None:
    assert place.namespace("A").enter()
    before = place.fingerprints()
    stranger = place.namespace("B", "C")
    for _ in range(2):
        assert not stranger.enter()
    assert place.fingerprints() == before


def test_a_key_can_be_changed_while_all_go_on(place: Place) -> None:
    old = [place.namespace("A") for _ in range(2)]
    assert all(process.enter() for process in old)
    between = [place.namespace("B", "A") for _ in range(2)]
    for process in (*between, *old, *between):
        assert process.enter()
        place.pass_time(SILENCE / 4)
    new = place.namespace("B")
    assert new.enter()
    place.pass_time(SILENCE / 4)
    assert between[0].enter()
    assert old[0].enter()
    for _ in range(5):
        place.pass_time(SILENCE / 4)
        assert new.enter()
    assert len(place.fingerprints()) == 1
    assert not place.namespace("A").enter()


def test_a_silent_application_is_forgotten(place: Place) -> None:
    first, second = place.namespace("A"), place.namespace("B")
    assert first.enter()
    place.pass_time(0.75 * SILENCE)
    assert not second.enter()
    place.pass_time(0.25 * SILENCE)
    assert second.enter()
    assert not first.enter()
    place.pass_time(SILENCE)
    assert place.fingerprints() == []


def test_silence_is_as_long_as_presence_has_it() -> None:
    assert _SILENT == SILENT


def test_one_silent_key_is_forgotten_beside_a_living_one(place: Place) -> None:
    assert place.namespace("A").enter()
    place.pass_time(SILENCE / 2)
    assert place.namespace("B").enter() is False
    assert place.namespace("B", "A").enter()
    for _ in range(2):
        place.pass_time(SILENCE / 2)
        assert place.namespace("B").enter()
    assert not place.namespace("A").enter()


def test_of_two_that_begin_at_once_one_is_refused(place: Place) -> None:
    for _ in range(10):
        processes = [(key, place.namespace(key)) for key in "ABAB"]
        gate = threading.Barrier(len(processes))
        let_in: list[str] = []
        all_begin(processes, gate, let_in)
        assert let_in in (["A", "A"], ["B", "B"])
        place.ask("DEL", place.key)


def all_begin(
    processes: list[tuple[str, Namespace]], gate: threading.Barrier, let_in: list[str]
) -> None:
    """Let processes enter at once; note the keys of those who may."""

    def begin(key: str, process: Namespace) -> None:
        gate.wait()
        if process.enter(patient=True):
            let_in.append(key)

    threads = [threading.Thread(target=begin, args=found) for found in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_nothing_is_compared_without_a_key(place: Place) -> None:
    for nothing in (None, "", b""):
        process = place.namespace(nothing, "A")
        assert process.enter()
        process.admit(patient=False)
        assert process.renew() == _BEAT
    assert place.fingerprints() == []
    assert place.namespace("A").enter()
    assert place.namespace(None).enter()


def test_a_key_that_is_set_late_is_compared(place: Place) -> None:
    config: dict[str, Any] = {}
    late = Namespace(
        place.servers(), prefix=place.prefix, config=config, now=place.clock
    )
    late.admit(patient=False)
    assert place.namespace("A").enter()
    config["SECRET_KEY"] = "B"
    with pytest.raises(BrokerUnavailable):
        late.admit(patient=False)
    config["SECRET_KEY_FALLBACKS"] = ("A",)
    late.admit(patient=False)
    assert len(place.fingerprints()) == 2


@pytest.mark.parametrize(
    ("key", "fallbacks", "found"),
    [
        ("é", [b"\xff", ""], ["é".encode(), b"\xff"]),
        ("A", "old", [b"A", b"old"]),
        ("A", b"old", [b"A", b"old"]),
        ("A", None, [b"A"]),
        ("\udcff", (), [b"\xed\xb3\xbf"]),
        (7, ["A"], [b"A"]),
        (None, ["A"], []),
    ],
)
def test_reads_keys_as_flask_does(key: Any, fallbacks: Any, found: list[bytes]) -> None:
    config = {"SECRET_KEY": key, "SECRET_KEY_FALLBACKS": fallbacks}
    assert secret_keys(config) == found


def test_prefixes_are_apart(one_server: Place) -> None:
    """What is in Redis says neither the key nor that two applications share one."""
    other = Place(one_server.url)
    assert one_server.namespace("s3cret").enter()
    assert other.namespace("s3cret").enter()
    assert other.namespace("another").enter() is False
    [here], [there] = one_server.fingerprints(), other.fingerprints()
    assert here != there
    assert "s3cret" not in here + there
    other.close()


def test_trying_out_keys_takes_many_rounds() -> None:
    assert _ROUNDS >= 10_000


def test_the_refusal_names_setting_and_remedies_but_no_secret(
    one_server: Place, caplog: pytest.LogCaptureFixture
) -> None:
    assert one_server.namespace(*KEYS[:2]).enter()
    stranger = one_server.namespace(KEYS[2])
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(BrokerUnavailable) as caught,
    ):
        stranger.admit(patient=False)
    for text in (str(caught.value), stranger.refusal, caplog.text):
        assert f"LIVEPUSH_PREFIX is {one_server.prefix!r}" in text
        assert "SECRET_KEY_FALLBACKS" in text
        assert "staging" in text
        for secret in (*KEYS, *one_server.fingerprints()):
            assert secret not in text


def test_a_refusal_is_in_the_log_once_a_minute(
    one_server: Place, caplog: pytest.LogCaptureFixture
) -> None:
    owner, stranger = one_server.namespace("A"), one_server.namespace("B")
    for wait, lines in ((0.0, 1), (1.0, 1), (_LOG_AGAIN - 1, 2)):
        one_server.pass_time(wait)
        assert owner.enter()
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                stranger.admit(patient=True)
        found = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert len(found) == lines


def test_asks_only_when_it_is_time(one_server: Place) -> None:
    process = one_server.namespace("A")

    def asked() -> bool:
        return bool(one_server.ask("DEL", one_server.key))

    process.admit(patient=False)
    assert asked()
    assert process.renew() == _BEAT
    one_server.clock.now += _BEAT - 1
    process.admit(patient=False)
    assert process.renew() == 1
    assert not asked()
    one_server.clock.now += 1
    assert process.renew() == _BEAT
    assert asked()
    one_server.clock.now += SILENCE - 1
    process.admit(patient=False)
    assert not asked()
    one_server.clock.now += 1
    process.admit(patient=False)
    assert asked()


def test_signs_of_life_keep_others_out(one_server: Place) -> None:
    process, stranger = one_server.namespace("A"), one_server.namespace("B")
    for _ in range(10):
        process.renew()
        one_server.pass_time(SILENCE / 2)
        assert not stranger.enter()


def test_a_foreign_key_is_removed(place: Place) -> None:
    place.ask("SET", place.key, "foreign")
    assert place.namespace("A").enter()
    assert not place.namespace("B").enter()


def test_who_was_let_in_goes_on_while_it_can_not_be_asked() -> None:
    with redis_server() as server:
        place = Place(server.url)
        process, late = place.namespace("A"), place.namespace("A")
        process.admit(patient=False)
        server.kill()
        with pytest.raises(BrokerUnavailable):
            late.admit(patient=False)
        place.clock.now += _BEAT
        assert process.renew() == _BEAT
        process.admit(patient=False)
        place.clock.now += SILENCE
        with pytest.raises(BrokerUnavailable):
            process.admit(patient=False)
        # It is not asked again at once: other shards of a cluster may answer.
        process.admit(patient=False)
        place.close()


def test_who_is_refused_sends_nothing(place: Place) -> None:
    assert place.namespace("A").enter()
    refused = place.servers()
    refused.guard = place.namespace("B", servers=refused)
    broker = on_redis(place.url, prefix=place.prefix)
    broker._servers.guard = place.namespace("B", servers=broker._servers)
    presence = RedisPresence(refused, prefix=place.prefix)
    channel = PlainChannel(
        refused, prefix=place.prefix, sleep=time.sleep, now=place.clock
    )
    acts: list[Callable[[], object]] = [
        lambda: broker.publish("a", [Draft("x", "1")]),
        lambda: broker.position("a"),
        lambda: broker.position("a", patient=True),
        lambda: broker.relay("a", "hello"),
        lambda: broker.ping("a"),
        broker.rooms,
        lambda: presence.beat("node"),
        lambda: presence.read(["a"]),
        lambda: next(channel._messages()),
    ]
    for act in acts:
        with pytest.raises(BrokerUnavailable, match="LIVEPUSH_PREFIX"):
            act()
    assert channel.publish("x") is False
    owner = on_redis(place.url, prefix=place.prefix)
    assert begun(owner, "a").offset == 0
    assert owner.rooms() == ["a"]
    owner.close()
    broker.close()


def test_who_was_silent_delivers_nothing_while_others_live(place: Place) -> None:
    """A process stood still, and another application took the prefix meanwhile."""
    broker, recorder = on_redis(place.url, prefix=place.prefix), Recorder()
    broker._servers.guard = place.namespace("A", servers=broker._servers)
    broker.listen(recorder)
    broker.subscribe("a")
    broker.confirm("a")
    publisher = on_redis(place.url, prefix=place.prefix)
    publisher.publish("a", [Draft("x", "1")])
    recorder.wait(lambda: recorder.offsets("a") == [1])
    assert broker.tick(broker._served["a"].reader) <= _BEAT

    stranger = place.namespace("B")
    place.ask("DEL", place.key)  # as it would be after the silence
    assert stranger.enter()
    place.clock.now += _BEAT
    served = broker._served["a"]
    # Something in its socket wakes the reader.
    until(lambda: publisher.relay("a", "wake") or not served.confirmed.is_set())
    publisher.publish("a", [Draft("x", "2")])
    with pytest.raises(BrokerError):
        broker.publish("a", [Draft("x", "3")])

    place.ask("DEL", place.key)
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    assert re.fullmatch(r"\S+", place.fingerprints()[0])
    broker.confirm("a")
    publisher.close()
    broker.close()
