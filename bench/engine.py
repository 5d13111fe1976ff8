"""One server process beside its peers: fan-out, memory, connects, busy and slow.

Run as ``python -m bench.engine [burst paced idle connects busy slow]``. Each round
measures every server in turn, each time in a fresh process that is warmed up first, the
server on one core and its clients on another; figures are medians over the rounds, and
ratios are medians of the ratios within a round. ``make bench`` measures everything and
draws it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import requests

from tests.support.servers import Timeout
from tests.support.system import find

from .clients import Failed, build
from .processes import allow_files
from .scenarios import SCENARIOS, Column, Scenario
from .subjects import SUBJECTS, Subject, missing
from .trial import Size, cores, on_last_core, trial

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """What was found of one server in one scenario.

    Args:
        figures: Medians over the rounds, by the keys of the columns.
        rounds: The figures of each round; None: it failed.
    """

    subject: str
    figures: Figures
    rounds: list[Figures | None]


@dataclass(frozen=True, slots=True)
class Ratio:
    """A figure of ours by that of a peer: the median of the rounds' ratios."""

    subject: str
    peer: str
    key: str
    ratio: float


def measure(
    scenario: Scenario,
    subjects: list[Subject],
    *,
    size: Size,
    rounds: int,
    program: Path,
) -> list[Row]:
    """Measure every server, in turn, every other round in the opposite order."""
    found: dict[str, list[Figures | None]] = {each.name: [] for each in subjects}
    for turn in range(rounds):
        for subject in subjects if turn % 2 == 0 else subjects[::-1]:
            own = size
            if subject.most_clients is not None and size.clients > subject.most_clients:
                own = replace(size, clients=subject.most_clients)
            found[subject.name].append(_try(scenario, subject, own, program))
    return [Row(name, _medians(own), own) for name, own in found.items()]


def _try(
    scenario: Scenario, subject: Subject, size: Size, program: Path
) -> Figures | None:
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            trial(subject, program, Path(folder), size) as made,
        ):
            return dict(scenario.measure(made))
    except (Failed, Timeout, psutil.Error, requests.RequestException) as error:
        print(f"{subject.name} failed: {error}", file=sys.stderr, flush=True)
        return None


def _medians(rounds: list[Figures | None]) -> Figures:
    good = [figures for figures in rounds if figures is not None]
    keys = good[0] if good else ()
    return {key: statistics.median(each[key] for each in good) for key in keys}


def ratios(scenario: Scenario, rows: list[Row]) -> Iterator[Ratio]:
    """Compare ours with the peers: Flask-SocketIO in the same mode, and Node.js."""
    named = {subject.name: subject for subject in SUBJECTS}
    for ours in rows:
        subject = named[ours.subject]
        if subject.kind != "livepush":
            continue
        for row in rows:
            peer = named[row.subject]
            if peer.kind != "livepush" and peer.mode in (None, subject.mode):
                for column in scenario.columns:
                    ratio = _ratio(column, ours, row)
                    if column.compared and ratio is not None:
                        yield Ratio(ours.subject, row.subject, column.key, ratio)


def _ratio(column: Column, ours: Row, peer: Row) -> float | None:
    found = []
    for a, b in zip(ours.rounds, peer.rounds, strict=True):
        if a is not None and b is not None:
            own = a[column.key]
            other = b.get(column.key, b.get(column.instead or column.key))
            if other:
                found.append(own / other)
    return statistics.median(found) if found else None


def lines(scenario: Scenario, rows: list[Row]) -> Iterator[str]:
    """Return the figures and ratios as text."""
    wide = max(len(row.subject) for row in rows)
    columns = scenario.columns
    yield " " * wide + "".join(f"{column.title:>14}" for column in columns)
    for row in rows:
        yield f"{row.subject:{wide}}" + "".join(_cell(row, each) for each in columns)
    titles = {column.key: column.title for column in columns}
    for ratio in ratios(scenario, rows):
        yield (
            f"{ratio.subject} has {ratio.ratio:.2f} of the {titles[ratio.key]} of "
            f"{ratio.peer}"
        )


def _cell(row: Row, column: Column) -> str:
    if not row.figures:
        return f"{'failed':>14}"
    if column.key not in row.figures:
        return f"{'-':>14}"
    return f"{row.figures[column.key]:14,.{column.digits}f}"


def _amount(size: Size) -> str:
    amount = f"{size.clients:,} clients"
    if size.events:
        amount += (
            f", {size.events} events with {size.pad:,} bytes of text, "
            f"{size.gap * 1000:g} ms apart"
        )
    return amount


def environment() -> dict[str, Any]:
    """Return what the figures were measured with."""
    packages = ("flask-socketio", "python-socketio", "python-engineio", "gunicorn")
    found = {name: version(name) for name in (*packages, "gevent", "eventlet")}
    node = find("node")
    if node is not None:
        found["node"] = subprocess.check_output([node, "--version"], text=True).strip()
    return {
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "bound": cores(),
        "load": os.getloadavg()[0],
        "versions": found,
    }


def main() -> int:
    """Measure and print, or draw; return the exit status."""
    options = _options()
    if options.plot is not None:
        from .plots import draw

        print(*draw(json.loads(options.plot.read_text())), sep="\n")
        return 0
    # Servers and clients end with it, also when it is told to end.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    try:
        return _measure(options)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench.engine", description=__doc__)
    parser.add_argument("scenario", nargs="*", help=f"of {', '.join(SCENARIOS)}; all")
    parser.add_argument("--quick", action="store_true", help="only see that it runs")
    parser.add_argument("--rounds", type=int, help="of which the median is; 3")
    parser.add_argument("--clients", type=int, help="in each scenario")
    parser.add_argument("--only", help="servers, with commas between them; all")
    parser.add_argument("--json", type=Path, help="a file to write the figures to")
    parser.add_argument("--plot", type=Path, help="measure nothing: draw such a file")
    options = parser.parse_args()
    for name in options.scenario:
        if name not in SCENARIOS:
            parser.error(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}")
    names = [subject.name for subject in SUBJECTS]
    options.only = options.only.split(",") if options.only else names
    for name in options.only:
        if name not in names:
            parser.error(f"no server {name!r}; there are {', '.join(names)}")
    return options


def _measure(options: argparse.Namespace) -> int:
    subjects = []
    for subject in SUBJECTS:
        if subject.name in options.only:
            reason = missing(subject)
            if reason is None:
                subjects.append(subject)
            else:
                print(f"{subject.name} is left out: {reason}.")
    rounds = options.rounds or (1 if options.quick else 3)
    made = environment()
    found: dict[str, Any] = {}
    failed = False
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        program = build(Path(folder))
        stack.enter_context(on_last_core())
        if not cores():
            print("Server and clients share the cores: compare nothing but ratios.")
        for name in options.scenario or SCENARIOS:
            scenario = SCENARIOS[name]
            size = scenario.quick if options.quick else scenario.full
            if options.clients is not None:
                size = replace(size, clients=options.clients)
            allow_files(size.clients + 1000)
            print(f"\n{name}: {_amount(size)}; medians of {rounds}.")
            print(scenario.title, flush=True)
            rows = measure(
                scenario, subjects, size=size, rounds=rounds, program=program
            )
            print(*lines(scenario, rows), sep="\n", flush=True)
            failed = failed or any(None in row.rounds for row in rows)
            found[name] = {
                "size": asdict(size),
                "rows": [asdict(row) for row in rows],
                "ratios": [asdict(ratio) for ratio in ratios(scenario, rows)],
            }
    print("\nWhat is sent together:")
    for subject in subjects:
        print(f"{subject.name} ({subject.engine}): {subject.batching}")
    if options.json is not None:
        result = {"environment": made, "scenarios": found}
        options.json.write_text(json.dumps(result, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
