"""What SQLAlchemy sessions commit, and nothing that they don't.

A stack of frames follows the transactions of a session, one for its root and one for
each SAVEPOINT. What is flushed goes into the top frame; a frame that commits gives what
it has to the one below, a frame that does not is dropped; the root's is pushed after
the transaction has ended. One list, cleared on commit and rollback, is wrong in a third
of random programs: SQLAlchemy also announces a commit when a SAVEPOINT is released, and
no rollback when a session is closed.

The hooks run in the thread of whoever uses the session. No exception of theirs may
reach it: what they can't find out is told to the rooms as ``<kind>.invalidated``. The
one exception is an error with which the database has ended the transaction.
"""

from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine, ExceptionContext
from sqlalchemy.orm import (
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    SessionTransactionOrigin,
    object_session,
)

from .emitter import Emitter
from .failures import Failure, Failures
from .flushes import Flush, Group, Op, RowId
from .protocol.batch import Batch
from .protocol.publication import Position
from .rows import Rows, ends_transaction
from .sessions import refusal
from .statements import rooms_of_delete, rooms_of_insert, rooms_of_update
from .tracking import Change, Tracked, Tracking, by_model

log = logging.getLogger(__name__)

# What a transaction may hold in memory until its commit. A screen is better off reading
# anew than being sent that many rows.
_MAX_ENTRIES = 10_000

_SQLITE_SAVEPOINTS = (
    "A SAVEPOINT was made on an SQLite connection whose driver does not begin a "
    "transaction for it: an outer rollback will not undo it. See "
    "https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#serializable-isolation-"
    "savepoints-transactional-ddl"
)


@dataclass(slots=True)
class Scope:
    """A block of code under ``push_changes``.

    Args:
        tracked: Declarations that hold inside it alone.
        positions: Where the rooms stand that its commits were pushed to.
    """

    tracked: Group = ()
    positions: dict[str, Position] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Note:
    """Something to be pushed after a commit that is no change of a row.

    Args:
        batch: What is added to the batch of the commit.
        on_close: Whether it is pushed too when a transaction that has written nothing
            is closed, neither committed nor rolled back.
        of_rows: Whether it stands for changed rows, and is pushed only when those are.
    """

    batch: Batch
    on_close: bool = True
    of_rows: bool = False


@dataclass(slots=True, eq=False)
class _Frame:
    """A root or nested transaction, and what was flushed in it."""

    transaction: SessionTransaction | None
    entries: list[Op | Note] = field(default_factory=list)
    committed: bool = False
    wrote: bool = False

    def add(self, ops: Sequence[Op | Note]) -> None:
        """Add what was flushed; too much of it becomes one request to read anew."""
        self.entries.extend(ops)
        if len(self.entries) > _MAX_ENTRIES:
            large = dict.fromkeys(
                t for e in self.entries if isinstance(e, Op) for t in e.tracked
            )
            notes = [e for e in self.entries if isinstance(e, Note)]
            self.entries = [*notes, *(_bulk(t, None) for t in large)]


@dataclass(slots=True, eq=False)
class _State:
    """What we know of one session."""

    frames: list[_Frame] = field(default_factory=list)
    # Noted between transactions, by a statement that is about to begin one.
    early: _Frame = field(default_factory=lambda: _Frame(None))
    flush: Flush | None = None
    connections: list[Connection] = field(default_factory=list)
    vetted: int = 0  # how many of them have been looked at
    committing: bool = False
    since: float | None = None  # before the root is committed
    rolled_back: bool = False
    aborted: bool = False
    lost: bool = False
    undone: bool = False  # by the database, on an error: some of it, or all
    refused: bool = False

    @property
    def top(self) -> _Frame:
        return self.frames[-1] if self.frames else self.early


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Keep an exception of a hook from the application's session."""

    @wraps(hook)
    def guarded(self: Capture, *args: Any) -> None:
        try:
            hook(self, *args)
        except Exception as error:
            if ends_transaction(error):
                raise
            log.exception("Following a database session failed in %s", hook.__name__)
            session = _session_of(args)
            if session is not None:
                self._fail(session)
            if hook.__name__ in ("_on_after_commit", "_on_end"):
                self._push([_bulk(t, None) for t in self._tracking.all()])

    return guarded


def _session_of(args: tuple[Any, ...]) -> Session | None:
    """Return the session that an event is about, whatever the event's arguments."""
    if isinstance(args[0], Session):
        return args[0]
    if isinstance(args[0], ORMExecuteState):
        return args[0].session
    return object_session(args[-1])


class Capture:
    """Follows sessions, and pushes what they commit.

    Args:
        tracking: The declarations.
        emitter: Returns where a commit of the moment goes; None: nowhere.
        may_push: Asked when a commit would push changes of rows; says whether it may,
            given whether it is inside a scope.
        rows: Reads rows.
        now: Seconds of a clock that never falls, that of what goes out.
        failures: Takes note of what can't be followed.
        apart: Lets functions of the application have sessions of their own.
    """

    def __init__(
        self,
        tracking: Tracking,
        *,
        emitter: Callable[[], Emitter | None],
        may_push: Callable[[bool], bool],
        rows: Rows,
        now: Callable[[], float],
        failures: Failures,
        apart: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._tracking = tracking
        self._apart = apart
        self._failures = failures
        self._emitter = emitter
        self._may_push = may_push
        self._rows = rows
        self._now = now
        # Guards the two sets of models.
        self._listening = threading.Lock()
        self._listened: set[type] = set()
        self._unlistened: set[type] = set()
        self._engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        # Of the running thread, greenlet or task.
        self._scopes: ContextVar[tuple[Scope, ...]] = ContextVar("scopes", default=())
        self._suppressed: ContextVar[bool] = ContextVar("suppressed", default=False)
        self._open: ContextVar[tuple[weakref.ref[Session], ...]] = ContextVar(
            "open", default=()
        )

    # -- what the extension calls ----------------------------------------------------

    def follow(self, target: Any) -> None:
        """Follow a session, or all of a sessionmaker, scoped session or class."""
        event.listen(target, "after_transaction_create", self._on_create)
        event.listen(target, "after_transaction_end", self._on_end)
        event.listen(target, "after_begin", self._on_begin)
        event.listen(target, "before_flush", self._on_before_flush)
        event.listen(target, "after_flush", self._on_after_flush)
        event.listen(target, "before_commit", self._on_before_commit)
        event.listen(target, "after_commit", self._on_after_commit)
        event.listen(target, "after_rollback", self._on_after_rollback)
        event.listen(target, "do_orm_execute", self._on_execute)

    def listen_to(self, tracked: Tracked) -> None:
        """Take notice of flushed objects of a model, from the next flush on."""
        with self._listening:
            if tracked.model not in self._listened:
                self._unlistened.add(tracked.model)

    def _listen(self) -> None:
        # Not when a model is declared: listeners are called in the order in which they
        # came, and what the application's own before_update sets must be seen.
        if not self._unlistened:
            return
        with self._listening:
            for model in self._unlistened:
                event.listen(model, "after_insert", self._on_insert, propagate=True)
                event.listen(
                    model, "before_update", self._on_before_update, propagate=True
                )
                event.listen(model, "after_update", self._on_update, propagate=True)
                event.listen(
                    model, "before_delete", self._on_before_delete, propagate=True
                )
                event.listen(model, "after_delete", self._on_delete, propagate=True)
            self._listened |= self._unlistened
            # Emptied last: another thread's flush must not begin without them.
            self._unlistened.clear()

    @contextmanager
    def scope(self, scope: Scope) -> Iterator[Scope]:
        """Push what is committed inside, whatever ``LIVEPUSH_PUSH`` says."""
        for tracked in scope.tracked:
            self.listen_to(tracked)
        self._scopes.set((*self._scopes.get(), scope))
        try:
            yield scope
        finally:
            # Not as it was before: in generators, blocks end in any order.
            left = tuple(s for s in self._scopes.get() if s is not scope)
            self._scopes.set(left)

    @contextmanager
    def suppress(self) -> Iterator[None]:
        """Push no change of a row that is flushed or committed inside."""
        token = self._suppressed.set(True)
        try:
            yield
        finally:
            self._suppressed.reset(token)

    def defer(self, note: Note, *, wait: bool) -> bool:
        """Let a note wait for the commit of an open transaction.

        Args:
            wait: Whether to wait for whatever transaction is open. Else only for one
                that has written, or that was begun explicitly; one that has only read
                may be about to be thrown away, and the note with it.

        Returns:
            Whether it waits; False when there is nothing to wait for.
        """
        for reference in reversed(self._open.get()):
            session = reference()
            state = None if session is None else session.info.get(self)
            if session is None or state is None or not state.frames:
                continue
            if wait or _has_written(session, state):
                state.top.entries.append(note)
                return True
        return False

    def has_open_transaction(self) -> bool:
        """Say whether a session of this thread or greenlet has begun a transaction."""
        return any(
            session is not None and session.in_transaction()
            for session in (reference() for reference in self._open.get())
        )

    # -- transactions ----------------------------------------------------------------

    def _state(self, session: Session) -> _State:
        state: _State | None = session.info.get(self)
        if state is None:
            state = session.info[self] = _State()
        return state

    @_guarded
    def _on_create(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested or transaction.parent is None:
            state = self._state(session)
            self._push_frame(session, state, transaction)
            if transaction.nested:
                self._check_savepoints(state)

    def _push_frame(
        self, session: Session, state: _State, transaction: SessionTransaction
    ) -> None:
        if state.frames and state.frames[-1].transaction is transaction:
            return  # followed twice, as a class and as its sessionmaker
        frame = _Frame(transaction)
        if not state.frames:
            frame.entries, frame.wrote = state.early.entries, state.early.wrote
            state.early = _Frame(None)
            self._open.set((*self._open.get(), weakref.ref(session)))
        state.frames.append(frame)

    def _ensure_frames(self, session: Session, state: _State) -> None:
        """Make up for a transaction that was open before the session was followed."""
        for transaction in (
            session.get_transaction(),
            session.get_nested_transaction(),
        ):
            if transaction is not None and all(
                frame.transaction is not transaction for frame in state.frames
            ):
                self._push_frame(session, state, transaction)

    @_guarded
    def _on_begin(
        self, session: Session, transaction: SessionTransaction, connection: Connection
    ) -> None:
        # In every transaction, also those that only read: no more than this.
        self._state(session).connections.append(connection)

    def _vet(self, state: _State) -> None:
        """Look at the connections of a transaction that writes."""
        new, state.vetted = state.connections[state.vetted :], len(state.connections)
        for connection in new:
            engine = connection.engine
            if engine not in self._engines:
                self._engines.add(engine)
                event.listen(engine, "handle_error", self._on_engine_error)
            problem = refusal(connection)
            if problem is not None:
                state.refused = True
                self._tell_once(problem)
        if new and len(state.frames) > 1:
            self._check_savepoints(state)

    def _check_savepoints(self, state: _State) -> None:
        if any(_forgets_to_begin(connection) for connection in state.connections):
            self._tell_once(_SQLITE_SAVEPOINTS)

    def _on_engine_error(self, context: ExceptionContext) -> None:
        undone = ends_transaction(context.original_exception)
        if not (context.is_disconnect or undone):
            return
        for reference in self._open.get():
            session = reference()
            state = None if session is None else session.info.get(self)
            if state is not None and context.connection in state.connections:
                state.lost |= context.is_disconnect
                state.undone |= undone

    @_guarded
    def _on_before_commit(self, session: Session) -> None:
        state = self._state(session)
        if session.get_nested_transaction() is None:
            state.committing = True
            # Here, and not when it has ended: between the two this thread may stand
            # still for as long as it takes to lose a broker's memory of newer versions.
            state.since = self._now()
            # What is still to be flushed would raise on an aborted transaction.
            if state.top.entries:
                state.aborted = any(_is_aborted(c) for c in state.connections)

    @_guarded
    def _on_after_commit(self, session: Session) -> None:
        ended = session.get_nested_transaction() or session.get_transaction()
        for frame in self._state(session).frames:
            if frame.transaction is ended:
                frame.committed = True

    @_guarded
    def _on_after_rollback(self, session: Session) -> None:
        if session.get_nested_transaction() is None:
            self._state(session).rolled_back = True

    @_guarded
    def _on_end(self, session: Session, transaction: SessionTransaction) -> None:
        state = self._state(session)
        depth = next(
            (i for i, f in enumerate(state.frames) if f.transaction is transaction),
            None,
        )
        if depth is None:
            return  # a flush's own
        frame = state.frames[depth]
        del state.frames[depth:]
        if depth > 0:
            if frame.committed:
                state.frames[-1].add(frame.entries)
                state.frames[-1].wrote |= frame.wrote
            state.flush = None  # had it been under way, it has failed
            return
        del session.info[self]
        self._open.set(tuple(r for r in self._open.get() if r() not in (None, session)))
        if frame.entries:
            self._ended(state, frame)

    def _ended(self, state: _State, frame: _Frame) -> None:
        self._vet(state)
        if state.refused:
            frame.entries = [
                e for e in frame.entries if isinstance(e, Note) and not e.of_rows
            ]
        if frame.committed and state.aborted:
            log.warning(
                "A transaction was committed after an error that the application "
                "swallowed; the database has rolled it back, and nothing is pushed"
            )
        elif frame.committed:
            self._push(frame.entries, since=state.since, undone=state.undone)
        elif state.committing and state.flush is None and _is_uncertain(state):
            log.warning(
                "A COMMIT was not answered; the rooms concerned are told to read anew"
            )
            self._push(frame.entries, uncertain=True)
        elif not (state.rolled_back or frame.wrote or state.committing):
            # It was read in, and closed: nothing was undone.
            notes = (e for e in frame.entries if isinstance(e, Note))
            self._push(note for note in notes if note.on_close)

    def _fail(self, session: Session) -> None:
        """After an exception of a hook: what this transaction wrote is not known."""
        entries = self._state(session).top.entries
        for tracked in self._tracking.all():
            entries.append(_bulk(tracked, None))

    # -- flushes ---------------------------------------------------------------------

    @_guarded
    def _on_before_flush(self, session: Session, *_: Any) -> None:
        state = self._state(session)
        self._ensure_frames(session, state)
        state.top.wrote = True
        self._listen()
        self._vet(state)
        state.flush = Flush(session, self._rows, self._groups)
        if not (state.refused or self._suppressed.get()):
            state.flush.begin()

    @_guarded
    def _on_insert(self, mapper: Mapper[Any], _: Connection, target: object) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.put(mapper, target, inserted=True)

    @_guarded
    def _on_before_update(
        self, mapper: Mapper[Any], _: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.before_row(target, deleted=False)

    @_guarded
    def _on_update(self, mapper: Mapper[Any], _: Connection, target: object) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.put(mapper, target, inserted=False)

    @_guarded
    def _on_before_delete(
        self, mapper: Mapper[Any], _: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.before_row(target, deleted=True)

    @_guarded
    def _on_delete(self, mapper: Mapper[Any], _: Connection, target: object) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.delete(target)

    def _flush_of(self, target: object) -> Flush | None:
        session = object_session(target)
        state: _State | None = None if session is None else session.info.get(self)
        if state is None or state.refused or self._suppressed.get():
            return None
        return state.flush

    @_guarded
    def _on_after_flush(self, session: Session, *_: Any) -> None:
        state = self._state(session)
        flush, state.flush = state.flush, None
        self._vet(state)  # the flush may have begun the transaction
        if flush is None or state.refused:
            return
        try:
            state.top.add([*flush.ops(), *(_bulk(t, None) for t in flush.doubtful)])
        except Exception as error:
            if ends_transaction(error):
                raise
            log.exception("Reading flushed rows failed; their rooms are to read anew")
            state.top.entries.extend(_bulk(t, None) for t in flush.concerned())

    def _groups(self, cls: type) -> tuple[Group, ...]:
        scoped = [t for s in self._scopes.get() for t in s.tracked]
        if not scoped:
            return self._tracking.groups(cls)
        tracked = (
            *self._tracking.of_class(cls),
            *(t for t in scoped if issubclass(cls, t.model)),
        )
        return by_model(tracked)

    # -- statements ------------------------------------------------------------------

    def _on_execute(self, execution: ORMExecuteState) -> None:
        if not execution.is_select:
            self._on_statement(execution)

    @_guarded
    def _on_statement(self, execution: ORMExecuteState) -> None:
        session = execution.session
        state = self._state(session)
        self._ensure_frames(session, state)
        state.top.wrote = True
        if not execution.is_orm_statement or self._suppressed.get():
            return
        mapper = execution.bind_mapper
        if mapper is None:
            return
        if execution.is_insert:
            rooms_of = rooms_of_insert
        elif execution.is_update:
            rooms_of = rooms_of_update
        elif execution.is_delete:
            rooms_of = rooms_of_delete
        else:
            return
        dialect = session.get_bind(mapper=mapper).dialect.name
        scoped = (t for s in self._scopes.get() for t in s.tracked)
        for tracked in (*self._tracking.of_model(mapper.class_), *scoped):
            try:
                rooms = rooms_of(
                    tracked, execution.statement, execution.parameters, dialect
                )
            except Exception:
                log.exception("Finding the rooms of a bulk statement failed")
                rooms = None
            state.top.entries.append(_bulk(tracked, rooms))

    # -- pushing ---------------------------------------------------------------------

    def _push(
        self,
        entries: Iterable[Op | Note],
        *,
        since: float | None = None,
        uncertain: bool = False,
        undone: bool = False,
    ) -> None:
        """Hand over what a root transaction has; its connection is back in the pool.

        Args:
            uncertain: Whether it may not have been committed.
            undone: Whether it may be that only the end of it was committed, and rows
                that were flushed earlier are not what they were.
        """
        net: dict[RowId, Op] = {}
        notes: list[Note] = []
        for entry in entries:
            if isinstance(entry, Note):
                notes.append(entry)
            elif entry.row in net:
                net[entry.row] = net[entry.row].then(entry)
            else:
                net[entry.row] = entry
        batch = Batch(since)
        has_rows = bool(net) or any(note.of_rows for note in notes)
        allowed = has_rows and self._allowed()
        ops = net.values() if allowed else ()
        calls = any(t.calls for op in ops for t in op.tracked)
        with self._apart() if calls else nullcontext():
            for op in ops:
                if op.before is not None or op.after is not None:
                    change = Change(op.before, op.after, op.touched, op.stamp)
                    for tracked in op.tracked:
                        tracked.push(change, batch)
        if undone:
            batch = batch.doubted()
        for note in notes:
            if allowed or not note.of_rows:
                batch.include(note.batch)
        emitter = self._emitter()
        if emitter is not None:
            doubted = batch.doubted() if uncertain else batch
            self.pushed(emitter.publish_batch(doubted))

    def _allowed(self) -> bool:
        return not self._suppressed.get() and self._may_push(bool(self._scopes.get()))

    def pushed(self, positions: Mapping[str, Position]) -> None:
        """Let the scopes of the moment know where rooms stand after a push."""
        for scope in self._scopes.get():
            scope.positions.update(positions)

    def _tell_once(self, problem: str) -> None:
        self._failures.note(problem, Failure(problem), level=logging.WARNING)


def _bulk(tracked: Tracked, rooms: set[str] | None) -> Note:
    """Return the note of a bulk statement; rooms are None when they can't be known."""
    batch = Batch()
    if rooms is None:
        tracked.invalidate_everywhere(batch)
    else:
        for name in sorted(rooms):
            batch.invalidate(name, tracked.kind)
    return Note(batch, of_rows=True)


def _has_written(session: Session, state: _State) -> bool:
    return (
        any(frame.wrote for frame in state.frames)
        or bool(session.new or session.dirty or session.deleted)
        or any(
            f.transaction is not None
            and f.transaction.origin
            in (SessionTransactionOrigin.BEGIN, SessionTransactionOrigin.BEGIN_NESTED)
            for f in state.frames
        )
    )


def _forgets_to_begin(connection: Connection) -> bool:
    """Say whether Python's SQLite driver is in its legacy transaction mode."""
    if connection.dialect.name != "sqlite" or connection.closed:
        return False
    driver = connection.connection.dbapi_connection
    # sqlite3.LEGACY_TRANSACTION_CONTROL is -1; before Python 3.12 there is no other.
    legacy = getattr(driver, "autocommit", -1) == -1
    return legacy and getattr(driver, "isolation_level", None) is not None


def _is_aborted(connection: Connection) -> bool:
    """Say whether a PostgreSQL transaction can only be rolled back any more.

    Its COMMIT then is a ROLLBACK, without an error
    (https://www.postgresql.org/docs/current/sql-commit.html).
    """
    if connection.dialect.name != "postgresql" or connection.closed:
        return False
    driver = getattr(connection.connection, "dbapi_connection", None)
    status = getattr(getattr(driver, "info", None), "transaction_status", None)
    if status is not None:  # psycopg and psycopg2
        return int(status) == 3  # libpq's PQTRANS_INERROR
    try:
        connection.execute(sa.text("SELECT 1"))
    except sa.exc.DBAPIError:
        return True
    return False


def _is_uncertain(state: _State) -> bool:
    """Say whether a COMMIT that failed may have been done, in part or whole."""
    return state.lost or len(set(state.connections)) > 1
