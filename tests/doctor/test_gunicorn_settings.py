"""gunicorn's settings, as gunicorn itself finds them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flask_livepush.doctor.gunicorn_settings import Gunicorn, Unreadable, read

# Programs that a configuration may be, with what they must not do to us.
CONF = """
from gevent import monkey
monkey.patch_all()
print("a line of its own")
worker_class = "gevent"
workers = 3
"""


def environ(**more: str) -> dict[str, str]:
    """Return an environment without what gunicorn reads, and with more."""
    ours = ("GUNICORN_CMD_ARGS", "WEB_CONCURRENCY")
    return {k: v for k, v in os.environ.items() if k not in ours} | more


def test_knows_nothing_where_nothing_is(tmp_path: Path) -> None:
    assert read(None, environ(WEB_CONCURRENCY="4"), tmp_path) is None


def test_reads_arguments_as_they_are_typed(tmp_path: Path) -> None:
    found = read("/venv/bin/gunicorn -w 2 --threads 8 notes:app", environ(), tmp_path)
    assert found == Gunicorn("--gunicorn", 2, 8, "gthread", drains=False)


def test_reads_a_configuration_and_the_environment(tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONF)
    found = read(None, environ(GUNICORN_CMD_ARGS="--workers 5"), tmp_path)
    source = "GUNICORN_CMD_ARGS and gunicorn.conf.py"
    assert found == Gunicorn(source, 5, 1, "gevent", drains=False)


OWN_HOOK = """
def post_worker_init(worker):
    from flask_livepush.gunicorn import post_worker_init
    post_worker_init(worker)
"""


@pytest.mark.parametrize(
    ("conf", "drains"),
    [
        ("from flask_livepush.gunicorn import post_worker_init", True),
        (OWN_HOOK, True),
        ("def post_worker_init(worker): ...", False),
        ("import flask_livepush.gunicorn", False),
        ("worker_class = 'flask_livepush.gunicorn.EventletWorker'", False),
    ],
)
def test_knows_whether_workers_drain(tmp_path: Path, conf: str, drains: bool) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(conf)
    found = read(None, environ(), tmp_path)
    assert found is not None
    assert found.drains is drains


def test_knows_the_hooks_of_a_module(tmp_path: Path) -> None:
    arguments = "-c python:flask_livepush.gunicorn -k gthread"
    found = read(arguments, environ(), tmp_path)
    assert found == Gunicorn("--gunicorn", 1, 1, "gthread")


def test_takes_web_concurrency_as_gunicorn_does(tmp_path: Path) -> None:
    found = read("-k gthread", environ(WEB_CONCURRENCY="6"), tmp_path)
    assert found is not None
    assert found.workers == 6


def test_says_why_there_is_no_such_worker(tmp_path: Path) -> None:
    found = read("-k eventlet", environ(), tmp_path)
    assert found is not None
    assert found.mode == "eventlet"
    assert "class uri 'eventlet' invalid or not found" in (found.error or "")
    assert "\n" not in (found.error or "")


@pytest.mark.parametrize(
    ("arguments", "conf", "said"),
    [
        ("-k 'gthread", "", "is no command line"),
        ("--no-such-option", "", "unrecognized arguments: --no-such-option"),
        ("-c nowhere.py", "", "nowhere.py"),
        ("-w 1", "raise RuntimeError('broken')", "broken"),
    ],
)
def test_says_what_can_not_be_read(
    tmp_path: Path, arguments: str, conf: str, said: str
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(conf)
    with pytest.raises(Unreadable, match=said) as caught:
        read(arguments, environ(), tmp_path)
    assert caught.value.remedy
