"""Run every test, the server's and the client's, and sum up both: ``make test``.

The arguments go to pytest. In CI (``CI`` is set) a skipped test of the client is a
failure; tests/conftest.py sees to those of the server.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


def main() -> int:
    """Run both suites, also when the first fails; return the exit status."""
    with tempfile.TemporaryDirectory() as directory:
        server, client = Path(directory, "pytest.xml"), Path(directory, "vitest.json")
        started = time.monotonic()
        python = [sys.executable, "-m", "pytest", f"--junit-xml={server}"]
        python_status = run([*python, *sys.argv[1:]])
        between = time.monotonic()
        npm = ["sh", "scripts/npm.sh", "test", "--silent", "--"]
        reporters = ["--reporter=default", "--reporter=json"]
        node_status = run([*npm, *reporters, f"--outputFile.json={client}"])
        ended = time.monotonic()

        python_counts, node_counts = count_pytest(server), count_vitest(client)
        failed = [*failed_in_pytest(server), *failed_in_vitest(client)]
    if in_ci() and node_counts.get("skipped"):
        node_status = node_status or 1
    print()
    report("server (pytest)", python_counts, python_status, between - started)
    report("client (vitest)", node_counts, node_status, ended - between)
    # Last of all: a log that is cut keeps its end.
    for name in failed:
        print(f"failed: {name}")
    return python_status or node_status


def run(command: list[str]) -> int:
    """Run a command to its end, which is its own also when we are to stop."""
    process = subprocess.Popen(command, cwd=ROOT)

    def pass_on(number: int, frame: FrameType | None) -> None:
        process.send_signal(number)

    # The terminal sends SIGINT to both of us; the child cleans up and ends.
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    try:
        status = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if status in (2, 128 + signal.SIGINT) or status < 0:
        sys.exit("interrupted")
    return status


def count_pytest(path: Path) -> dict[str, int]:
    """Return how many tests did what, by pytest's report."""
    if not path.exists():
        return {}
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for suite in ElementTree.parse(path).getroot().iter("testsuite"):
        for key in counts:
            counts[key] += int(suite.get(key, 0))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return {"passed": passed, "failed": failed, "skipped": counts["skipped"]}


def failed_in_pytest(path: Path) -> list[str]:
    """Return the names of the tests that failed, by pytest's report."""
    if not path.exists():
        return []
    return [
        f"{case.get('classname', '')}::{case.get('name', '')}"
        for case in ElementTree.parse(path).getroot().iter("testcase")
        if case.find("failure") is not None or case.find("error") is not None
    ]


def failed_in_vitest(path: Path) -> list[str]:
    """Return the names of the tests that failed, by vitest's report."""
    if not path.exists():
        return []
    found = []
    for file in json.loads(path.read_text())["testResults"]:
        name = os.path.relpath(file["name"], ROOT)
        cases = [c for c in file["assertionResults"] if c["status"] == "failed"]
        found += [f"{name}: {case['fullName']}" for case in cases]
        if file["status"] == "failed" and not cases:
            found.append(name)  # it could not be run at all
    return found


def count_vitest(path: Path) -> dict[str, int]:
    """Return how many tests did what, by vitest's report."""
    if not path.exists():
        return {}
    result = json.loads(path.read_text())
    return {
        "passed": result["numPassedTests"],
        "failed": result["numFailedTests"],
        "skipped": result["numPendingTests"] + result["numTodoTests"],
    }


def report(name: str, counts: dict[str, int], status: int, seconds: float) -> None:
    """Print one line of the summary."""
    shown = [f"{counts[key]} {key}" for key in counts if counts[key] or key == "passed"]
    verdict = "ok" if status == 0 else "FAILED"
    print(f"{name}: {verdict}, {', '.join(shown) or 'no report'} in {seconds:.0f} s")


def in_ci() -> bool:
    """Return whether a skipped test is a failure."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


if __name__ == "__main__":
    sys.exit(main())
