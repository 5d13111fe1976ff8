"""``flask livepush``: the commands of the extension.

They are found by the entry point ``flask.commands``, not added to an application in
``init_app``: the doctor is needed most where ``init_app`` fails, and with a URL it
needs no application; and ``serve`` may have to patch the process before one is loaded.
In here is what prints and exits; what is examined, and what is said of it, is in
``doctor``.
"""

from __future__ import annotations

import errno
import hashlib
import hmac
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import Flask
from flask.cli import NoAppException, ScriptInfo

from . import config
from .doctor import application, front, gunicorn_settings, queue
from .doctor.client import Client
from .doctor.findings import Finding, concealed
from .doctor.place import place
from .errors import ConfigError, LivePushError
from .transports.instance import choose_async_mode

if TYPE_CHECKING:
    from .extension import LivePush

# Exit statuses of the doctor.
_FINE, _PROBLEMS, _NOT_RUN = 0, 1, 2
# Seconds that a second start of the application may take.
_SECOND_START = 30

# What a process does that is patched: the flask command.
_PATCHES = {
    "eventlet": r"""
import warnings
warnings.filterwarnings("ignore", r"\s*Eventlet is deprecated")
import eventlet
eventlet.monkey_patch()
from flask.cli import main
main()
""",
    "gevent": """
from gevent import monkey
monkey.patch_all()
from flask.cli import main
main()
""",
}

# Of each level: its mark, the same in ASCII, and its colour.
_MARKS = {
    "ok": ("✓", "ok", "green"),
    "hint": ("·", "?", "yellow"),
    "problem": ("✗", "!!", "red"),
}
# Columns before a sentence.
_INDENT = 26


@click.group("livepush")
def livepush() -> None:
    """Serve live pushes, and find out why they don't arrive."""


# -- serve -----------------------------------------------------------------------------


@livepush.command()
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option(
    "--port",
    default=5000,
    show_default=True,
    type=click.IntRange(0, 65535),
    help="0 takes a free one.",
)
@click.option(
    "--mode",
    type=click.Choice(["threading", "eventlet", "gevent"]),
    help="Patch the process for it before the application is loaded.  [default: what "
    "the application is patched for, else threading]",
)
@click.pass_obj
def serve(info: ScriptInfo, host: str, port: int, mode: str | None) -> None:
    """Serve the application with the server of its async mode.

    Also as a realtime service of its own, beside web processes that only emit: with
    the same settings and LIVEPUSH_MESSAGE_QUEUE, and a proxy in front that leads
    /socket.io/ here.
    """
    _patch(mode, info)
    try:
        app = info.load_app()
    except ConfigError as error:
        raise click.ClickException(f"{error} (--mode does that here.)") from error
    extension = _extension(app)
    port = _free_port(host, port)
    # Flask's command line turns app.run into a no-op while applications are loaded.
    os.environ["FLASK_RUN_FROM_CLI"] = "false"
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    shown = f"[{host}]" if ":" in host else host
    with app.app_context():
        running = extension.socketio.async_mode
    click.echo(f"Serving {app.name} on http://{shown}:{port} ({running})")
    # Quietly, where gevent would print a traceback for Ctrl-C. A SIGTERM drains first.
    signal.signal(signal.SIGINT, lambda *_: sys.exit(0))
    extension.run(app, host=host, port=port, use_reloader=False)


def _patch(mode: str | None, info: ScriptInfo) -> None:
    """Begin again in a process that is patched first of all, unless this one is.

    Flask's command line has imported much by now that keeps what is to be replaced.
    """
    patched = choose_async_mode(None)
    if mode is None or mode == patched:
        return
    if find_spec(mode) is None:
        raise click.ClickException(
            f"{mode} is not installed; pip install "
            f'"flask-livepush[{mode}]", or leave --mode out.'
        )
    if info.create_app is not None or patched != "threading":
        raise click.ClickException(
            f"--mode {mode} is for the flask command, in a process that nobody has "
            "patched yet; patch it in your own program, first of all."
        )
    os.execv(sys.executable, [sys.executable, "-c", _PATCHES[mode], *sys.argv[1:]])


def _extension(app: Flask) -> LivePush:
    found = app.extensions.get("livepush")
    if found is None:
        raise click.ClickException(
            f"LivePush is not set up on the application {app.name!r}; call "
            "LivePush(app) or livepush.init_app(app)."
        )
    extension: LivePush = found
    return extension


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise click.ClickException(
                f"Port {port} of {host} is in use; stop what uses it or choose another "
                "with --port."
            ) from None
        raise click.ClickException(
            f"{host}:{port} can't be used: {error.strerror}."
        ) from None


# -- doctor ----------------------------------------------------------------------------


@livepush.command()
@click.argument("url", required=False)
@click.option(
    "--gunicorn",
    metavar="ARGUMENTS",
    help="What gunicorn is started with, as '-k gthread --threads 16'.  [default: a "
    "gunicorn.conf.py here, and GUNICORN_CMD_ARGS]",
)
@click.option("--origin", help="Of the pages that connect.  [default: that of the URL]")
@click.option(
    "--cookie",
    help="A browser's, as 'session=…', to be logged in. Better in the variable "
    "FLASK_LIVEPUSH_DOCTOR_COOKIE, which other users of the machine can't see.",
)
@click.option(
    "--path", default="/socket.io/", show_default=True, help="Of Socket.IO at the URL."
)
@click.option(
    "--url-prefix",
    default="/livepush",
    show_default=True,
    help="LIVEPUSH_URL_PREFIX at the URL.",
)
@click.option(
    "--timeout",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0.1, 300),
    help="Seconds for each step.",
)
@click.option(
    "--patience",
    default=5.0,
    show_default=True,
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="For how long to hold a WebSocket and a poll, to see whether they are cut; 90 "
    "finds idle limits, 4000 those of an hour.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object, for machines.")
@click.pass_context
def doctor(
    context: click.Context,
    url: str | None,
    gunicorn: str | None,
    origin: str | None,
    cookie: str | None,
    path: str,
    url_prefix: str,
    timeout: float,
    patience: float,
    as_json: bool,
) -> None:
    """Find what keeps live pushes from arriving, and say what to do about it.

    Without a URL: the application's settings, how gunicorn would serve it, and Redis.
    With the site's URL: the way there, step by step, as a browser takes it, through
    whatever is in front. No application is needed for that.

    The exit status is 0 where all is well or there are only hints, 1 where there are
    problems, 2 where nothing could be examined.
    """
    if url is None:
        findings = _examine_application(context.obj, gunicorn)
        target = None
    else:
        for name, value in (("origin", origin), ("cookie", cookie), ("path", path)):
            if value is not None and not value.isprintable():
                raise click.BadParameter(
                    "it holds what a header can't.", param_hint=name
                )
        try:
            where = place(url, ssl.create_default_context)
        except ValueError as error:
            raise click.BadParameter(str(error), param_hint="URL") from None
        target = where.url
        client = Client(
            where,
            path=f"/{path.strip('/')}/",
            prefix=url_prefix.rstrip("/"),
            origin=origin,
            cookie=cookie,
            within=timeout,
            now=time.monotonic,
        )
        findings = front.check(client, hold=patience)
    try:
        problems = (_report_json if as_json else _report)(findings, target)
    except _CannotRun as error:
        click.echo(f"Error: {error}", err=True)
        context.exit(_NOT_RUN)
    context.exit(_PROBLEMS if problems else _FINE)


class _CannotRun(Exception):
    """Nothing can be examined; the message says why."""


def _report(findings: Iterable[Finding], target: str | None) -> int:
    """Print findings as they come; return how many are problems."""
    encoding = sys.stdout.encoding or "ascii"
    plain = 0 if encoding.lower().replace("-", "") == "utf8" else 1
    counts = {"ok": 0, "hint": 0, "problem": 0}
    # What is written into a file keeps a finding on a line.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0

    def lines(text: str) -> str:
        room = max(width - _INDENT - 1, 40) if width else len(text) + 1
        return f"\n{'':{_INDENT}}".join(textwrap.wrap(text, room))

    if target is not None:
        click.echo(target)
    for finding in findings:
        counts[finding.level] += 1
        marks = _MARKS[finding.level]
        mark = click.style(f"{marks[plain]:<2}", fg=marks[2])
        took = "" if finding.seconds is None else f"{finding.seconds:.3f} s"
        click.echo(f"{mark} {finding.name:<12} {took:>9} {lines(finding.sentence)}")
        if finding.remedy is not None:
            arrow = "->" if plain else "→"
            click.echo(" " * _INDENT + lines(f"{arrow} {finding.remedy}"))
    problems = _counted(counts["problem"], "problem")
    click.echo(f"{problems}, {_counted(counts['hint'], 'hint')}.")
    return counts["problem"]


def _counted(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _report_json(findings: Iterable[Finding], target: str | None) -> int:
    """Print all findings as one JSON object; return how many are problems."""
    found = list(findings)
    problems = sum(finding.level == "problem" for finding in found)
    shown = {
        "url": target,
        "problems": problems,
        "findings": [
            {
                "name": finding.name,
                "level": finding.level,
                "sentence": finding.sentence,
                "remedy": finding.remedy,
                "seconds": finding.seconds,
            }
            for finding in found
        ],
    }
    click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
    return problems


# -- the application, for the doctor ---------------------------------------------------


def _examine_application(info: ScriptInfo, arguments: str | None) -> Iterator[Finding]:
    """Examine the application that Flask's command line has found.

    Raises:
        _CannotRun: There is none.
    """
    app, error = _load(info)
    if error is None and "livepush" not in app.extensions:
        raise _CannotRun(
            f"LivePush is not set up on the application {app.name!r}; call "
            "LivePush(app) or livepush.init_app(app)."
        )
    try:
        settings = config.read(app.config)
    except ConfigError as wrong:
        yield Finding("settings", "problem", str(wrong), "See docs/configuration.md.")
        return
    yield Finding("settings", "ok", f"The settings of {app.name!r} can be read.")
    served, is_unreadable = None, False
    try:
        served = gunicorn_settings.read(arguments, os.environ, Path.cwd())
    except gunicorn_settings.Unreadable as unreadable:
        is_unreadable = True
        said = concealed(str(unreadable))
        yield Finding("workers", "problem", said, unreadable.remedy)
    extension: LivePush | None = app.extensions.get("livepush")
    runs_in = None
    if extension is not None:
        with app.app_context():
            runs_in = extension.socketio.async_mode
    yield from application.check(
        application.Application(
            name=app.name,
            config=app.config,
            settings=settings,
            environ=os.environ,
            served=served,
            patched=choose_async_mode(None),
            runs_in=runs_in,
            descriptors=_descriptors(),
            gevent_websocket=find_spec("geventwebsocket") is not None,
            unreadable=is_unreadable,
        )
    )
    if _is_made_anew(info, app):
        yield Finding(
            "secret key",
            "problem",
            "SECRET_KEY is another one at each start: processes do not know each "
            "other's sessions, and with a message queue all but the first are refused.",
            "Set it to one long random text, from the environment.",
        )
    if settings.message_queue is not None:
        yield from queue.check(
            settings.message_queue,
            settings.prefix or app.name,
            app.config,
            now=time.monotonic,
            knows=None if extension is None else extension.knows,
            logins=settings.logins,
            logins_prefix=settings.logins_prefix,
        )
    said = "" if error is None else str(error)
    if error is not None and not _is_told(said, settings):
        yield Finding("start", "problem", f"The application does not start: {said}")


def _is_told(error: str, settings: config.Config) -> bool:
    """Say whether an error of the start was found by the checks too."""
    if "LIVEPUSH_ASYNC_MODE" in error:
        try:
            choose_async_mode(settings.async_mode)
        except ConfigError as same:
            return str(same) == error
    return (
        "does not answer" in error
        or "LIVEPUSH_PREFIX is" in error
        or ("LIVEPUSH_MESSAGE_QUEUE is" in error)
    )


def _load(info: ScriptInfo) -> tuple[Flask, LivePushError | None]:
    """Return the application, also where its start fails in flask_livepush.

    Raises:
        _CannotRun: There is none, or it fails elsewhere.
    """
    try:
        return info.load_app(), None
    except NoAppException as error:
        raise _CannotRun(error.format_message()) from error
    except LivePushError as error:
        # Nobody has returned it yet; but init_app was called with it.
        for frame, _ in traceback.walk_tb(error.__traceback__):
            app = frame.f_locals.get("app")
            if frame.f_code.co_name == "init_app" and isinstance(app, Flask):
                return app, error
        raise _CannotRun(f"The application can't be loaded: {error}") from error
    except Exception as error:
        # Anything that an application does may fail.
        said = concealed(f"{type(error).__name__}: {error}")
        raise _CannotRun(f"The application can't be loaded. {said}") from error


def _descriptors() -> int | None:
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _is_made_anew(info: ScriptInfo, app: Flask) -> bool:
    """Say whether a second start has another secret key."""
    key = app.config.get("SECRET_KEY")
    if not key or info.create_app is not None:
        return False
    nonce = secrets.token_hex(16)
    chosen = ["--app", info.app_import_path] if info.app_import_path else []
    try:
        done = subprocess.run(
            [sys.executable, "-m", "flask", *chosen, "livepush", "key-digest", nonce],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_SECOND_START,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    said = done.stdout.strip().rpartition("\n")[2]
    return len(said) == 64 and not hmac.compare_digest(said, _digest(key, nonce))


@livepush.command("key-digest", hidden=True)
@click.argument("nonce")
@click.pass_obj
def _key_digest(info: ScriptInfo, nonce: str) -> None:
    """Print what tells two SECRET_KEYs apart and says nothing else of one."""
    with open(os.devnull, "w") as nowhere:
        printed, sys.stdout = sys.stdout, nowhere
        try:
            app, _ = _load(info)
        except _CannotRun:
            sys.exit(_NOT_RUN)
        finally:
            sys.stdout = printed
    click.echo(_digest(app.config.get("SECRET_KEY") or "", nonce))


def _digest(key: Any, nonce: str) -> str:
    text = key if isinstance(key, bytes) else str(key).encode(errors="surrogatepass")
    return hmac.new(nonce.encode(), text, hashlib.sha256).hexdigest()
