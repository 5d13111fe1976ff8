"""The servers that bench.engine compares: one table, and how each is started.

What is measured of them may not be in here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.support.servers import Mode, Server, launch
from tests.support.system import find

from .processes import BACKLOG, Kind

HERE = Path(__file__).parent
NODE = HERE / "node"
#: What users run: gunicorn's workers, eventlet's own server, Node.js.
How = Literal["gthread", "gevent", "eventlet", "node"]

ONE_SEND = "one send for each event and client; nothing is batched"


@dataclass(frozen=True, slots=True)
class Subject:
    """One server.

    Args:
        name: What tables and ``--only`` call it.
        kind: With livepush, or a peer.
        mode: Its async mode; None: Node.js.
        how: What serves it.
        engine: What drives its sockets.
        batching: What it sends together.
        threads: Of gunicorn's gthread worker; None: one for each client and 16 more,
            as each WebSocket of the stock drivers holds one.
        settings: More keys of its configuration.
        most_clients: It is not measured with more.
    """

    name: str
    kind: Kind
    mode: Mode | None
    how: How
    engine: str
    batching: str = ONE_SEND
    threads: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    most_clients: int | None = None


STOCK = "python-engineio"
# Four threads a client: more are more than a machine lets a process have.
THREADED = 1_500

LOOP = "our loop"
BATCHED = "what gathers for a client in one turn of the loop goes out in one send"

#: Ours first, then the peers; a line is all that another engine needs.
SUBJECTS: tuple[Subject, ...] = (
    Subject(
        *("livepush-threading", "livepush", "threading", "gthread", LOOP, BATCHED),
        threads=12,
    ),
    Subject("livepush-gevent", "livepush", "gevent", "gevent", LOOP, BATCHED),
    Subject("livepush-eventlet", "livepush", "eventlet", "eventlet", LOOP, BATCHED),
    Subject(
        *("livepush-stock", "livepush", "gevent", "gevent", STOCK),
        settings={"LIVEPUSH_ENGINE": "stock"},
    ),
    Subject(
        *("flask-socketio-threading", "peer", "threading", "gthread", STOCK),
        most_clients=THREADED,
    ),
    Subject("flask-socketio-gevent", "peer", "gevent", "gevent", STOCK),
    Subject("flask-socketio-eventlet", "peer", "eventlet", "eventlet", STOCK),
    Subject("node", "peer", None, "node", "engine.io and ws"),
)


def missing(subject: Subject) -> str | None:
    """Return why a server can't be measured here, or None."""
    if subject.how == "node":
        if find("node") is None:
            return "there is no Node.js here"
        if not (NODE / "node_modules").is_dir():
            return "its packages are not installed; `make bench` does that"
    return None


@contextmanager
def serving(subject: Subject, folder: Path, *, clients: int) -> Iterator[Server]:
    """Run a server until the block ends.

    Args:
        folder: Where its database is.
        clients: How many it will have.
    """
    server = _launch(subject, folder, clients)
    try:
        # gunicorn's own words, and those of the other two.
        pattern = r"Listening at: http://127\.0\.0\.1:(\d+)|^LISTENING (\d+)"
        found = server.wait_for(pattern, deadline=60)
        server.port = int(found[1] or found[2])
        yield server
    finally:
        server.kill()  # nothing of it is looked at any more


def _launch(subject: Subject, folder: Path, clients: int) -> Server:
    if subject.mode is None:
        node = find("node")
        assert node is not None
        return Server([node, NODE / "server.js"], name=subject.name)
    application = (
        *(subject.kind, subject.mode, str(folder / f"{subject.name}.sqlite3")),
        dict(subject.settings),
    )
    if subject.how == "eventlet":
        *words, settings = application
        program = HERE / "engine_site.py"
        return launch(program, *words, json.dumps(settings), mode="eventlet")
    threads: tuple[str | int, ...] = ()
    if subject.how == "gthread":
        threads = ("--threads", subject.threads or clients + 16)
    return launch(
        "gunicorn",
        *("--worker-class", subject.how, "--workers", 1, *threads),
        *("--worker-connections", 20_000, "--backlog", BACKLOG),
        *("--bind", "127.0.0.1:0", "--no-control-socket", "--timeout", 120),
        f"bench.engine_site:create{application!r}",
        mode="threading",  # its gevent worker patches by itself
    )
