"""Several processes on one Redis: latency, a hanging Redis, everybody coming back.

Run as ``python -m bench.cluster latency|hang|reconnect``. All servers are started on
loopback, with a Redis of their own, and end with the benchmark. What is compared is
measured in the same run, in turn, so that what slows the machine slows all of it.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.support.servers import MODES

from . import hang, latency, reconnect


def main() -> None:
    """Measure, and print what was found."""
    parser = argparse.ArgumentParser(prog="bench.cluster", description=__doc__)
    parser.add_argument("what", choices=("latency", "hang", "reconnect"))
    parser.add_argument("--mode", choices=MODES, help="async mode of the servers")
    parser.add_argument("--quick", action="store_true", help="smaller and shorter")
    parser.add_argument("--clients", type=int, help="how many (latency, reconnect)")
    parser.add_argument("--seconds", type=float, help="of a round, or of the hang")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median is")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    gc.freeze()  # what is there to stay is not looked through again and again
    with tempfile.TemporaryDirectory() as folder:
        found, lines = _measure(options, Path(folder))
    rows = found if isinstance(found, list) else [found]
    if options.json:
        print(json.dumps([asdict(row) for row in rows]))
    else:
        print("\n".join(lines))


def _measure(options: argparse.Namespace, folder: Path) -> tuple[Any, list[str]]:
    quick = options.quick
    if options.what == "latency":
        rows = latency.measure(
            latency.Options(
                mode=options.mode or "gevent",
                subscribers=options.clients or 250,
                rate=20,
                seconds=options.seconds or (3 if quick else 10),
                rounds=options.rounds,
            ),
            folder,
        )
        return rows, latency.lines(rows)
    if options.what == "hang":
        found = hang.measure(
            hang.Options(
                mode=options.mode or "threading",
                hang=options.seconds or (8 if quick else 30),
                around=3 if quick else 10,
                threads=4,
                rate=20,
            ),
            folder,
        )
        return found, hang.lines(found)
    returns = reconnect.measure(
        reconnect.Options(
            mode=options.mode or "gevent",
            clients=options.clients or (1000 if quick else 5000),
            missed=20,
            rounds=options.rounds,
        ),
        folder,
    )
    return returns, reconnect.lines(returns)


if __name__ == "__main__":
    main()
