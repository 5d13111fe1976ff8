"""What livepush adds to the time of a view, in one process and one run.

On SQLite, or with ``--database postgresql`` on a server of its own.

Otherwise equal applications are driven through ``app.test_client()``, a block of
requests each in turn, so that what slows the machine down slows all of them down. The
second application without livepush shows what the method finds where there is nothing
to be found.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask, render_template
from flask.testing import FlaskClient
from flask_login import LoginManager, UserMixin, login_required, login_user
from flask_sqlalchemy import SQLAlchemy
from jinja2 import DictLoader
from sqlalchemy import event
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush import LivePush

SUBSCRIBERS = 100
INSERTS = 100
SHOWN = 20
ROOM, OTHER_ROOM, READ_ROOM = 1, 2, 3

TEMPLATE = """<!doctype html><title>Notes</title><h1>Notes of {{ user.name }}</h1>
<ul>{% for note in notes %}<li id="{{ note.id }}">{{ note.text }}</li>{% endfor %}</ul>
"""


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the applications that are compared.

    Args:
        livepush: Whether it has livepush at all.
        decorated: Whether its writing views are under ``push_changes``.
        subscribers: Connections that are in the rooms its views write to.
    """

    name: str
    livepush: bool = False
    decorated: bool = False
    subscribers: int = 0


WITHOUT = Variant("without livepush")
VARIANTS = (
    WITHOUT,
    Variant("without, again"),
    Variant("with", livepush=True),
    Variant("push_changes", livepush=True, decorated=True),
    Variant(
        f"push_changes, {SUBSCRIBERS} subscribed",
        livepush=True,
        decorated=True,
        subscribers=SUBSCRIBERS,
    ),
)

# What is measured, and the address of the n-th request.
OPERATIONS: dict[str, Callable[[int], tuple[str, str]]] = {
    "insert": lambda n: ("POST", "/insert"),
    "update": lambda n: ("POST", f"/update/1/{n}"),
    "move": lambda n: ("POST", f"/move/2/{OTHER_ROOM if n % 2 else ROOM}"),
    "delete": lambda n: ("POST", f"/delete/{n}"),
    f"{INSERTS} inserts": lambda n: ("POST", "/inserts"),
    "read": lambda n: ("GET", "/read"),
    "untracked": lambda n: ("POST", "/untracked"),
}
KEPT_ROWS = 10  # those that are updated and moved; the others are there to be deleted


class Site:
    """An application of one variant, its database, and a client that is logged in.

    Args:
        url: Of an empty database.
        rows: How many rows there are to be deleted.
    """

    def __init__(self, variant: Variant, url: str, *, rows: int) -> None:
        self.variant = variant
        self.written = 0  # frames that would have gone out
        self.app = Flask(__name__)
        self.app.config["SECRET_KEY"] = "secret"
        # All of them are one user's.
        self.app.config["LIVEPUSH_MAX_CONNECTIONS_PER_USER"] = 10_000
        self.app.jinja_loader = DictLoader({"notes.html": TEMPLATE})
        self.app.config["SQLALCHEMY_DATABASE_URI"] = url
        self.db = SQLAlchemy(self.app)
        with self.app.app_context():
            if self.db.engine.dialect.name == "sqlite":
                _set_up(self.db.engine)
        self.livepush = LivePush(self.app) if variant.livepush else None
        self._declare(rows)
        self.client: FlaskClient = self.app.test_client()
        self.client.post("/login")
        self._subscribe()

    def _declare(self, rows: int) -> None:
        db = self.db
        login = LoginManager(self.app)

        class User(UserMixin, db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        class Note(db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int] = mapped_column(index=True)
            text: Mapped[str]

        class Visit(db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            page: Mapped[str]

        if self.livepush is not None:

            @self.livepush.room("notes:<int:room_id>")
            def notes(user: Any, room_id: int) -> bool:
                return True

            self.livepush.track(rooms=notes, fields=("id", "text"))(Note)

        with self.app.app_context():
            db.create_all()
            db.session.add(User(id=1, name="Ada"))
            ids = range(1, rows + KEPT_ROWS + 1)
            db.session.execute(
                sa.insert(Note.__table__),
                [{"room_id": ROOM, "text": f"row {i}"} for i in ids]
                + [{"room_id": READ_ROOM, "text": "note"}] * SHOWN,
            )
            db.session.commit()

        def load(user_id: str) -> User | None:
            return db.session.get(User, int(user_id))

        login.user_loader(load)

        @self.app.post("/login")
        def log_in() -> str:
            login_user(db.session.get(User, 1))
            return ""

        def insert() -> str:
            db.session.add(Note(room_id=ROOM, text="hello"))
            db.session.commit()
            return ""

        def update(row: int, number: int) -> str:
            db.session.get(Note, row).text = f"version {number}"
            db.session.commit()
            return ""

        def move(row: int, room: int) -> str:
            db.session.get(Note, row).room_id = room
            db.session.commit()
            return ""

        def delete(number: int) -> str:
            db.session.delete(db.session.get(Note, number + KEPT_ROWS))
            db.session.commit()
            return ""

        def inserts() -> str:
            db.session.add_all(
                Note(room_id=ROOM, text=f"row {i}") for i in range(INSERTS)
            )
            db.session.commit()
            return ""

        def untracked() -> str:
            db.session.add(Visit(page="/"))
            db.session.commit()
            return ""

        def read() -> str:
            found = db.session.scalars(
                sa.select(Note).where(Note.room_id == READ_ROOM).limit(SHOWN)
            )
            return render_template(
                "notes.html", user=db.session.get(User, 1), notes=found
            )

        for rule, view in (
            ("/insert", insert),
            ("/update/<int:row>/<int:number>", update),
            ("/move/<int:row>/<int:room>", move),
            ("/delete/<int:number>", delete),
            ("/inserts", inserts),
            ("/untracked", untracked),
        ):
            if self.livepush is not None and self.variant.decorated:
                view = self.livepush.push_changes(view)
            self.app.add_url_rule(
                rule, view_func=login_required(view), methods=["POST"]
            )
        self.app.add_url_rule("/read", view_func=login_required(read))

    def _subscribe(self) -> None:
        """Let connections join the rooms, then count what would be sent to them.

        Flask-SocketIO's test client goes through the whole of the server but for the
        sockets; what it puts in their place is replaced once it has joined, since it
        decodes each frame.
        """
        if self.livepush is None:
            return
        socketio = self.livepush.socketio
        for _ in range(self.variant.subscribers):
            connection = socketio.test_client(self.app, flask_test_client=self.client)
            for room in (ROOM, OTHER_ROOM):
                ack = connection.emit(
                    "livepush.subscribe", {"room": f"notes:{room}"}, callback=True
                )
                if "error" in ack:
                    raise RuntimeError(f"A connection could not join: {ack}")

        def send(eio_sid: str, packet: Any) -> None:
            self.written += 1

        if self.variant.subscribers:
            socketio.server._send_eio_packet = send

    def request(self, method: str, path: str) -> None:
        """Make one request, which must succeed."""
        response = self.client.open(path, method=method)
        if response.status_code != 200:
            raise RuntimeError(f"{method} {path} answered {response.status}")

    def close(self) -> None:
        """Let go of the database."""
        with self.app.app_context():
            self.db.engine.dispose()


@contextmanager
def urls(database: str) -> Iterator[Callable[[Variant], str]]:
    """Return what gives each variant the URL of an empty database."""
    with ExitStack() as stack:
        if database == "sqlite":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield lambda v: f"sqlite:///{folder / str(VARIANTS.index(v))}.sqlite"
        else:
            from tests.support import postgres

            server = stack.enter_context(postgres.running())
            yield lambda variant: stack.enter_context(server.database())


def _set_up(engine: sa.Engine) -> None:
    """Have SQLAlchemy begin transactions, so that a SAVEPOINT is inside of one.

    Source: "Serializable isolation / Savepoints / Transactional DDL" of SQLAlchemy's
    documentation of the SQLite dialect.
    """

    @event.listens_for(engine, "connect")
    def connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None
        # Waiting for the disk is the same for all, and would hide what differs.
        connection.execute("PRAGMA synchronous=OFF")

    @event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")


@dataclass(frozen=True, slots=True)
class Figures:
    """One row of the result; all but the ratio and the count in milliseconds.

    Args:
        difference: Median, over the rounds, of how much the median of a block is above
            that of the block without livepush in the same round.
        low: Lower end of the 95 % confidence interval of the difference.
        high: Upper end of it.
        ratio: The median, divided by that without livepush.
        cpu: Like the difference, of the time the process was on a processor, per
            request; with what other threads do for it.
    """

    operation: str
    variant: str
    requests: int
    median: float
    p95: float
    difference: float
    low: float
    high: float
    ratio: float
    cpu: float


@dataclass(slots=True)
class Block:
    """Consecutive requests to one site: milliseconds each, and of CPU in the mean."""

    times: list[float]
    cpu: float


def run_block(site: Site, addresses: list[tuple[str, str]]) -> Block:
    """Make requests, one after another, and time each of them."""
    times = []
    clock = time.perf_counter
    cpu = time.process_time()
    for method, path in addresses:
        start = clock()
        site.request(method, path)
        times.append((clock() - start) * 1000)
    cpu = (time.process_time() - cpu) * 1000
    return Block(times, cpu / len(addresses))


def measure(
    operation: str, sites: list[Site], *, rounds: int, block: int, warmup: int
) -> Iterator[Figures]:
    """Time one operation on all sites, a block each a round, in turning order."""
    address = OPERATIONS[operation]
    for site in sites:
        run_block(site, [address(n) for n in range(1, warmup + 1)])
    blocks: dict[Variant, list[Block]] = {site.variant: [] for site in sites}
    numbers = itertools.count(warmup + 1)
    for turn in range(rounds):
        addresses = [address(next(numbers)) for _ in range(block)]
        first = turn % len(sites)
        for site in sites[first:] + sites[:first]:
            gc.collect()  # of what other sites have left
            blocks[site.variant].append(run_block(site, addresses))
    base = blocks[WITHOUT]
    base_median = statistics.median(t for b in base for t in b.times)
    for variant, own in blocks.items():
        times = sorted(t for b in own for t in b.times)
        differences = sorted(
            statistics.median(b.times) - statistics.median(a.times)
            for a, b in zip(base, own, strict=True)
        )
        low, high = _interval(differences)
        median = statistics.median(times)
        yield Figures(
            operation,
            variant.name,
            requests=len(times),
            median=median,
            p95=times[int(0.95 * (len(times) - 1))],
            difference=statistics.median(differences),
            low=low,
            high=high,
            ratio=median / base_median,
            cpu=statistics.median(
                b.cpu - a.cpu for a, b in zip(base, own, strict=True)
            ),
        )


def _interval(ascending: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of a median, by its order statistics."""
    count = len(ascending)
    reach = 0.98 * count**0.5
    low = max(0, int(count / 2 - reach))
    return ascending[low], ascending[count - 1 - low]


HEADER = (
    f"{'':12} {'':29} {'median':>8} {'p95':>8} "
    f"{'difference':>11} {'95 %':^19} {'ratio':>6} {'cpu':>8}"
)


def line(row: Figures) -> str:
    """Return a row as a line under the header, in milliseconds."""
    operation = row.operation if row.variant == WITHOUT.name else ""
    return (
        f"{operation:12} {row.variant:29} {row.median:8.3f} {row.p95:8.3f} "
        f"{row.difference:+11.3f} {row.low:+9.3f} {row.high:+9.3f} "
        f"{row.ratio:6.2f} {row.cpu:+8.3f}"
    )


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="bench.view_cost", description=__doc__)
    parser.add_argument(
        "--requests", type=int, default=2000, help="of each kind to each application"
    )
    parser.add_argument("--block", type=int, default=20, help="requests in a row")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    parser.add_argument("--only", choices=OPERATIONS, help="one operation")
    parser.add_argument(
        "--database", choices=("sqlite", "postgresql"), default="sqlite"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    requests, block, warmup = options.requests, options.block, 50
    if options.quick:
        requests, block, warmup = 6, 3, 2
    rounds = -(-requests // block)
    logging.disable()  # a pushed commit must not pay for a terminal

    rows: list[Figures] = []
    with ExitStack() as stack:
        url = stack.enter_context(urls(options.database))
        sites = []
        for variant in VARIANTS:
            site = Site(variant, url(variant), rows=rounds * block + warmup)
            stack.callback(site.close)
            sites.append(site)
        gc.freeze()  # what is there to stay is not looked through again and again
        if not options.json:
            print(HEADER)
        for operation in [options.only] if options.only else OPERATIONS:
            for row in measure(
                operation, sites, rounds=rounds, block=block, warmup=warmup
            ):
                rows.append(row)
                if not options.json:
                    print(line(row), flush=True)
        frames = {site.variant.name: site.written for site in sites}
    if options.json:
        print(json.dumps({"rows": [asdict(row) for row in rows], "frames": frames}))
    else:
        print(f"frames written: {sum(frames.values())}")


if __name__ == "__main__":
    main()
