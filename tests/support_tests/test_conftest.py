"""tests/conftest.py, run over small suites of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers import ROOT
from tests.support.waiting import DEADLINE

SKIPS = {
    "skip": "import pytest\ndef test_a():\n    pytest.skip('too tired')\n",
    "module": "import pytest\npytest.importorskip('too_tired')\n",
    "xfail": "import pytest\n@pytest.mark.xfail(reason='too tired')\n"
    "def test_a():\n    assert 0\n",
}
GOOD = "def test_good():\n    pass\n"


def pytest_over(
    directory: Path, *args: str, ci: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run pytest with the project's settings over the files in a directory."""
    environment = {k: v for k, v in os.environ.items() if k != "CI"}
    if ci is not None:
        environment["CI"] = ci
    conftest = (ROOT / "tests" / "conftest.py").read_text()
    (directory / "conftest.py").write_text(conftest)
    settings = ["-c", str(ROOT / "pyproject.toml"), "--rootdir", str(directory)]
    settings += ["-p", "no:cacheprovider", "--basetemp", str(directory / "tmp")]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *settings, *args, str(directory)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )


@pytest.mark.parametrize("kind", SKIPS)
def test_a_skip_fails_the_run_in_ci_and_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SKIPS[kind])
    (tmp_path / "test_good.py").write_text(GOOD)
    result = pytest_over(tmp_path, ci="true")
    assert result.returncode == 1, result.stdout
    _, _, summary = result.stdout.partition("these had to run")
    assert "test_it.py" in summary
    assert "tired" in summary


@pytest.mark.parametrize("ci", [None, "false"])
def test_a_skip_is_only_shown_elsewhere(ci: str | None, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(SKIPS["skip"])
    result = pytest_over(tmp_path, ci=ci)
    assert result.returncode == 0, result.stdout
    assert "too tired" in result.stdout
    assert "these had to run" not in result.stdout


def test_the_soak_tests_are_left_out_without_a_skip(tmp_path: Path) -> None:
    soak = "import pytest\n@pytest.mark.soak\ndef test_long():\n    assert 0\n"
    (tmp_path / "test_it.py").write_text(soak + GOOD)
    result = pytest_over(tmp_path, ci="true")
    assert result.returncode == 0, result.stdout
    assert pytest_over(tmp_path, "-m", "soak").returncode == 1


def test_a_failure_shows_the_log_of_the_servers_and_the_browsers(
    tmp_path: Path,
) -> None:
    (tmp_path / "test_it.py").write_text(
        "from pathlib import Path\n"
        "from tests.support.servers import ROOT, running\n"
        "def test_bad(new_user):\n"
        "    with running(ROOT / 'tests/support_tests/hello.py') as server:\n"
        "        page = new_user()\n"
        "        page.goto(server.url)\n"
        "        page.evaluate('console.log(`from the ` + `console`)')\n"
        "        assert 0\n"
    )
    result = pytest_over(tmp_path)
    if "1 skipped" in result.stdout:
        pytest.skip("the browser is missing")
    assert result.returncode == 1, result.stdout
    assert "about to serve" in result.stdout
    assert "from the console" in result.stdout
    (screenshot,) = tmp_path.glob("tmp/**/user-1-page-1.png")
    assert str(screenshot) in result.stdout


def test_warnings_are_errors_but_importing_eventlet_is_allowed(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import warnings\n"
        "def test_eventlet():\n    import eventlet\n"
        "def test_warns():\n    warnings.warn('old', DeprecationWarning)\n"
    )
    result = pytest_over(tmp_path)
    assert "1 failed, 1 passed" in result.stdout
