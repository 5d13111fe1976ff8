"""What is said of a configuration; how workers leave is in ``integration/``."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import Any

import pytest
from flask import Flask
from gunicorn.config import Config
from gunicorn.workers.gthread import ThreadWorker
from gunicorn.workers.sync import SyncWorker

from flask_livepush import LivePush
from flask_livepush import gunicorn as hooks
from flask_livepush.gunicorn import EventletWorker, problems


def worker(kind: type = ThreadWorker, **settings: Any) -> Any:
    """Return a worker as its configuration makes it; it is never run."""
    cfg = Config()
    for name, value in settings.items():
        cfg.set(name, value)
    made = kind.__new__(kind)
    made.cfg = cfg
    return made


def drained(**settings: Any) -> list[Any]:
    """Return what is known of an application."""
    app = Flask("app")
    app.config.update(settings)
    livepush = LivePush(app)
    return [livepush._state_of(app).draining]


def gthread(**settings: Any) -> Any:
    return worker(worker_class="gthread", **{"threads": 16, **settings})


def test_nothing_is_said_of_what_is_right() -> None:
    assert problems(gthread(), drained()) == ([], [])


@pytest.mark.parametrize(
    ("made", "settings", "sentence"),
    [
        (worker(SyncWorker), {}, "worker_class is 'sync'; .* Use worker_class = "),
        (
            gthread(workers=2),
            {},
            "workers is 2 and LIVEPUSH_MESSAGE_QUEUE is not set.* Set it",
        ),
        (
            worker(EventletWorker),
            {},
            "was set up for threading; choose the worker_class for threading",
        ),
        (
            worker(EventletWorker, preload_app=True),
            {},
            "preload_app loads the application before eventlet has patched",
        ),
    ],
)
def test_nonsense_is_refused(made: Any, settings: Any, sentence: str) -> None:
    errors, warnings = problems(made, drained(**settings))
    assert len(errors) == 1
    assert re.search(sentence, errors[0])
    assert warnings == []


@pytest.mark.parametrize(
    ("made", "settings", "sentence"),
    [
        (gthread(threads=1), {}, "threads is 1: .* Use threads = 16"),
        (
            gthread(graceful_timeout=9),
            {},
            "graceful_timeout is 9 and LIVEPUSH_DRAIN_SECONDS 10: .* = 15 or more",
        ),
        (
            gthread(),
            {"LIVEPUSH_ENGINE": "stock"},
            "threads is 16, and with LIVEPUSH_ENGINE = 'stock' each",
        ),
    ],
)
def test_what_is_unwise_is_warned_of(made: Any, settings: Any, sentence: str) -> None:
    errors, warnings = problems(made, drained(**settings))
    assert errors == []
    assert len(warnings) == 1
    assert re.search(sentence, warnings[0])


def test_an_application_that_is_not_there_yet_is_warned_of() -> None:
    errors, warnings = problems(gthread(), [])
    assert errors == []
    assert warnings[0].startswith("No LivePush was set up")


def test_it_will_do_as_a_configuration() -> None:
    # Gunicorn takes every name that one of its settings has.
    assert set(vars(hooks)) & set(Config().settings) == {"post_worker_init"}


def test_the_configuration_imports_nothing_that_keeps_what_is_patched() -> None:
    program = (
        "import sys, flask_livepush.gunicorn;"
        "print(*{'flask', 'socketio', 'engineio', 'redis', 'eventlet', 'gevent'}"
        " & set(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
