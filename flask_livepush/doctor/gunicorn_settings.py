"""How gunicorn would serve an application: its own answer, from a process of its own.

Its configuration is a program (``gunicorn.conf.py``), which may do anything, such as
patch the process. So a second process lets gunicorn read it, as it would at its start,
and says what came out; no worker is started and no application loaded.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

# Seconds that a configuration may take.
_PATIENCE = 30
_MARK = "flask_livepush.doctor "
_PROGRAM = f"""
import gunicorn, json, sys
from gunicorn.app.base import Application

class Settings(Application):
    def init(self, parser, opts, args):
        pass
    def load(self):
        pass

cfg = Settings("%(prog)s").cfg
hook = cfg.post_worker_init
# Before the worker's class is loaded, which may be of the same module. A hook of
# somebody's own calls ours, as far as can be seen.
names = getattr(getattr(hook, "__code__", None), "co_names", ())
drains = getattr(hook, "__module__", "") != "gunicorn.config" and (
    "flask_livepush.gunicorn" in sys.modules or "flask_livepush.gunicorn" in names
)
error = None
try:
    cfg.worker_class
except Exception as problem:
    lines = str(problem).split("\\n")
    error = lines[0] if len(lines) == 1 else lines[0] + " " + lines[-1].strip(" []")
found = dict(
    workers=cfg.workers,
    threads=cfg.threads,
    worker_class=str(cfg.worker_class_str),
    error=error,
    drains=drains,
    version=gunicorn.__version__,
)
print()
print({_MARK!r} + json.dumps(found))
"""


@dataclass(frozen=True, slots=True)
class Gunicorn:
    """What gunicorn makes of its settings.

    Args:
        source: Where they are from, for people.
        workers: Processes.
        threads: Threads of each.
        worker_class: As it is named there; ``gthread`` for sync with threads.
        error: Why there is no such worker class.
        drains: Whether our ``post_worker_init`` is there, or one that may call it.
        version: Gunicorn's own; empty: not known.
    """

    source: str
    workers: int
    threads: int
    worker_class: str
    error: str | None = None
    drains: bool = True
    version: str = field(default="", compare=False)

    @property
    def mode(self) -> str | None:
        """The async mode of its workers; None: it has none that will do, or unknown."""
        for mode in ("gevent", "eventlet"):
            if mode in self.worker_class.lower():
                return mode
        name = self.worker_class.rpartition(".")[2].lower()
        return "threading" if name in ("gthread", "threadworker") else None


class Unreadable(Exception):
    """Gunicorn could not read its settings; the message is a sentence.

    Args:
        message: The sentence.
        remedy: What to do about it.
    """

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy


def read(
    arguments: str | None, environ: Mapping[str, str], directory: Path
) -> Gunicorn | None:
    """Ask gunicorn for its settings.

    Args:
        arguments: Those it is started with, with or without its name before them.
        environ: The environment it would have.
        directory: Where it would be started.

    Returns:
        None: Nothing says that gunicorn is used at all.

    Raises:
        Unreadable: It can't be asked.
    """
    sources = []
    words: list[str] = []
    if arguments is not None:
        sources.append("--gunicorn")
        try:
            words = shlex.split(arguments)
        except ValueError as error:
            raise Unreadable(
                f"--gunicorn is no command line: {error}.",
                "Close what is quoted, as in --gunicorn '-k gthread --threads 16'.",
            ) from None
        if words and Path(words[0]).name == "gunicorn":
            del words[0]
    if environ.get("GUNICORN_CMD_ARGS"):
        sources.append("GUNICORN_CMD_ARGS")
    if (directory / "gunicorn.conf.py").exists():
        sources.append("gunicorn.conf.py")
    if not sources:
        return None
    if environ.get("WEB_CONCURRENCY"):
        sources.append("WEB_CONCURRENCY")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *words],
            cwd=directory,
            env=dict(environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=_PATIENCE,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Unreadable(
            f"gunicorn has not read its settings within {_PATIENCE} s.",
            "Look at what gunicorn.conf.py waits for.",
        ) from None
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            found = json.loads(line.removeprefix(_MARK))
            return Gunicorn(" and ".join(sources), **found)
    if "No module named 'gunicorn'" in done.stderr:
        raise Unreadable(
            "gunicorn is not installed here.", "Install it, as on the server."
        )
    said = done.stderr.strip().splitlines() or ["it said nothing"]
    raise Unreadable(
        f"gunicorn can't read its settings: {said[-1]}",
        f"Correct {' or '.join(sources)}: gunicorn would not start either.",
    )
