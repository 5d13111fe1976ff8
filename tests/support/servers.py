"""Programs that run beside a test: started, waited for, read and stopped by it.

A server program binds port 0 itself, so that no two tests can want the same port, and
prints ``LISTENING <port>``. :func:`serve` does both for a WSGI application::

    # program.py
    from tests.support.servers import serve
    serve(app)

    # the test
    with running(Path("program.py"), mode="gevent") as server:
        requests.get(server.url + "/")

Nothing in here sleeps for a fixed time: every wait is for a condition and has a
deadline in seconds, after which :exc:`Timeout` shows what the program has printed.
"""

from __future__ import annotations

import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from .waiting import DEADLINE

Mode = Literal["threading", "eventlet", "gevent"]
MODES: tuple[Mode, ...] = ("threading", "eventlet", "gevent")

ROOT = Path(__file__).parents[2]
_MODE_VARIABLE = "TEST_ASYNC_MODE"
# Below those that systems give away: from 32768 on Linux, from 49152 elsewhere.
_PORTS = (20_000, 32_000)
# Of its own: tests seed the common one, and two runs must not want the same ports.
_dice = random.SystemRandom()

# Runs first in the new process, as patching has to. Its stdin is a pipe that nobody
# writes to: it ends when the process of the tests does, however that ended, and a real
# thread (made before the patching) then ends the program too.
_BOOTSTRAP = r"""
import _thread, posix, sys
def follow_the_tests(read=posix.read, leave=posix._exit):
    read(0, 1)
    leave(1)
_thread.start_new_thread(follow_the_tests, ())
mode, program = sys.argv[1:3]
if mode == "eventlet":
    import warnings
    warnings.filterwarnings("ignore", r"\s*Eventlet is deprecated")
    import eventlet
    eventlet.monkey_patch()
elif mode == "gevent":
    import gevent.monkey
    gevent.monkey.patch_all()
import runpy
sys.argv[:] = sys.argv[2:]
if program.endswith(".py"):
    runpy.run_path(program, run_name="__main__")
else:
    runpy.run_module(program, run_name="__main__", alter_sys=True)
"""


class Timeout(AssertionError):
    """A program did not do in time what the test waited for."""


class Program:
    """A running program, what it has printed, and its end.

    Args:
        argv: The command. It gets a session of its own: an interrupt at the terminal
            reaches the tests, which stop it in their own order.
        name: What messages call it.
        env: Variables added to those of this process.
        cwd: Where it runs; the project's directory unless told.
    """

    #: Those alive or stopped since the running test began: conftest shows their logs
    #: when it fails.
    recent: list[Program] = []  # noqa: RUF012

    def __init__(
        self,
        argv: Sequence[str | Path],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
    ) -> None:
        self.name = name
        self._lines: list[str] = []
        self._ended = False
        self._changed = threading.Condition()
        self._process = subprocess.Popen(
            [str(part) for part in argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="backslashreplace",
            env={**os.environ, "PYTHONUNBUFFERED": "1", **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True, name=name)
        self._reader.start()
        Program.recent.append(self)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is still running."""
        return self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """Its exit status, negative for a signal, None while it runs."""
        return self._process.poll()

    @property
    def log(self) -> str:
        """All it has printed so far, both streams."""
        with self._changed:
            return "".join(self._lines)

    def wait_for(
        self, pattern: str, *, deadline: float = DEADLINE, after: int = 0
    ) -> re.Match[str]:
        """Wait until a line matches, now or later, and return the match.

        Args:
            pattern: A regular expression, searched in one line at a time.
            deadline: Seconds.
            after: How many lines to leave out; :meth:`mark` counts those there are.

        Raises:
            Timeout: No line matched in time, or the program ended without one.
        """
        expression = re.compile(pattern)
        end = time.monotonic() + deadline
        position = after
        with self._changed:
            while True:
                while position < len(self._lines):
                    match = expression.search(self._lines[position])
                    position += 1
                    if match is not None:
                        return match
                left = end - time.monotonic()
                if self._ended or left <= 0:
                    what = "ended" if self._ended else f"ran for {deadline} s"
                    raise Timeout(
                        f"{self.name} {what} without printing {pattern!r}:\n"
                        + "".join(self._lines[-100:])
                    )
                self._changed.wait(left)

    def mark(self) -> int:
        """Return how many lines there are, for ``wait_for(..., after=)``."""
        with self._changed:
            return len(self._lines)

    def send(self, number: int) -> None:
        """Send a signal to the process itself; nothing when it has ended."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once, with all it started, as a power cut would."""
        self._kill_session()
        self._process.wait(DEADLINE)
        self._close()

    def stop(self, *, ask: int = signal.SIGTERM, patience: float = DEADLINE) -> int:
        """Ask it to end with a signal, end it after ``patience`` seconds, clean up.

        Returns:
            The exit status; -9 when it had to be ended.
        """
        self.send(ask)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        self._kill_session()
        status = self._process.wait(DEADLINE)
        self._close()
        return status

    def _kill_session(self) -> None:
        # The group is named after the process, and only it and what it started are in
        # it; workers that outlive their master are ended with it.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # macOS answers "not permitted" for a group of zombies.
            self._process.kill()

    def _close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join(DEADLINE)

    def _read(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        with stdout:
            for line in stdout:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


class Server(Program):
    """A program that said where it listens."""

    port: int

    @property
    def url(self) -> str:
        """Its address, without a slash at the end."""
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def running(
    program: Path | str,
    *args: str | int,
    mode: Mode = "threading",
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    deadline: float = DEADLINE,
) -> Iterator[Server]:
    """Run a Python program in a new process until the block ends.

    Args:
        program: A ``.py`` file, or the dotted name of a module.
        args: Its arguments.
        mode: The process is monkey-patched for it before the program starts, and
            :func:`current_mode` returns it there.
        env: Variables added to those of this process.
        cwd: Where it runs; the project's directory, which it can import from, unless
            told.
        deadline: Seconds until it must have printed ``LISTENING <port>``.

    Raises:
        Timeout: It did not, or ended; the message has what it printed.
    """
    server = start(program, *args, mode=mode, env=env, cwd=cwd, deadline=deadline)
    try:
        yield server
    finally:
        server.stop()


def start(
    program: Path | str,
    *args: str | int,
    mode: Mode = "threading",
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
    deadline: float = DEADLINE,
) -> Server:
    """Do as :func:`running`, but leave the end to the caller: ``stop`` or ``kill``."""
    server = launch(program, *args, mode=mode, env=env, cwd=cwd)
    try:
        found = server.wait_for(r"^LISTENING (\d+)", deadline=deadline)
    except BaseException:
        server.stop(patience=1)
        raise
    server.port = int(found[1])
    return server


def launch(
    program: Path | str,
    *args: str | int,
    mode: Mode = "threading",
    env: Mapping[str, str] | None = None,
    cwd: Path = ROOT,
) -> Server:
    """Do as :func:`start`, but wait for nothing; it may be no server at all."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return Server(
        [sys.executable, "-c", _BOOTSTRAP, mode, program, *map(str, args)],
        name=f"{Path(program).name} ({mode})",
        env={"PYTHONPATH": path, _MODE_VARIABLE: mode, **(env or {})},
        cwd=cwd,
    )


def current_mode() -> Mode:
    """Return the async mode that :func:`running` started this process in."""
    mode = os.environ.get(_MODE_VARIABLE, "threading")
    assert mode in MODES
    return mode


def announce(port: int) -> None:
    """Tell the test that waits for it where this program listens."""
    sys.stdout.write(f"LISTENING {port}\n")
    sys.stdout.flush()


def serve(app: Any, port: int = 0) -> None:
    """Serve a WSGI application for ever, as its async mode does.

    Args:
        app: The outermost one: Flask-SocketIO has wrapped ``app.wsgi_app`` by then.
        port: Of a program that is started again; a free one unless told.
    """
    mode = current_mode()
    if mode == "eventlet":
        import eventlet
        import eventlet.wsgi

        listener = eventlet.listen(("127.0.0.1", port))
        announce(listener.getsockname()[1])
        eventlet.wsgi.server(listener, app, log_output=False)
    elif mode == "gevent":
        from gevent.pywsgi import WSGIServer

        server = WSGIServer(("127.0.0.1", port), app, log=None)
        server.start()
        announce(server.server_port)
        server.serve_forever()
    else:
        from werkzeug.serving import make_server

        threaded = make_server("127.0.0.1", port, app, threaded=True)
        announce(threaded.server_port)
        threaded.serve_forever()


def unused_port() -> int:
    """Return a port that was free a moment ago, and that nobody is given by chance.

    For programs that cannot bind port 0 and say which they got, as PostgreSQL: their
    caller tries again with another when it was taken meanwhile. Everything else binds
    port 0 itself, and is given a port of another range; so is each connection that is
    opened. Otherwise one of these could have the port before the program binds it, or
    while a test starts it again.
    """
    while True:
        port = _dice.randrange(*_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def on_unused_port(
    argv: Callable[[int], Sequence[str | Path]],
    *,
    name: str,
    cwd: Path,
    ready: str,
    taken: str,
) -> tuple[Program, int]:
    """Start a program on an unused port; on another if that was taken meanwhile.

    Args:
        argv: Makes its command for a port.
        ready: What it says when it serves, a regular expression.
        taken: What it says when it can't have the port.

    Returns:
        The program, and its port.
    """
    attempts = 5
    while True:
        attempts -= 1
        port = unused_port()
        program = Program(argv(port), name=name, cwd=cwd)
        try:
            program.wait_for(ready, deadline=DEADLINE)
        except Timeout:
            program.stop(patience=1)
            if attempts and taken in program.log:
                continue
            raise
        return program, port
