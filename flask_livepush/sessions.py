"""Which database sessions are watched, and how a fresh one is opened.

A fresh one has an empty identity map and no transaction: what it reads is at least as
new as a position that was read before it was opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import Session, scoped_session, sessionmaker

from .errors import ConfigError, UsageError

_ASYNC = (
    "LivePush can't follow an AsyncSession: what Flask views commit is committed by "
    "synchronous sessions. Use sqlalchemy.orm.Session for what is pushed."
)
_AUTOCOMMIT = (
    "LivePush can't follow an engine whose isolation_level is AUTOCOMMIT: it has no "
    "transactions, so nothing tells a commit from a rollback. Use another isolation "
    "level for what is pushed."
)
_DRIVER_AUTOCOMMIT = (
    "LivePush can't follow a connection whose driver was told to commit each statement "
    "(autocommit in its connect arguments): nothing tells a commit from a rollback. "
    "Leave it out for what is pushed."
)


class Sessions:
    """The sessions an extension watches.

    Args:
        follow: Called with each target once, to listen to its events.
    """

    def __init__(self, follow: Callable[[Any], None]) -> None:
        self._follow = follow
        self._targets: list[Any] = []
        self._open: list[tuple[Callable[[type], bool], Callable[[], Session]]] = []

    def watch(
        self,
        target: Any,
        *,
        models: type | None = None,
        owns: Callable[[type], bool] | None = None,
    ) -> None:
        """Watch a session, or all that a sessionmaker or scoped session makes.

        Args:
            models: The base class of the models that are read with these sessions;
                None: of all.
            owns: Says which they are where a base class can't.

        Raises:
            UsageError: It is asynchronous, or nothing that can be watched.
            ConfigError: Its engine is set to AUTOCOMMIT.
        """
        if any(target is known for known in self._targets):
            return
        opener = _opener(target)
        for bind in _binds(target):
            problem = refusal(bind)
            if problem is not None:
                raise ConfigError(problem)
        self._follow(target)
        self._targets.append(target)
        base = object if models is None else models
        self._open.append((owns or (lambda model: issubclass(model, base)), opener))

    def open(self, model: type) -> Session:
        """Open a fresh session for a model; the caller closes it.

        Raises:
            UsageError: No session is watched.
        """
        for owns, opener in self._open:
            if owns(model):
                return opener()
        if self._open:
            return self._open[-1][1]()
        raise UsageError(
            "No database session is watched. Set up Flask-SQLAlchemy on the "
            "application, or call livepush.watch(sessionmaker)."
        )

    def have_read(self) -> bool:
        """Say whether this thread's scoped session holds anything it read earlier."""
        for target in self._targets:
            if isinstance(target, scoped_session) and target.registry.has():
                session = target.registry()
                if session.in_transaction() or len(session.identity_map):
                    return True
        return False


def refusal(bind: Connection | Engine) -> str | None:
    """Say why commits on a connection can't be followed, or None: they can.

    What counts is the isolation level set in SQLAlchemy. The driver's own autocommit
    flag counts with MySQL and MariaDB alone: SQLAlchemy's recipe for SQLite sets it and
    emits BEGIN itself.
    """
    if bind.dialect.is_async:
        return _ASYNC
    level = bind.get_execution_options().get("isolation_level")
    if level is None:
        level = getattr(bind.dialect, "_on_connect_isolation_level", None)
    if level == "AUTOCOMMIT":
        return _AUTOCOMMIT
    return _DRIVER_AUTOCOMMIT if _commits_each_statement(bind) else None


def _commits_each_statement(bind: Connection | Engine) -> bool:
    if not isinstance(bind, Connection) or bind.closed:
        return False
    if bind.dialect.name not in ("mysql", "mariadb"):
        return False
    # PyMySQL and mysqlclient have it; what others know is asked of the server.
    told = getattr(bind.connection.dbapi_connection, "get_autocommit", None)
    return told is not None and bool(told())


def _opener(target: Any) -> Callable[[], Session]:
    names = {cls.__module__ for cls in type(target).__mro__}
    if isinstance(target, type):
        names |= {cls.__module__ for cls in target.__mro__}
    if any(name.startswith("sqlalchemy.ext.asyncio") for name in names):
        raise UsageError(_ASYNC)
    if isinstance(target, scoped_session):
        return target.session_factory
    if isinstance(target, sessionmaker) or (
        isinstance(target, type) and issubclass(target, Session)
    ):
        return target
    if isinstance(target, Session):
        return sessionmaker(class_=type(target), bind=target.bind)
    raise UsageError(
        f"livepush.watch() can't watch {target!r}; give it a Session, a sessionmaker "
        "or a scoped_session."
    )


def _binds(target: Any) -> list[Connection | Engine]:
    if isinstance(target, scoped_session):
        target = target.session_factory
    if isinstance(target, sessionmaker):
        found = [target.kw.get("bind"), *(target.kw.get("binds") or {}).values()]
    else:
        found = [getattr(target, "bind", None)]
    return [bind for bind in found if isinstance(bind, (Connection, Engine))]
