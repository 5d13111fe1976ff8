"""Which database sessions are watched, and how a fresh one is opened.

A fresh one has an empty identity map and no transaction: what it reads is at least as
new as a position that was read before it was opened.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Mapper, Session, scoped_session, sessionmaker

from .errors import ConfigError, UsageError
from .failures import Failure, Failures
from .logs import logger

log = logger(__name__)

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


_SHARDED = (
    "LivePush can't follow a ShardedSession: the rows of a model are in several "
    "databases, which are read one by one and whose clocks order nothing between them. "
    "Watch a sessionmaker for each shard, with rooms of its own, or push by hand with "
    "livepush.emit."
)
_MAP = "schema_translate_map"
_TRANSLATED = (
    "A transaction has a schema_translate_map that the sessions which read snapshots "
    "do not have: what it commits is pushed, and newcomers are given the rows of "
    "another schema. Say which sessions those are: livepush.watch(…, snapshots="
    "function), a function of the room's name that returns a Session with that map."
)

Snapshots = Callable[..., Session]


@dataclass(slots=True)
class _Watched:
    """Sessions that are watched, and how fresh ones are opened.

    Args:
        target: What was watched.
        owns: Says whether a model is read with them.
        fresh: Opens one as the application does.
        snapshots: Opens one to read snapshots with; None: one such as the others is
            taken, with the connection that it would write with.
    """

    target: Any
    owns: Callable[[type], bool]
    fresh: Callable[[], Session]
    snapshots: Snapshots | None = None


class Sessions:
    """The sessions an extension watches.

    Args:
        follow: Called with each target once, to listen to its events.
        failures: Takes note of what can only be seen when a session is used.
    """

    def __init__(
        self, follow: Callable[[Any], None], failures: Failures | None = None
    ) -> None:
        self._follow = follow
        self._failures = Failures() if failures is None else failures
        self._watched: list[_Watched] = []

    def watch(
        self,
        target: Any,
        *,
        models: type | None = None,
        owns: Callable[[type], bool] | None = None,
        snapshots: Any = None,
    ) -> None:
        """Watch a session, or all that a sessionmaker or scoped session makes.

        Args:
            models: The base class of the models that are read with these sessions;
                None: of all.
            owns: Says which they are where a base class can't.
            snapshots: What opens the sessions that snapshots are read with: a
                sessionmaker, or a function of the room's name.

        Raises:
            UsageError: It is asynchronous, or nothing that can be watched.
            ConfigError: Its engine is set to AUTOCOMMIT, or it is sharded.
        """
        opens = None if snapshots is None else _snapshots(snapshots)
        for known in self._watched:
            if target is known.target:
                known.snapshots = opens or known.snapshots
                return
        fresh = _opener(target)
        for bind in _binds(target):
            problem = refusal(bind)
            if problem is not None:
                raise ConfigError(problem)
        self._follow(target)
        event.listen(target, "after_begin", self._on_begin)
        base = object if models is None else models
        owns = owns or (lambda model: issubclass(model, base))
        self._watched.append(_Watched(target, owns, fresh, opens))

    def _of(self, model: type) -> _Watched:
        for watched in self._watched:
            if watched.owns(model):
                return watched
        if self._watched:
            return self._watched[-1]
        raise UsageError(
            "No database session is watched. Set up Flask-SQLAlchemy on the "
            "application, or call livepush.watch(sessionmaker)."
        )

    def open(self, model: type) -> Session:
        """Open a fresh session for a model; the caller closes it.

        Raises:
            UsageError: No session is watched.
        """
        return self._of(model).fresh()

    @contextmanager
    def connection(self, mapper: Mapper[Any], room: str) -> Iterator[Connection]:
        """Give the connection of a fresh session that snapshots are read with.

        Where sessions take another connection to read than to write, it is the one to
        write with: a copy may be behind a position that was read before.

        Args:
            room: The name of the room that the snapshot is of.

        Raises:
            UsageError: No session is watched.
        """
        watched = self._of(mapper.class_)
        if watched.snapshots is not None:
            with watched.snapshots(room) as session:
                yield session.connection(bind_arguments={"mapper": mapper})
            return
        with watched.fresh() as session:
            yield _writing(session, mapper)

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Let what runs inside have scoped sessions of its own.

        Those of this thread, or context, that watched scoped sessions keep are put
        aside, and back at the end; what was opened meanwhile is removed.
        """
        kept = []
        for watched in self._watched:
            if isinstance(watched.target, scoped_session):
                registry = watched.target.registry
                try:
                    kept.append(
                        (watched.target, registry() if registry.has() else None)
                    )
                    registry.clear()
                except RuntimeError:
                    continue  # Flask-SQLAlchemy's, outside of an application's context
        try:
            yield
        finally:
            opened = []
            for target, session in kept:
                if target.registry.has():
                    opened.append(target.registry())
                target.registry.clear()
                if session is not None:
                    target.registry.set(session)
            for session in opened:
                try:
                    session.close()
                except Exception:
                    log.exception("Closing a session of a function given to track()")

    def _on_begin(
        self, session: Session, transaction: object, connection: Connection
    ) -> None:
        # In every transaction, also those that only read: no more than this.
        if isinstance(session, ShardedSession):
            self._failures.note(_SHARDED, Failure(_SHARDED))
        if connection.get_execution_options().get(_MAP):
            self._look_at_map(session, connection)

    def _look_at_map(self, session: Session, connection: Connection) -> None:
        if any(watched.snapshots is not None for watched in self._watched):
            return
        known = [b for watched in self._watched for b in _binds(watched.target)]
        if session.bind is None or session.bind in known:
            options = connection.get_execution_options()
            if connection.engine.get_execution_options().get(_MAP) == options.get(_MAP):
                return  # fresh sessions get that engine too
        self._failures.note(_TRANSLATED, Failure(_TRANSLATED))

    def have_read(self) -> bool:
        """Say whether this thread's scoped session holds anything it read earlier."""
        for watched in self._watched:
            target = watched.target
            if isinstance(target, scoped_session) and target.registry.has():
                session = target.registry()
                if session.in_transaction() or len(session.identity_map):
                    return True
        return False


def refusal(bind: Connection | Engine) -> str | None:
    """Say why commits on a connection can't be followed, or None: they can.

    What counts is the isolation level set in SQLAlchemy, and whether the driver was
    told to commit each statement.
    """
    if bind.dialect.is_async:
        return _ASYNC
    level = bind.get_execution_options().get("isolation_level")
    if level is None:
        level = getattr(bind.dialect, "_on_connect_isolation_level", None)
    if level == "AUTOCOMMIT":
        return _AUTOCOMMIT
    if isinstance(bind, Connection):
        autocommits = not bind.closed and _commits_each_statement(bind)
    else:
        autocommits = _is_told_to_commit(bind)
    return _DRIVER_AUTOCOMMIT if autocommits else None


def _commits_each_statement(connection: Connection) -> bool:
    driver = connection.connection.dbapi_connection
    # PyMySQL and mysqlclient have it; what others know is asked of the server.
    told = getattr(driver, "get_autocommit", None)
    if told is not None:
        return bool(told())
    # psycopg, psycopg2, pg8000, pyodbc and others. Of sqlite3, since Python 3.12, also
    # False, and -1 for the way before, which is told by the isolation level.
    if getattr(driver, "autocommit", None) is True:
        return True
    if connection.dialect.name != "sqlite" or getattr(driver, "autocommit", -1) != -1:
        return False
    # SQLAlchemy's recipe sets it to None too, and emits BEGIN itself. What is over, or
    # has not begun, tells nothing.
    if getattr(driver, "isolation_level", "") is not None:
        return False
    return connection.in_transaction() and not getattr(driver, "in_transaction", True)


def _is_told_to_commit(engine: Engine) -> bool:
    """Say whether an engine's connect arguments have its driver commit statements."""
    given: dict[str, Any] = dict(engine.url.query)
    # create_engine() keeps them nowhere but where they are needed.
    creator = getattr(engine.pool, "_creator", None)
    try:
        kept = inspect.getclosurevars(creator).nonlocals  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kept = {}
    arguments = kept.get("cparams")
    if isinstance(arguments, dict):
        given |= arguments
    autocommit = given.get("autocommit")
    if isinstance(autocommit, str):
        return autocommit.lower() in ("true", "1", "yes", "on")
    return autocommit is True or (autocommit == 1 and engine.dialect.name != "sqlite")


def _writing(session: Session, mapper: Mapper[Any]) -> Connection:
    """Return the connection of a fresh session that it would write a model with."""
    if type(session).get_bind is Session.get_bind:
        return session.connection(bind_arguments={"mapper": mapper})
    # What such sessions ask: is it a flush, is it a statement that writes?
    # https://docs.sqlalchemy.org/en/20/orm/persistence_techniques.html#custom-vertical-partitioning
    flushing = getattr(session, "_flushing", False)
    session._flushing = True
    try:
        bind = session.get_bind(mapper=mapper, clause=sa.update(mapper.class_))
    except TypeError:
        bind = session.get_bind(mapper)
    finally:
        session._flushing = flushing
    return session.connection(bind_arguments={"bind": bind})


def _snapshots(given: Any) -> Snapshots:
    """Return what opens sessions for snapshots of a room, given its name."""
    if isinstance(given, scoped_session):
        given = given.session_factory
    if isinstance(given, sessionmaker) or (
        isinstance(given, type) and issubclass(given, Session)
    ):
        make = given
        return lambda room: make()
    if callable(given) and not isinstance(given, Session):
        try:
            inspect.signature(given).bind("room")
        except (TypeError, ValueError):
            pass
        else:
            return given  # type: ignore[no-any-return]
    raise ConfigError(
        f"livepush.watch(…, snapshots={given!r}) must be a sessionmaker, or a function "
        "that is given a room's name and returns a fresh Session: snapshots=lambda "
        "room: Session(primary)."
    )


def _opener(target: Any) -> Callable[[], Session]:
    names = {cls.__module__ for cls in type(target).__mro__}
    if isinstance(target, type):
        names |= {cls.__module__ for cls in target.__mro__}
    if any(name.startswith("sqlalchemy.ext.asyncio") for name in names):
        raise UsageError(_ASYNC)
    cls = _class(target)
    if cls is not None and issubclass(cls, ShardedSession):
        raise ConfigError(_SHARDED)
    if isinstance(target, scoped_session):
        return target.session_factory
    if isinstance(target, sessionmaker) or (
        isinstance(target, type) and issubclass(target, Session)
    ):
        return target
    if isinstance(target, Session):
        return sessionmaker(class_=type(target), bind=target.bind)
    more = ""
    if isinstance(target, (Engine, Connection)):
        more = " Of an engine: make = sessionmaker(engine); livepush.watch(make)."
    elif isinstance(getattr(target, "session", None), scoped_session):
        more = " db.session of Flask-SQLAlchemy is followed by itself."
    raise UsageError(
        f"livepush.watch() can't watch {target!r}; give it a Session, a sessionmaker "
        f"or a scoped_session.{more}"
    )


def _class(target: Any) -> type | None:
    """Return the class of the sessions that are watched."""
    if isinstance(target, scoped_session):
        target = target.session_factory
    if isinstance(target, sessionmaker):
        target = target.class_
    return target if isinstance(target, type) else type(target)


def _binds(target: Any) -> list[Connection | Engine]:
    if isinstance(target, scoped_session):
        target = target.session_factory
    if isinstance(target, sessionmaker):
        found = [target.kw.get("bind"), *(target.kw.get("binds") or {}).values()]
    else:
        found = [getattr(target, "bind", None)]
    return [bind for bind in found if isinstance(bind, (Connection, Engine))]
