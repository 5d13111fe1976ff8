"""scripts/versions.py: what it takes for the lowest versions, and which Pythons."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.servers import ROOT


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    """What the script defines."""
    return runpy.run_path(str(ROOT / "scripts" / "versions.py"))


def project(*dependencies: str, **extras: list[str]) -> dict[str, Any]:
    """Return what a pyproject.toml could say."""
    return {
        "name": "ours",
        "dependencies": list(dependencies),
        "optional-dependencies": extras,
    }


def test_the_lowest_are_the_lower_bounds_of_what_users_install(
    script: dict[str, Any],
) -> None:
    said = project(
        "flask>=3.0", "redis[hiredis]>=5.0,!=5.1", sql=["sqlalchemy>=2.0.16"]
    )
    assert list(script["constraints"](said, "3.10")) == [
        "flask==3.0",
        "redis==5.0",
        "sqlalchemy==2.0.16",
    ]


def test_tools_and_the_project_itself_are_as_new_as_they_are(
    script: dict[str, Any],
) -> None:
    said = project(demo=["ours[sql]", "flask-wtf>=1.2"], dev=["ruff>=0.14"])
    assert list(script["constraints"](said, "3.10")) == ["flask-wtf==1.2"]


def test_a_bound_may_hold_for_some_pythons_alone(script: dict[str, Any]) -> None:
    said = project(
        "a>=1.0; python_version < '3.13'", "a>=1.5; python_version >= '3.13'"
    )
    assert list(script["constraints"](said, "3.10")) == ["a==1.0"]
    assert list(script["constraints"](said, "3.13")) == ["a==1.5"]


@pytest.mark.parametrize("said", ["flask", "flask<4"])
def test_what_has_no_lower_bound_is_named(script: dict[str, Any], said: str) -> None:
    with pytest.raises(SystemExit, match=f"'{said}' in pyproject.toml has no lower"):
        list(script["constraints"](project(said), "3.10"))


def test_our_own_bounds_can_be_taken(script: dict[str, Any]) -> None:
    ours = script["project"]()
    for version in script["VERSIONS"]:
        found = dict(each.split("==") for each in script["constraints"](ours, version))
        assert {"flask", "sqlalchemy", "redis", "python-socketio"} <= set(found)
        assert not {"ruff", "pytest", "matplotlib"} & set(found)


def test_finds_a_python_by_its_version_and_not_by_its_name(
    script: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyenv leaves stand-ins in PATH that end with an error."""
    version = ".".join(map(str, sys.version_info[:2]))
    (tmp_path / "python3.1").symlink_to(sys.executable)
    broken = tmp_path / f"python{version}"
    broken.write_text("#!/bin/sh\nexit 127\n")
    broken.chmod(0o755)
    real = tmp_path / "pyenv" / "versions" / f"{version}.7" / "bin"
    real.mkdir(parents=True)
    (real / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
    found = script["find"](version)
    assert (found.version, found.path) == (version, str(real / "python"))
    assert script["find"]("3.1") is None
