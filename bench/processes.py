"""The processes of the benchmarks, and how they are asked."""

from __future__ import annotations

import resource
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import requests

from tests.support.figures import figure
from tests.support.servers import Mode, Server, running

Kind = Literal["livepush", "peer"]
#: What is measured, and Flask-SocketIO.
KINDS: tuple[Kind, Kind] = ("livepush", "peer")
DEADLINE = 120.0
# More than may ever be connecting at once; the kernel has its own limit beside it.
BACKLOG = 4096
METRICS_TOKEN = "not-a-secret-at-all"


def site(
    kind: Kind, folder: Path, url: str, mode: Mode
) -> AbstractContextManager[Server]:
    """Run a process of an application until the block ends.

    Args:
        folder: Where its database is, which all processes of its kind share.
        url: Of Redis.
    """
    program = Path(__file__).with_name("site.py")
    return running(program, kind, str(folder / kind), url, mode=mode)


def post(address: str) -> None:
    """Ask a server to do something."""
    requests.post(address, timeout=DEADLINE).raise_for_status()


def get(address: str) -> Any:
    """Return what a server answers."""
    answer = requests.get(address, timeout=DEADLINE)
    answer.raise_for_status()
    return answer.json()


def publications(server: Server) -> dict[str, int]:
    """Return what became of the publications of a process."""
    answer = requests.get(
        f"{server.url}/livepush/metrics",
        headers={"Authorization": f"Bearer {METRICS_TOKEN}"},
        timeout=DEADLINE,
    )
    answer.raise_for_status()
    outcomes = ("stored", "queued", "dropped", "failed")
    return {
        outcome: int(figure(answer.text, "publications_total", outcome))
        for outcome in outcomes
    }


def allow_files(count: int) -> None:
    """Let this process, and those it starts, have so many files and sockets open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))
