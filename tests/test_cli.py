"""``flask livepush``, as it is typed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from flask import Flask
from flask.cli import ScriptInfo
from flask_login import LoginManager

from flask_livepush import LivePush
from flask_livepush.cli import livepush
from tests.support.brokers import new_prefix
from tests.support.raw import Raw
from tests.support.redis import redis_server, redis_url, until
from tests.support.servers import MODES, ROOT, Program, running, unused_port
from tests.support.waiting import DEADLINE

APP = "tests.support.doctor_app:app"
# Of a machine on which nothing is decided.
SURROUNDINGS = {"GUNICORN_CMD_ARGS": None, "WEB_CONCURRENCY": None}

__all__ = ["redis_url"]


def make(**settings: Any) -> Callable[[], Flask]:
    """Return a factory of an application with these settings."""

    def create() -> Flask:
        app = Flask("made")
        app.config.update(SECRET_KEY="k" * 32, **settings)
        LoginManager(app)
        LivePush(app)
        return app

    return create


def doctor(*args: str, create: Callable[[], Flask] | None = None) -> Result:
    """Run the doctor in this process."""
    info = ScriptInfo(create_app=create)
    runner = CliRunner(env=SURROUNDINGS)
    result = runner.invoke(livepush, ["doctor", *args], obj=info)
    assert isinstance(result.exception, SystemExit | None), result.output
    return result


def flask(*args: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the flask command in a process of its own."""
    kept = {k: v for k, v in os.environ.items() if k not in SURROUNDINGS}
    return subprocess.run(
        [sys.executable, "-m", "flask", *args],
        cwd=cwd,
        env={**kept, "PYTHONWARNINGS": "error"},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=DEADLINE,
    )


def serving(*args: str, cwd: Path = ROOT) -> Program:
    """Start ``flask livepush serve``."""
    command = ["-m", "flask", "--app", APP, "livepush", "serve", *args]
    return Program([sys.executable, *command], name="serve", cwd=cwd)


# -- serve -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_serves_in_each_mode_and_says_where(mode: str) -> None:
    program = serving("--port", "0", "--mode", mode)
    try:
        said = program.wait_for(
            rf"^Serving visited on http://127\.0\.0\.1:(\d+) \({mode}\)$"
        )
        port = int(said[1])
        until(lambda: _listens(port))  # it says where it is going to
        with Raw(port) as raw:
            assert raw.upgrade("EIO=4&transport=websocket").status == 101
            opened = raw.read()
            assert isinstance(opened, str)
            assert opened.startswith("0{")
    finally:
        status = program.stop(ask=signal.SIGTERM)
    assert status == 0
    assert "Traceback" not in program.log


def _listens(port: int) -> bool:
    with suppress(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port)).close()
        return True
    return False


def test_serve_says_that_a_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        program = serving("--port", port)
        try:
            program.wait_for(rf"^Error: Port {port} of 127\.0\.0\.1 is in use")
        finally:
            program.stop(patience=5)


def test_serve_says_which_mode_an_application_wants() -> None:
    info = ScriptInfo(create_app=make(LIVEPUSH_ASYNC_MODE="gevent"))
    result = CliRunner().invoke(livepush, ["serve"], obj=info)
    assert result.exit_code == 1
    assert "not monkey-patched" in result.output
    assert "--mode" in result.output


def test_serve_says_what_to_install_for_a_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bug: it was a traceback."""
    monkeypatch.setitem(sys.modules, "gevent", None)  # as if it were not installed
    info = ScriptInfo(create_app=make())
    result = CliRunner().invoke(livepush, ["serve", "--mode", "gevent"], obj=info)
    assert result.exit_code == 1
    assert 'pip install "flask-livepush[gevent]"' in result.output


def test_serve_needs_livepush() -> None:
    info = ScriptInfo(create_app=lambda: Flask("plain"))
    result = CliRunner().invoke(livepush, ["serve"], obj=info)
    assert result.exit_code == 1
    assert "LivePush is not set up on the application 'plain'" in result.output


# -- doctor ----------------------------------------------------------------------------


def test_is_found_by_flask_where_no_application_is(tmp_path: Path) -> None:
    found = entry_points(group="flask.commands", name="livepush")
    assert [entry.load() for entry in found] == [livepush]
    done = flask("livepush", "doctor", cwd=tmp_path)
    assert done.returncode == 2
    assert "Could not locate a Flask application" in done.stderr
    assert "Traceback" not in done.stderr


def test_says_that_nobody_is_known_without_a_login_manager() -> None:
    """Bug: everybody was answered 103, and there were "no problems"."""

    def create() -> Flask:
        app = Flask("made")
        app.config.update(SECRET_KEY="k" * 32)
        livepush = LivePush(app)
        if tokens:
            livepush.authenticate(lambda given: None)
        return app

    for tokens in (False, True):
        result = doctor("--gunicorn", "-k gthread --threads 16", create=create)
        assert result.exit_code == (0 if tokens else 1), result.output
        assert ("no LoginManager" in result.output) is not tokens


def test_examines_an_application(redis_url: str) -> None:
    create = make(LIVEPUSH_MESSAGE_QUEUE=redis_url, LIVEPUSH_PREFIX=new_prefix())
    result = doctor("--gunicorn", "-k gthread --threads 16", create=create)
    assert result.exit_code == 0, result.output
    assert "gunicorn: gthread, 1 worker, 16 threads" in result.output
    assert "is Redis 7" in result.output
    assert result.output.splitlines()[-1].startswith("no problems, ")


def test_examines_an_application_whose_redis_is_away(tmp_path: Path) -> None:
    """It does not start, and yet all else that is wrong with it is said."""
    port = unused_port()
    url = f"redis://:hidden@127.0.0.1:{port}"
    result = doctor("--gunicorn", "-w 4", create=make(LIVEPUSH_MESSAGE_QUEUE=url))
    assert result.exit_code == 1
    assert result.output.count(f"redis://:***@127.0.0.1:{port} does not answer") == 1
    assert "gunicorn's workers are sync" in result.output
    assert "hidden" not in result.output


def test_examines_an_application_for_another_mode(redis_url: str) -> None:
    """Commands are not patched; that is nothing that is wrong with a server."""
    create = make(
        LIVEPUSH_ASYNC_MODE="gevent",
        LIVEPUSH_MESSAGE_QUEUE=redis_url,
        LIVEPUSH_PREFIX=new_prefix(),
    )
    result = doctor("--gunicorn", "-k gevent", create=create)
    assert result.exit_code == 0, result.output
    assert "this process is not patched for it" in result.output
    assert "does not start" not in result.output


def test_says_once_that_gunicorn_can_not_read_its_settings() -> None:
    result = doctor("--gunicorn", "--bogus", create=make())
    assert "unrecognized arguments: --bogus" in result.output
    assert "Correct --gunicorn" in result.output
    assert "is not known" not in result.output


def test_says_which_setting_is_wrong() -> None:
    result = doctor(create=make(LIVEPUSH_HISTORY_SIZE=-1))
    assert result.exit_code == 1
    assert "LIVEPUSH_HISTORY_SIZE is -1" in result.output


def test_says_what_keeps_an_application_from_being_loaded() -> None:
    def create() -> Flask:
        raise RuntimeError("no database at postgresql://u:hidden@h/d")

    result = doctor(create=create)
    assert result.exit_code == 2
    assert "RuntimeError: no database at postgresql://u:***@h/d" in result.output
    result = doctor(create=lambda: Flask("plain"))
    assert result.exit_code == 2
    assert "LivePush is not set up" in result.output


def test_finds_a_secret_key_that_is_made_anew(tmp_path: Path) -> None:
    source = (
        "import secrets\n"
        "from flask import Flask\n"
        "from flask_login import LoginManager\n"
        "from flask_livepush import LivePush\n"
        "print('a line of its own')\n"
        "app = Flask('anew')\n"
        "app.config['SECRET_KEY'] = {}\n"
        "LoginManager(app)\n"
        "LivePush(app)\n"
        "app.run()\n"
    )
    (tmp_path / "app.py").write_text(source.format("secrets.token_hex()"))
    done = flask("livepush", "doctor", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert "SECRET_KEY is another one at each start" in done.stdout
    (tmp_path / "app.py").write_text(source.format("'k' * 32"))
    done = flask("livepush", "doctor", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "another one at each start" not in done.stdout


def test_goes_to_a_url_and_answers_in_json() -> None:
    with running(ROOT / "tests" / "support" / "doctor_app.py") as server:
        url = server.url.replace("://", "://ada:hidden@") + "/?token=hidden"
        args = ("--patience", "0.1", "--cookie", "session=hidden", "--json")
        result = doctor(url, *args)
    assert result.exit_code == 0, result.output
    said = json.loads(result.output)
    assert said["url"] == server.url
    assert said["problems"] == 0
    names = [finding["name"] for finding in said["findings"]]
    assert names[0] == "address"
    assert names[-1] == "patience"
    assert set(said["findings"][0]) == {
        *("name", "level", "sentence", "remedy", "seconds"),
    }
    assert "hidden" not in result.output


def test_exits_with_1_where_it_finds_problems() -> None:
    result = doctor(f"http://127.0.0.1:{unused_port()}")
    assert result.exit_code == 1
    assert "nothing listens at port" in result.output
    assert result.output.splitlines()[-1] == "1 problem, no hints."


@pytest.mark.parametrize(
    "args",
    [
        ["example.org"],
        ["http://example.org", "--cookie", "a=b\r\nX: y"],
        ["http://example.org", "--origin", "a\nb"],
        ["http://example.org", "--patience", "-1"],
        ["--no-such-option"],
    ],
)
def test_exits_with_2_where_it_can_not_begin(args: list[str]) -> None:
    result = doctor(*args)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_marks_findings_in_ascii_where_nothing_else_can_be_shown() -> None:
    result = CliRunner(charset="ascii").invoke(
        livepush, ["doctor", f"http://127.0.0.1:{unused_port()}"], obj=ScriptInfo()
    )
    assert result.exit_code == 1
    assert "!! address" in result.output
    assert "-> " in result.output


def test_says_which_other_application_has_the_prefix() -> None:
    with redis_server() as server:
        settings: dict[str, Any] = {"LIVEPUSH_MESSAGE_QUEUE": server.url}
        other = make(**settings)()
        result = doctor(create=make(**settings, SECRET_KEY_FALLBACKS=()))
        assert result.exit_code == 0, result.output

        def create() -> Flask:
            app = Flask("made")
            app.config.update(SECRET_KEY="another key of staging", **settings)
            LivePush(app)
            return app

        result = doctor(create=create)
    assert other is not None
    assert result.exit_code == 1
    assert result.output.count("uses it with another SECRET_KEY") == 1
    assert "staging" not in result.output.replace("such as staging", "")
