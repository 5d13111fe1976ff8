"""scripts/test.py: what it says at the end of a run."""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import ROOT

from .test_conftest import pytest_over


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(ROOT / "scripts" / "test.py"))


def test_names_what_failed_in_pytest(script: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.fixture\n"
        "def broken():\n    raise LookupError\n"
        "def test_good():\n    pass\n"
        "@pytest.mark.parametrize('kind', ['one', 'two'])\n"
        "def test_bad(kind):\n    assert kind == 'one'\n"
        "def test_without_its_fixture(broken):\n    pass\n"
    )
    report = tmp_path / "report.xml"
    pytest_over(tmp_path, f"--junit-xml={report}")
    assert [name.split(".")[-1] for name in script["failed_in_pytest"]([report])] == [
        "test_it::test_bad[two]",
        "test_it::test_without_its_fixture",
    ]
    assert script["failed_in_pytest"]([tmp_path / "none"]) == []


def test_names_what_failed_in_vitest(script: dict[str, Any], tmp_path: Path) -> None:
    cases = [
        {"status": status, "fullName": f"a room {status}"}
        for status in ("passed", "failed")
    ]
    files = [
        {
            "name": str(ROOT / "client" / name),
            "status": "failed",
            "assertionResults": found,
        }
        for name, found in (("a.test.ts", cases), ("b.test.ts", []))
    ]
    report = tmp_path / "report.json"
    report.write_text(json.dumps({"testResults": files}))
    assert script["failed_in_vitest"](report) == [
        "client/a.test.ts: a room failed",
        "client/b.test.ts",
    ]
    assert script["failed_in_vitest"](tmp_path / "none") == []


def test_runs_commands_at_once_and_shows_what_they_print_one_by_one(
    script: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first can end only when the second has begun."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first = [sys.executable, "-c", f"print(open({str(pipe)!r}).read())"]
    second = [sys.executable, "-c", f"open({str(pipe)!r}, 'w').write('1'); print(2)"]
    assert script["run"](first, [*second[:2], second[2] + "; raise SystemExit(3)"]) == [
        0,
        3,
    ]
    assert capfd.readouterr().out.split() == ["1", "2"]
