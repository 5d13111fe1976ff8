"""What settings and surroundings say, without asking anybody."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flask_livepush import config
from flask_livepush.doctor.application import Application, check
from flask_livepush.doctor.findings import Finding, concealed
from flask_livepush.doctor.gunicorn_settings import Gunicorn

GTHREAD = Gunicorn("--gunicorn", 1, 16, "gthread")
FOUR = replace(GTHREAD, workers=4)
GEVENT = Gunicorn("--gunicorn", 1, 1, "gevent")
QUEUE = {"LIVEPUSH_MESSAGE_QUEUE": "redis://:a-password@10.0.0.5"}


def examine(
    settings: dict[str, Any] | None = None,
    *,
    name: str = "notes",
    served: Gunicorn | None = GTHREAD,
    **known: Any,
) -> list[Finding]:
    """Examine an application with these settings."""
    all_settings = {"SECRET_KEY": "k" * 32, **QUEUE, **(settings or {})}
    given: dict[str, Any] = {
        "environ": {},
        "patched": "threading",
        "runs_in": "threading",
        "descriptors": None,
        "gevent_websocket": False,
        **known,
    }
    found = list(
        check(
            Application(
                name=name,
                config=all_settings,
                settings=config.read(all_settings),
                served=served,
                **given,
            )
        )
    )
    assert "a-password" not in repr(found)
    assert all_settings["SECRET_KEY"] is None or (
        str(all_settings["SECRET_KEY"]) not in repr(found)
    )
    return found


@pytest.mark.parametrize(
    ("version", "said"),
    [("20.1.0", True), ("21.2.0", False), ("27.0.1", False), ("", False)],
)
def test_names_a_gunicorn_that_is_older_than_the_tests(
    version: str, said: bool
) -> None:
    found = examine(served=replace(GTHREAD, version=version))
    assert any("gunicorn>=21.2" in str(f.remedy) for f in found) is said


def test_finds_nothing_in_what_is_right() -> None:
    (workers,) = examine()
    assert workers.level == "ok"
    assert workers.sentence == (
        "gunicorn: gthread, 1 worker, 16 threads (from --gunicorn)."
    )


@pytest.mark.parametrize(
    ("settings", "known", "level", "said"),
    [
        ({"SECRET_KEY": None}, {}, "problem", "SECRET_KEY is not set"),
        (
            {"SECRET_KEY": None, "LIVEPUSH_ALLOW_ANONYMOUS": True},
            {},
            "hint",
            "SECRET_KEY is not set",
        ),
        ({"SECRET_KEY": "ten-letter"}, {}, "hint", "SECRET_KEY has 10 characters"),
        (
            {},
            {"served": Gunicorn("x", 1, 1, "sync")},
            "problem",
            "gunicorn's workers are sync",
        ),
        (
            {},
            {"served": Gunicorn("x", 1, 1, "eventlet", "class uri 'eventlet' invalid")},
            "problem",
            "no such worker here: class uri 'eventlet' invalid",
        ),
        (
            {},
            {"served": Gunicorn("x", 1, 1, "uvicorn.workers.UvicornWorker")},
            "hint",
            "'uvicorn.workers.UvicornWorker' is not known to work",
        ),
        ({}, {"served": replace(GTHREAD, threads=2)}, "problem", "Too few threads"),
        ({"LIVEPUSH_ENGINE": "stock"}, {}, "problem", "each connection takes one"),
        ({}, {"served": None}, "hint", "How it will be served is not known"),
        ({}, {"served": replace(GTHREAD, drains=False)}, "hint", "without draining"),
        (
            {"LIVEPUSH_ASYNC_MODE": "threading"},
            {"served": GEVENT},
            "problem",
            "LIVEPUSH_ASYNC_MODE is 'threading', and gunicorn's worker class 'gevent'",
        ),
        (
            {"LIVEPUSH_ASYNC_MODE": "gevent"},
            {"served": GEVENT, "runs_in": None},
            "hint",
            "LIVEPUSH_ASYNC_MODE is 'gevent', and this process is not patched",
        ),
        (
            {},
            {"runs_in": "eventlet"},
            "problem",
            "own SocketIO runs in 'eventlet'",
        ),
        (
            {"LIVEPUSH_ENGINE": "stock"},
            {"served": GEVENT, "gevent_websocket": True},
            "problem",
            "gevent-websocket is installed",
        ),
        (
            {"LIVEPUSH_MESSAGE_QUEUE": None},
            {"served": FOUR},
            "problem",
            "There are 4 processes and no LIVEPUSH_MESSAGE_QUEUE",
        ),
        (
            {"LIVEPUSH_MESSAGE_QUEUE": None},
            {"served": None, "environ": {"WEB_CONCURRENCY": "3"}},
            "problem",
            "There are 3 processes",
        ),
        ({"LIVEPUSH_MESSAGE_QUEUE": None}, {}, "hint", "no LIVEPUSH_MESSAGE_QUEUE"),
        ({}, {"served": FOUR}, "hint", "4 workers share one port"),
        (
            {"LIVEPUSH_ENGINE": "stock"},
            {"served": replace(FOUR, threads=100)},
            "problem",
            "most requests of clients that poll fail",
        ),
        ({}, {"name": "app"}, "hint", "the application's name, 'app'"),
        (
            {"SQLALCHEMY_DATABASE_URI": "sqlite://"},
            {},
            "problem",
            "SQLite's in memory",
        ),
        (
            {"SQLALCHEMY_BINDS": {"b": {"url": "sqlite:///:memory:?x=1"}}},
            {},
            "problem",
            "SQLite's in memory",
        ),
        (
            {"SQLALCHEMY_DATABASE_URI": "sqlite:////var/notes.sqlite"},
            {},
            "hint",
            "The database is SQLite",
        ),
        ({"LIVEPUSH_PING_INTERVAL": 60}, {}, "problem", "PING_INTERVAL is 60 s"),
        ({}, {"descriptors": 1024}, "hint", "may open 1,024 files"),
    ],
)
def test_finds(
    settings: dict[str, Any], known: dict[str, Any], level: str, said: str
) -> None:
    found = [f for f in examine(settings, **known) if said in f.sentence]
    assert [finding.level for finding in found] == [level]
    assert found[0].remedy


@pytest.mark.parametrize(
    ("settings", "known", "unsaid"),
    [
        ({"LIVEPUSH_PREFIX": "notes"}, {"name": "app"}, "LIVEPUSH_PREFIX"),
        ({"LIVEPUSH_ENGINE": "stock"}, {"served": GEVENT}, "gevent-websocket"),
        ({}, {"served": GEVENT, "gevent_websocket": True}, "gevent-websocket"),
        ({"SQLALCHEMY_DATABASE_URI": "postgresql://u:a-password@h/d"}, {}, "SQLite"),
        (
            {
                "SQLALCHEMY_DATABASE_URI": "sqlite:///notes",
                "LIVEPUSH_MESSAGE_QUEUE": None,
            },
            {},
            "SQLite",
        ),
        ({"LIVEPUSH_ENGINE": "stock"}, {"descriptors": 1024}, "1,024"),
        ({}, {"served": None, "unreadable": True}, "is not known"),
        (
            {"LIVEPUSH_ASYNC_MODE": "gevent"},
            {"patched": "gevent", "served": None},
            "ASYNC_MODE",
        ),
    ],
)
def test_does_not_find(
    settings: dict[str, Any], known: dict[str, Any], unsaid: str
) -> None:
    assert not [f for f in examine(settings, **known) if unsaid in f.sentence]


@pytest.mark.parametrize(
    ("worker_class", "mode"),
    [
        *(
            ("gthread", "threading"),
            ("gunicorn.workers.gthread.ThreadWorker", "threading"),
        ),
        *(("gevent", "gevent"), ("flask_livepush.gunicorn.EventletWorker", "eventlet")),
        *(("sync", None), ("tornado", None)),
    ],
)
def test_knows_the_mode_of_a_worker(worker_class: str, mode: str | None) -> None:
    assert Gunicorn("x", 1, 1, worker_class).mode == mode


def test_conceals_passwords_in_texts_of_others() -> None:
    said = "can't connect to redis://u:p@ss:w@h:1/0 or postgresql://:x@h, at 12:30"
    assert concealed(said) == (
        "can't connect to redis://u:***@h:1/0 or postgresql://:***@h, at 12:30"
    )


@pytest.mark.parametrize(
    ("settings", "known", "said"),
    [
        ({}, {"knows_users": False}, True),
        ({"LIVEPUSH_ALLOW_ANONYMOUS": True}, {"knows_users": False}, False),
        ({}, {}, False),
    ],
)
def test_says_that_nobody_may_connect_where_nobody_is_known(
    settings: dict[str, Any], known: dict[str, Any], said: bool
) -> None:
    """Bug: an application without a LoginManager had no problems."""
    found = [f for f in examine(settings, **known) if f.name == "users"]
    assert [f.level for f in found] == (["problem"] if said else [])
    assert not said or "LoginManager" in found[0].sentence
