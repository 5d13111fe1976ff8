"""The programs that neither PyPI nor npm has: where they are, or why a test is skipped.

``scripts/system_packages.sh`` installs them on Debian and Ubuntu.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

_MAC_BROWSERS = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
# Debian keeps the server programs of PostgreSQL out of PATH, Homebrew all of it, and
# the sbin directories are in root's PATH only.
_POSTGRESQL = (
    "/usr/lib/postgresql/*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/usr/local/opt/postgresql@*/bin",
)
_MARIADB = ("/opt/homebrew/opt/mariadb/bin", "/usr/local/opt/mariadb/bin")
_SBIN = ("/usr/sbin", "/sbin", "/usr/local/sbin")


@cache
def find(program: str) -> Path | None:
    """Return where a program is, or None.

    Args:
        program: ``redis-server``, ``chromium``, ``nginx``, ``haproxy``, ``cc``,
            ``node`` or one of PostgreSQL's (``initdb``, ``postgres``), the newest of
            several, or of MariaDB's (``mariadbd``, ``mariadb-install-db``).
            ``$CHROMIUM`` names another Chromium or Chrome.
    """
    for candidate in _candidates(program):
        found = shutil.which(candidate)
        if found is not None:
            return Path(found)
    return None


def require(program: str) -> Path:
    """Return where a program is, or skip the test with the reason."""
    found = find(program)
    if found is None:
        pytest.skip(f"{program} is not installed (as root on Debian: make system)")
    return found


def _candidates(program: str) -> Iterator[str]:
    if program == "chromium":
        if os.environ.get("CHROMIUM"):
            yield os.environ["CHROMIUM"]
        yield from ("chromium", "chromium-browser", "google-chrome", *_MAC_BROWSERS)
        return
    yield program
    # Where scripts/npm.sh puts a Node.js of our own.
    yield str(Path(sys.executable).with_name(program))
    for directory in (*_SBIN, *_MARIADB):
        yield f"{directory}/{program}"
    for pattern in _POSTGRESQL:
        directories = Path("/").glob(pattern.removeprefix("/"))
        for path in sorted(directories, key=_version, reverse=True):
            yield str(path / program)


def _version(bin_directory: Path) -> float:
    digits = bin_directory.parent.name.rpartition("@")[2]
    return float(digits) if digits.replace(".", "", 1).isdigit() else 0.0
