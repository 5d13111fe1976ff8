"""The clients of bench.engine: the program of ``clients.c``, compiled and driven.

No figure may be worked out in here: it says what the program has counted.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from .load import subscribe

SOURCE = Path(__file__).with_suffix(".c")
ROOM = "bench"


class Failed(Exception):
    """A trial could not be made; the message says why."""


@dataclass(frozen=True, slots=True)
class Collected:
    """What the reading clients got.

    Args:
        expected: Deliveries that were waited for.
        delivered: Those there were in time.
        seconds: From the time in the first event to the last delivery.
        p50_ms: Age of the events at their delivery, milliseconds.
        p99_ms: Like it.
        closed: Connections that the server closed.
    """

    expected: int
    delivered: int
    seconds: float
    p50_ms: float
    p99_ms: float
    closed: int


@dataclass(frozen=True, slots=True)
class Resumed:
    """What became of the slow clients once they read again.

    Args:
        slow: How many there are.
        back: Those that get live events again.
        seconds: Until the last of them did.
        resets: How often they were told to subscribe again.
        recovered: Subscriptions that were given all that was missed.
        closed: Connections that the server had closed; their clients came back.
    """

    slow: int
    back: int
    seconds: float
    resets: int
    recovered: int
    closed: int


def build(folder: Path) -> Path:
    """Compile the program into a folder, and return where it is.

    Raises:
        Failed: There is no C compiler, or no Linux.
    """
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise Failed(
            "The benchmark's clients are a C program, and there is no C compiler "
            "called cc, gcc or clang here (on Debian: apt-get install gcc libc6-dev)."
        )
    program = folder / "clients"
    command = [compiler, "-O2", "-o", str(program), str(SOURCE)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise Failed(
            "The benchmark's clients could not be compiled; they need Linux, for "
            f"epoll, and the C library's headers:\n{made.stderr}"
        )
    return program


class Clients:
    """Clients of one server; they are gone with the block.

    Args:
        program: What :func:`build` has made.
        port: The server's, on loopback.
        lifetime: Seconds after which the program ends by itself.
        cookie: Of all handshakes.
    """

    def __init__(
        self, program: Path, port: int, *, lifetime: int, cookie: str = ""
    ) -> None:
        self._program = subprocess.Popen(
            [str(program), str(port), str(lifetime), subscribe(ROOM), cookie],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Clients:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._program.kill()
        self._program.communicate()

    def open(self, count: int, *, slow: bool = False, timeout: float) -> float:
        """Connect so many more; return the seconds until the last was live.

        Args:
            slow: Whether they are those that :meth:`stall` stops.
            timeout: Seconds.
        """
        group = "slow" if slow else "reading"
        seconds: float = self._ask(f"open {count} {group} {timeout}")["seconds"]
        return seconds

    def collect(self, deliveries: int, *, timeout: float) -> None:
        """Count what the reading clients get from now on."""
        self._ask(f"collect {deliveries} {timeout}")

    def collected(self) -> Collected:
        """Wait until :meth:`collect` has counted them, or its time is over."""
        return Collected(**self._answer())

    def stall(self) -> None:
        """Let the slow clients stop to read."""
        self._ask("stall")

    def resume(self, *, timeout: float) -> None:
        """Let them read again."""
        self._say(f"resume {timeout}")

    def resumed(self) -> Resumed:
        """Wait until each has got an event ``end``, or the time is over."""
        return Resumed(**self._answer())

    def _ask(self, command: str) -> dict[str, Any]:
        self._say(command)
        return self._answer()

    def _say(self, command: str) -> None:
        assert self._program.stdin is not None
        try:
            self._program.stdin.write(command + "\n")
            self._program.stdin.flush()
        except BrokenPipeError:
            pass  # what it has said last says why

    def _answer(self) -> dict[str, Any]:
        assert self._program.stdout is not None
        line = self._program.stdout.readline()
        if not line:
            raise Failed(f"The clients ended with status {self._program.wait()}.")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise Failed(f"The clients: {answer['error'].strip()}.")
        return answer
