"""Run every test, the server's and the client's, and sum up both: ``make test``.

The server's are run in several parts at once, as most of them mostly wait.
``--server`` leaves the client's out; ``--part`` besides all of the server's that say
nothing more of other packages' versions (scripts/versions.py). Other arguments go to
pytest, which then is run once. In CI (``CI`` is set) a skipped test of the client is a
failure; tests/conftest.py sees to those of the server.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]


# Parts that take about as long as each other; the last is all the others. The first two
# are the tests with real programs.
PARTS = (
    ("tests/bench", "tests/browser", "tests/doctor", "tests/security"),
    ("tests/integration",),
    ("tests/brokers", "tests/capture", "tests/presence"),
)
PROGRAMS = (*PARTS[0], *PARTS[1])
# Of what other packages' versions can break, in parts; and what they can't: rules
# without libraries, the tests' own tools, files. The programs left out take longest and
# say little more of them, as do random programs.
LOWEST = (
    ("tests/capture",),
    ("tests/integration/test_modes.py", "tests/presence", "tests/transports"),
)
NOT_LOWEST = (
    # redis-py 5.0 leaves sockets of failed connections to the garbage collector, whose
    # warnings would fail whichever test is running then.
    "tests/brokers",
    "tests/capture/test_random_mappings.py",
    "tests/capture/test_random_programs.py",
    *("tests/protocol", "tests/support_tests", "tests/test_app_yaml.py"),
    *("tests/test_architecture.py", "tests/test_readme.py"),
)


def main(arguments: list[str]) -> int:
    """Run both suites, also when the first fails; return the exit status."""
    server_alone = "--server" in arguments
    in_part = "--part" in arguments
    arguments = [a for a in arguments if a not in ("--server", "--part")]
    with tempfile.TemporaryDirectory() as directory:
        client = Path(directory, "vitest.json")
        started = time.monotonic()
        python_status, servers = run_pytest(Path(directory), arguments, in_part=in_part)
        between = time.monotonic()
        node_status = 0
        npm = ["sh", "scripts/npm.sh", "test", "--silent", "--"]
        reporters = ["--reporter=default", "--reporter=json"]
        if not server_alone:
            (node_status,) = run([*npm, *reporters, f"--outputFile.json={client}"])
        ended = time.monotonic()

        python_counts, node_counts = count_pytest(servers), count_vitest(client)
        failed = [*failed_in_pytest(servers), *failed_in_vitest(client)]
    if in_ci() and node_counts.get("skipped"):
        node_status = node_status or 1
    print()
    report("server (pytest)", python_counts, python_status, between - started)
    if not server_alone:
        report("client (vitest)", node_counts, node_status, ended - between)
    # Last of all: a log that is cut keeps its end.
    for name in failed:
        print(f"failed: {name}")
    return python_status or node_status


def run_pytest(
    directory: Path, arguments: list[str], *, in_part: bool
) -> tuple[int, list[Path]]:
    """Run the server's tests; return the exit status, and where the reports are.

    What a part prints comes when those before it have ended.
    """
    if arguments:
        parts = [arguments]
    else:
        given = LOWEST if in_part else PARTS
        left_out = (*PROGRAMS, *NOT_LOWEST) if in_part else ()
        paths = [path for part in given for path in part]
        parts = [[*part, *_ignoring(left_out, part)] for part in given]
        parts += [["tests", *_ignoring((*paths, *left_out))]]
    for part in parts[1:]:
        part += ["-p", "no:cacheprovider"]  # the cache is the first one's
    reports = [Path(directory, f"pytest-{n}.xml") for n in range(len(parts))]
    statuses = run(
        *(
            [sys.executable, "-m", "pytest", f"--junit-xml={report}", *part]
            for report, part in zip(reports, parts, strict=True)
        )
    )
    return next(filter(None, statuses), 0), reports


def _ignoring(paths: Sequence[str], within: Sequence[str] | None = None) -> list[str]:
    """Return pytest's options that leave paths out, of some folders or of all."""
    inside = [f"{folder}/" for folder in within] if within is not None else [""]
    return [f"--ignore={path}" for path in paths if path.startswith(tuple(inside))]


def run(*commands: list[str]) -> list[int]:
    """Run commands at once, to their ends, which are their own also if we are to stop.

    What the first prints is seen at once, what the others do when it has ended.
    """
    with ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in commands[1:]]
        processes = [
            subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
            for command, output in zip(commands, [None, *outputs], strict=True)
        ]

        def pass_on(number: int, frame: FrameType | None) -> None:
            for process in processes:
                process.send_signal(number)

        # The terminal sends SIGINT to all of us; the children clean up and end.
        before = {
            signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
            signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
        }
        statuses = []
        try:
            for process, output in zip(processes, [None, *outputs], strict=True):
                statuses.append(process.wait())
                if output is not None:
                    output.seek(0)
                    sys.stdout.flush()
                    shutil.copyfileobj(output, sys.stdout.buffer)
                    sys.stdout.flush()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    if any(status in (2, 128 + signal.SIGINT) or status < 0 for status in statuses):
        sys.exit("interrupted")
    return statuses


def count_pytest(paths: list[Path]) -> dict[str, int]:
    """Return how many tests did what, by pytest's reports."""
    if not all(path.exists() for path in paths):
        return {}
    counts = dict.fromkeys(("tests", "failures", "errors", "skipped"), 0)
    for path in paths:
        for suite in ElementTree.parse(path).getroot().iter("testsuite"):
            for key in counts:
                counts[key] += int(suite.get(key, 0))
    failed = counts["failures"] + counts["errors"]
    passed = counts["tests"] - failed - counts["skipped"]
    return {"passed": passed, "failed": failed, "skipped": counts["skipped"]}


def failed_in_pytest(paths: list[Path]) -> list[str]:
    """Return the names of the tests that failed, by pytest's reports."""
    return [
        f"{case.get('classname', '')}::{case.get('name', '')}"
        for path in paths
        if path.exists()
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
    sys.exit(main(sys.argv[1:]))
