"""A private PostgreSQL server for the tests, and a new database for each test.

Use the fixture ``postgres_url`` (one database) or ``postgres`` (``postgres.database()``
for several). The server is started by the first test that wants it, durable against
nothing, reachable on 127.0.0.1 with a password nobody else has, and removed at the end.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

from .servers import Program, on_unused_port
from .system import find, require
from .waiting import DEADLINE

_OWNER = "postgres"


class Postgres:
    """A running server.

    Args:
        program: Its process, for tests that stop or signal it.
        port: Where it listens on 127.0.0.1, and part of its Unix socket's name.
        password: That of the superuser ``postgres``.
        home: The directory of its Unix socket, by which nobody needs a password.
    """

    def __init__(
        self, *, program: Program, port: int, password: str, home: Path
    ) -> None:
        self.program = program
        self.port = port
        self.home = home
        self._password = password
        self._numbers = count(1)

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return (
            f"postgresql+psycopg://{_OWNER}:{self._password}"
            f"@127.0.0.1:{self.port}/{database}"
        )

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database; drop it, whoever is still connected, at the end.

        Returns:
            Its SQLAlchemy URL.
        """
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        try:
            yield self.url(name)
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Run one statement as the superuser, outside of any transaction."""
        import psycopg

        url = self.url("postgres").replace("+psycopg", "", 1)
        with psycopg.connect(
            url, autocommit=True, connect_timeout=int(DEADLINE)
        ) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the tests' own."""
    with running() as server:
        yield server


@contextmanager
def running() -> Iterator[Postgres]:
    """Run a PostgreSQL server."""
    initdb, server = require("initdb"), require("postgres")
    # pytest's directory may not be entered by other users, and the path of a Unix
    # socket is limited to about 100 bytes: hence a short one of its own.
    home = Path(tempfile.mkdtemp(prefix="livepush-pg-"))
    password = secrets.token_hex(16)
    try:
        _create_cluster(initdb, home, password)
        program, port = _start(server, home)
        try:
            yield Postgres(program=program, port=port, password=password, home=home)
        finally:
            # Its "fast" shutdown; that of SIGTERM would wait for clients to leave.
            program.stop(ask=signal.SIGINT)
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Postgres) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of this test's own."""
    with postgres.database() as url:
        yield url


def _create_cluster(initdb: Path, home: Path, password: str) -> None:
    password_file = home / "password"
    password_file.write_text(password)
    if os.geteuid() == 0:
        shutil.chown(home, _OWNER)
        shutil.chown(password_file, _OWNER)
    subprocess.run(
        [
            *_as_owner(),
            initdb,
            "--pgdata", home / "data",
            "--username", _OWNER,
            "--pwfile", password_file,
            "--auth-local", "trust",
            "--auth-host", "scram-sha-256",
            "--encoding", "UTF8",
            "--locale", "C",
            "--no-sync",
        ],
        check=True,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        timeout=DEADLINE,
    )  # fmt: skip


def _start(server: Path, home: Path) -> tuple[Program, int]:
    return on_unused_port(
        lambda port: [
            *_as_owner(),
            server,
            "-D", home / "data",
            "-k", home,
            "-h", "127.0.0.1",
            "-p", str(port),
            "-c", "fsync=off",
            "-c", "full_page_writes=off",
            "-c", "max_prepared_transactions=8",
        ],
        name="postgres",
        cwd=home,
        ready="ready to accept connections",
        taken="could not bind",
    )  # fmt: skip


def _as_owner() -> list[str]:
    """Return what goes before a command, as PostgreSQL refuses to run as root.

    ``setpriv`` becomes the command, so that signals reach it, and (on Linux) has it
    stopped when the process of the tests is killed.
    """
    setpriv = find("setpriv")
    if os.geteuid() != 0:
        return [str(setpriv), "--pdeathsig", "INT"] if setpriv else []
    if setpriv is None:
        pytest.skip("PostgreSQL does not run as root, and there is no setpriv")
    owner = ["--reuid", _OWNER, "--regid", _OWNER, "--init-groups"]
    return [str(setpriv), *owner, "--pdeathsig", "INT"]
