"""An application's settings and how it is going to be served; nobody is asked anything.

What can't be known here is a hint, never a guess: the machine this runs on need not be
the one that serves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..config import Config
from .findings import Finding
from .gunicorn_settings import Gunicorn

# Names that Flask gives to applications whose authors gave none.
_COMMON_NAMES = ("app", "application", "main", "__main__", "run", "server", "wsgi")
# Threads that serve the site and what clients send; fewer, and slow views stop all.
_LEAST_THREADS = 4
# The same where each connection takes one.
_LEAST_STOCK_THREADS = 100
# Characters of a secret key that nobody guesses (secrets.token_hex(16)).
_LEAST_KEY = 16
# Seconds after which many proxies cut what is idle: nginx's and AWS's default is 60,
# Heroku's limit 55.
_IDLE = 55


@dataclass(frozen=True, slots=True)
class Application:
    """What is known of an application.

    Args:
        name: Its name.
        config: All its settings.
        settings: Ours, checked.
        environ: The environment's variables.
        served: How gunicorn would serve it; None: not known.
        patched: By what this process is monkey-patched, or ``"threading"``.
        runs_in: The async mode its Socket.IO server was made with here; None: it was
            not made.
        descriptors: How many this process may open; None: not known.
        gevent_websocket: Whether that package is installed here.
        unreadable: Whether gunicorn could not say how it would serve it.
    """

    name: str
    config: Mapping[str, Any]
    settings: Config
    environ: Mapping[str, str]
    served: Gunicorn | None
    patched: str
    runs_in: str | None
    descriptors: int | None
    gevent_websocket: bool
    unreadable: bool = False

    @property
    def processes(self) -> int:
        """How many processes of one machine serve it, as far as is known."""
        if self.served is not None:
            return self.served.workers
        text = self.environ.get("WEB_CONCURRENCY", "")
        return int(text) if text.isdigit() else 1


def check(app: Application) -> Iterator[Finding]:
    """Examine an application."""
    yield from _secret_key(app)
    yield from _workers(app)
    yield from _hooks(app)
    yield from _async_mode(app)
    yield from _processes(app)
    yield from _prefix(app)
    yield from _database(app)
    yield from _logins(app)
    yield from _limits(app)


def _secret_key(app: Application) -> Iterator[Finding]:
    key = app.config.get("SECRET_KEY")
    if not key:
        yield Finding(
            "secret key",
            "hint" if app.settings.allow_anonymous else "problem",
            "SECRET_KEY is not set: nobody can be logged in, and nothing tells this "
            "application from another one with its prefix.",
            'Set it to a long random text, such as python -c "import secrets; '
            'print(secrets.token_hex(32))" prints, the same in all processes.',
        )
    elif len(key) < _LEAST_KEY:
        yield Finding(
            "secret key",
            "hint",
            f"SECRET_KEY has {len(key)} characters; it can be guessed, and whoever "
            "has it can log in as anybody.",
            "Take 32 random bytes: secrets.token_hex(32).",
        )


def _workers(app: Application) -> Iterator[Finding]:
    served = app.served
    if served is None:
        return
    shown = f"{served.worker_class}, {_counted(served.workers, 'worker')}"
    if served.mode not in ("gevent", "eventlet"):  # theirs count no threads
        shown += f", {_counted(served.threads, 'thread')}"
    shown += f" (from {served.source})"
    if served.error is not None:
        yield Finding(
            "workers",
            "problem",
            f"gunicorn has no such worker here: {served.error}",
            "Take gthread, or install gunicorn[gevent] for gevent. gunicorn 26 has no "
            "eventlet worker any more.",
        )
    elif served.worker_class == "sync":
        yield Finding(
            "workers",
            "problem",
            f"gunicorn's workers are sync: {shown}. One slow view stops everything of "
            "a process: while it runs, nobody connects and no poll is answered.",
            "--worker-class gthread --threads 16",
        )
    elif served.mode is None:
        yield Finding(
            "workers",
            "hint",
            f"The worker class {served.worker_class!r} is not known to work.",
            "--worker-class gthread, or gevent, are in the tests.",
        )
    elif served.mode == "threading" and served.threads < (
        least := _least_threads(app.settings.engine)
    ):
        yield Finding(
            "workers",
            "problem",
            f"Too few threads: {shown}. "
            + (
                "With LIVEPUSH_ENGINE 'stock' each connection takes one."
                if app.settings.engine == "stock"
                else "Views and what clients send share them; a slow view stops all."
            ),
            f"--threads {least} or more; 16 is usual with LIVEPUSH_ENGINE 'loop'.",
        )
    else:
        yield Finding("workers", "ok", f"gunicorn: {shown}.")


def _hooks(app: Application) -> Iterator[Finding]:
    served = app.served
    if served is not None and served.mode is not None and not served.drains:
        yield Finding(
            "hooks",
            "hint",
            "gunicorn's workers end without draining: flask_livepush's "
            "post_worker_init is not among their hooks.",
            "from flask_livepush.gunicorn import post_worker_init in gunicorn.conf.py, "
            "or -c python:flask_livepush.gunicorn where there is none.",
        )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _least_threads(engine: str) -> int:
    return _LEAST_STOCK_THREADS if engine == "stock" else _LEAST_THREADS


def _async_mode(app: Application) -> Iterator[Finding]:
    wanted = app.settings.async_mode
    served = app.served
    mode = None if served is None else served.mode
    if served is not None and mode is not None and wanted not in (None, mode):
        yield Finding(
            "async mode",
            "problem",
            f"LIVEPUSH_ASYNC_MODE is {wanted!r}, and gunicorn's worker class "
            f"{served.worker_class!r} is for {mode!r}: the workers will not start.",
            "Leave LIVEPUSH_ASYNC_MODE out: the worker decides.",
        )
    elif wanted is None and app.runs_in not in (None, app.patched):
        yield Finding(
            "async mode",
            "problem",
            f"The application's own SocketIO runs in {app.runs_in!r}, which Flask-"
            "SocketIO takes where it is installed; the process is not patched for it, "
            "and connections hang.",
            f"SocketIO(async_mode={app.patched!r}), or patch the process.",
        )
    elif wanted not in (None, app.patched):
        yield Finding(
            "async mode",
            "hint",
            f"LIVEPUSH_ASYNC_MODE is {wanted!r}, and this process is not patched for "
            "it, as the server will be.",
            "Left out, the mode is the server's anyway, and shells and commands, "
            "which are not patched, can start the application too.",
        )
    if (
        served is not None
        and mode == "gevent"
        and app.settings.engine == "stock"
        and app.gevent_websocket
        and "websocket" not in served.worker_class.lower()
    ):
        yield Finding(
            "async mode",
            "problem",
            "gevent-websocket is installed, and LIVEPUSH_ENGINE is 'stock': under "
            "gunicorn's gevent worker every WebSocket fails, and clients stay on "
            "polling without a word.",
            "Uninstall gevent-websocket, or let LIVEPUSH_ENGINE be 'loop'.",
        )


def _processes(app: Application) -> Iterator[Finding]:
    count = app.processes
    if app.served is None and not app.unreadable:
        yield Finding(
            "workers",
            "hint",
            "How it will be served is not known: there is no gunicorn.conf.py here and "
            "no GUNICORN_CMD_ARGS.",
            "Give gunicorn's arguments, as in --gunicorn '-k gthread --threads 16'.",
        )
    if app.settings.message_queue is None:
        if count > 1:
            yield Finding(
                "processes",
                "problem",
                f"There are {count} processes and no LIVEPUSH_MESSAGE_QUEUE: what one "
                "commits is not seen by those who are connected to another.",
                "LIVEPUSH_MESSAGE_QUEUE = 'redis://…', or one worker.",
            )
        else:
            yield Finding(
                "processes",
                "hint",
                "There is no LIVEPUSH_MESSAGE_QUEUE: rooms live in one process, and "
                "what Celery, shells or further instances commit is not pushed.",
                "LIVEPUSH_MESSAGE_QUEUE = 'redis://…' unless there is only one "
                "process for good.",
            )
    elif count > 1 and app.settings.engine == "stock":
        yield Finding(
            "processes",
            "problem",
            f"{count} workers share one port, and with LIVEPUSH_ENGINE 'stock' each "
            "knows its own sessions alone: most requests of clients that poll fail.",
            "LIVEPUSH_ENGINE = 'loop', or one worker a port behind sticky sessions.",
        )
    elif count > 1:
        yield Finding(
            "processes",
            "hint",
            f"{count} workers share one port, which knows no affinity: of clients that "
            "poll most requests are forwarded through Redis. WebSockets need nothing.",
            "Where many have to poll: one worker a port, behind sticky sessions.",
        )


def _prefix(app: Application) -> Iterator[Finding]:
    if (
        app.settings.message_queue is not None
        and app.settings.prefix is None
        and app.name in _COMMON_NAMES
    ):
        yield Finding(
            "prefix",
            "hint",
            f"LIVEPUSH_PREFIX is not set, so it is the application's name, "
            f"{app.name!r}, as of many applications.",
            "Set LIVEPUSH_PREFIX to a name that no other application on that Redis "
            "has, and staging another one than production.",
        )


def _database(app: Application) -> Iterator[Finding]:
    found = _urls_of_databases(app.config)
    several = app.processes > 1 or app.settings.message_queue is not None
    if not several or not any(url.startswith("sqlite") for url in found):
        return
    in_memory = any(
        url.partition("?")[0].rstrip("/") in ("sqlite:", "sqlite:///:memory:")
        for url in found
    )
    if in_memory:
        yield Finding(
            "database",
            "problem",
            "The database is SQLite's in memory: each process has one of its own.",
            "Take a file, for several machines PostgreSQL or MySQL.",
        )
    else:
        yield Finding(
            "database",
            "hint",
            "The database is SQLite, a file that several processes share on one "
            "machine only, writing one at a time.",
            "Where there are several instances, or the disk does not outlive one "
            "(App Engine, Cloud Run, Heroku): PostgreSQL or MySQL.",
        )


def _logins(app: Application) -> Iterator[Finding]:
    if app.settings.logins == "database":
        yield Finding(
            "logins",
            "ok",
            "LIVEPUSH_LOGINS is 'database': which logins have ended outlives every "
            "restart, and each logout writes a row.",
        )
    elif app.settings.message_queue is None:
        yield Finding(
            "logins",
            "hint",
            "LIVEPUSH_LOGINS is 'broker', without a message queue: which logins have "
            "ended is known to one process alone, and when it restarts, sessions that "
            "were signed out work again until they expire, as in Flask itself.",
            "LIVEPUSH_LOGINS = 'database', or a message queue.",
        )


def _urls_of_databases(config: Mapping[str, Any]) -> list[str]:
    """Return the URLs that Flask-SQLAlchemy is given, as texts."""
    engines = [
        config.get("SQLALCHEMY_DATABASE_URI"),
        *(config.get("SQLALCHEMY_BINDS") or {}).values(),
    ]
    found = [e.get("url") if isinstance(e, Mapping) else e for e in engines]
    return [str(url) for url in found if url is not None]


def _limits(app: Application) -> Iterator[Finding]:
    settings = app.settings
    if settings.ping_interval >= _IDLE:
        yield Finding(
            "idle",
            "problem",
            f"LIVEPUSH_PING_INTERVAL is {settings.ping_interval:g} s; most proxies "
            "cut what is idle for 60 s, Heroku for 55.",
            "Leave it at 25.",
        )
    if (
        settings.engine == "loop"
        and app.descriptors is not None
        and app.descriptors < settings.max_connections
    ):
        yield Finding(
            "descriptors",
            "hint",
            f"A process started from here may open {app.descriptors:,} files (ulimit "
            f"-n), and LIVEPUSH_MAX_CONNECTIONS is {settings.max_connections:,}: more "
            "connections than that will fail.",
            "Raise it for the server: LimitNOFILE= in systemd, ulimits in Docker.",
        )
