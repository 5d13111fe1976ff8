"""Each figure moves when what it counts happens; in several processes, in their sum."""

from __future__ import annotations

import builtins
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_livepush import ConfigError, LivePush
from flask_livepush.brokers.memory import MemoryBroker
from flask_livepush.brokers.redis import RedisBroker
from flask_livepush.brokers.redis_format import Names
from flask_livepush.emitter import Emitter
from flask_livepush.errors import BrokerUnavailable, PublicationTooLarge
from flask_livepush.metrics import OFF, TABLE, Meters
from flask_livepush.protocol.batch import Batch
from flask_livepush.protocol.publication import Draft, Position
from tests.support.brokers import (
    Clock,
    Recorder,
    in_front_of,
    on_redis,
    spawn,
)
from tests.support.connections import Connection, Site
from tests.support.figures import Read, figure, meters
from tests.support.redis import redis_server, until
from tests.support.waiting import DEADLINE
from tests.support.waiting import until as until_true

TOKEN = "sixteen-or-more-letters"
ROOM = {"v": 1, "room": "chat:42"}


@pytest.fixture
def site() -> Site:
    """An application that is counted."""
    return Site(LIVEPUSH_METRICS_TOKEN=TOKEN)


def read(site: Site, name: str, label: str = "") -> float:
    """Return one figure, as Prometheus would have it."""
    headers = {"Authorization": f"Bearer {TOKEN}"}
    answer = site.app.test_client().get("/livepush/metrics", headers=headers)
    assert answer.status_code == 200, answer.text
    return figure(answer.text, name, label)


def row(stamp: int) -> Draft:
    return Draft("message.updated", "{}", "message", "1", stamp)


def connected(site: Site, user: str | None = "1") -> Connection:
    connection = site.connection(user)
    connection.connect()
    return connection


def memory(counts: Meters, **options: Any) -> MemoryBroker:
    settings = {"size": 10, "ttl": 300, "now": Clock(), "spawn": spawn, **options}
    return MemoryBroker(metrics=counts, **settings)


# -- an application ------------------------------------------------------------------


def test_every_figure_is_there_before_anything_happens(site: Site) -> None:
    for metric in TABLE:
        name = metric.name + ("_count" if metric.kind == "histogram" else "")
        for value in metric.values:
            assert read(site, name, value) == 0, name


def test_counts_connections_by_transport_and_connects_by_outcome(site: Site) -> None:
    polling, websocket = connected(site), connected(site)
    websocket.socket.websocket = object()
    assert read(site, "connections", "polling") == 1
    assert read(site, "connections", "websocket") == 1
    polling.close()
    assert read(site, "connections", "polling") == 0
    assert read(site, "connections", "websocket") == 1
    refused = site.connection()
    assert refused.connect() is not None
    assert read(site, "connects_total", "accepted") == 2
    assert read(site, "connects_total", "refused") == 1


def test_counts_subscriptions_joins_and_deliveries(site: Site) -> None:
    first, second = site.joined("1"), site.joined("2")
    assert read(site, "subscriptions") == 2
    assert read(site, "recoveries_total", "snapshot") == 2
    site.livepush.emit("chat:42", "ding", 1)
    for connection in (first, second):
        assert "ding" in connection.read()
    until_true(lambda: read(site, "deliveries_total") == 2)
    assert read(site, "delivery_seconds_count") == 1
    assert read(site, "broker_lag_seconds_count") == 1
    assert read(site, "publications_total", "stored") == 1
    assert read(site, "publish_seconds_count") == 1
    here = site.livepush._state_of(site.app).broker.position("chat:42")
    since = {"epoch": here.epoch, "offset": 0}
    assert first.call("livepush.subscribe", {**ROOM, "since": since})["recovered"]
    assert read(site, "recoveries_total", "recovered") == 1
    assert not first.call("livepush.subscribe", {"room": "chat:1"})["ok"]
    assert not first.call("livepush.subscribe", {"room": "none"})["ok"]
    assert read(site, "recoveries_total", "refused") == 2
    assert read(site, "subscriptions") == 2
    second.close()
    until_true(lambda: read(site, "subscriptions") == 1)


@pytest.mark.parametrize("error", [RuntimeError("x"), BrokerUnavailable("x")])
def test_counts_joins_that_failed(
    error: Exception, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = connected(site)

    def fail(room: str) -> Position:
        raise error

    monkeypatch.setattr(site.livepush._state_of(site.app).broker, "position", fail)
    answer = connection.call("livepush.subscribe", ROOM)
    assert answer["error"]["temporary"]
    assert read(site, "recoveries_total", "failed") == 1


def test_counts_joins_whose_rule_raised(site: Site) -> None:
    connection = connected(site)
    site.members = {42: None}  # type: ignore[dict-item]
    assert connection.call("livepush.subscribe", ROOM)["error"]["temporary"]
    assert read(site, "recoveries_total", "failed") == 1
    assert read(site, "recoveries_total", "refused") == 0


def test_counts_resets(site: Site) -> None:
    connection = site.joined("1")
    (subscription,) = site.hub.hold("chat:42")
    site.hub.reset(subscription)
    site.hub.reset(subscription)
    assert "livepush.reset" in connection.read()
    assert read(site, "resets_total") == 1


def test_counts_messages_of_clients_that_are_too_fast() -> None:
    site = Site(LIVEPUSH_METRICS_TOKEN=TOKEN, LIVEPUSH_MAX_PENDING_MESSAGES=1)
    asked, gate = threading.Event(), threading.Event()

    @site.livepush.room("slow")
    def slow(user: object) -> bool:
        asked.set()
        return gate.wait(DEADLINE)

    connection = connected(site)
    connection.event("livepush.subscribe", {"v": 1, "room": "slow"})
    assert asked.wait(DEADLINE)
    for _ in range(5):
        connection.event("livepush.subscribe", ROOM)
    gate.set()
    assert read(site, "drops_total", "too_fast") >= 1


def test_counts_connections_that_are_too_many() -> None:
    """Bug: the one more was answered 500, since the figure was in no table."""
    site = Site(LIVEPUSH_METRICS_TOKEN=TOKEN, LIVEPUSH_MAX_CONNECTIONS=1)
    client, path = site.app.test_client(), "/socket.io/?EIO=4&transport=polling"
    assert client.get(path).status_code == 200
    assert client.get(path).status_code == 503
    assert read(site, "drops_total", "too_many") == 1


def test_applications_of_one_process_are_counted_apart() -> None:
    livepush, apps = LivePush(), [Flask("first"), Flask("second")]
    livepush.room("lobby")(lambda user: True)
    livepush.metrics_rule(lambda user: True)
    for app in apps:
        livepush.init_app(app)
    with apps[0].app_context():
        livepush.emit("lobby", "ding")
    for app, expected in zip(apps, (1, 0), strict=True):
        text = app.test_client().get("/livepush/metrics").text
        assert figure(text, "publications_total", "stored", app.name) == expected


# -- what is published ---------------------------------------------------------------


def test_counts_publications_that_failed() -> None:
    counts, total = meters()
    broker = memory(counts)
    emitter = Emitter(in_front_of(broker), metrics=counts)
    batch = Batch()
    batch.event("a", emitter.draft("x", 1))
    # A broker that breaks inside: nothing that a view or an emitter could have done.
    del broker._rooms
    with pytest.raises(AttributeError):
        emitter.publish("a", [emitter.draft("x", 1)])
    emitter.publish_batch(batch)
    assert total("publications_total", "failed") == 2
    assert total("publish_seconds_count") == 2
    assert total("publications_total", "stored") == 0


def test_counts_what_waits_for_the_broker_and_what_is_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app = Flask("waiting")
    app.config.update(
        SECRET_KEY="s",
        LIVEPUSH_ASYNC_MODE="threading",
        LIVEPUSH_METRICS_TOKEN="t" * 16,
        LIVEPUSH_MAX_QUEUED_BYTES=1200,
    )
    livepush = LivePush(app)
    livepush.room("lobby")(lambda user: True)

    def total(name: str, label: str = "") -> float:
        bearer = {"Authorization": "Bearer " + "t" * 16}
        text = app.test_client().get("/livepush/metrics", headers=bearer).text
        return figure(text, name, label, app.name)

    def away(*_: object, **options: object) -> None:
        raise BrokerUnavailable("It is away.")

    with monkeypatch.context() as patch:
        for name in ("publish", "ping"):
            patch.setattr(livepush._app().broker, name, away)
        outcomes = [livepush.emit("lobby", "ding").outcome for _ in range(3)]
        assert outcomes == ["queued", "queued", "dropped"]
        assert total("queue_depth") == 2
        assert 1000 < total("queue_bytes") <= 1200
    assert total("publications_total", "queued") == 2
    assert total("publications_total", "dropped") == 1
    assert total("drops_total", "queue_full") == 1
    until(lambda: total("queue_depth") == 0)
    assert total("queue_bytes") == 0


def test_counts_publications_that_are_too_large() -> None:
    counts, total = meters()
    emitter = Emitter(in_front_of(memory(counts, max_bytes=20)), metrics=counts)
    large = emitter.draft("x", "y" * 30)
    with pytest.raises(PublicationTooLarge):
        emitter.publish("a", [large])
    assert total("drops_total", "too_large") == 1
    batch = Batch()
    batch.event("a", large)
    batch.event("a", emitter.draft("x", 1))
    emitter.publish_batch(batch)
    assert total("drops_total", "too_large") == 2
    assert total("publications_total", "stored") == 1
    assert total("publications_total", "failed") == 0


def test_counts_stale_versions_and_the_time_to_the_listener() -> None:
    counts, total = meters()
    clock, recorder = Clock(), Recorder()
    broker = memory(counts, now=clock, spawn=lambda run: None)
    broker.listen(recorder)
    broker.subscribe("a")
    broker.publish("a", [row(2)])
    broker.publish("a", [row(1), row(2), row(3)])
    assert total("stale_publications_dropped_total") == 2
    clock.now += 3
    spawn(broker._listen)
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    assert total("broker_lag_seconds_count") == 2
    assert total("broker_lag_seconds_sum") == 6
    broker.close()


def test_counts_what_a_full_listener_was_not_given() -> None:
    counts, total = meters()
    broker = memory(counts, max_queue=1, spawn=lambda run: None)
    broker.listen(Recorder())
    broker.subscribe("a")
    broker.publish("a", [Draft("x", "1")])
    broker.publish("a", [Draft("x", "2"), Draft("x", "3")])
    assert total("drops_total", "listener_full") == 2


# -- Redis ---------------------------------------------------------------------------


@pytest.fixture
def on_server() -> Iterator[tuple[Any, RedisBroker, Recorder, Read]]:
    """A server of the test's own, a broker on it that serves ``a``, and its figures."""
    counts, total = meters()
    with redis_server() as server:
        broker = on_redis(server.url, prefix="p", size=2, metrics=counts)
        recorder = Recorder()
        broker.listen(recorder)
        broker.subscribe("a")
        broker.confirm("a")
        yield server, broker, recorder, total
        broker.close()


def test_counts_the_time_from_redis_and_stale_versions(on_server: Any) -> None:
    _, broker, recorder, total = on_server
    late = broker._wall
    broker._wall = lambda: late() + 100
    broker.publish("a", [row(2)])
    recorder.wait(lambda: recorder.offsets("a") == [1])
    assert 99 < total("broker_lag_seconds_sum") < 100 + DEADLINE
    broker._wall = lambda: 0.0  # a clock behind the server's
    broker.publish("a", [row(1), row(2), row(3)])
    recorder.wait(lambda: recorder.offsets("a") == [1, 2])
    assert total("broker_lag_seconds_count") == 2
    assert 99 < total("broker_lag_seconds_sum") < 100 + DEADLINE
    broker.publish("a", [row(1)])
    assert total("stale_publications_dropped_total") == 3


def test_counts_foreign_messages(on_server: Any) -> None:
    server, _, recorder, total = on_server
    server.ask("PUBLISH", Names("p").room("a").channel, "nonsense")
    recorder.wait(lambda: recorder.mended == ["a"])
    assert total("holes_total", "corrupt") == total("holes_total", "mended") == 1


def test_counts_what_was_read_again(on_server: Any) -> None:
    server, broker, recorder, total = on_server
    broker.publish("a", [Draft("x", "1")])
    recorder.wait(lambda: recorder.offsets("a") == [1])
    keys = Names("p").room("a")
    script = """
        redis.call('HINCRBY', KEYS[1], 'offset', 1)
        local record = redis.call('LINDEX', KEYS[2], -1)
        redis.call('RPUSH', KEYS[2], '2' .. string.sub(record, 2))
    """
    server.ask("EVAL", script, 2, keys.meta, keys.log)  # one that nobody was told
    broker.publish("a", [Draft("x", "3")])
    recorder.wait(lambda: recorder.offsets("a") == [1, 2, 3])
    assert total("holes_total", "reread") == 2


def test_counts_outages_while_they_last(on_server: Any) -> None:
    server, broker, recorder, total = on_server
    assert total("broker_outage_seconds_total") == 0
    server.kill()
    until(lambda: total("broker_outage_seconds_total") > 0.2)
    assert total("holes_total", "interrupted") >= 2
    server.start(keep=False)
    recorder.wait(lambda: recorder.mended == ["a"])
    after = total("broker_outage_seconds_total")
    server.ask("PUBLISH", Names("p").room("a").channel, "nonsense")
    recorder.wait(lambda: recorder.mended == ["a", "a"])
    assert total("broker_outage_seconds_total") == after
    assert broker._outages == {}


# -- the recorder --------------------------------------------------------------------


def test_counts_nothing_until_it_is_switched_on() -> None:
    made = Meters("test", spawn=spawn, sleep=lambda s: None, now=lambda: 7.0)
    for counts in (OFF, made):
        counts.count("no such name")
        counts.observe("no such name", 1)
        counts.took("no such name", counts.start())
    assert not made.on
    made.switch_on()
    made.switch_on()
    with pytest.raises(KeyError):
        made.count("no such name")


def test_gauges_are_read_when_somebody_looks() -> None:
    counts, total = meters()
    counts.gauge("queue_depth", lambda: 3)
    counts.gauge("queue_bytes", lambda: 1 / 0)
    assert total("queue_depth") == 3
    assert total("queue_bytes") == 0


def test_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    made = Meters("test", spawn=spawn, sleep=lambda s: None, now=lambda: 0.0)
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"PROMETHEUS_MULTIPROC_DIR is .*none'"):
        made.switch_on()
    real = builtins.__import__

    def missing(name: str, *args: Any, **options: Any) -> Any:
        if name.startswith("prometheus_client"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"flask-livepush\[metrics\]"):
        made.switch_on()
    assert not made.on
    assert "PROMETHEUS_MULTIPROC_DIR" in os.environ
