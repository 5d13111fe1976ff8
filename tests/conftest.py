"""What holds for every test: shared fixtures, logs of failures, no skips in CI."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from types import FrameType

import pytest

from tests.support.browser import FAILED, browser, new_user
from tests.support.following import (
    chat,
    database_url,
    mariadb_chat,
    postgres_chat,
    schema_url,
    server_chat,
    shared_database,
    sqlite_chat,
    world,
)
from tests.support.mariadb import mariadb, mariadb_url
from tests.support.postgres import postgres, postgres_url
from tests.support.servers import Program

# The fixtures that every test may ask for.
__all__ = [
    "browser",
    "chat",
    "database_url",
    "mariadb",
    "mariadb_chat",
    "mariadb_url",
    "new_user",
    "postgres",
    "postgres_chat",
    "postgres_url",
    "schema_url",
    "server_chat",
    "shared_database",
    "sqlite_chat",
    "world",
]

# Few: with several programs they would push the failure itself out of sight.
_LOG_LINES = 30

#: Each test that did not really run, and why.
_not_run: list[tuple[str, str]] = []


def pytest_configure() -> None:
    """Let a termination unwind the fixtures, as an interrupt does."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, leave)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Forget the programs of earlier tests."""
    Program.recent[:] = [program for program in Program.recent if program.alive]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the running programs have printed when a test fails."""
    report = yield
    if report.failed:
        item.stash[FAILED] = True
        for program in Program.recent:
            lines = program.log.splitlines()
            title = f"{program.name}, its last lines"
            report.sections.append((title, "\n".join(lines[-_LOG_LINES:])))
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the tests that were skipped or failed as expected."""
    if report.skipped:
        expected = getattr(report, "wasxfail", None)
        reason = _reason(report.longrepr) if expected is None else f"xfail {expected}"
        _not_run.append((report.nodeid, reason))


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Note the modules that were skipped as a whole."""
    if report.skipped:
        _not_run.append((report.nodeid, _reason(report.longrepr)))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail in CI when anything was skipped: there, everything can run."""
    if _not_run and exitstatus == pytest.ExitCode.OK and _in_ci():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which tests those were."""
    if _not_run and _in_ci():
        terminalreporter.section("CI is set: these had to run", red=True, bold=True)
        for nodeid, reason in _not_run:
            terminalreporter.line(f"{nodeid}: {reason}")


def _in_ci() -> bool:
    return os.environ.get("CI", "").lower() not in ("", "0", "false")


def _reason(longrepr: object) -> str:
    # A skip's representation is (path, line, "Skipped: ...").
    return str(longrepr[2] if isinstance(longrepr, tuple) else longrepr)
