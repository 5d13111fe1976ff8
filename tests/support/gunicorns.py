"""Gunicorn with our hooks, in front of the program that leaves."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .servers import ROOT, Mode, Server, unused_port
from .servers import launch as launch_program

#: All worker classes that serve, and the async mode of each.
WORKERS: dict[str, Mode] = {
    "gthread": "threading",
    "gevent": "gevent",
    "flask_livepush.gunicorn.EventletWorker": "eventlet",
}
#: What many applications pin, each in a directory of its own (`make install`).
OLD = ("21.2.0", "23.0.0")
_OLD_VERSIONS = ROOT / ".venv" / "gunicorns"
_APP = Path(__file__).with_name("leaving_app.py")
# A module will do as a configuration: gunicorn takes the hook by its name.
_HOOKS = "python:flask_livepush.gunicorn"
_IGNORE = {"PYTHONWARNINGS": "ignore::Warning"}  # eventlet says that it is old


def launch(
    worker: str,
    *args: str,
    target: str = "app",
    port: int = 0,
    settings: Mapping[str, Any] | None = None,
    version: str | None = None,
) -> Server:
    """Start gunicorn, and don't wait for it; the caller stops it.

    Args:
        worker: Its class.
        args: More for its command line.
        target: What of the program it serves.
        port: Where; 0 takes a free one.
        settings: The application's.
        version: Of gunicorn, one of :data:`OLD`; None: that of the environment.
    """
    # Of it the older ones know nothing.
    control = ["--no-control-socket"] if version is None else []
    path = {} if version is None else {"PYTHONPATH": str(_OLD_VERSIONS / version)}
    return Server(
        [
            *(sys.executable, "-m", "gunicorn", "--config", _HOOKS),
            *("--bind", f"127.0.0.1:{port}", "--worker-class", worker),
            *("--threads", "8", *control, *args),
            f"tests.support.leaving_app:{target}",
        ],
        name=f"gunicorn {version or ''} ({worker})",
        env={"LEAVING_SETTINGS": json.dumps(dict(settings or {})), **_IGNORE, **path},
        cwd=ROOT,
    )


def start(worker: str, *args: str, **options: Any) -> Server:
    """Start gunicorn and wait until a worker serves; the caller stops it."""
    server = launch(worker, *args, **options)
    try:
        found = server.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")
        server.port = int(found[1])
        server.wait_for("Booting worker")
    except BaseException:
        server.stop(patience=1)
        raise
    return server


@contextmanager
def gunicorn(worker: str, *args: str, **options: Any) -> Iterator[Server]:
    """Do as :func:`start`, and stop it when the block ends."""
    server = start(worker, *args, **options)
    try:
        yield server
    finally:
        server.stop(patience=1)


@contextmanager
def development(mode: Mode, settings: Mapping[str, Any]) -> Iterator[Server]:
    """Serve the program by ``livepush.run`` until the block ends."""
    port = unused_port()
    env = {"LEAVING_SETTINGS": json.dumps(dict(settings))}
    server = launch_program(_APP, port, mode=mode, env=env)
    server.port = port
    try:
        yield server
    finally:
        server.stop(patience=1)
