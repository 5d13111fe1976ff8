"""The chat as a program and as a web application; for its pages: ``browser/``."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.request import urlopen

import pytest
from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix

from example_app import create_app
from example_app.demo_data import fill
from example_app.models import User, chat, db
from flask_livepush.errors import ConfigError
from tests.support.gunicorns import WORKERS
from tests.support.raw import Raw
from tests.support.redis import redis_server
from tests.support.servers import MODES, ROOT, Mode, Program
from tests.support.waiting import DEADLINE, until


def run_until_it_ends(*args: str | int, **env: str) -> tuple[int, str]:
    """Return the exit status and what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "example_app", *map(str, args)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        cwd=ROOT,
        timeout=DEADLINE,
        check=False,
        env=env,
    )
    return done.returncode, done.stdout


@pytest.fixture
def program(tmp_path: Path, mode: Mode) -> Iterator[Program]:
    """The chat, as it serves without a terminal."""
    program = Program(
        [sys.executable, "-m", "example_app", "--port", "0", "--mode", mode],
        name="example_app",
        env={"DATABASE_URL": f"sqlite:///{tmp_path}/chat.sqlite3"},
    )
    try:
        url = program.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        program.wait_for(r"ada\s+password demo")
        program.wait_for(r"bob\s+password demo")
        # It is printed before it listens.
        wait_until_it_answers(program, url)
        yield program
    finally:
        program.stop(patience=1)


@pytest.mark.parametrize("mode", MODES)
def test_runs_without_a_terminal_until_it_is_interrupted(program: Program) -> None:
    assert program.stop(ask=signal.SIGINT) == 0
    assert not re.search(r"Traceback|Warning|KeyboardInterrupt", program.log)


@pytest.mark.parametrize("mode", MODES)
def test_ends_when_it_is_told_to_twice_at_once(program: Program) -> None:
    """Bug: with gevent the second SIGTERM cost the first its effect."""
    port = int(program.wait_for(r"http://127\.0\.0\.1:(\d+)")[1])
    with ExitStack() as stack:
        for _ in range(3):
            raw = stack.enter_context(Raw(port))
            assert raw.upgrade("EIO=4&transport=websocket").status == 101
        for _ in range(2):
            program.send(signal.SIGTERM)
        until(lambda: not program.alive)
    assert program.returncode in (0, -signal.SIGTERM)


def test_ends_also_where_its_exit_is_kept() -> None:
    """Bug: with gevent a SIGTERM came in a request, whose bare except kept it."""
    source = (
        "import signal, time\n"
        "from example_app.__main__ import _end\n"
        "signal.signal(signal.SIGTERM, _end)\n"
        "ready = False\n"
        "while True:\n"
        "    try:\n"
        "        ready = ready or not print('ready')\n"
        "        time.sleep(0.01)\n"
        "    except BaseException:\n"
        "        print('kept')\n"
    )
    program = Program([sys.executable, "-c", source], name="keeper")
    try:
        program.wait_for("ready")
        program.send(signal.SIGTERM)
        program.wait_for("kept")
        until(lambda: not program.alive)
        assert program.returncode == 0
    finally:
        program.stop(patience=1)


def wait_until_it_answers(program: Program, url: str) -> None:
    end = time.monotonic() + DEADLINE
    while True:
        try:
            with urlopen(f"{url}/login", timeout=DEADLINE) as answer:
                assert answer.status == 200
                return
        except OSError:
            assert program.alive, program.log
            assert time.monotonic() < end, program.log
            time.sleep(0.05)


def test_says_in_one_sentence_that_the_port_is_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        status, printed = run_until_it_ends("--port", port)
    assert status == 1
    assert printed.startswith(f"Port {port} of 127.0.0.1 is in use; ")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["--host", "0.0.0.0", "--port", "0"], "SECRET_KEY is not set, and others "),
        (["--port", "99999"], "99999 is no port; "),
        (["--host", "192.0.2.1", "--port", "0"], "192.0.2.1:0 cannot be used: "),
    ],
)
def test_says_in_one_sentence_why_it_does_not_start(
    args: list[str], sentence: str
) -> None:
    status, printed = run_until_it_ends(*args)
    assert status == 1
    assert printed.startswith(sentence)
    assert printed.count("\n") == 1


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flask:
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/chat.sqlite3")
    monkeypatch.setenv("SECRET_KEY", "of this test")
    return create_app()


def test_refuses_the_secret_of_the_laptop_elsewhere(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SECRET_KEY")
    monkeypatch.setenv("SECRET_KEY", create_app(local=True).config["SECRET_KEY"])
    with pytest.raises(RuntimeError, match="SECRET_KEY is not set"):
        create_app()


@pytest.mark.parametrize(
    ("variable", "host"),
    [("GAE_INSTANCE", "App Engine"), ("K_SERVICE", "Cloud Run"), ("DYNO", "Heroku")],
)
def test_refuses_to_be_several_chats_where_instances_share_nothing(
    app: Flask, monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    monkeypatch.setenv(variable, "one of several")
    with pytest.raises(RuntimeError, match=f"SQLite.*{host} runs several instances"):
        create_app()
    assert create_app(local=True)  # an editor in the cloud, say
    monkeypatch.setenv("DATABASE_URL", "postgresql://chat@10.0.0.5/chat")
    with pytest.raises(RuntimeError, match=f"QUEUE is not set, and {host} runs "):
        create_app()


def test_several_processes_of_one_machine_may_share_sqlite(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    with redis_server() as redis:
        monkeypatch.setenv("LIVEPUSH_MESSAGE_QUEUE", redis.url)
        assert create_app().config["LIVEPUSH_MESSAGE_QUEUE"] == redis.url


def test_takes_its_settings_from_the_environment(
    app: Flask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIVEPUSH_HISTORY_SIZE", "7")
    monkeypatch.setenv("LIVEPUSH_PREFIX", "chat")
    # As Heroku writes it; requirements.txt installs psycopg.
    monkeypatch.setenv("DATABASE_URL", "postgres://chat:secret@10.0.0.5/chat")
    config = create_app().config
    assert config["LIVEPUSH_HISTORY_SIZE"] == 7
    assert config["LIVEPUSH_PREFIX"] == "chat"
    url = config["SQLALCHEMY_DATABASE_URI"]
    assert url == "postgresql+psycopg://chat:secret@10.0.0.5/chat"
    monkeypatch.setenv("LIVEPUSH_HISTORY_SISE", "7")
    with pytest.raises(ConfigError, match="LIVEPUSH_HISTORY_SIZE"):
        create_app()


@pytest.mark.parametrize(
    ("proxies", "seen"),
    [
        (None, "http 127.0.0.1 chat.example"),
        ("1", "https 10.0.0.9 chat.example"),
        ("2", "https 6.6.6.6 chat.example"),
    ],
)
def test_believes_as_many_proxies_as_there_are(
    app: Flask, monkeypatch: pytest.MonkeyPatch, proxies: str | None, seen: str
) -> None:
    if proxies:
        monkeypatch.setenv("PROXIES", proxies)
    app = create_app()
    app.add_url_rule(
        "/seen",
        view_func=lambda: f"{request.scheme} {request.remote_addr} {request.host}",
    )
    headers = {
        "Host": "chat.example",
        "X-Forwarded-For": "6.6.6.6, 10.0.0.9",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "evil.example",
    }
    assert app.test_client().get("/seen", headers=headers).text == seen
    # Around livepush too, so that rooms' rules see the same.
    assert isinstance(app.wsgi_app, ProxyFix) is bool(proxies)


def test_makes_a_password_where_others_can_reach_it(app: Flask) -> None:
    client = app.test_cli_runner()
    first = client.invoke(args=["fill"]).output
    password = re.search(r"ada\s+password (\S{12,})", first)
    assert password
    again = client.invoke(args=["fill"]).output
    assert "as printed when the database was filled" in again
    assert password[1] not in again


def test_protects_its_pages_and_its_cookie(app: Flask) -> None:
    answer = app.test_client().get("/login", base_url="https://chat.example")
    policy = answer.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    cookie = answer.headers["Set-Cookie"]
    assert {"Secure", "HttpOnly", "SameSite=Lax"} <= set(cookie.split("; "))
    assert b"<script" not in answer.data


def test_refuses_forms_of_other_sites(app: Flask) -> None:
    app.test_cli_runner().invoke(args=["fill"])
    client = app.test_client()
    for path in ("/rooms/1/messages", "/messages/1/delete", "/logout"):
        answer = client.post(path, data={"body": "Hello"})
        assert answer.status_code == 302
        assert answer.location == "/login"
    answer = client.post("/login", data={"name": "ada", "password": "demo"})
    assert answer.status_code == 400
    assert "Reload the page and try again." in answer.text


@pytest.mark.parametrize("worker", WORKERS)
def test_gunicorn_serves_it_and_lets_it_leave(worker: str, tmp_path: Path) -> None:
    """Bug: the eventlet worker broke off where it was to send a file."""
    program = Program(
        [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"),
            *("--config", "example_app/gunicorn.conf.py"),
            "example_app:create_app()",
        ],
        name="example_app (gunicorn)",
        env={
            "DATABASE_URL": f"sqlite:///{tmp_path}/chat.sqlite3",
            "SECRET_KEY": "of this test",
            "WORKER_CLASS": worker,
            "PYTHONWARNINGS": "ignore::Warning",  # eventlet says that it is old
        },
    )
    try:
        url = program.wait_for(r"http://127\.0\.0\.1:\d+")[0]
        program.wait_for("Booting worker")
        with urlopen(f"{url}/livepush/ready", timeout=DEADLINE) as answer:
            assert json.load(answer) == {"status": "ready", "broker": "none"}
        with urlopen(f"{url}/static/chat.js", timeout=DEADLINE) as answer:
            file = ROOT / "example_app" / "static" / "chat.js"
            assert answer.read() == file.read_bytes()
    finally:
        status = program.stop()
    assert status == 0
    assert not re.search(r"Traceback|WARNING|ERROR", program.log)


def test_makes_no_directory_where_its_database_is_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Bug: an unprivileged user could not start it on root's files."""
    monkeypatch.setenv("DATABASE_URL", "postgresql://chat:password@127.0.0.1:1/chat")

    def refuse(*args: object, **options: object) -> None:
        raise PermissionError("root's")

    monkeypatch.setattr("os.makedirs", refuse)
    assert create_app(local=True).name == "example_app.app"
    monkeypatch.delenv("DATABASE_URL")
    with pytest.raises(PermissionError):
        create_app(local=True)


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, 2**63, 10**30])
def test_numbers_that_are_no_key_are_not_found(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bug: beyond 64 bits SQLite's driver refused them, which was a 500."""
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/chat.sqlite3")
    app = create_app(local=True)
    app.config["WTF_CSRF_ENABLED"] = False
    fill(app, local=True)
    client = app.test_client()
    client.post("/login", data={"name": "ada", "password": "demo"})
    answers = [
        client.get(f"/rooms/{number}"),
        client.post(f"/rooms/{number}/messages", data={"body": "x"}),
        client.post(f"/rooms/{number}/read", data={"up_to": "1"}),
        client.get(f"/messages/{number}/edit"),
        client.post(f"/messages/{number}/edit", data={"body": "x"}),
        client.post(f"/messages/{number}/delete"),
    ]
    assert [answer.status_code for answer in answers] == [404] * 6
    assert client.post("/rooms/1/read", data={"up_to": f"{number}"}).status_code == 200
    with app.app_context():
        assert not chat.rule(db.session.get(User, 1), room_id=number)
