"""A private MariaDB server for the tests, and a new database for each test.

Use the fixture ``mariadb_url`` (one database) or ``mariadb`` (``mariadb.database()``
for several). The server is started by the first test that wants it, durable against
nothing, reachable on 127.0.0.1 with a password nobody else has, and removed at the end.
"""

from __future__ import annotations

import getpass
import secrets
import shutil
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

_OWNER = "tests"


class MariaDB:
    """A running server.

    Args:
        program: Its process, for tests that stop or signal it.
        port: Where it listens on 127.0.0.1.
        password: That of the user ``tests``, who may do everything.
    """

    def __init__(self, *, program: Program, port: int, password: str) -> None:
        self.program = program
        self.port = port
        self._password = password
        self._numbers = count(1)

    def url(self, database: str) -> str:
        """Return the SQLAlchemy URL of a database."""
        return (
            f"mysql+pymysql://{_OWNER}:{self._password}"
            f"@127.0.0.1:{self.port}/{database}?charset=utf8mb4"
        )

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database; drop it at the end.

        Whoever still holds locks in it is disconnected: DROP would wait for them.

        Returns:
            Its SQLAlchemy URL.
        """
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self._disconnect(name)
            self.execute(f"DROP DATABASE {name}")

    def execute(self, statement: str) -> tuple[tuple[object, ...], ...]:
        """Run one statement outside of any transaction; return its rows."""
        import pymysql

        with (
            pymysql.connect(
                host="127.0.0.1",
                port=self.port,
                user=_OWNER,
                password=self._password,
                connect_timeout=DEADLINE,
                autocommit=True,
            ) as connection,
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)
            return tuple(cursor.fetchall())

    def _disconnect(self, database: str) -> None:
        import pymysql

        for (number,) in self.execute(
            f"SELECT id FROM information_schema.processlist WHERE db = '{database}'"
        ):
            try:
                self.execute(f"KILL {number}")
            except pymysql.err.OperationalError as error:
                if error.args[0] != pymysql.constants.ER.NO_SUCH_THREAD:
                    raise


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDB]:
    """A MariaDB server of the tests' own."""
    install, server = require("mariadb-install-db"), require("mariadbd")
    # The path of a Unix socket is limited to about 100 bytes: hence a short one.
    home = Path(tempfile.mkdtemp(prefix="livepush-maria-"))
    password = secrets.token_hex(16)
    try:
        _create_data(install, home)
        program, port = _start(server, home, password)
        try:
            yield MariaDB(program=program, port=port, password=password)
        finally:
            program.stop()
    finally:
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def mariadb_url(mariadb: MariaDB) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of this test's own."""
    with mariadb.database() as url:
        yield url


def _create_data(install: Path, home: Path) -> None:
    subprocess.run(
        [
            install,
            "--no-defaults",
            f"--datadir={home / 'data'}",
            # As root it would run as another user, who may not enter the directory.
            f"--user={getpass.getuser()}",
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            "--skip-name-resolve",
        ],
        check=True,
        cwd=home,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=DEADLINE,
    )


def _start(server: Path, home: Path, password: str) -> tuple[Program, int]:
    accounts = home / "accounts.sql"
    accounts.write_text(
        "DELETE FROM mysql.global_priv WHERE User IN ('', 'root');\n"
        "FLUSH PRIVILEGES;\n"
        f"CREATE USER {_OWNER}@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        f"GRANT ALL ON *.* TO {_OWNER}@'127.0.0.1';\n"
    )
    accounts.chmod(0o600)
    return on_unused_port(
        lambda port: [
            *_ends_with_the_tests(),
            server,
            "--no-defaults",
            f"--datadir={home / 'data'}",
            f"--user={getpass.getuser()}",
            f"--socket={home / 'socket'}",
            f"--pid-file={home / 'pid'}",
            f"--init-file={accounts}",
            "--bind-address=127.0.0.1",
            f"--port={port}",
            "--character-set-server=utf8mb4",
            # Far from UTC, so that whoever takes local time for it is found out.
            "--default-time-zone=+05:45",
            "--innodb-flush-log-at-trx-commit=0",
            "--innodb-doublewrite=0",
            "--innodb-file-per-table=0",
            "--innodb-flush-method=nosync",
            "--innodb-fast-shutdown=2",
            "--skip-log-bin",
            "--skip-name-resolve",
        ],
        name="mariadbd",
        cwd=home,
        ready="ready for connections",
        taken="Bind on TCP/IP port",
    )


def _ends_with_the_tests() -> list[str]:
    setpriv = find("setpriv")
    return [str(setpriv), "--pdeathsig", "KILL"] if setpriv else []
