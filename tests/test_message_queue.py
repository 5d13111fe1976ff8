"""How an application meets its message queue at the start."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from flask import Flask

from flask_livepush import LivePush, config, message_queue
from flask_livepush.brokers.memory_logins import MemoryLogins
from flask_livepush.errors import BrokerUnavailable, ConfigError
from tests.support.connections import Site
from tests.support.ended import new_ends
from tests.support.redis import RedisServer, redis_server, redis_url, until
from tests.support.servers import unused_port

__all__ = ["redis_url"]


def start(name: str = "app", **settings: Any) -> LivePush:
    """Set an application up."""
    app = Flask(name)
    app.config.update(SECRET_KEY="s", LIVEPUSH_ASYNC_MODE="threading")
    for key, value in settings.items():
        app.config[key if key.startswith("SECRET_KEY") else f"LIVEPUSH_{key}"] = value
    livepush = LivePush(app)
    livepush.room("open:<path:name>")(lambda user, name: True)
    return livepush


def stop(*made: LivePush) -> None:
    """Give connections back."""
    for livepush in made:
        livepush._app().broker.close()


@pytest.mark.parametrize("value", ["localhost:6379", 6379, b"redis://h"])
def test_refuses_what_is_no_url(value: object) -> None:
    with pytest.raises(ConfigError, match="LIVEPUSH_MESSAGE_QUEUE is"):
        start(MESSAGE_QUEUE=value)


def test_says_that_a_url_has_no_scheme() -> None:
    with pytest.raises(ConfigError, match=r"no scheme.*'redis://localhost:6379'"):
        start(MESSAGE_QUEUE="localhost:6379")


def test_says_what_to_do_about_a_queue_that_is_away() -> None:
    url = f"redis://127.0.0.1:{unused_port()}"
    with pytest.raises(BrokerUnavailable, match=r"does not answer.*REQUIRE_QUEUE"):
        start(MESSAGE_QUEUE=url)


def test_an_unusable_url_is_not_shown_with_its_password() -> None:
    with pytest.raises(ConfigError) as caught:
        start(MESSAGE_QUEUE="mysql://u:s3cret@h")
    assert "s3cret" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        start(MESSAGE_QUEUE="u:s3cret@h")
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("prefix", ["", "a\nb", 7, "x" * 101])
def test_refuses_a_prefix_that_is_no_name(prefix: object) -> None:
    with pytest.raises(ConfigError, match="LIVEPUSH_PREFIX"):
        start(PREFIX=prefix)


def test_an_unreachable_queue_stops_the_start() -> None:
    with pytest.raises(BrokerUnavailable) as caught:
        start(MESSAGE_QUEUE="redis://u:s3cret@127.0.0.1:1")
    assert "redis://u:***@127.0.0.1:1" in str(caught.value)


def test_a_wrong_password_stops_the_start() -> None:
    with redis_server("--requirepass", "right") as redis:
        with pytest.raises(ConfigError, match="password") as caught:
            start(MESSAGE_QUEUE=f"redis://:wr0ng@127.0.0.1:{redis.port}")
        assert "wr0ng" not in str(caught.value)


def test_starts_without_its_queue_when_told_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server() as redis:
        redis.kill()
        with caplog.at_level(logging.ERROR):
            livepush = start(MESSAGE_QUEUE=redis.url, REQUIRE_QUEUE=False)
        assert "Starting without the message queue" in caplog.text
        assert livepush.emit("open:1", "x").outcome == "queued"
        assert livepush.position("open:1") is None
        redis.start(keep=True)
        until(lambda: livepush.emit("open:1", "x").outcome == "stored")
        stop(livepush)


def test_applications_keep_apart_by_their_names_unless_told_otherwise() -> None:
    with redis_server() as redis:
        queue = {"MESSAGE_QUEUE": redis.url}
        one, two = start("one", **queue), start("two", **queue)
        same = start("three", PREFIX="one", **queue)
        one.emit("open:1", "x")
        assert two.position("open:1").offset == 0
        assert same.position("open:1").offset == 1
        stop(one, two, same)


SECRETS = "app:1:secrets"


def keep_alive(redis: RedisServer) -> None:
    """Let the processes that have started give signs of life, however long it takes."""
    redis.ask("PERSIST", SECRETS)
    for fingerprint in redis.ask("ZRANGE", SECRETS, 0, -1):
        redis.ask("ZADD", SECRETS, 9_000_000_000_000, fingerprint)


def test_another_secret_key_stops_the_start() -> None:
    with redis_server() as redis:
        queue = {"MESSAGE_QUEUE": redis.url}
        one = start(SECRET_KEY="of-production", **queue)
        keep_alive(redis)
        with pytest.raises(ConfigError) as caught:
            start(SECRET_KEY="of-staging", **queue)
        text = str(caught.value)
        for word in ("LIVEPUSH_PREFIX is 'app'", redis.url, "SECRET_KEY_FALLBACKS"):
            assert word in text
        assert "of-production" not in text
        assert "of-staging" not in text
        with pytest.raises(ConfigError, match="LIVEPUSH_PREFIX"):
            start(SECRET_KEY="of-staging", REQUIRE_QUEUE=False, **queue)
        other = start(SECRET_KEY="of-staging", PREFIX="staging", **queue)
        redis.ask("DEL", SECRETS)
        stop(one, other, start(SECRET_KEY="of-staging", **queue))


def test_a_secret_key_is_changed_deploy_by_deploy() -> None:
    with redis_server() as redis:
        queue = {"MESSAGE_QUEUE": redis.url}
        deploys: list[dict[str, Any]] = [
            {"SECRET_KEY": "old"},
            {"SECRET_KEY": "new", "SECRET_KEY_FALLBACKS": ["old"]},
            {"SECRET_KEY": "old"},
            {"SECRET_KEY": "new"},
        ]
        for keys in deploys:
            stop(start(**keys, **queue))
            keep_alive(redis)
        redis.ask("DEL", SECRETS)
        stop(start(SECRET_KEY="new", **queue))
        keep_alive(redis)
        with pytest.raises(ConfigError, match="SECRET_KEY_FALLBACKS"):
            start(SECRET_KEY="old", **queue)


def test_an_application_without_a_secret_key_starts() -> None:
    with redis_server() as redis:
        stop(
            start(MESSAGE_QUEUE=redis.url),
            start(MESSAGE_QUEUE=redis.url, SECRET_KEY=None),
        )


def test_secret_keys_do_not_matter_without_a_queue() -> None:
    stop(start(SECRET_KEY="one"), start(SECRET_KEY="another"))


def test_the_secret_key_is_compared_when_the_queue_comes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with redis_server() as redis:
        redis.kill()
        site = Site(
            LIVEPUSH_MESSAGE_QUEUE=redis.url,
            LIVEPUSH_PREFIX="app",
            LIVEPUSH_REQUIRE_QUEUE=False,
        )
        redis.start(keep=True)
        owner = start(MESSAGE_QUEUE=redis.url)
        keep_alive(redis)
        connection = site.connection("1")
        connection.connect()
        refused = connection.call("livepush.subscribe", {"room": "chat:42"})
        assert refused["error"]["code"] == 120
        assert site.livepush.emit("chat:42", "x").outcome == "queued"
        with pytest.raises(BrokerUnavailable):
            site.livepush.presence("chat:42")
        assert owner.position("open:1").offset == 0
        errors = [r for r in caplog.records if "No room is served" in r.message]
        assert len(errors) == 1

        redis.ask("DEL", SECRETS)
        # Soon: beside a server that has just started, who knows nothing of ended
        # logins waits for others to write back.
        until(lambda: connection.call("livepush.subscribe", {"room": "chat:42"})["ok"])
        until(lambda: site.livepush.emit("chat:42", "x").outcome == "stored")
        stop(site.livepush, owner)


def made(livepush: LivePush, **settings: Any) -> Any:
    """Return the logins that an application would have, and what it has of a queue."""
    state = livepush._app()
    url = settings.pop("url", None)
    found = {f"LIVEPUSH_{key}": value for key, value in settings.items()}
    read = config.read(found)
    queue = url and message_queue.MessageQueue(url, "one", {})
    return message_queue.logins(
        queue,
        read,
        session_lifetime=60,
        server=state.socketio.server,
        failures=state.failures,
        metrics=state.meters,
    )


def test_applications_that_share_logins_know_what_another_has_ended(
    redis_url: str,
) -> None:
    livepush = start("logins")
    one = made(livepush, url=redis_url, LOGINS_PREFIX="shared")
    other = made(livepush, url=redis_url, LOGINS_PREFIX="shared", PREFIX="another")
    apart = made(livepush, url=redis_url)
    until(lambda: one.is_current() and other.is_current() and apart.is_current())
    (end,) = new_ends(1)
    one.end([end])
    until(lambda: other.has_ended(end.login))
    apart.confirm()
    assert not apart.has_ended(end.login)
    for logins in (one, other, apart):
        logins.close()
    stop(livepush)


def test_keeps_ended_logins_in_this_process_where_there_is_no_queue() -> None:
    livepush = start("alone")
    logins = made(livepush)
    assert isinstance(logins, MemoryLogins)
    # Longer than sessions last: a view that began before may sign one after it.
    assert logins._mirror.lifetime > 60
    stop(livepush)
