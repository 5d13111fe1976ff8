"""``setup.cfg`` is the architecture: here it meets code that breaks it, all at once."""

from __future__ import annotations

import configparser
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from tests.support.servers import ROOT
from tests.support.waiting import DEADLINE

# By contract: who imports what it must not.
VIOLATIONS = {
    "layers": [
        ("errors", "flask_livepush.config"),
        ("config", "flask_livepush.protocol.rooms"),
        ("protocol.rooms", "flask_livepush.hub"),
        ("hub", "flask_livepush.node"),
        ("hub", "flask_livepush.auth"),
        ("hub", "flask_livepush.presence.here"),
        ("presence.here", "flask_livepush.node"),
        ("auth", "flask_livepush.presence.here"),
        ("login.session", "flask_livepush.auth"),
        ("login.session", "flask_livepush.tracking"),
        ("tracking", "flask_livepush.auth"),
        ("tracking", "flask_livepush.capture"),
        ("brokers.memory", "flask_livepush.hub"),
        ("emitter", "flask_livepush.node"),
        ("gunicorn", "flask_livepush.extension"),
        ("node", "flask_livepush.transports.socketio"),
        ("capture", "flask_livepush.transports"),
        ("transports.engine", "flask_livepush.extension"),
        ("extension", "flask_livepush.cli"),
        ("doctor", "flask_livepush.extension"),
    ],
    "door": [
        ("hub", "flask_livepush"),
        ("protocol.rooms", "flask_livepush"),
    ],
    "pure": [
        ("protocol.rooms", "asyncio"),
        ("protocol.rooms", "logging"),
        ("protocol.rooms", "prometheus_client"),
        ("protocol.rooms", "random"),
        ("protocol.rooms", "socket"),
        ("protocol.rooms", "threading"),
        ("protocol.rooms", "time"),
        ("protocol.rooms", "werkzeug"),
        ("protocol", "os"),
        ("errors", "flask"),
        ("errors", "time"),
        ("transports.engine.frames", "wsproto"),
        ("transports.engine.handshake", "socket"),
    ],
    "socketio": [
        ("auth", "flask_socketio"),
        ("extension", "flask_socketio"),
        ("hub", "engineio"),
        ("node", "socketio"),
    ],
    "sqlalchemy": [
        ("emitter", "sqlalchemy"),
        ("capture", "flask_sqlalchemy"),
        ("extension", "flask_sqlalchemy"),
        ("login.session", "sqlalchemy"),
        ("transports.socketio", "sqlalchemy"),
    ],
    "login": [
        ("auth", "flask_login"),
        ("extension", "flask_login"),
        ("transports", "flask_login"),
    ],
    "flask": [
        ("auth", "flask"),
        ("capture", "flask"),
        ("doctor", "flask"),
        ("emitter", "flask"),
        ("tracking", "flask"),
    ],
    "gunicorn": [
        ("draining", "gunicorn"),
        ("extension", "gunicorn"),
    ],
    "prometheus": [
        ("hub", "prometheus_client"),
        ("metrics_page", "prometheus_client"),
    ],
    "blinker": [
        ("extension", "blinker"),
        ("failures", "blinker"),
    ],
    "click": [
        ("doctor", "click"),
        ("extension", "click"),
    ],
    "redis": [
        ("config", "redis"),
        ("doctor", "redis"),
        ("extension", "redis"),
        ("presence.here", "redis"),
    ],
}
ALLOWED = [
    ("auth", "werkzeug, flask_livepush.login.session"),
    ("login", "flask, flask_login, werkzeug"),
    ("brokers", "redis"),
    ("brokers.memory", "redis, threading, time"),
    ("capture", "sqlalchemy"),
    ("cli", "click, flask, flask_livepush.doctor"),
    ("door", "flask"),
    ("extension", "flask, flask_livepush.transports, flask_livepush.capture"),
    ("gunicorn", "gunicorn, flask_livepush.draining"),
    ("hub", "flask_livepush.protocol.rooms, flask_livepush.errors"),
    ("protocol.rooms", "dataclasses, datetime, decimal, enum, json, re, uuid"),
    ("live_models", "sqlalchemy"),
    ("login.session", "flask, flask_login, flask_livepush.primary_keys"),
    ("metrics", "prometheus_client"),
    ("metrics_page", "flask"),
    ("pages", "flask"),
    ("primary_keys", "sqlalchemy"),
    ("rows", "sqlalchemy"),
    ("signals", "blinker, flask"),
    ("tracking", "sqlalchemy"),
    ("transports", "flask, flask_socketio, socketio, engineio"),
    ("transports.socketio", "flask, flask_socketio, socketio, engineio"),
]
PACKAGES = {
    "brokers": ["memory"],
    "login": ["session"],
    "protocol": ["rooms"],
    "presence": ["here"],
    "transports": ["socketio", "engine/__init__", "engine/frames", "engine/handshake"],
}


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package with the modules of the architecture, all empty but ``__init__``."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    layers = settings["importlinter:contract:layers"]["layers"]
    package = tmp_path / "flask_livepush"
    package.mkdir()
    (package / "__init__.py").write_text("import flask_livepush.extension\n")
    for name in layers.replace("|", " ").split():
        if name in PACKAGES:
            (package / name).mkdir()
            for part in ["__init__", *PACKAGES[name]]:
                path = package / name / f"{part}.py"
                path.parent.mkdir(exist_ok=True)
                path.touch()
        else:
            (package / f"{name}.py").touch()
    return package


def add(package: Path, imports: Iterable[tuple[str, str]]) -> None:
    """Add imports to the package's modules."""
    for name, imported in imports:
        path = package.joinpath(*name.split("."))
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        with file.open("a") as module:
            module.write(f"def f():\n    import {imported}\n")


def lint(package: Path, *contracts: str) -> tuple[int, str]:
    """Run import-linter over the package; return its status and what it says."""
    (package.parent / "setup.cfg").write_text((ROOT / "setup.cfg").read_text())
    command = (
        "from importlinter.cli import lint_imports_command; lint_imports_command()"
    )
    chosen = [part for contract in contracts for part in ("--contract", contract)]
    result = subprocess.run(
        [sys.executable, "-c", command, "--no-cache", "--no-logo", *chosen],
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    return result.returncode, result.stdout + result.stderr


def test_what_is_allowed_passes(package: Path) -> None:
    add(package, ALLOWED)
    status, said = lint(package)
    assert status == 0, said


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_each_violation_is_caught(contract: str, package: Path) -> None:
    violations = VIOLATIONS[contract]
    add(package, violations)
    status, said = lint(package, contract)
    assert status == 1, said
    missed = [
        (importer, imported)
        for importer, imported in violations
        if f"flask_livepush.{importer} -> {imported} (l." not in said
    ]
    assert missed == [], said


def test_a_module_in_no_layer_is_caught(package: Path) -> None:
    (package / "utils.py").touch()
    status, said = lint(package, "layers")
    assert status == 1
    assert "utils" in said
