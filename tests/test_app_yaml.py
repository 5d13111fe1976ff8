"""``app.yaml`` and ``requirements.txt``: what Google takes, and what runs with them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from copy import deepcopy
from importlib.metadata import metadata
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from sqlalchemy import make_url

from flask_livepush.config import TABLE
from tests.support.app_yaml import problems
from tests.support.chat_site import APP_YAML, start_instance
from tests.support.redis import redis_url
from tests.support.servers import ROOT
from tests.support.waiting import DEADLINE

__all__ = ["redis_url"]

PACKAGE = metadata("flask-livepush")
VARIABLES: dict[str, str] = APP_YAML["env_variables"]


def test_says_what_the_reference_knows() -> None:
    assert list(problems(APP_YAML)) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("network.sessionAffinity", True, "network.sessionAffinity is no key"),
        ("network.session_affinity", "yes", "network.session_affinity is 'yes'"),
        ("handlers", [], "handlers is no key"),
        ("env", "standard", "env is 'standard'"),
        ("runtime_config.runtime_version", 3.14, "runtime_config.runtime_version is"),
        ("readiness_check.timeout_sec", "4s", "readiness_check.timeout_sec is '4s'"),
        ("liveness_check.app_start_timeout_sec", 9, "app_start_timeout_sec is no key"),
        ("automatic_scaling.min_num_instances", 0, "min_num_instances is 0"),
        ("automatic_scaling.min_instances", 2, "min_instances is no key"),
        ("automatic_scaling.cool_down_period_sec", 30, "cool_down_period_sec is 30"),
        ("resources.cpu", 3, "resources.cpu is 3"),
        ("env_variables.PROXIES", 2, "env_variables is {"),
        ("manual_scaling", {"instances": 2}, "there are two ways of scaling"),
        ("network", None, "network. is no mapping"),
    ],
)
def test_what_the_reference_does_not_know_is_found(
    path: str, value: Any, problem: str
) -> None:
    changed = deepcopy(APP_YAML)
    *sections, key = path.split(".")
    section = changed
    for name in sections:
        section = section[name]
    section[key] = value
    (found,) = problems(changed)
    assert problem in found


def test_what_is_missing_is_found() -> None:
    changed = deepcopy(APP_YAML)
    del (
        changed["runtime_config"]["operating_system"],
        changed["readiness_check"]["path"],
    )
    assert set(problems(changed)) == {
        "runtime_config.operating_system is missing",
        "readiness_check.path is missing",
    }


def test_asks_for_what_the_application_needs() -> None:
    assert APP_YAML["network"]["session_affinity"] is True
    assert APP_YAML["automatic_scaling"]["min_num_instances"] >= 2
    version = APP_YAML["runtime_config"]["runtime_version"]
    assert version in SpecifierSet(PACKAGE["Requires-Python"])
    prefix = next(s.default for s in TABLE if s.key == "LIVEPUSH_URL_PREFIX")
    for check, name in (("readiness_check", "ready"), ("liveness_check", "live")):
        assert APP_YAML[check]["path"] == f"{prefix}/{name}"
        assert APP_YAML[check]["timeout_sec"] <= APP_YAML[check]["check_interval_sec"]


def test_its_variables_are_settings() -> None:
    known = {setting.key for setting in TABLE}
    ours = {name for name in VARIABLES if name.startswith("LIVEPUSH_")}
    assert "LIVEPUSH_MESSAGE_QUEUE" in ours
    assert ours <= known
    url = make_url(VARIABLES["DATABASE_URL"])
    assert (url.drivername, url.password) == ("postgresql+psycopg", None)
    instance = APP_YAML["beta_settings"]["cloud_sql_instances"]
    assert url.query["host"] == f"/cloudsql/{instance}"


def test_gunicorn_is_set_up_for_what_is_around_it() -> None:
    config: dict[str, Any] = {}
    exec((ROOT / "example_app" / "gunicorn.conf.py").read_text(), config)
    # Affinity is to an instance.
    assert config["workers"] == 1
    # Google's nginx keeps connections for 650 s, its front end waits 30 s for the end.
    assert config["keepalive"] > 650
    assert config["graceful_timeout"] < 30


def test_secrets_are_not_in_it_and_can_be_added_below_it() -> None:
    text = (ROOT / "app.yaml").read_text()
    assert not {"SECRET_KEY", "PGPASSWORD"} & VARIABLES.keys()
    secrets = '  SECRET_KEY: "of this test"\n  PGPASSWORD: "another"\n'
    deployed = yaml.safe_load(text + secrets)
    assert list(problems(deployed)) == []
    added = {"SECRET_KEY": "of this test", "PGPASSWORD": "another"}
    assert deployed["env_variables"] == {**VARIABLES, **added}


# -- what is installed, and what is uploaded -------------------------------------------


def test_requirements_are_what_the_package_and_the_chat_declare() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    installed = {
        canonicalize_name(requirement.name): requirement
        for line in lines
        if line and not line.startswith("#")
        for requirement in [Requirement(line)]
    }
    declared = {
        canonicalize_name(requirement.name): requirement
        for requirement in map(Requirement, PACKAGE.get_all("Requires-Dist"))
        if requirement.name != "flask-livepush"
        and any(
            requirement.marker is None or requirement.marker.evaluate({"extra": extra})
            for extra in ("sqlalchemy", "demo")
        )
    }
    # The server and the database's driver are the host's choice.
    assert installed.keys() == declared.keys() | {"gunicorn", "psycopg"}
    for name, requirement in installed.items():
        (specifier,) = requirement.specifier
        assert specifier.operator == "~="
        if name in declared:
            assert specifier.version in declared[name].specifier


@pytest.fixture
def uploaded(tmp_path: Path) -> Path:
    """A copy of what ``gcloud app deploy`` uploads."""
    git = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached"]
    tracked, ignored = (
        subprocess.run([*git, *more], capture_output=True, check=True, text=True)
        for more in ([], ["--ignored", f"--exclude-from={ROOT / '.gcloudignore'}"])
    )
    for name in set(tracked.stdout.split("\0")) - set(ignored.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The interpreter of an environment with ``requirements.txt``, and nothing else."""
    if sys.version_info < (3, 11):
        pytest.skip("requirements.txt is for the Python that app.yaml names")
    folder = tmp_path_factory.mktemp("installed")
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = folder / "bin" / "python"
    # As Google's buildpack does: cmd/python/pip of GoogleCloudPlatform/buildpacks.
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    pip += ["--python", str(python)]
    run([*pip, "install", "--no-compile", "--requirement", ROOT / "requirements.txt"])
    run([*pip, "check"])
    yield python
    shutil.rmtree(folder)


def run(command: list[Any]) -> None:
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    assert done.returncode == 0, done.stdout.decode()


def test_runs_with_what_is_installed_and_uploaded(
    python: Path, uploaded: Path, postgres_url: str, redis_url: str
) -> None:
    assert not any((uploaded / name).exists() for name in ("tests", "docs", ".ci"))
    env = {
        **VARIABLES,
        "GAE_INSTANCE": "aef-default-1",
        "SECRET_KEY": "of this test",
        "DATABASE_URL": postgres_url,
        "LIVEPUSH_MESSAGE_QUEUE": redis_url,
        "LIVEPUSH_PREFIX": f"app-yaml-{os.getpid()}",
    }
    instance, port = start_instance(env, python=python, cwd=uploaded)
    try:
        url = f"http://127.0.0.1:{port}"
        assert requests.get(f"{url}/login", timeout=DEADLINE).ok
        for check in ("readiness_check", "liveness_check"):
            path = APP_YAML[check]["path"]
            assert requests.get(f"{url}{path}", timeout=DEADLINE).status_code == 200
        # The script is in what was uploaded, the extension serves it.
        assert requests.get(f"{url}/livepush/livepush.js", timeout=DEADLINE).ok
        opened = requests.get(
            f"{url}/socket.io/?EIO=4&transport=polling",
            headers={
                "X-Forwarded-Proto": "https",
                "Origin": f"https://127.0.0.1:{port}",
            },
            timeout=DEADLINE,
        )
        assert opened.status_code == 200
    finally:
        assert instance.stop() == 0
