"""What is Redis's own: URLs, lost connections and servers, foreign entries, names."""

from __future__ import annotations

import logging
import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FuturesTimeout
from contextlib import ExitStack
from dataclasses import astuple
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from redis import Redis
from redis.crc import key_slot
from redis.exceptions import ResponseError

from flask_livepush.brokers import redis_servers
from flask_livepush.brokers.redis import RedisBroker, servers
from flask_livepush.brokers.redis_channel import PlainChannel
from flask_livepush.brokers.redis_format import (
    Names,
    read_message,
)
from flask_livepush.brokers.redis_namespace import Namespace
from flask_livepush.brokers.redis_peers import RedisPeers
from flask_livepush.brokers.redis_servers import _MAX_CONNECTIONS, QUICK, TURN, Wire
from flask_livepush.brokers.redis_topologies import OneServer
from flask_livepush.brokers.redis_url import Address, parse, without_password
from flask_livepush.errors import (
    BrokerError,
    BrokerUnavailable,
    ConfigError,
    PublicationTooLarge,
)
from flask_livepush.outgoing import Outgoing
from flask_livepush.presence.base import Change
from flask_livepush.presence.redis import RedisPresence
from flask_livepush.protocol.batch import Everywhere
from flask_livepush.protocol.publication import (
    Attempt,
    Draft,
    Parcel,
    Position,
    Publication,
)
from tests.support.brokers import (
    Clock,
    Recorder,
    begun,
    in_front_of,
    on_redis,
    spawn,
)
from tests.support.redis import (
    RedisServer,
    Wiretap,
    redis_cluster,
    redis_sentinels,
    redis_server,
    until,
)
from tests.support.servers import MODES, Mode, running
from tests.support.waiting import DEADLINE

Make = Callable[..., tuple[RedisBroker, Recorder]]


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, to be killed."""
    with redis_server() as started:
        yield started


@pytest.fixture
def make() -> Iterator[Make]:
    """Return a function that makes a broker on a URL, and its listener."""
    made = []

    def build(url: str, **options: Any) -> tuple[RedisBroker, Recorder]:
        broker = on_redis(url, **options)
        made.append(broker)
        recorder = Recorder()
        broker.listen(recorder)
        return broker, recorder

    yield build
    for broker in made:
        broker.close()


def drafts(*data: int) -> list[Draft]:
    return [Draft("x", str(number)) for number in data]


def row(key: str, stamp: int) -> Draft:
    return Draft("message.updated", str(stamp), "message", key, stamp)


def serve(broker: RedisBroker, *rooms: str) -> None:
    """Subscribe to rooms and wait for the confirmation."""
    for room in rooms:
        broker.subscribe(room)
    for room in rooms:
        broker.confirm(room)


def publish(broker: RedisBroker, room: str, *data: int) -> Position:
    """Publish when Redis is there again."""

    def attempt() -> Position | None:
        try:
            return broker.publish(room, drafts(*data))
        except BrokerUnavailable:
            return None

    found: Position = until(attempt)
    return found


# -- URLs --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "kind", "addresses", "more"),
    [
        ("redis://", "server", (("localhost", 6379),), {}),
        ("redis://h:1/2", "server", (("h", 1),), {"db": 2}),
        (
            "valkey://u:p%40s@h",
            "server",
            (("h", 6379),),
            {"username": "u", "password": "p@s"},
        ),
        ("redis://:p@[::1]:7", "server", (("::1", 7),), {"password": "p"}),
        ("unix:///run/r.sock?db=3", "server", (("/run/r.sock", 0),), {"db": 3}),
        ("redis+sentinel://a,b:2/main", "sentinel", (("a", 26379), ("b", 2)), {}),
        (
            "valkey+sentinel://:p@a:1/4/main",
            "sentinel",
            (("a", 1),),
            {"db": 4, "password": "p"},
        ),
        ("redis+cluster://a:1,b:2", "cluster", (("a", 1), ("b", 2)), {}),
        ("valkeys+cluster://a", "cluster", (("a", 6379),), {}),
        (
            "rediss://h?ssl_cert_reqs=none&ssl_check_hostname=false",
            "server",
            (("h", 6379),),
            {"ssl_cert_reqs": "none", "ssl_check_hostname": False},
        ),
    ],
)
def test_reads_a_url(url: str, kind: str, addresses: Any, more: dict[str, Any]) -> None:
    target = parse(url)
    assert (target.kind, target.addresses, target.options) == (kind, addresses, more)
    assert target.tls == url.startswith(("rediss", "valkeys"))
    assert target.service == ("main" if kind == "sentinel" else "")


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("http://h", "must begin with redis://"),
        ("redis+mystery://h", "must begin with redis://"),
        ("unix+cluster:///x", "must begin with redis://"),
        ("unix://", "unix:///run/redis.sock"),
        ("unix://h/x", "unix:///run/redis.sock"),
        ("redis://a,b", "redis+cluster://"),
        ("redis://h:port", "no port"),
        ("redis://h:70000", "no port"),
        ("redis://h/x", "no number of a database"),
        ("redis://h/1/2", "no number of a database"),
        ("redis+sentinel://h", "name the service"),
        ("redis+cluster://h/1", "database 0"),
        ("redis://h?sock_timeout=3", "no option"),
        ("redis://h?ssl_cert_reqs=no", "can't be 'no'"),
        ("redis://h?db=x", "can't be 'x'"),
    ],
)
def test_refuses_a_url_with_the_remedy_and_without_its_password(
    url: str, remedy: str
) -> None:
    with_secret = url.replace("://", "://user:s3cret@", 1)
    if url.startswith("unix"):
        with_secret = url + "?password=s3cret"
    for bad in (url, with_secret):
        with pytest.raises(ConfigError) as caught:
            parse(bad)
        assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError, match="LIVEPUSH_MESSAGE_QUEUE") as caught:
        parse(url)
    assert remedy in str(caught.value)


def test_never_shows_a_password() -> None:
    url = "redis+sentinel://u:one@a,b/main?sentinel_password=two&db=1&password=three"
    assert without_password(url) == (
        "redis+sentinel://u:***@a,b/main?sentinel_password=***&db=1&password=***"
    )
    assert without_password("redis://:p@ss@h") == "redis://:***@h"
    assert "'p'" not in repr(parse("redis://:p@h"))


def test_an_unreachable_server_is_named_without_its_password() -> None:
    found = servers("redis://user:s3cret@127.0.0.1:1")
    with pytest.raises(BrokerUnavailable, match="does not answer") as caught:
        found.check()
    assert "redis://user:***@127.0.0.1:1" in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_a_wrong_password_is_a_wrong_setting() -> None:
    with redis_server("--requirepass", "right") as server:
        hosts = f"127.0.0.1:{server.port}"
        for userinfo in ("", ":wr0ng@", "nobody:wr0ng@"):
            with pytest.raises(ConfigError, match="password") as caught:
                servers(f"redis://{userinfo}{hosts}").check()
            assert "wr0ng" not in str(caught.value)
        servers(f"redis://:right@{hosts}").check()


@pytest.mark.parametrize("kind", ["sentinel", "cluster"])
def test_says_why_nobody_knows_where_rooms_are(kind: str, server: RedisServer) -> None:
    url = f"redis+{kind}://127.0.0.1:{server.port}/{'x' * (kind == 'sentinel')}"
    with pytest.raises(BrokerUnavailable, match=f"redis.{kind}"):
        servers(url).check()


def test_speaks_over_a_unix_socket(server: RedisServer, make: Make) -> None:
    broker, recorder = make(f"unix://{server.socket}")
    serve(broker, "a")
    broker.publish("a", drafts(1))
    recorder.wait(lambda: recorder.offsets("a") == [1])


# -- holes ---------------------------------------------------------------------------


def cut(server: RedisServer) -> None:
    """Close the connections that listen."""
    server.ask("CLIENT", "KILL", "TYPE", "PUBSUB")


def test_what_a_lost_connection_missed_is_read_again(
    server: RedisServer, make: Make
) -> None:
    broker, recorder = make(server.url)
    rooms = [f"r{number}" for number in range(50)]
    serve(broker, *rooms)
    total = 0
    for number in range(20):
        cut(server)
        for room in rooms[:: number + 1]:
            publish(broker, room, number, number)
            total += 2
    recorder.wait(lambda: sum(len(b[2]) for b in recorder.batches) == total)
    for room in rooms:
        offsets = recorder.offsets(room)
        assert offsets == list(range(1, len(offsets) + 1))
    assert recorder.mended == []


def test_what_the_history_lacks_is_mended(server: RedisServer, make: Make) -> None:
    broker, recorder = make(server.url, size=2)
    serve(broker, "a", "b")
    server.ask("CLIENT", "PAUSE", 300, "ALL")  # no new subscription meanwhile
    cut(server)
    for number in range(5):
        publish(broker, "a", number)
    recorder.wait(lambda: recorder.offsets("a") or recorder.mended)
    if not recorder.offsets("a"):
        assert recorder.mended == ["a"]
    publish(broker, "a", 6)
    recorder.wait(lambda: recorder.offsets("a")[-1:] == [6])


@pytest.mark.parametrize("keep", [True, False])
def test_a_restarted_server_begins_new_epochs(
    keep: bool, server: RedisServer, make: Make
) -> None:
    broker, recorder = make(server.url)
    serve(broker, "a", "b")
    before = broker.publish("a", drafts(1, 2))
    server.restart(keep=keep)
    after = publish(broker, "a", 3)
    assert after.offset == 1
    assert after.epoch != before.epoch
    recorder.wait(lambda: {"a", "b"} <= set(recorder.mended))
    publish(broker, "a", 4)
    recorder.wait(lambda: recorder.offsets("a")[-1:] == [2])
    assert broker.history("a", before).publications is None
    assert {"a"} <= set(broker.rooms())


@pytest.mark.parametrize("command", ["FLUSHALL", "DEL"])
def test_what_is_flushed_or_evicted_is_found_by_the_check(
    command: str, server: RedisServer, make: Make
) -> None:
    broker, recorder = make(server.url, prefix="p", check_interval=0.1)
    serve(broker, "a", "quiet")
    before = broker.publish("a", drafts(1, 2))
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    server.ask(
        *([command] if command == "FLUSHALL" else [command, Names("p").room("a").meta])
    )
    recorder.wait(lambda: "a" in recorder.mended)
    assert broker.position("a").epoch != before.epoch
    assert broker.position("a").offset == 0
    assert "a" in broker.rooms()


def test_a_loss_without_a_sign_is_found_by_the_check(
    server: RedisServer, make: Make
) -> None:
    broker, recorder = make(server.url, prefix="p", check_interval=0.1)
    serve(broker, "a")
    broker.publish("a", drafts(1))
    recorder.wait(lambda: recorder.offsets("a") == [1])
    # As if a message was lost: the server takes it, and tells nobody.
    keys = Names("p").room("a")
    script = """
        redis.call('HINCRBY', KEYS[1], 'offset', 1)
        local record = redis.call('LINDEX', KEYS[2], -1)
        redis.call('RPUSH', KEYS[2], '2' .. string.sub(record, 2))
    """
    server.ask("EVAL", script, 2, keys.meta, keys.log)
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])


@pytest.mark.parametrize("epoch", ["", "x", "\ud800", "é", "a b\n", "x" * 64])
def test_an_epoch_of_a_client_s_own_making_recovers_nothing(
    epoch: str, redis_url: str, make: Make
) -> None:
    broker, _ = make(redis_url)
    broker.publish("a", drafts(1))
    for offset in (0, 1, 2, 2**53, 10**30):
        assert broker.history("a", Position(epoch, offset)).publications is None


def test_a_planned_failover_is_followed(make: Make) -> None:
    with redis_sentinels() as redis:
        broker, recorder = make(redis.url, check_interval=0.5)
        serve(broker, "a")
        publish(broker, "a", 1)
        with Redis(port=redis.ports[0]) as sentinel:
            sentinel.execute_command("SENTINEL", "FAILOVER", "main")
        until(lambda: redis.current() == redis.replica.port, "no failover")
        # Sentinels ask who is what every 10 s, and turn an old primary after 8 s more.
        until(lambda: redis.primary.info("replication")["role"] == "slave")
        recorder.wait(lambda: publish(broker, "a", 2) and "a" in recorder.mended)
        publish(broker, "a", 3)
        recorder.wait(lambda: recorder.batches[-1][2][-1].data == "3")


def test_an_evicted_history_is_not_recovered_in_part(
    server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url, prefix="p")
    start = broker.publish("a", drafts(1, 2))
    server.ask("DEL", Names("p").room("a").log)
    broker.publish("a", drafts(3))
    assert broker.history("a", Position(start.epoch, 1)).publications is None
    found = broker.history("a", Position(start.epoch, 2)).publications
    assert found == [Publication(3, "x", "3")]


@pytest.mark.parametrize("lost", ["rows", "seen"])
def test_an_evicted_memory_of_rows_is_a_floor(
    lost: str, server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url, prefix="p")
    other = Draft("tag.updated", "1", "tag", "1", 9)
    broker.publish("a", [row("1", 5), row("2", 7), other])
    server.ask("DEL", getattr(Names("p").room("a"), lost))
    start = broker.publish("a", [row("3", 8)])
    broker.publish("a", [row("1", 4), Draft("tag.updated", "0", "tag", "1", 8)])
    found = broker.history("a", start).publications
    assert [p.event for p in found or ()] == ["message.invalidated", "tag.invalidated"]


def test_rows_that_are_remembered_are_bounded(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url, prefix="p", max_rows=10)
    broker.publish("a", [row(str(number), number + 1) for number in range(30)])
    keys = Names("p").room("a")
    assert server.ask("HLEN", keys.rows) == server.ask("ZCARD", keys.seen) == 10
    before = broker.publish("a", [row("29", 29), row("25", 40)])
    assert before.offset == 31  # one stale, one newer
    broker.publish("a", [row("3", 4), row("4", 20), row("31", 21)])
    found = broker.history("a", before).publications or []
    assert [p.event for p in found] == ["message.invalidated", "message.updated"]


class Patience(OneServer):
    """A server, and how long each connection to it may let a caller wait."""

    def __init__(self, url: str) -> None:
        super().__init__(parse(url))
        self.waits: list[float] = []

    def make(self, address: Address, options: dict[str, Any], timeout: float) -> Wire:
        """Note the connection's limit."""
        self.waits.append(timeout)
        return super().make(address, options, timeout)


def test_a_publish_to_a_hung_server_waits_once_and_is_never_tried_again(
    server: RedisServer, make: Make
) -> None:
    """What decides how long it takes; ``make soak`` measures it."""
    assert QUICK + TURN < 0.3
    hung = Patience(server.url)
    options = {"prefix": "p", "size": 100, "ttl": 300}
    publisher = RedisBroker(hung, spawn=spawn, sleep=time.sleep, **options)
    broker, recorder = make(server.url, **options)
    serve(broker, "a")
    publish(broker, "a", 1)
    server.pause()
    try:
        for number in range(3):
            hung.waits.clear()
            with pytest.raises(BrokerUnavailable):
                publisher.publish("a", drafts(10 + number))
            # The kernel takes the connection at once; the answer is waited for.
            assert hung.waits == [QUICK]
    finally:
        server.go_on()
    publish(broker, "a", 3)

    def told() -> list[str]:
        return [p.data for _, _, batch in recorder.batches for p in batch]

    # What timed out may have been done, but once.
    recorder.wait(lambda: "3" in told())
    publish(broker, "a", 4)
    recorder.wait(lambda: "4" in told())
    assert len(told()) == len(set(told()))
    offsets = recorder.offsets("a")
    assert offsets == list(range(1, len(offsets) + 1))
    publisher.close()


@pytest.mark.soak
def test_a_hung_server_delays_a_publish_by_300_ms_at_most(
    server: RedisServer, make: Make
) -> None:
    """Measured, on a quiet machine."""
    broker, _ = make(server.url, quick=QUICK)
    publish(broker, "a", 1)
    server.pause()
    took = []
    try:
        for _ in range(50):
            began = time.monotonic()
            with pytest.raises(BrokerUnavailable):
                broker.publish("a", drafts(2))
            took.append(time.monotonic() - began)
    finally:
        server.go_on()
    assert sorted(took)[45] < 0.3


def test_many_joins_at_once_do_not_count_as_a_server_that_is_away(
    server: RedisServer, make: Make
) -> None:
    """Bug: joins that found all connections in use were refused, and the connections
    thrown away; and they took the connections of views that commit."""
    broker, _ = make(server.url, quick=QUICK)
    begun(broker, "a")
    address = ("127.0.0.1", server.port)
    quick = broker._servers.pool(address, patient=False)
    with ExitStack() as stack:
        for _ in range(_MAX_CONNECTIONS):
            stack.enter_context(quick.connection())
        with pytest.raises(BrokerUnavailable, match="all connections are in use"):
            broker.position("a")
        assert broker.position("a", patient=True).offset == 0
    assert broker._servers.pool(address, patient=False) is quick
    patient = broker._servers.pool(address, patient=True)
    with ThreadPoolExecutor(1) as executor:
        with ExitStack() as stack:
            for _ in range(_MAX_CONNECTIONS):
                stack.enter_context(patient.connection())
            joining = executor.submit(broker.position, "a", patient=True)
            with pytest.raises(FuturesTimeout):  # longer than a view would wait
                joining.result(10 * TURN)
        assert joining.result(DEADLINE).offset == 0


# -- publications that were not answered ---------------------------------------------


def test_what_redis_took_without_answering_is_not_taken_again(
    redis_url: str, make: Make
) -> None:
    broker, _ = make(redis_url)
    first = broker.publish("a", drafts(1, 2), attempt=Attempt("one"))
    again = Attempt("one", again=True)
    assert broker.publish("a", drafts(1, 2), attempt=again) == first
    broker.publish("a", drafts(3), attempt=Attempt("two"))
    assert broker.publish("a", drafts(1, 2), attempt=again).offset == 3
    assert broker.publish("a", drafts(4), attempt=Attempt("three", True)).offset == 4


def test_what_redis_finds_in_its_sockets_is_refused_after_it_was_sent_again(
    server: RedisServer, make: Make
) -> None:
    """Bug: an event was shown twice when Redis went on after a pause."""
    broker, recorder = make(server.url, quick=1.0)
    serve(broker, "a")
    broker.publish("a", drafts(0))
    server.pause()
    attempt = Attempt("one")
    for _ in range(3):
        with pytest.raises(BrokerUnavailable):
            broker.publish("a", drafts(1), attempt=attempt)
        attempt = Attempt("one", again=True)
    server.go_on()
    # Whichever of the four attempts Redis takes first, it takes one.
    until(lambda: not raises(lambda: broker.ping("a")))
    until(lambda: not raises(lambda: broker.publish("a", drafts(1), attempt=attempt)))
    publish(broker, "a", 2)
    recorder.wait(lambda: recorder.offsets("a")[-1:] == [3])
    assert [p.data for b in recorder.batches for p in b[2]] == ["0", "1", "2"]


def raises(act: Callable[[], object]) -> bool:
    """Say whether the server does not answer yet."""
    try:
        act()
    except BrokerUnavailable:
        return True
    return False


def test_an_attempt_that_is_late_takes_nothing(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url, prefix="p")
    sent = broker.publish("b", drafts(1), attempt=Attempt("two", again=True))
    with server.client() as client:
        (field,) = client.hkeys(Names("p").room("b").fences)
        client.hset(Names("p").room("b").fences, field, 99)
    with pytest.raises(BrokerUnavailable, match="late"):
        broker.publish("b", drafts(2))
    assert broker.position("b") == sent


def test_a_version_older_than_the_memory_of_rows_is_invalidated(
    server: RedisServer, make: Make
) -> None:
    """Bug: a change that had waited while Redis lost its memory undid a newer one."""
    broker, _ = make(server.url)
    broker.publish("a", [row("1", 5)])
    server.ask("FLUSHALL")
    start = begun(broker, "a")
    late = Attempt("late", since=time.monotonic() - 3600)
    broker.publish("a", [row("1", 4), *drafts(1)], attempt=late)
    broker.publish("a", [row("2", 6)])
    found = broker.history("a", start).publications or []
    assert [p.event for p in found] == ["message.invalidated", "x", "message.updated"]
    # In an epoch that begins with it, nobody can have seen a newer one.
    broker.publish("new", [row("1", 4)], attempt=late)
    new = Position(begun(broker, "new").epoch, 0)
    found = broker.history("new", new).publications or []
    assert [p.event for p in found] == ["message.updated"]


def since(broker: RedisBroker, start: Position) -> list[str]:
    """Return what was published in the room a after a position."""
    found = broker.history("a", start).publications or []
    return [p.event.removeprefix("message.") + p.data for p in found]


def test_what_waited_while_redis_lost_its_memory_is_told_once(
    server: RedisServer, make: Make
) -> None:
    """Bug: each commit in a queue let all screens read everything anew."""
    broker, _ = make(server.url, prefix="p")
    other, _ = make(server.url, prefix="p")
    began: list[Callable[[], object]] = []
    outgoings = [
        Outgoing(
            broker,
            spawn=began.append,
            sleep=time.sleep,
            now=time.monotonic,
            max_bytes=1_000_000,
        )
        for broker in (broker, other)
    ]
    server.kill()
    for number in range(20):
        waits = outgoings[number % 2]
        told = [row(str(number), 10 + number), *drafts(number)]
        assert waits.publish("a", told).outcome == "queued"
    outgoings[0].publish("a", [Draft("message.invalidated", "{}")])
    server.start(keep=False)
    start: Position = until(lambda: quiet(lambda: begun(broker, "a")))
    for send in began:
        send()
    order = [*range(0, 20, 2), *range(1, 20, 2)]
    assert since(broker, start) == ["invalidated{}", *(f"x{n}" for n in order)]
    # What was told of no more is known all the same.
    before = begun(broker, "a")
    broker.publish("a", [row("7", 16)])
    assert broker.position("a") == before
    broker.publish("a", [row("7", 18)])
    assert since(broker, before) == ["updated18"]


def test_what_was_committed_after_the_telling_is_told_again(
    server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url, prefix="p")
    start = begun(broker, "a")
    early = time.monotonic() - 3600
    broker.publish("a", [row("1", 1)], attempt=Attempt("1", since=early, queued=early))
    # Of these nobody knows that they were committed before the telling.
    broker.publish("a", [row("2", 2)], attempt=Attempt("2", since=early))
    now = Attempt("3", since=early, queued=time.monotonic())
    broker.publish("a", [row("3", 3)], attempt=now)
    broker.publish("a", [Draft("message.invalidated", "{}")])
    assert since(broker, start) == ["invalidated{}"] * 4
    # Other kinds, and what an application says itself.
    late = Attempt("4", since=early, queued=early)
    others = [Draft("note.invalidated", "{}"), Draft("message.invalidated", "[]")]
    before = begun(broker, "a")
    broker.publish("a", [row("4", 4), *others], attempt=late)
    expected = ["note.invalidated{}", "invalidated[]"]
    assert since(broker, before) == expected
    with server.client() as client:
        client.hset(Names("p").room("a").meta, "server", "another")
    start = begun(broker, "a")
    broker.publish("a", [row("5", 5)], attempt=late)
    assert since(broker, start) == ["invalidated{}"]


def test_a_publisher_that_stood_still_undoes_nothing(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a thread that hung between commit and publishing said it had not waited."""
    clock = Clock()
    broker, _ = make(server.url, prefix="p", now=clock)
    other, _ = make(server.url, prefix="p")
    broker.publish("a", drafts(1))
    starts: list[Position] = []
    ask = broker._rooms._ask

    def stand_still(*args: Any, **options: Any) -> Any:
        if not starts:
            # Q's newer version is published, and forgotten with the rest.
            server.ask("FLUSHALL")
            starts.append(begun(other, "a"))
            server.ask("HINCRBY", Names("p").room("a").meta, "born", -1000)
            clock.now += 10
        return ask(*args, **options)

    monkeypatch.setattr(broker._rooms, "_ask", stand_still)
    attempt = Attempt("one", since=clock.now)
    position = broker.publish("a", [row("1", 1), *drafts(2)], attempt=attempt)
    assert since(broker, starts[0]) == ["updated1", "x2", "invalidated{}"]
    assert position == broker.position("a")
    # Made again it can't say when it was taken.
    start = position
    again = Attempt("one", again=True, since=clock.now - 10)
    broker.publish("a", [row("1", 1), *drafts(2)], attempt=again)
    assert since(broker, start) == ["invalidated{}"]


def quiet(act: Callable[[], Any]) -> Any:
    """Return what something returns; None while the server does not answer."""
    try:
        return act()
    except BrokerUnavailable:
        return None


def test_what_waits_while_redis_hangs_goes_out_once_and_in_order(
    server: RedisServer, make: Make
) -> None:
    broker, recorder = make(server.url, quick=1.0)
    outgoing = in_front_of(broker)
    serve(broker, "a", "b")
    told: list[str] = []

    def emit(number: int) -> None:
        receipt = outgoing.publish("ab"[number % 2], drafts(number))
        told.append(receipt.outcome)

    for number in range(10):
        emit(number)
    for begin, restart in ((10, False), (30, False), (50, True)):
        server.pause()
        for number in range(begin, begin + 20):
            emit(number)
        if restart:
            server.restart(keep=False)
        else:
            server.go_on()
        until(lambda: outgoing.depth == 0)
    assert told[10:] == ["queued"] * 60
    for remainder, room in enumerate("ab"):
        recorder.wait(lambda room=room: len(recorder.offsets(room)) >= 25)
        seen = [p.data for b in recorder.batches if b[0] == room for p in b[2]]
        assert seen[:25] == [str(n) for n in range(50) if n % 2 == remainder]
        # The restarted server has nothing but what had waited for it.
        start = Position(begun(broker, room).epoch, 0)
        found = broker.history(room, start).publications or []
        assert [p.data for p in found] == [str(n) for n in range(50 + remainder, 70, 2)]


def test_a_connection_without_a_sign_of_life_is_made_again(
    server: RedisServer, make: Make
) -> None:
    clock = Clock()
    broker, recorder = make(server.url, now=clock, check_interval=1e9)
    serve(broker, "a")
    clock.now += 11
    serve(broker, "b")  # which wakes the reader; Redis has answered
    assert broker.counts["interrupted"] == 0
    server.pause()
    clock.now += 11
    broker.subscribe("c")
    clock.now += 6
    broker.subscribe("d")
    broker.subscribe("e")
    until(lambda: poke(broker, clock) and broker.counts["interrupted"])
    server.go_on()
    publish(broker, "a", 1)
    recorder.wait(lambda: recorder.offsets("a") == [1])


def poke(broker: RedisBroker, clock: Clock) -> bool:
    """Let a reader look at the time, which passes."""
    clock.now += 1
    broker.unsubscribe("e")
    broker.subscribe("e")
    return True


def test_a_join_waits_until_the_server_is_there(
    server: RedisServer, make: Make
) -> None:
    broker, recorder = make(server.url, confirm_within=0.2)
    server.kill()
    broker.subscribe("a")
    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        broker.confirm("a")
    server.start(keep=True)

    def confirmed() -> bool:
        try:
            broker.confirm("a")
        except BrokerUnavailable:
            return False
        return True

    until(confirmed)
    publish(broker, "a", 1)
    recorder.wait(lambda: recorder.offsets("a") == [1])


def test_subscribing_never_waits(server: RedisServer, make: Make) -> None:
    broker, recorder = make(server.url)
    rooms = [f"r{number}" for number in range(1000)]

    def flap() -> None:
        for room in rooms:
            broker.subscribe(room)
            broker.unsubscribe(room)
            broker.subscribe(room)

    thread = threading.Thread(target=flap, daemon=True)
    server.pause()
    try:
        thread.start()
        # Seconds for each of them, if they waited for the server: an hour.
        thread.join(DEADLINE)
        assert not thread.is_alive()
    finally:
        server.go_on()
    serve(broker, *rooms)
    for room in rooms[::100]:
        broker.publish(room, drafts(1))
    recorder.wait(lambda: len(recorder.batches) == 10)


def test_joins_and_leaves_of_one_room_do_not_race(
    server: RedisServer, make: Make
) -> None:
    """What is published between a confirmation and the end is always delivered."""
    broker, recorder = make(server.url, size=10_000)
    stop = threading.Event()

    def flap() -> None:
        while not stop.is_set():
            broker.subscribe("b")
            broker.unsubscribe("b")

    thread = threading.Thread(target=flap, daemon=True)
    thread.start()
    offset = 0
    try:
        for _ in range(200):
            broker.subscribe("a")
            broker.confirm("a")
            offset = broker.publish("a", drafts(1)).offset
            recorder.wait(lambda at=offset: recorder.offsets("a")[-1:] == [at])
            broker.unsubscribe("a")
    finally:
        stop.set()
        thread.join(DEADLINE)
    assert recorder.offsets("a") == list(range(1, offset + 1))


# -- failover ------------------------------------------------------------------------


def test_offsets_that_are_given_again_after_a_failover_have_another_epoch(
    make: Make,
) -> None:
    """The primary dies with publications that its replica has never got."""
    with redis_sentinels() as redis:
        broker, recorder = make(redis.url)
        serve(broker, "a", "quiet")
        shown = broker.publish("a", drafts(1, 2))
        recorder.wait(lambda: recorder.offsets("a") == [1, 2])
        stem = redis.replica.info("replication")
        assert stem["master_link_status"] == "up"
        until(lambda: in_step(redis.primary))
        redis.replica.pause()
        # Nothing more is written to the replica, which would read it when it goes on.
        redis.primary.ask("CLIENT", "KILL", "TYPE", "REPLICA")
        lost = broker.publish("a", drafts(3, 4, 5))
        recorder.wait(lambda: recorder.offsets("a") == [1, 2, 3, 4, 5])
        redis.primary.kill()
        redis.replica.go_on()
        redis.watch(silence=500)
        until(lambda: redis.current() == redis.replica.port, "no failover")
        again = publish(broker, "a", 30)
        # The replica stood at 2: without another epoch this would be 3.
        assert again.offset == 1
        assert again.epoch not in (shown.epoch, lost.epoch)
        for since in (shown, lost, Position(lost.epoch, 3)):
            assert broker.history("a", since).publications is None
        recorder.wait(lambda: {"a", "quiet"} <= set(recorder.mended))
        assert (lost.epoch, 3) not in [
            (epoch, p.offset)
            for room, epoch, batch in recorder.batches
            for p in batch
            if p.data == "30"
        ]
        publish(broker, "a", 31)
        recorder.wait(lambda: recorder.batches[-1][2][-1].data == "31")


def in_step(primary: RedisServer) -> bool:
    """Say whether the replica has everything."""
    found = primary.info("replication")
    return bool(found["slave0"]["offset"] == found["master_repl_offset"])


def test_a_node_that_is_gone_takes_no_other_rooms_along(make: Make) -> None:
    with redis_cluster() as redis:
        broker, recorder = make(redis.url, prefix="p", check_interval=0.5)
        rooms = [f"r{number}" for number in range(12)]
        at = {r: key_slot(Names("p").room(r).meta.encode()) * 3 // 16384 for r in rooms}
        assert set(at.values()) == {0, 1, 2}
        serve(broker, *rooms)
        for node in redis.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        redis.nodes[0].kill()
        there = [room for room in rooms if at[room] > 0]
        for room in there:
            publish(broker, room, 1)
        recorder.wait(lambda: len(recorder.batches) == len(there))
        assert not set(there) & set(recorder.mended)
        with pytest.raises(BrokerUnavailable):
            broker.publish(next(room for room in rooms if at[room] == 0), drafts(1))
        redis.nodes[0].start(keep=True)
        for room in rooms:
            publish(broker, room, 2)
        recorder.wait(lambda: set(recorder.mended) == {*rooms} - {*there})
        for room in rooms:
            publish(broker, room, 3)
        recorder.wait(
            lambda: {b[0] for b in recorder.batches if b[2][-1].data == "3"} == {*rooms}
        )
        for room in there:
            assert recorder.offsets(room) == [1, 2, 3]


def test_a_slot_that_moves_takes_its_rooms_along(make: Make) -> None:
    with redis_cluster() as redis:
        broker, recorder = make(redis.url, prefix="p", check_interval=0.5)
        room = "moving"
        slot = key_slot(Names("p").room(room).meta.encode())
        serve(broker, room, *(f"r{number}" for number in range(30)))
        before = broker.publish(room, drafts(1))
        number = next(i for i in (1, 2, 3) if slot < (0, 5461, 10923, 16384)[i]) - 1
        source, target = redis.nodes[number], redis.nodes[number - 1]
        redis.move(slot, source, target)
        # Another server gives the next offset, so that the epoch is another too.
        assert publish(broker, room, 2).epoch != before.epoch
        recorder.wait(lambda: room in recorder.mended)
        publish(broker, room, 3)
        recorder.wait(lambda: recorder.batches[-1][2][-1].data == "3")


# -- many rooms at once --------------------------------------------------------------


def parcels(*rooms: str, id: str = "first", again: bool = False) -> list[Parcel]:
    """Return an event for each room."""
    return [Parcel(room, drafts(1), Attempt(id, again)) for room in rooms]


def answers(broker: RedisBroker, found: list[Parcel]) -> dict[str, Any]:
    """Publish to rooms together; return what became of those that were asked for."""
    return {found[n].room: answer for n, answer in broker.publish_all(found)}


ROOMS = [f"r{number}" for number in range(1200)]


def test_many_rooms_take_few_round_trips(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a commit into 3,000 rooms took a round trip for each: 3.1 s."""
    broker, _ = make(server.url)
    trips: list[int] = []
    works = redis_servers.exchange

    def exchange(connection: Wire, commands: Any, **options: Any) -> Any:
        trips.append(len(commands))
        return works(connection, commands, **options)

    monkeypatch.setattr(redis_servers, "exchange", exchange)
    for _ in range(2):
        # Also where the server does not have the script.
        server.ask("SCRIPT", "FLUSH")
        trips.clear()
        found = answers(broker, parcels(*ROOMS))
        assert len(found) == len(ROOMS)
        assert len(trips) <= 9
        assert max(trips) <= 500
    assert {position.offset for position in found.values()} == {2}
    assert set(ROOMS) == set(broker.rooms())


@pytest.mark.parametrize("at", [0, 700])
def test_many_rooms_wait_once_for_a_server_that_hangs(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    broker, _ = make(server.url)
    hung = Patience(server.url)
    options = {"prefix": "p", "size": 100, "ttl": 300}
    publisher = RedisBroker(hung, spawn=spawn, sleep=time.sleep, **options)
    answers(publisher, parcels(*ROOMS))
    works = hung.run_each
    asked: list[int] = []

    def run_each(commands: Any, **more: Any) -> Any:
        if sum(asked) + len(commands) > at:
            server.pause()
        asked.append(len(commands))
        return works(commands, **more)

    hung.waits.clear()
    with monkeypatch.context() as patch:
        patch.setattr(hung, "run_each", run_each)
        try:
            found = answers(publisher, parcels(*ROOMS, id="second"))
        finally:
            server.go_on()
    assert hung.waits in ([], [QUICK])
    away = [room for room, a in found.items() if isinstance(a, BrokerUnavailable)]
    taken = [room for room, a in found.items() if isinstance(a, Position)]
    assert asked == [500] if at == 0 else asked == [500, 500]
    assert taken == (ROOMS[:500] if at else [])
    assert away == (ROOMS[500:1000] if at else ROOMS[:500])
    # What Redis did when it went on, it does not do again.
    until(lambda: not raises(lambda: broker.ping("a")))
    left = [room for room in ROOMS if room not in taken]
    later = answers(publisher, parcels(*left, id="second", again=True))
    assert {position.offset for position in later.values()} == {2}
    publisher.close()


def test_many_rooms_have_one_deadline(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server that gives an answer now and then must not hold a view for minutes."""
    clock = Clock()
    broker, _ = make(server.url, now=clock)
    works = redis_servers._answer

    def answer(connection: Wire) -> Any:
        clock.now += 0.01
        return works(connection)

    monkeypatch.setattr(redis_servers, "_answer", answer)
    found = answers(broker, parcels(*ROOMS))
    assert clock.now < 1000 + 3.3
    late = [a for a in found.values() if isinstance(a, BrokerUnavailable)]
    assert 0 < len(late) <= 500
    assert len(found) - len(late) < 310
    assert set(ROOMS) - set(found)  # which were not asked for


@pytest.mark.parametrize("name", ["meta", "log", "rows", "seen", "fences"])
def test_a_foreign_key_is_removed_where_many_rooms_are_published_to(
    name: str, server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broker, _ = make(server.url, prefix="p")
    server.ask("SET", getattr(Names("p").room("r7"), name), "foreign")
    given = [Parcel(room, [row("1", 1)], Attempt("1", again=True)) for room in ROOMS]
    with caplog.at_level(logging.ERROR):
        found = answers(broker, given)
    assert {position.offset for position in found.values()} == {1}
    assert broker.counts["corrupt"] <= 1


def test_a_foreign_index_is_removed_and_nothing_published_twice(
    server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: an event was there twice, as Redis had taken it before the index failed."""
    broker, _ = make(server.url, prefix="p")
    names = Names("p")
    for rooms in (["one"], [f"of many {number}" for number in range(100)]):
        for room in rooms:
            server.ask("SET", names.index(room), "foreign")
        with caplog.at_level(logging.ERROR):
            if len(rooms) == 1:
                assert broker.publish("one", drafts(1)).offset == 1
            else:
                found = answers(broker, parcels(*rooms))
                assert {position.offset for position in found.values()} == {1}
        assert set(rooms) <= set(broker.rooms())
    server.ask("SET", names.index("one"), "foreign")
    with caplog.at_level(logging.ERROR):
        assert "one" not in broker.rooms()
    broker.publish("one", drafts(2))
    assert "one" in broker.rooms()


def test_many_rooms_find_a_server_that_is_full(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url)
    server.ask("CONFIG", "SET", "maxmemory", 1)
    found = answers(broker, parcels("a", "b", "c"))
    assert [type(answer) for answer in found.values()] in (
        [BrokerUnavailable] * len(found),
    )
    server.ask("CONFIG", "SET", "maxmemory", 0)
    found = answers(broker, parcels("a", "b", "c"))
    assert [position.offset for position in found.values()] == [1, 1, 1]


class Cut(BaseException):
    """What gevent's Timeout is."""


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize("sent", [False, True])
def test_an_interrupted_publication_is_refused_when_redis_finds_it_later(
    server: RedisServer,
    make: Make,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    *,
    sent: bool,
) -> None:
    """Bug: the fence only refused what had got no answer, and an event came twice."""
    broker, _ = make(server.url, prefix="p")
    rooms = ["a", "b", "c"][:number]
    answers(broker, parcels(*rooms))
    late: list[tuple[Any, ...]] = []
    works = redis_servers.exchange

    def exchange(connection: Wire, commands: Any, **options: Any) -> Any:
        if late:
            return works(connection, commands, **options)
        late.extend(commands)
        if sent:
            works(connection, commands, **options)
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(redis_servers, "exchange", exchange)
        outgoing = Outgoing(
            broker,
            spawn=lambda function: None,
            sleep=time.sleep,
            now=time.monotonic,
            max_bytes=1_000_000,
        )
        with pytest.raises(Cut):
            outgoing.publish_all({room: drafts(2) for room in rooms})
        assert outgoing.depth == number
        assert not broker._servers.pool(("127.0.0.1", server.port), False)._idle
        spawn(lambda: outgoing._send_all(outgoing._home.sender))  # type: ignore[arg-type]
        until(lambda: outgoing.is_empty)
    if not sent:
        # Redis finds in its sockets what it had not run yet.
        with server.client() as client:
            replies = [client.execute_command(*words) for words in late]
        assert [reply[2] for reply in replies] == [-1] * number
    assert [broker.position(room).offset for room in rooms] == [2] * number


def test_rooms_of_a_node_that_is_gone_wait_and_take_no_other_along(
    make: Make,
) -> None:
    with redis_cluster() as redis:
        broker, _ = make(redis.url, prefix="p", quick=QUICK)
        rooms = ROOMS[:60]
        at = {r: key_slot(Names("p").room(r).meta.encode()) * 3 // 16384 for r in rooms}
        for node in redis.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        answers(broker, parcels(*rooms))
        redis.nodes[0].kill()
        outgoing = in_front_of(broker)
        receipts = outgoing.publish_all({room: drafts(2) for room in rooms})
        found = {room: receipt.outcome for room, receipt in receipts.items()}  # type: ignore[union-attr]
        assert {found[room] for room in rooms if at[room] == 0} == {"queued"}
        redis.nodes[0].start(keep=True)
        until(lambda: outgoing.is_empty)
        for room in rooms:
            broker.position(room)
            if at[room] > 0:
                assert broker.position(room).offset == 2


def test_slots_that_move_take_their_rooms_along_in_one_pipeline(make: Make) -> None:
    with redis_cluster() as redis:
        broker, _ = make(redis.url, prefix="p")
        rooms = ROOMS[:200]
        before = answers(broker, parcels(*rooms))
        moving = rooms[0]
        slot = key_slot(Names("p").room(moving).meta.encode())
        number = next(i for i in (1, 2, 3) if slot < (0, 5461, 10923, 16384)[i]) - 1
        redis.move(slot, redis.nodes[number], redis.nodes[number - 1])
        after = answers(broker, parcels(*rooms))
        assert after[moving].epoch != before[moving].epoch
        assert {after[room].offset for room in rooms[1:]} == {2}


# -- what a process receives ---------------------------------------------------------


def test_receives_not_a_byte_for_rooms_it_does_not_serve(
    server: RedisServer, make: Make
) -> None:
    publisher, _ = make(server.url, prefix="p")
    with Wiretap(server.port) as wire:
        broker, recorder = make(f"redis://127.0.0.1:{wire.port}", prefix="p")
        serve(broker, "mine")
        publisher.publish("mine", drafts(1))
        recorder.wait(lambda: recorder.offsets("mine") == [1])
        before = wire.received
        for number in range(200):
            room = f"other{number % 20}"
            publisher.publish(room, [Draft("x", '"' + "y" * 1000 + '"')])
        # An event of its own shows that nothing of the others is on the way.
        assert wire.received == before
        publisher.publish("mine", drafts(2))
        recorder.wait(lambda: recorder.offsets("mine") == [1, 2])
        assert wire.received - before < 200
        broker.unsubscribe("mine")
        until(
            lambda: (
                server.ask("PUBSUB", "NUMSUB", Names("p").room("mine").channel)[1] == 0
            )
        )
        broker.close()


def test_a_cluster_has_sharded_channels_for_served_rooms_alone(
    cluster_url: str, make: Make
) -> None:
    broker, _ = make(cluster_url, prefix="sharded")
    rooms = [f"r{number}" for number in range(20)]
    serve(broker, *rooms)
    for number in range(50):
        broker.publish(f"other{number}", drafts(1))
    channels = []
    for node in cluster_url.removeprefix("redis+cluster://").split(","):
        with Redis(port=int(node.rpartition(":")[2])) as client:
            channels += client.execute_command("PUBSUB", "SHARDCHANNELS", "sharded:*")
            assert client.execute_command("PUBSUB", "CHANNELS", "sharded:*") == []
    names = Names("sharded")
    assert sorted(c.decode() for c in channels) == sorted(
        names.room(r).channel for r in rooms
    )


def test_payloads_are_carried_as_they_were_encoded(
    server: RedisServer, make: Make
) -> None:
    """Receivers never decode them: what is no JSON passes too."""
    broker, recorder = make(server.url)
    serve(broker, "a")
    odd = ['{"b":1,  "a":"\u00e9é 🦊"}', "\x00\n\r 7 7 7", "no JSON", ""]
    broker.publish("a", [Draft(f"odd\nevent {i}", data) for i, data in enumerate(odd)])
    recorder.wait(lambda: len(recorder.offsets("a")) == 4)
    delivered = [p for batch in recorder.batches for p in batch[2]]
    assert [p.data for p in delivered] == odd
    epoch = begun(broker, "a").epoch
    assert broker.history("a", Position(epoch, 0)).publications == delivered


def test_a_large_commit_goes_out_in_several_messages(
    server: RedisServer, make: Make
) -> None:
    # A look for holes that comes between would read all of it from the history.
    broker, recorder = make(server.url, size=9000, check_interval=3600, dice=lambda: 1)
    serve(broker, "a")
    many = [Draft("x", '"' + "y" * 400 + '"') for _ in range(9000)]
    start = begun(broker, "a")
    assert broker.publish("a", many).offset == 9000
    recorder.wait(lambda: len(recorder.offsets("a")) == 9000)
    assert len(recorder.batches) == 4
    delivered = [p for batch in recorder.batches for p in batch[2]]
    assert [p.more for p in delivered] == [True] * 8999 + [False]
    assert broker.history("a", start).publications == delivered


def test_refuses_what_is_too_large_as_a_whole(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url, max_bytes=1000)
    broker.publish("a", [Draft("x", "y" * 999)])
    with pytest.raises(PublicationTooLarge, match=r"1001 bytes.*is 1000"):
        broker.publish("a", [Draft("x", "1"), Draft("x", "é" * 500)])
    assert broker.position("a").offset == 1


# -- what others have put there ------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xff\xfe",
        b"hello",
        b"e\n",
        b"e\n1 2 3\n",
        b"e\n1 1 0 - 99 1 -\nab",
        b"e\n2 1 0 - 1 1 -\nab7 1 0 - 1 1 -\nab",
        b"e\n1 1 0 - 1 -1 -\nab",
        b"e\n1 1 0 x 1 1 -\nab",
        b"e\n1 1 0 - 1 1 -\n\xff\xff",
        b'["json"]',
        b"\x80\x04pickle.",
    ],
)
def test_a_foreign_message_is_counted_skipped_and_mended(
    message: bytes, server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read_message(message)
    broker, recorder = make(server.url, prefix="p")
    serve(broker, "a")
    with caplog.at_level(logging.ERROR), server.client() as client:
        client.publish(Names("p").room("a").channel, message)
        recorder.wait(lambda: recorder.mended == ["a"])
        broker.publish("a", drafts(1))
        recorder.wait(lambda: recorder.offsets("a") == [1])
    assert broker.counts["corrupt"] == 1
    assert "In the keys of a room there is a message" in caplog.text


def test_a_relayed_message_is_not_corrupt_unless_it_is(
    server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broker, recorder = make(server.url, prefix="p")
    serve(broker, "a")
    broker.relay("a", "é")
    recorder.wait(lambda: recorder.relays == [("a", "é")])
    assert broker.counts["corrupt"] == 0
    with caplog.at_level(logging.ERROR), server.client() as client:
        client.publish(Names("p").room("a").channel, b"~\xff")
        broker.relay("a", "")
        recorder.wait(lambda: recorder.relays[1:] == [("a", "")])
    assert broker.counts["corrupt"] == 1
    assert recorder.mended == []


@pytest.mark.parametrize("value", ["", "x", "1 1 0 - 1 1 -\nab", "99 1 0 - 1 1 -\nab"])
def test_a_foreign_record_makes_the_history_unrecoverable(
    value: str, server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broker, _ = make(server.url, prefix="p")
    start = broker.publish("a", drafts(1))
    broker.publish("a", drafts(2, 3))
    server.ask("LSET", Names("p").room("a").log, -1, value)
    with caplog.at_level(logging.ERROR):
        assert broker.history("a", start).publications is None
    assert broker.counts["corrupt"] == 1
    server.ask("LSET", Names("p").room("a").log, -2, value)
    assert broker.history("a", start).publications is None
    assert broker.publish("a", drafts(4)).offset == 4


@pytest.mark.parametrize("name", ["meta", "log", "rows", "seen", "fences"])
def test_a_foreign_key_is_removed(
    name: str, server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    broker, _ = make(server.url, prefix="p")
    server.ask("SET", getattr(Names("p").room("a"), name), "foreign")
    with caplog.at_level(logging.ERROR):
        assert broker.publish("a", [row("1", 1)]).offset == 1
        assert broker.position("a").offset == 1
    assert broker.counts["corrupt"] <= 1


def test_a_broken_offset_begins_a_new_epoch(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url, prefix="p")
    before = broker.publish("a", drafts(1))
    server.ask("HSET", Names("p").room("a").meta, "offset", "seven")
    after = broker.publish("a", drafts(2))
    assert after.offset == 1
    assert after.epoch != before.epoch


def test_a_server_that_is_full_is_unavailable(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url)
    server.ask("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(BrokerUnavailable):
        broker.publish("a", drafts(1))
    server.ask("CONFIG", "SET", "maxmemory", 0)
    assert broker.publish("a", drafts(1)).offset == 1


def test_scripts_that_the_server_forgot_are_sent_again(
    server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url)
    for number in range(1, 4):
        server.ask("SCRIPT", "FLUSH")
        assert broker.publish("a", drafts(1)).offset == number
        server.ask("SCRIPT", "FLUSH")
        assert broker.position("a").offset == number


# -- names and what they cost --------------------------------------------------------


def test_applications_with_other_prefixes_share_nothing(
    server: RedisServer, make: Make
) -> None:
    prefixes = ("app", "app:1", "app{", "app%7B", "app:1:{a}")
    brokers = [make(server.url, prefix=prefix) for prefix in prefixes]
    for broker, _ in brokers:
        serve(broker, "a", "{a}", "a}:meta")
    for number, (broker, _) in enumerate(brokers):
        for room in ("a", "{a}", "a}:meta"):
            assert broker.publish(room, drafts(number)).offset == 1
    for number, (broker, recorder) in enumerate(brokers):
        recorder.wait(lambda recorder=recorder: len(recorder.batches) == 3)
        assert {b[2][0].data for b in recorder.batches} == {str(number)}
        assert sorted(broker.rooms()) == ["a", "a}:meta", "{a}"]


def test_the_keys_of_a_room_are_in_one_slot() -> None:
    for room in ("a", "{", "}", "{}", "}{", "{a}b", "chat:1", "é🦊", "%7B", "x" * 200):
        for prefix in ("p", "{p}", "p{", "p}"):
            keys = Names(prefix).room(room)
            names = astuple(keys)
            assert len({key_slot(name.encode()) for name in names}) == 1
            assert len(set(names)) == len(names)
    assert len({Names("p").room(r).meta for r in ("{", "%7B", "%257B")}) == 3


def test_every_key_has_an_end_and_outlives_what_it_must(
    server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url, prefix="p", ttl=300)
    broker.publish("a", [row("1", 1)])
    begun(broker, "read")
    keys = Names("p").room("a")
    day = 24 * 3600 * 1000
    assert day + 290_000 < server.ask("PTTL", keys.meta) <= day + 300_000
    for key in (keys.log, keys.rows, keys.seen):
        assert 290_000 < server.ask("PTTL", key) <= 300_000
    assert 3_800_000 < server.ask("PTTL", Names("p").room("read").meta) <= 3_900_000
    server.ask("PEXPIRE", keys.meta, 1000)
    begun(broker, "a")
    assert server.ask("PTTL", keys.meta) > day


def test_served_rooms_are_renewed_by_the_check(server: RedisServer, make: Make) -> None:
    broker, _ = make(server.url, prefix="p", check_interval=0.05)
    serve(broker, "a")
    meta = Names("p").room("a").meta
    server.ask("PEXPIRE", meta, 60_000)
    until(lambda: server.ask("PTTL", meta) > 60_000)


def test_rooms_that_nobody_can_have_a_position_of_are_pruned(
    server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url, prefix="p", ttl=300)
    begun(broker, "a")
    long_ago = int(time.time()) - 3 * 24 * 3600
    server.ask("ZADD", Names("p").index("old"), long_ago, "old")
    assert broker.rooms() == ["a"]
    assert server.ask("ZSCORE", Names("p").index("old"), "old") is None


def test_memory_of_a_room(server: RedisServer, make: Make) -> None:
    """Measured, and printed for docs/deploying.md: run with -s."""
    broker, _ = make(server.url, prefix="p", size=100)
    rooms = 2000

    def grown(what: str, act: Callable[[str], object]) -> float:
        before = server.info("memory")["used_memory"]
        for number in range(rooms):
            act(f"chat:{number}")
        each = (server.info("memory")["used_memory"] - before) / rooms
        print(f"{what}: {each:.0f} bytes a room")
        return each

    def change(room: str) -> Draft:
        return Draft(
            "message.created", "x" * 200, "message", room, 1_763_000_000_000_000
        )

    # Beside what the index has for each of its parts.
    assert grown("somebody who may not join", broker.position) < 200
    assert grown("somebody who has joined", lambda r: begun(broker, r)) < 600
    assert (
        grown("its first event", lambda r: broker.publish(r, [Draft("x", "y" * 200)]))
        < 700
    )
    assert grown("a tracked row", lambda r: broker.publish(r, [change(r)])) < 1000
    rest = [Draft("x", "y" * 200)] * 98
    assert grown("98 more events", lambda r: broker.publish(r, rest)) < 98 * 300
    began = time.perf_counter()
    for _ in range(5000):
        broker.publish("chat:1", [change("chat:1")])
    print(f"{5000 / (time.perf_counter() - began):.0f} stamped publishes/s, one thread")


# -- access rules ------------------------------------------------------------------

DEPLOYING = Path(__file__).parents[2] / "docs" / "deploying.md"


@pytest.fixture(params=["server", "cluster"])
def restricted(request: pytest.FixtureRequest) -> Iterator[tuple[str, RedisServer]]:
    """The URL of the user that docs/deploying.md makes, and a server that knows it."""
    blocks = re.findall(r"```acl\n(.*?)```", DEPLOYING.read_text("utf-8"), re.DOTALL)
    for_all, for_clusters = (block.split() for block in blocks)
    user, password = for_all[2], for_all[4].removeprefix(">")
    if request.param == "server":
        with redis_server() as server:
            server.ask(*for_all)
            yield f"redis://{user}:{password}@127.0.0.1:{server.port}", server
    else:
        with redis_cluster() as cluster:
            for node in cluster.nodes:
                node.ask(*for_all)
                node.ask(*for_clusters)
            scheme, hosts = cluster.url.split("://")
            yield f"{scheme}://{user}:{password}@{hosts}", cluster.nodes[0]


def as_user(url: str, server: RedisServer) -> Redis:
    """Return a client with the name and password of a URL."""
    parts = urlsplit(url)
    return Redis(port=server.port, username=parts.username, password=parts.password)


def test_works_under_the_documented_rules(
    restricted: tuple[str, RedisServer], make: Make
) -> None:
    url, server = restricted
    servers(url).check()
    with as_user(url, server) as client:  # which scripts do without, unsafely
        assert client.info("replication")["master_replid"]
    broker, recorder = make(url, prefix="notes", max_rows=1)
    rooms = ["chat:1", "chat:2", "chat:3", "chat:4"]
    serve(broker, *rooms)
    for room in rooms:
        start = broker.publish(room, drafts(1))
        broker.publish(room, [row("1", 5), row("1", 4), row("2", 6)])
        attempt = Attempt("an-id", again=True)
        for _ in range(2):
            assert broker.publish(room, drafts(2), attempt=attempt).offset == 4
        found = broker.history(room, start).publications
        assert found is not None
        assert [p.offset for p in found] == [2, 3, 4]
        recorder.wait(lambda room=room: recorder.offsets(room) == [1, 2, 3, 4])
    assert set(broker.rooms()) == set(rooms)
    broker.unsubscribe("chat:1")

    present = RedisPresence(servers(url), prefix="notes")
    assert present.beat("a-node") == {"a-node"}
    present.change([Change("chat:2", "a-node", {"ada": ""})])
    assert present.read(["chat:2"])[0].entries == {"a-node": {"ada": ""}}
    present.change([Change("chat:2", "a-node", left=("ada",))])
    assert present.versions(["chat:2"])
    broker.relay("chat:2", "a whisper")
    recorder.wait(lambda: recorder.relays == [("chat:2", "a whisper")])

    channel = PlainChannel(
        servers(url), prefix="notes", sleep=time.sleep, now=time.monotonic
    )
    heard: list[bytes] = []
    spawn(lambda: heard.append(next(channel.listen())))
    assert until(lambda: channel.publish("plain") and heard) == [b"plain"]

    peers = RedisPeers(
        servers(url), prefix="notes", spawn=spawn, sleep=time.sleep, now=time.monotonic
    )
    told: list[bytes] = []
    peers.listen(told.append, lambda: None)
    until(peers.enter)
    peers.post(peers.name, b"a request")
    until(lambda: told == [b"a request"])
    assert peers._reader is not None
    peers._reader.close()

    for key, may in (("A", True), ("B", False)):
        namespace = Namespace(
            servers(url), prefix="notes", config={"SECRET_KEY": key}, now=time.monotonic
        )
        assert namespace.enter() is may


def test_a_foreign_key_is_removed_under_the_documented_rules(
    restricted: tuple[str, RedisServer], make: Make
) -> None:
    url, server = restricted
    broker, _ = make(url, prefix="notes")
    room, key = next(
        (room, key)
        for room, key in ((f"r{n}", Names("notes").room(f"r{n}").meta) for n in count())
        if key_slot(key.encode()) < 5000  # which the cluster's first node has
    )
    server.ask("SET", key, "foreign")
    assert broker.publish(room, drafts(1)).offset == 1


def test_the_documented_rules_refuse_another_prefix(
    restricted: tuple[str, RedisServer], make: Make
) -> None:
    url, server = restricted
    broker, _ = make(url, prefix="others", confirm_within=0.2)
    refused: list[Callable[[], object]] = [
        lambda: broker.publish("a", drafts(1)),
        lambda: broker.position("a"),
        lambda: broker.history("a", Position("e", 0)),
        broker.rooms,
    ]
    for act in refused:
        with pytest.raises(BrokerError, match="refuses a command"):
            act()
    broker.subscribe("a")
    with pytest.raises(BrokerUnavailable, match="did not confirm"):
        broker.confirm("a")
    foreign = "others:1:{a}:meta"
    with as_user(url, server) as client:
        for words in (
            ("DEL", foreign),
            ("EVAL", f"return redis.call('DEL', '{foreign}')", 0),
            ("PUBLISH", "others:1:socketio", "x"),
            ("EVAL", "return redis.call('PUBLISH', 'others:1:socketio', 'x')", 0),
            ("SUBSCRIBE", "others:1:{a}:live"),
            ("SUBSCRIBE", Names("others").peer("a")),
            ("PSUBSCRIBE", "*"),
            ("KEYS", "*"),
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("ACL", "LIST"),
        ):
            with pytest.raises(ResponseError, match=r"permission|The user executing"):
                client.execute_command(*words)


# -- processes -----------------------------------------------------------------------

PROGRAM = """
    import os, sys, time, threading, warnings
    warnings.simplefilter("ignore", DeprecationWarning)
    from flask_livepush.protocol.publication import Draft
    from tests.support.brokers import Recorder, on_redis
    from tests.support.servers import current_mode

    url, fork = sys.argv[1:3]
    broker, recorder = on_redis(url, prefix="modes" + current_mode() + fork), Recorder()
    broker.listen(recorder)
    rooms = [f"r{number}" for number in range(20)]
    for room in rooms:
        broker.subscribe(room)
    for room in rooms:
        broker.confirm(room)
    if fork == "fork":
        broker.publish("r1", [Draft("x", "0")])
        recorder.wait(lambda: recorder.offsets("r1") == [1])
        pid = os.fork()
        if pid == 0:
            broker.subscribe("r1")
            broker.confirm("r1")
            ok = broker.publish("r1", [Draft("x", "1")]).offset == 2
            recorder.wait(lambda: recorder.offsets("r1") == [1, 2])
            os._exit(0 if ok else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        recorder.wait(lambda: recorder.offsets("r1") == [1, 2])
        assert broker.publish("r1", [Draft("x", "2")]).offset == 3
        recorder.wait(lambda: recorder.offsets("r1") == [1, 2, 3])
    else:
        def publish(number):
            for _ in range(25):
                broker.publish(rooms[number], [Draft("x", "1"), Draft("x", "2")])
        threads = [threading.Thread(target=publish, args=(n,)) for n in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for room in rooms:
            recorder.wait(lambda: recorder.offsets(room) == list(range(1, 51)))
    broker.close()
    print("LISTENING 1")
    print("DONE")
"""


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["redis", "cluster"])
def test_works_in_every_async_mode(
    mode: Mode, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    url = request.getfixturevalue(f"{kind}_url")
    with running(program, url, "no", mode=mode) as process:
        process.wait_for("DONE")


@pytest.mark.parametrize("mode", MODES)
def test_interruptions_lose_nothing_in_every_async_mode(
    mode: Mode, server: RedisServer
) -> None:
    """Bug: a gevent.Timeout while a commit was published let rooms stand still."""
    with running("tests.support.interrupted_app", server.url, mode=mode) as process:
        process.wait_for("DONE")


def test_a_forked_process_has_connections_of_its_own(
    redis_url: str, tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    with running(program, redis_url, "fork") as process:
        process.wait_for("DONE")


# -- what others have written, and clocks --------------------------------------------

NUMBERS: list[Any] = [
    "nan",
    "inf",
    "1e300",
    "-5",
    str(2**53),
    "0x10",
    "1.5",
    "",
    b"\xff",
    "9" * 40,
]


def foreign_meta(server: RedisServer, room: str, **fields: str | bytes | int) -> None:
    for name, value in fields.items():
        with server.client() as client:
            client.hset(Names("p").room(room).meta, name, value)


@pytest.mark.parametrize("field", ["offset", "born"])
@pytest.mark.parametrize("value", NUMBERS)
def test_a_room_whose_numbers_are_none_begins_anew(
    field: str, value: str, server: RedisServer, make: Make
) -> None:
    """Bug: nothing healed it, and what was published was refused or reached nobody."""
    broker, recorder = make(server.url, prefix="p", check_interval=0.05)
    serve(broker, "a", "b")
    before = broker.publish("a", [row("1", 5)])
    foreign_meta(server, "a", **{field: value})
    after = broker.publish("a", drafts(2))
    assert (after.epoch, after.offset) != (before.epoch, before.offset)
    assert after.offset == 1
    assert broker.counts["corrupt"] == 1
    recorder.wait(lambda: "a" in recorder.mended)
    again = broker.publish("a", drafts(3))
    assert again == Position(after.epoch, 2)
    recorder.wait(lambda: recorder.offsets("a")[-1:] == [2])
    # The first one by whoever reads.
    foreign_meta(server, "b", **{field: value})
    assert begun(broker, "b").offset == 0
    assert broker.publish("b", drafts(1)).offset == 1


@pytest.mark.parametrize("value", [b"\xff", "", "a\nb", "~", "none.1.a.b", "e" * 65])
def test_an_epoch_that_is_none_of_ours_is_ended(
    value: bytes | str, server: RedisServer, make: Make
) -> None:
    """Bug: the connection that listens died of it, with all its rooms."""
    broker, recorder = make(server.url, prefix="p", check_interval=0.05)
    serve(broker, "a", "b")
    broker.publish("a", drafts(1))
    foreign_meta(server, "a", epoch=value)
    recorder.wait(lambda: "a" in recorder.mended)
    position = broker.publish("a", drafts(2))
    assert position.offset == 1
    assert re.fullmatch(r"[\w-]{12}", position.epoch)
    broker.publish("b", drafts(1))
    recorder.wait(lambda: recorder.offsets("b") == [1])
    assert "b" not in recorder.mended
    assert broker.counts["interrupted"] == 0


@pytest.mark.parametrize("value", ["0", "3"])
def test_an_offset_that_was_given_is_not_given_again(
    value: str, server: RedisServer, make: Make
) -> None:
    """Bug: subscribers took what came for what they had, and nobody was told."""
    broker, _ = make(server.url, prefix="p")
    before = broker.publish("a", drafts(1, 2, 3, 4, 5))
    foreign_meta(server, "a", offset=value)
    after = broker.publish("a", drafts(6))
    assert after.epoch != before.epoch
    assert broker.counts["corrupt"] == 1


def test_the_last_release_s_rooms_are_no_broken_ones(
    server: RedisServer, make: Make
) -> None:
    """It raises the offset alone, and begins epochs without a word of the rest."""
    broker, _ = make(server.url, prefix="p")
    before = broker.publish("a", drafts(1, 2, 3))
    foreign_meta(server, "a", offset="5")
    assert broker.publish("a", drafts(4)) == Position(before.epoch, 6)
    server.ask("DEL", Names("p").room("a").log)
    foreign_meta(server, "a", epoch="anotherEpoch", offset="0")
    assert broker.publish("a", drafts(5)) == Position("anotherEpoch", 1)
    assert broker.counts["corrupt"] == 0


@pytest.mark.parametrize("value", [*NUMBERS, str(2**53 - 7)])
@pytest.mark.parametrize("where", ["row", "floor", "top", "told"])
def test_a_stamp_that_is_none_costs_its_kind_a_reading_and_no_more(
    value: str, where: str, server: RedisServer, make: Make
) -> None:
    """Bug: under a stamp of 1e300 each version of a row was dropped as stale."""
    now = time.time_ns() // 1000
    broker, _ = make(server.url, prefix="p", max_rows=1)
    start = broker.publish("a", [row("1", now)])
    keys = Names("p").room("a")
    if where == "row":
        with server.client() as client:
            client.hset(keys.rows, "message\0001", value)
    else:
        foreign_meta(server, "a", **{f"{where}:message": value})
    for number in range(1, 4):
        broker.publish("a", [row("1", now + number)])
    for number in range(4, 7):
        broker.publish("a", [row("2", now + number)])
        broker.publish("a", [row("1", now + number)])
    told = since(broker, start)
    assert told.count("invalidated{}") <= 1
    assert len(told) == 9
    # What is older than what was shown is not shown, whatever was written there.
    broker.publish("a", [row("1", now)])
    assert since(broker, start)[9:] in ([], ["invalidated{}"])


@pytest.mark.parametrize("value", [*NUMBERS, "999999"])
def test_a_fence_of_others_refuses_nothing_for_ever(
    value: str, server: RedisServer, make: Make
) -> None:
    """Bug: all that a process had to say was late, and it never stopped to wait."""
    broker, recorder = make(server.url, prefix="p")
    serve(broker, "a")
    with server.client() as client:
        client.hset(Names("p").room("a").fences, broker._rooms._sender.name, value)
    outgoing = in_front_of(broker)
    outgoing.publish("a", drafts(1))
    outgoing.publish("a", drafts(2))
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    assert outgoing.publish("a", drafts(3)).outcome in ("stored", "queued")
    recorder.wait(lambda: recorder.offsets("a") == [1, 2, 3])


@pytest.mark.parametrize(
    "member", [b"\xff\xfe", b"", b"x" * 201, b"a\nb", "ü".encode("latin-1")]
)
def test_an_entry_of_the_index_that_is_no_room_costs_itself(
    member: bytes, server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: asking for the rooms failed, and what they all were to be told was lost."""
    broker, recorder = make(server.url, prefix="p")
    serve(broker, *"abcdefgh")
    other, _ = make(server.url, prefix="p")
    with server.client() as client:
        for index in Names("p").indexes[:5]:
            client.zadd(index, {member: time.time()})
    with caplog.at_level(logging.ERROR):
        in_front_of(other).tell_everywhere([Everywhere("note", lambda room: True)])
        for room in "abcdefgh":
            recorder.wait(lambda room=room: recorder.offsets(room) == [1])
    assert other.counts["corrupt"] == 5
    assert caplog.text.count("The index") == 1
    assert set(other.rooms()) == set("abcdefgh")
    assert other.counts["corrupt"] == 5


@pytest.mark.parametrize("score", ["-inf", "inf", "5", "1e300"])
def test_whenever_a_room_is_said_to_have_been_used_it_is_told(
    score: str, server: RedisServer, make: Make
) -> None:
    """Bug: a host's clock three days ahead, or behind, took rooms from the index."""
    broker, _ = make(server.url, prefix="p", ttl=300)
    broker.publish("a", drafts(1))
    index = Names("p").index("a")
    server.ask("ZADD", index, score, "a")
    server.ask("ZADD", index, score, "gone")
    assert "a" in broker.rooms()
    assert abs(float(server.ask("ZSCORE", index, "a")) - time.time()) < 60
    if float(score) < 10:
        assert broker.rooms() == ["a"]


def test_no_clock_of_a_process_goes_into_redis(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: a host whose clock was three days ahead pruned the rooms of all others."""
    broker, _ = make(server.url, prefix="p")
    broker.publish("a", drafts(1))
    real = time.time
    for days in (3, -3):
        monkeypatch.setattr(time, "time", lambda days=days: real() + days * 24 * 3600)
        wrong, _ = make(server.url, prefix="p")
        assert "a" in wrong.rooms()
        wrong.publish("b", drafts(1))
        begun(wrong, "c")
    monkeypatch.undo()
    for room in "abc":
        score = float(server.ask("ZSCORE", Names("p").index(room), room))
        assert abs(score - real()) < 60


def test_a_part_of_the_index_of_another_type_costs_no_room_a_telling(
    server: RedisServer, make: Make
) -> None:
    """Bug: the rooms in it were told of nothing until somebody entered them again."""
    prefix = {"prefix": "p", "check_interval": 0.05}
    broker, recorder = make(server.url, **prefix)
    serve(broker, "a", "b")
    position = broker.publish("a", drafts(1))
    foreign_meta(server, "a", born=1)
    for spoil in ("SET", "DEL", "ZREM", "mark"):
        index = Names("p").index("a")
        if spoil == "SET":
            server.ask("SET", index, "foreign")
        elif spoil == "DEL":
            server.ask("DEL", index)
        elif spoil == "ZREM":
            server.ask("ZREM", index, "a")
        else:
            server.ask("SET", f"{index}:mark", "foreign")
        other, _ = make(server.url, prefix="p")
        in_front_of(other).tell_everywhere([Everywhere("note", lambda room: True)])
        # It is told, or reads anew.
        until(lambda was=position: broker.position("a") != was)
        position = broker.position("a")
        foreign_meta(server, "a", born=1)
    recorder.wait(lambda: "a" in recorder.mended)


def test_a_room_that_the_index_has_lost_recovers_nobody(
    server: RedisServer, make: Make
) -> None:
    """A page that sleeps has its position, and nobody serves the room meanwhile."""
    broker, _ = make(server.url, prefix="p")
    position = broker.publish("a", drafts(1))
    foreign_meta(server, "a", born=1)
    server.ask("DEL", Names("p").index("a"))
    later, _ = make(server.url, prefix="p")
    assert later.history("a", position).publications is None
    assert later.position("a").epoch != position.epoch


def test_what_redis_refuses_of_one_room_is_no_other_s_business(
    server: RedisServer, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, recorder = make(server.url, prefix="p", check_interval=0.05)
    works = broker._servers.run_each
    bad = Names("p").room("a").meta

    def run_each(commands: Any, **options: Any) -> Any:
        replies = works(commands, **options)
        for number, command in enumerate(commands):
            if command.key == bad:
                replies[number] = BrokerError("it refuses")
        return replies

    monkeypatch.setattr(broker._servers, "run_each", run_each)
    serve(broker, "a", "b")
    broker.publish("b", drafts(1))
    recorder.wait(lambda: recorder.offsets("b") == [1])
    assert broker.counts["interrupted"] == 0


def test_a_clock_of_redis_that_goes_back_invalidates_for_a_moment_and_is_said_once(
    server: RedisServer, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: for an hour each commit was told as its kind being stale, without a word."""
    broker, _ = make(server.url, prefix="p")
    start = begun(broker, "a")
    hour = 3600 * 1000
    with caplog.at_level(logging.ERROR):
        for turn in range(2):
            foreign_meta(server, "a", born=time.time_ns() // 10**6 + hour)
            broker.publish("a", [row("1", 2 * turn + 1)])
            until(lambda: time.time_ns() // 10**6 - 50 > born(server, "a"))
            attempt = Attempt(since=time.monotonic())
            broker.publish("a", [row("1", 2 * turn + 2)], attempt=attempt)
    told = since(broker, start)
    assert [told[1], told[3]] == ["updated2", "updated4"]
    assert caplog.text.count("clock of Redis has gone back") == 1


def born(server: RedisServer, room: str) -> int:
    return int(server.ask("HGET", Names("p").room(room).meta, "born"))


# -- a room that has no epoch yet ------------------------------------------------------


def test_asking_where_a_room_stands_makes_nothing(
    server: RedisServer, make: Make
) -> None:
    """Bug: 6,000 joins that were refused left 6,000 keys and entries of the index."""
    broker, _ = make(server.url, prefix="p")
    for number in range(100):
        assert broker.position(f"a{number}").offset == 0
    keys = server.ask("KEYS", "*")
    assert all(key.endswith(b":mark") for key in keys)
    assert len(keys) <= 64
    assert broker.rooms() == []


def test_nothing_yet_is_a_position_of_its_server_and_its_time(
    server: RedisServer, make: Make
) -> None:
    broker, _ = make(server.url, prefix="p")
    nothing = broker.position("a")
    # By another clock it was later than the epoch began.
    kind, when, replid, token = nothing.epoch.split(".")
    late = f"{kind}.{int(when) + 3600_000}.{replid}.{token}"
    early = f"{kind}.{int(when) - 2 * 3600_000}.{replid}.{token}"
    other = f"{kind}.{when}.{'0' * 12}.{token}"
    broker.publish("a", drafts(1))
    for epoch in (late, early, other, f"{kind}.{when}.{replid}.x", f"{kind}.nan.a.b"):
        assert broker.history("a", Position(epoch, 0)).publications is None
    server.restart(keep=False)
    until(lambda: not raises(lambda: broker.ping("a")))
    publish(broker, "a", 2)
    assert broker.history("a", nothing).publications is None


def test_a_commit_from_before_a_page_is_not_recovered_into_it(
    server: RedisServer, make: Make
) -> None:
    """The page may have read a newer version, which was published and lost."""
    clock = Clock()
    broker, _ = make(server.url, prefix="p", now=clock)
    attempt = Attempt(since=clock.now)
    clock.now += 10
    nothing = broker.position("a")
    position = broker.publish("a", [row("1", 1)], attempt=attempt)
    assert broker.history("a", nothing).publications is None
    assert since(broker, Position(position.epoch, 0)) == ["updated1"]


def test_one_dead_shard_delays_no_room_of_another(make: Make) -> None:
    """Bug: rooms of healthy shards waited until the last of them answered."""
    with redis_cluster() as cluster:
        broker, recorder = make(cluster.url, prefix="p", quick=QUICK)
        for node in cluster.nodes:
            node.ask("CONFIG", "SET", "cluster-require-full-coverage", "no")
        outgoing = in_front_of(broker)
        rooms = [f"r{number}" for number in range(12)]
        serve(broker, *rooms)
        for room in rooms:
            assert outgoing.publish(room, drafts(0)).outcome == "stored"
        at = {room: broker.shard(room) for room in rooms}
        assert len(set(at.values())) == 3
        gone = ("127.0.0.1", cluster.nodes[0].port)
        away = [room for room in rooms if at[room] == gone]
        there = [room for room in rooms if at[room] != gone]
        cluster.nodes[0].pause()
        try:
            assert outgoing.publish(away[0], drafts(1)).outcome == "queued"
            for room in there:
                assert outgoing.publish(room, drafts(1)).outcome == "stored"
            for room in away[1:]:
                assert outgoing.publish(room, drafts(1)).outcome == "queued"
            other, _ = make(cluster.url, prefix="p", quick=QUICK)
            # The names of some are in the index of the one that is away; this process
            # serves them.
            outgoing.tell_everywhere([Everywhere("note", lambda room: True)])
            recorder.wait(
                lambda: all(len(recorder.offsets(room)) == 3 for room in there)
            )
            # Who joins there needs nothing of the one that is away.
            assert other.history(there[0], other.position(there[0])).publications == []
        finally:
            cluster.nodes[0].go_on()
        recorder.wait(lambda: all(len(recorder.offsets(room)) >= 3 for room in away))
        until(lambda: outgoing.is_empty)
        # To be told twice, with the part of the index that came later, is no harm.
        assert all(len(recorder.offsets(room)) in (3, 4) for room in rooms)
