"""Settings: each default is right, each mistake is told with the remedy."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Flask

from flask_livepush import ConfigError, LivePush
from flask_livepush import config as configuration


def test_the_defaults_pass_their_own_checks() -> None:
    settings = configuration.read({})
    for row in configuration.TABLE:
        assert row.key.startswith(configuration.PREFIX)
        assert row.check(row.default) is None
        name = row.key.removeprefix(configuration.PREFIX).lower()
        assert getattr(settings, name) == row.default
    assert len({row.key for row in configuration.TABLE}) == len(configuration.TABLE)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("PUSH", "all", "'commits', 'decorated'"),
        ("PUSH", None, "'commits', 'decorated'"),
        ("ASYNC_MODE", "asyncio", "'threading', 'eventlet', 'gevent'"),
        ("ALLOW_ANONYMOUS", "false", "True or False"),
        ("ALLOW_ANONYMOUS", 1, "True or False"),
        ("HISTORY_SIZE", -1, "0 or more. Use 0 to keep no history"),
        ("HISTORY_SIZE", 1.0, "whole number"),
        ("HISTORY_SIZE", True, "whole number"),
        ("HISTORY_SIZE", "100", "whole number"),
        ("HISTORY_TTL", 0, "above 0"),
        ("HISTORY_TTL", float("nan"), "above 0"),
        ("HISTORY_TTL", float("inf"), "above 0"),
        ("HISTORY_TTL", "5", "above 0"),
        ("HISTORY_TTL", True, "above 0"),
        ("MAX_ROOMS", 0, "1 or more"),
        ("MAX_PENDING_MESSAGES", 0, "1 or more"),
        ("RESET_WITHIN", -1, "above 0"),
        ("SNAPSHOT_TIMEOUT", None, "above 0"),
        ("URL_PREFIX", "livepush", "'/livepush'"),
        ("URL_PREFIX", "/livepush/", "without a slash"),
        ("URL_PREFIX", "/", "without a slash"),
        ("URL_PREFIX", None, "'/livepush'"),
        ("CORS_ORIGINS", "*", "every site"),
        ("CORS_ORIGINS", ["https://a.example", "*"], "every site"),
        ("CORS_ORIGINS", [], "same origin"),
        ("CORS_ORIGINS", ["a.example"], "scheme://host"),
        ("CORS_ORIGINS", ["https://a.example/"], "without a slash"),
        ("CORS_ORIGINS", [1], "scheme://host"),
        ("CORS_ORIGINS", {"https://a.example": 1}, "same origin"),
        ("PING_INTERVAL", 0, "above 0"),
        ("PING_TIMEOUT", -2.5, "above 0"),
    ],
)
def test_refuses_with_the_value_and_the_remedy(key: str, value: Any, says: str) -> None:
    name = f"LIVEPUSH_{key}"
    with pytest.raises(ConfigError) as caught:
        configuration.read({name: value})
    text = str(caught.value)
    assert text.startswith(f"{name} is {value!r}; ")
    assert says in text
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("LIVEPUSH_HISTORY_SIZES", "LIVEPUSH_HISTORY_SIZE"),
        ("LIVEPUSH_MAXROOMS", "LIVEPUSH_MAX_ROOMS"),
        ("LIVEPUSH_ORIGINS", "LIVEPUSH_CORS_ORIGINS"),
        ("LIVEPUSH_", "LIVEPUSH_PUSH"),
        ("LIVEPUSH_REDIS_URL", "LIVEPUSH_MESSAGE_QUEUE"),
        ("LIVEPUSH_URL", "LIVEPUSH_MESSAGE_QUEUE"),
        ("LIVEPUSH_BROKER", "LIVEPUSH_MESSAGE_QUEUE"),
        ("LIVEPUSH_QUEUE", "LIVEPUSH_MESSAGE_QUEUE"),
        ("LIVEPUSH_URL_PREFIXES", "LIVEPUSH_URL_PREFIX"),
    ],
)
def test_names_the_nearest_key_for_an_unknown_one(key: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is not .* mean {near}") as caught:
        configuration.read({key: 1})
    assert str(caught.value).endswith("?")


def test_takes_what_is_right_and_leaves_others_settings_alone() -> None:
    settings = configuration.read(
        {
            "SECRET_KEY": "x",
            "livepush_push": "nonsense",
            "LIVEPUSH_HISTORY_SIZE": 0,
            "LIVEPUSH_HISTORY_TTL": 0.5,
            "LIVEPUSH_CORS_ORIGINS": ["https://a.example", "http://b.example:8080"],
            "LIVEPUSH_URL_PREFIX": "/a/b",
            "LIVEPUSH_PRESENCE_DAMPING": 0,
        }
    )
    assert settings.history_size == 0
    assert settings.history_ttl == 0.5
    assert settings.presence_damping == 0
    assert settings.cors_origins == ["https://a.example", "http://b.example:8080"]


def test_settings_are_read_in_init_app_and_once() -> None:
    app = Flask(__name__)
    app.config["LIVEPUSH_MAX_ROOMS"] = -1
    livepush = LivePush()
    with pytest.raises(ConfigError, match="LIVEPUSH_MAX_ROOMS"):
        livepush.init_app(app)
    app.config["LIVEPUSH_MAX_ROOMS"] = 1
    livepush.init_app(app)
    app.config["LIVEPUSH_NONSENSE"] = 1
    assert app.extensions["livepush"] is livepush
