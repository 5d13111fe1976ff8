"""What bench.engine measures of a server: one function a scenario, and their table.

How servers and clients are started is in ``trial``; what is compared, in ``engine``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from .processes import DEADLINE
from .trial import Size, Trial

# Views that burn, and the processor time of each, in seconds.
BURNING, BURN = 4, 0.05
# Clients that read while the others do not.
READERS = 50
# Seconds between the events that show whether a client is back.
END_EVERY = 0.25
MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Column:
    """A figure: a column of the table.

    Args:
        key: In what the scenario returns.
        title: Its heading, with the unit.
        digits: Behind the point.
        compared: Whether ratios are printed.
        instead: The peer's figure that it is compared with where the peer has no such.
    """

    key: str
    title: str
    digits: int = 0
    compared: bool = False
    instead: str | None = None


@dataclass(frozen=True, slots=True)
class Scenario:
    """One kind of trial.

    Args:
        title: What is done, in a sentence for the reader.
        measure: Does it, and returns the figures.
        full: How much of everything.
        quick: How much to only see that it runs.
        columns: The figures; the first is the one that is drawn.
    """

    title: str
    measure: Callable[[Trial], Mapping[str, float]]
    full: Size
    quick: Size
    columns: tuple[Column, ...]


def fan_out(trial: Trial) -> dict[str, float]:
    """Publish to all, and time the deliveries."""
    size = trial.size
    with trial.clients() as clients:
        clients.open(size.clients, timeout=DEADLINE)
        time.sleep(size.settle)
        before = trial.cpu()
        found = trial.publish(clients, readers=size.clients)
        return {
            "deliveries_per_s": found.delivered / max(found.seconds, 1e-6),
            "p50_ms": found.p50_ms,
            "p99_ms": found.p99_ms,
            "cpu_s": trial.cpu() - before,
            "lost": found.expected - found.delivered,
        }


def idle(trial: Trial) -> dict[str, float]:
    """Have clients that do nothing, and look what each costs."""
    size = trial.size
    before = trial.memory()
    with trial.peak(trial.memory) as memory, trial.clients() as clients:
        clients.open(size.clients, timeout=2 * DEADLINE)
        time.sleep(size.settle)
        return {
            "kib_per_client": (memory() - before) / 1024 / size.clients,
            "threads": trial.threads(),
            "clients": size.clients,
        }


def connects(trial: Trial) -> dict[str, float]:
    """Let clients connect and join, as nobody; where there is a login, as a user."""
    size = trial.size
    figures = {"anonymous_per_s": _connects_per_s(trial, "")}
    if trial.has_login:
        time.sleep(size.settle)
        session = trial.get("/login").cookies["session"]
        figures["login_per_s"] = _connects_per_s(trial, f"session={session}")
    return figures


def _connects_per_s(trial: Trial, cookie: str) -> float:
    count = trial.size.clients
    with trial.clients(cookie) as clients:
        return count / clients.open(count, timeout=DEADLINE)


def busy(trial: Trial) -> dict[str, float]:
    """Publish while views of the same process burn its processor."""
    views: list[float] = []

    def view() -> None:
        trial.get(f"/burn?seconds={BURN}")
        views.append(BURN)  # a list's append is atomic

    with trial.clients() as clients:
        clients.open(trial.size.clients, timeout=DEADLINE)
        with trial.meanwhile(view, threads=BURNING):
            time.sleep(trial.size.settle)
            del views[:]
            began = time.monotonic()
            found = trial.publish(clients, readers=trial.size.clients)
            took = time.monotonic() - began
            burnt = sum(views)
    return {
        "p99_ms": found.p99_ms,
        "p50_ms": found.p50_ms,
        "views_share": burnt / took,
        "lost": found.expected - found.delivered,
    }


def slow(trial: Trial) -> dict[str, float]:
    """Publish a storm while most clients do not read, then let them read again.

    Before, all read a part of the same storm: what readers wait then is what slow
    consumers must not make worse.
    """
    size = trial.size
    with trial.clients() as clients:
        clients.open(READERS, timeout=DEADLINE)
        clients.open(size.clients, slow=True, timeout=DEADLINE)
        calm = trial.publish(clients, readers=READERS, events=size.events // 4)
        time.sleep(size.settle)
        before = trial.memory()
        clients.stall()
        with trial.peak(trial.memory) as memory:
            storm = trial.publish(clients, readers=READERS)
            grown = memory() - before
        clients.resume(timeout=size.recovery)
        with trial.meanwhile(lambda: _publish_end(trial), threads=1):
            back = clients.resumed()
    return {
        "peak_mib": grown / MIB,
        "calm_p99_ms": calm.p99_ms,
        "p99_ms": storm.p99_ms,
        "lost": storm.expected - storm.delivered,
        "back_share": back.back / back.slow,
        "back_s": back.seconds,
        "resets": back.resets,
        "closed": back.closed,
    }


def _publish_end(trial: Trial) -> None:
    trial.get("/publish?event=end")
    time.sleep(END_EVERY)


_DELAY = (Column("p50_ms", "p50 ms", 1), Column("lost", "lost"))

#: In the order in which they are run.
SCENARIOS: dict[str, Scenario] = {
    "burst": Scenario(
        "Events as fast as the server can, which lets others have their turn after "
        "each; deliveries a second from the first event on.",
        fan_out,
        full=Size(clients=1000, events=50),
        quick=Size(clients=20, events=20, warm=5, settle=0),
        columns=(
            Column("deliveries_per_s", "deliveries/s", compared=True),
            Column("p99_ms", "p99 ms", 1),
            *_DELAY,
        ),
    ),
    "paced": Scenario(
        "Events with a pause after each; their age at the delivery, and the server's "
        "processor time for all of them.",
        fan_out,
        full=Size(clients=1000, events=100, gap=0.02),
        quick=Size(clients=20, events=20, gap=0.005, warm=5, settle=0),
        columns=(
            Column("p99_ms", "p99 ms", 1, compared=True),
            Column("cpu_s", "CPU s", 2, compared=True),
            *_DELAY,
        ),
    ),
    "idle": Scenario(
        "Clients that have joined a room and do nothing: the server's resident memory "
        "at its peak, above what it had after the warm-up, and its threads.",
        idle,
        full=Size(clients=10_000, settle=5),
        quick=Size(clients=40, warm=5, settle=0),
        columns=(
            Column("kib_per_client", "KiB a client", 1, compared=True),
            Column("threads", "threads"),
            Column("clients", "clients"),
        ),
    ),
    "connects": Scenario(
        "Clients that connect, 64 at a time, and join a room; then the same with a "
        "session of Flask-Login, whose user is one SELECT. Node.js has no such.",
        connects,
        full=Size(clients=1000, settle=2),
        quick=Size(clients=40, warm=5, settle=0),
        columns=(
            Column("anonymous_per_s", "anonymous/s", compared=True),
            Column("login_per_s", "login/s", compared=True, instead="anonymous_per_s"),
        ),
    ),
    "busy": Scenario(
        f"Events with a pause after each while {BURNING} clients request views that "
        f"burn {BURN * 1000:.0f} ms of processor time each, in a row; "
        "'views' is the share of the time that views had the processor.",
        busy,
        full=Size(clients=1000, events=100, gap=0.02),
        quick=Size(clients=20, events=10, gap=0.005, warm=5, settle=0),
        columns=(
            Column("p99_ms", "p99 ms", 1, compared=True),
            Column("views_share", "views", 2),
            *_DELAY,
        ),
    ),
    "slow": Scenario(
        f"Large events to {READERS} more clients, which read, and to these, which "
        "stopped: what the server's memory grows by, what the readers wait (calm: "
        "while all read), and whether the others get live events once they read again.",
        slow,
        full=Size(clients=1000, events=300, gap=0.04, pad=8192),
        quick=Size(
            *(20, 60, 0.002, 16_384),
            warm=5,
            settle=0,
            recovery=10,
        ),
        columns=(
            Column("peak_mib", "peak MiB", 1, compared=True),
            Column("p99_ms", "p99 ms", 1, compared=True),
            Column("calm_p99_ms", "calm p99 ms", 1),
            Column("back_share", "back", 2),
            Column("back_s", "after s", 1),
            Column("resets", "resets"),
            Column("closed", "closed"),
            Column("lost", "lost"),
        ),
    ),
}
