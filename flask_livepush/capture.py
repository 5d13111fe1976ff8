"""What SQLAlchemy sessions commit, and nothing that they don't.

A stack of frames follows the transactions of a session, one for its root and one for
each SAVEPOINT. What is flushed goes into the top frame; a frame that commits gives what
it has to the one below, a frame that does not is dropped; the root's is pushed after
the transaction has ended. One list, cleared on commit and rollback, is wrong in a third
of random programs: SQLAlchemy also announces a commit when a SAVEPOINT is released, and
no rollback when a session is closed.

A flush says which rows it has written. What they have become is read once, as late as
their locks allow: just before COMMIT is sent. What lies in several tables no lock of a
row holds still; it is read after the commit.

That a transaction is committed is known by itself: COMMIT was sent, and neither an
error nor an interruption came. Listeners of others, which may raise, are not asked;
ours are called before them.

The hooks run in the thread of whoever uses the session. No exception of theirs may
reach it: what they can't find out is told to the rooms as ``<kind>.invalidated``. The
one exception is an error of the database that the application's own next statement
would have met.
"""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import (
    Connection,
    Dialect,
    ExceptionContext,
)
from sqlalchemy.orm import (
    Mapper,
    ORMExecuteState,
    Session,
    SessionTransaction,
    SessionTransactionOrigin,
    object_session,
)
from sqlalchemy.sql import visitors
from sqlalchemy.sql.dml import UpdateBase

from . import statements
from .commits import Commits, Frame, Note
from .declarations import Declared, Group, Tracking
from .emitter import Emitter
from .errors import ConfigError
from .failures import Failure, Failures
from .flushes import Flush
from .logs import logger
from .protocol.batch import Batch
from .protocol.publication import Position
from .rows import PrimaryKey, Rows, ends_transaction, is_application_s
from .sessions import refusal
from .tracking import Tracked
from .watching import Watched

log = logger(__name__)

_TEXTS = (sa.TextClause, sa.TextualSelect)
_WORDS = re.compile(r"\w+")

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

    tracked: tuple[Tracked, ...] = ()
    positions: dict[str, Position] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _State:
    """What we know of one session."""

    session: weakref.ref[Session]
    frames: list[Frame] = field(default_factory=list)
    # Noted between transactions, by a statement that is about to begin one.
    early: Frame | None = None
    flush: Flush | None = None
    statement: Flush | None = None  # one on rows whose keys the application gives
    connections: list[Connection] = field(default_factory=list)
    wrote: set[Connection] = field(default_factory=set)
    vetted: int = 0  # how many of the connections have been looked at
    committing: bool = False
    since: float | None = None  # before the root is committed
    rolled_back: bool = False
    aborted: bool = False
    lost: bool = False
    refused_commit: bool = False  # the database answered COMMIT with an error
    undone: bool = False  # by the database, on an error: some of it, or all
    refused: bool = False

    @property
    def top(self) -> Frame:
        if self.frames:
            return self.frames[-1]
        if self.early is None:
            self.early = Frame(None)
        return self.early


def _guarded(hook: Callable[..., None]) -> Callable[..., None]:
    """Keep an exception of a hook from the application's session."""

    @wraps(hook)
    def guarded(self: Capture, *args: Any) -> None:
        try:
            hook(self, *args)
        except Exception as error:
            if is_application_s(error):
                raise
            self._failed(hook.__name__, error, _session_of(args))
            if hook.__name__ in ("_on_after_commit", "_on_end"):
                self._abandon(self._tracking.all())

    return guarded


def _session_of(args: tuple[Any, ...]) -> Session | None:
    """Return the session that an event is about, whatever the event's arguments."""
    return args[0] if isinstance(args[0], Session) else object_session(args[-1])


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
        self._emitter = emitter
        self._may_push = may_push
        self._rows = rows
        self._commits = Commits(rows, failures=failures, apart=apart)
        self._now = now
        self._failures = failures
        self._listened: set[type] = set()
        # Not engines: of one there may be a variant for each request.
        self._dialects: weakref.WeakSet[Dialect] = weakref.WeakSet()
        self._following: weakref.WeakKeyDictionary[Connection, _State] = (
            weakref.WeakKeyDictionary()
        )
        # Of the running thread, greenlet or task.
        self._scopes: ContextVar[tuple[Scope, ...]] = ContextVar("scopes", default=())
        self._suppressed: ContextVar[bool] = ContextVar("suppressed", default=False)
        self._open: ContextVar[tuple[weakref.ref[Session], ...]] = ContextVar(
            "open", default=()
        )

    # -- what the extension calls ----------------------------------------------------

    def follow(self, target: Any) -> None:
        """Follow a session, or all of a sessionmaker, scoped session or class.

        Listeners of others may raise, and those after them are not called then; so
        ours come first where something ends.
        """
        event.listen(target, "after_transaction_create", self._on_create)
        event.listen(target, "after_begin", self._on_begin)
        event.listen(target, "before_flush", self._on_before_flush)
        event.listen(target, "after_flush", self._on_after_flush)
        event.listen(target, "before_commit", self._on_before_commit)
        event.listen(target, "do_orm_execute", self._on_execute)
        event.listen(target, "after_commit", self._on_after_commit, insert=True)
        event.listen(target, "after_rollback", self._on_after_rollback, insert=True)
        event.listen(target, "after_transaction_end", self._on_end, insert=True)

    def listen_to(self, tracked: Declared) -> None:
        """Take notice of flushed objects of a model, from now on."""
        model = tracked.model
        if model in self._listened:
            return
        self._listened.add(model)
        event.listen(model, "after_insert", self._on_insert, propagate=True)
        event.listen(model, "before_update", self._on_before_update, propagate=True)
        event.listen(model, "after_update", self._on_update, propagate=True)
        event.listen(model, "before_delete", self._on_before_delete, propagate=True)
        event.listen(model, "after_delete", self._on_delete, propagate=True)

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
        """Push no change of a row that is flushed or committed inside.

        Whose rights depend on such rows is asked about all the same.
        """
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
                state.top.notes.append(note)
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
            state = session.info[self] = _State(weakref.ref(session))
        return state

    @_guarded
    def _on_create(self, session: Session, transaction: SessionTransaction) -> None:
        if transaction.nested or transaction.parent is None:
            if not transaction.nested:
                self.end_unannounced()
            state = self._state(session)
            self._push_frame(session, state, transaction)
            if transaction.nested:
                self._check_savepoints(state)

    def _push_frame(
        self, session: Session, state: _State, transaction: SessionTransaction
    ) -> None:
        if state.frames and state.frames[-1].transaction is transaction:
            return  # followed twice, as a class and as its sessionmaker
        frame = Frame(transaction)
        if not state.frames:
            if state.early is not None:
                frame.include(state.early)
                state.early = None
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
        state = self._state(session)
        state.connections.append(connection)
        self._following[connection] = state
        if connection.dialect not in self._dialects:
            self._listen_to(connection.dialect)

    def _listen_to(self, dialect: Dialect) -> None:
        self._dialects.add(dialect)
        event.listen(dialect, "handle_error", self._on_engine_error)
        event.listen(dialect, "do_execute", self._on_cursor)
        event.listen(dialect, "do_executemany", self._on_cursor)

    def _vet(self, state: _State) -> None:
        """Look at the connections of a transaction that writes."""
        if state.vetted == len(state.connections):
            return
        new, state.vetted = state.connections[state.vetted :], len(state.connections)
        for connection in new:
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
        if context.connection is None:
            return
        state = self._following.get(context.connection)
        if state is None:
            return
        state.undone |= ends_transaction(context.original_exception)
        if state.committing and context.statement is None:  # it is COMMIT
            # After an interruption, as after a lost connection, nobody knows.
            state.lost |= context.is_disconnect
            state.refused_commit |= not context.is_disconnect

    @_guarded
    def _on_before_commit(self, session: Session) -> None:
        state = self._state(session)
        if session.get_nested_transaction() is not None:
            return
        state.committing = True
        # Here, and not when it has ended: between the two this thread may stand
        # still for as long as it takes to lose a broker's memory of newer versions.
        state.since = self._now()
        # What is still to be flushed would raise on an aborted transaction.
        if not state.top.is_empty:
            state.aborted = any(_is_aborted(c) for c in state.connections)
        if not (session.new or session.dirty or session.deleted):
            self._read(state)

    def _read(self, state: _State) -> None:
        """Read what was written; nothing more is flushed, as far as that is known."""
        if state.top.ops and not (state.aborted or state.refused):
            self._commits.read(state.top)

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
        known = [frame.transaction for frame in state.frames]
        if transaction not in known:
            return  # a flush's own
        depth = known.index(transaction)
        frame = state.frames[depth]
        del state.frames[depth:]
        if depth > 0:
            if frame.committed:
                state.frames[-1].include(frame)
            state.flush = None  # had it been under way, it has failed
            return
        del session.info[self]
        for connection in state.connections:
            self._following.pop(connection, None)
        opened = self._open.get()
        alone = len(opened) == 1 and opened[0]() is session
        self._open.set(
            () if alone else tuple(r for r in opened if r() not in (None, session))
        )
        if not frame.is_empty:
            self._ended(state, frame)

    def _ended(self, state: _State, frame: Frame) -> None:
        self._vet(state)
        if state.refused:
            frame.ops.clear()
            frame.stale.clear()
            frame.notes = [note for note in frame.notes if not note.of_rows]
        if frame.committed and state.aborted:
            log.warning(
                "A transaction was committed after an error that the application "
                "swallowed; the database has rolled it back, and nothing is pushed"
            )
        elif frame.committed:
            self._push(frame, since=state.since, undone=state.undone)
        elif _is_uncertain(state):
            log.warning(
                "It is not known whether a transaction was committed: its COMMIT was "
                "not answered, or a listener raised at its end. The rooms concerned "
                "are told to read anew"
            )
            self._push(frame, uncertain=True)
        elif not (state.rolled_back or frame.wrote or state.committing):
            # It was read in, and closed: nothing was undone.
            notes = [note for note in frame.notes if note.on_close]
            self._push(Frame(None, notes=notes))

    def end_unannounced(self) -> None:
        """Make up for ends of transactions that we were not told of.

        A listener raised that was registered as the first, after ours. Only sessions
        of this thread, greenlet or task are looked at.
        """
        for session in [reference() for reference in self._open.get()]:
            state: _State | None = None if session is None else session.info.get(self)
            if session is None or state is None or not state.frames:
                continue
            root = state.frames[0].transaction
            if (
                root is not None
                and not root.is_active
                and state.frames[0].committed
                and session.get_transaction() is not root
            ):
                self._on_end(session, root)

    def _failed(self, where: str, error: Exception, session: Session | None) -> None:
        """After an exception of a hook: what this transaction wrote is not known."""
        remedy = (
            str(error)
            if isinstance(error, ConfigError)
            else "This is a fault of flask_livepush: please report it with the "
            f"traceback ({where})."
        )
        self._failures.note(
            (where, type(error)),
            Failure(
                "Following a database session failed; all rooms of tracked models are "
                f"told to read anew. {remedy}"
            ),
            error=error,
        )
        if session is not None:
            self._state(session).top.lose(self._tracking.all())

    # -- flushes ---------------------------------------------------------------------

    @_guarded
    def _on_before_flush(self, session: Session, *_: Any) -> None:
        state = self._state(session)
        self._ensure_frames(session, state)
        state.top.wrote = True
        self._vet(state)
        ignored = state.refused or self._is_ignored()
        state.flush = None if ignored else self._begin(session, state)

    def _begin(self, session: Session, state: _State) -> Flush:
        return Flush(
            session,
            self._rows,
            groups=self._groups,
            siblings=self._siblings,
            tables=self._tables,
            wrote=state.wrote,
        )

    @_guarded
    def _on_insert(
        self, mapper: Mapper[Any], connection: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.put(mapper, connection, target, new=True)

    @_guarded
    def _on_before_update(
        self, _: Mapper[Any], connection: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.before_row(connection, target, deleted=False)

    @_guarded
    def _on_update(
        self, mapper: Mapper[Any], connection: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.put(mapper, connection, target, new=False)

    @_guarded
    def _on_before_delete(
        self, _: Mapper[Any], connection: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.before_row(connection, target, deleted=True)

    @_guarded
    def _on_delete(
        self, _: Mapper[Any], connection: Connection, target: object
    ) -> None:
        flush = self._flush_of(target)
        if flush is not None:
            flush.delete(connection, target)

    def _flush_of(self, target: object) -> Flush | None:
        session = object_session(target)
        state: _State | None = None if session is None else session.info.get(self)
        return None if state is None else state.flush

    def _on_cursor(
        self, cursor: Any, statement: str, parameters: Any, context: Any
    ) -> bool | None:
        """Look at a statement just before the driver is given it.

        Returns:
            True: It has been given it in here.
        """
        writes = context.isupdate or context.isdelete or context.isinsert
        if not (writes or getattr(context.compiled, "ctes", None)):
            return None
        state = self._following.get(context.root_connection)
        if state is None:
            return None
        try:
            unsure = self._before_statement(state, context, writes=writes)
        except Exception as error:
            if is_application_s(error, waiting=True):
                raise
            self._failed("_on_cursor", error, state.session())
            return None
        if not unsure:
            return None
        flush, keys = unsure
        dialect = context.dialect
        run = dialect.do_executemany if context.executemany else dialect.do_execute
        run(cursor, statement, parameters, context)
        flush.deleted(keys, cursor.rowcount)
        return True

    def _before_statement(
        self, state: _State, context: Any, *, writes: bool
    ) -> tuple[Flush, list[PrimaryKey]] | None:
        """Read what a statement is about to change.

        Returns:
            What has to be told how many rows a DELETE has found, and of which.
        """
        flush = state.flush or state.statement
        unsure = None
        if not writes or flush is None:
            self._on_hidden_writes(state, context)
        elif not (context.isinsert or state.refused or self._is_ignored()):
            keys = flush.before_statement(context)
            unsure = (flush, keys) if keys else None
        if writes:
            state.wrote.add(context.root_connection)
            if self._tracking.watched:
                self._ask_for_statement(state, context, followed=flush is not None)
        return unsure

    def _ask_for_statement(
        self, state: _State, context: Any, *, followed: bool
    ) -> None:
        """Have the rights asked about that a statement on a watched table concerns.

        Args:
            followed: Whether something is under way that is followed row by row.
        """
        table = getattr(context.compiled.statement, "table", None)
        several = self._tracking.watched.get(table, ())
        if not several:
            return
        # Of a model's own rows, which are written by their keys, more is known later.
        # Those that a relationship has in its table, as its secondary, are announced by
        # nobody.
        own = followed and (context.isinsert or statements.is_by_key(context, table))
        rights = Batch()
        for watched in several:
            for values in statements.written(context, watched.columns):
                if (
                    not own
                    or watched.table is not None
                    or watched.columns.keys() <= values.keys()
                ):
                    watched.invalidate(values, rights)
        if rights.rechecks:
            state.top.ask(rights)

    def _on_hidden_writes(self, state: _State, context: Any) -> None:
        """Look for statements that write inside a WITH (PostgreSQL)."""
        if not getattr(context.compiled, "ctes", None):
            return
        whole: Any = context.invoked_statement
        for inner in visitors.iterate(whole):
            if isinstance(inner, UpdateBase) and inner is not whole:
                state.top.wrote = True
                self._lose_rights(state, [getattr(inner, "table", None)])
                for mapper in self._tables().get(getattr(inner, "table", None), ()):
                    self._note_statement(state, mapper, inner, {}, context.dialect.name)

    @_guarded
    def _on_after_flush(self, session: Session, *_: Any) -> None:
        state = self._state(session)
        flush, state.flush = state.flush, None
        self._vet(state)  # the flush may have begun the transaction
        if flush is None or state.refused:
            return
        for op in flush.ops():
            state.top.add(op)
        if state.committing:
            self._read(state)

    def _more(self) -> tuple[Tracked, ...]:
        return tuple(t for s in self._scopes.get() for t in s.tracked)

    def _is_ignored(self) -> bool:
        """Say whether nothing that is written now is followed."""
        return self._suppressed.get() and not self._tracking.watched

    def _groups(self, cls: type) -> tuple[Group, ...]:
        if self._suppressed.get():
            return self._tracking.rights(cls)
        return self._tracking.groups(cls, self._more())

    def _siblings(self, cls: type) -> tuple[Group, ...]:
        return () if self._suppressed.get() else self._tracking.siblings(cls)

    def _tables(self) -> Mapping[Any, tuple[Mapper[Any], ...]]:
        return self._tracking.tables(self._more())

    # -- statements ------------------------------------------------------------------

    def _on_execute(self, execution: ORMExecuteState) -> Any:
        if isinstance(execution.statement, sa.Select):
            return None
        try:
            followed = self._on_statement(execution)
        except Exception as error:  # noqa: BLE001 - the statement is the application's
            self._failed("_on_statement", error, execution.session)
            return None
        return None if followed is None else self._run(execution, *followed)

    def _on_statement(
        self, execution: ORMExecuteState
    ) -> tuple[Mapper[Any], Any, statements.Keys] | None:
        """Take notice of a statement; return it if it is to be followed by row."""
        session = execution.session
        state = self._state(session)
        statement = statements.unwrapped(execution.statement)
        if not statements.writes(statement):
            return None
        self._ensure_frames(session, state)
        state.top.wrote = True
        if self._tracking.watched and isinstance(statement, _TEXTS):
            self._ask_for_text(state, statement)
        mapper = execution.bind_mapper
        if mapper is None or self._is_ignored():
            return None
        if not execution.is_orm_statement or not isinstance(statement, UpdateBase):
            return None
        keys = self._keys_of(execution, mapper, statement)
        if keys is not None:
            return mapper, statement, keys
        self._note_orm_statement(execution, mapper, statement)
        return None

    def _keys_of(
        self, execution: ORMExecuteState, mapper: Mapper[Any], statement: Any
    ) -> statements.Keys | None:
        """Return the rows a statement is on, where it can be followed by row."""
        concerned = self._concerned(mapper)
        groups = self._groups(mapper.class_)
        if not concerned or not {*concerned} <= {t for g in groups for t in g.tracked}:
            return None  # of a subclass, which the statement says nothing of
        try:
            keys = statements.keys_of(mapper, statement, execution.parameters)
        except Exception as error:  # noqa: BLE001 - its rooms are told instead
            self._note_unknown(concerned[0], error)
            return None
        if keys is not None and not keys.ordered:
            # Our locks would be taken in another order than its own.
            return None if any(g.moves(keys.touched) for g in groups) else keys
        return keys

    def _run(
        self,
        execution: ORMExecuteState,
        mapper: Mapper[Any],
        statement: Any,
        keys: statements.Keys,
    ) -> Any:
        """Run a statement on rows of known primary keys, and follow it as a flush."""
        session = execution.session
        state = self._state(session)
        following = self._begin(session, state)
        following.expect(mapper, keys.found, touched=keys.touched)
        before, state.statement = state.statement, following
        try:
            result = execution.invoke_statement()
        finally:
            state.statement = before
        matched = _matched(result, statement, session.get_bind(mapper=mapper).dialect)
        try:
            if keys.certain or matched == len(keys.found):
                # Each of these rows is locked now.
                for op in following.ops():
                    state.top.add(op)
            elif matched != 0:
                self._note_orm_statement(execution, mapper, statement)
                self._lose_rights(state, mapper.tables)
        except Exception as error:  # noqa: BLE001 - the statement has been run
            self._failed("_run", error, session)
        return result

    def _note_orm_statement(
        self, execution: ORMExecuteState, mapper: Mapper[Any], statement: Any
    ) -> None:
        dialect = execution.session.get_bind(mapper=mapper).dialect.name
        state = self._state(execution.session)
        parameters = execution.parameters
        self._note_statement(state, mapper, statement, parameters, dialect)

    def _note_statement(
        self,
        state: _State,
        mapper: Mapper[Any],
        statement: Any,
        parameters: Any,
        dialect: str,
    ) -> None:
        for tracked in dict.fromkeys(self._concerned(mapper)):
            if isinstance(tracked, Watched):
                continue  # they are asked about when the database is given it
            try:
                rooms = statements.rooms_of(tracked, statement, parameters, dialect)
            except Exception as error:  # noqa: BLE001 - all rooms are told instead
                self._note_unknown(tracked, error)
                rooms = None
            state.top.notes.append(_bulk(tracked, rooms))

    def _concerned(self, mapper: Mapper[Any]) -> Sequence[Declared]:
        """Return the declarations whose rows a statement on a class may touch."""
        own = self._tracking.of_model(mapper.class_)
        if self._suppressed.get():
            return [t for t in own if isinstance(t, Watched)]
        return (*own, *self._more())

    def _lose_rights(self, state: _State, tables: Iterable[Any]) -> None:
        """Have all rights asked about that may depend on the rows of tables."""
        rights = Batch()
        for table in tables:
            for watched in self._tracking.watched.get(table, ()):
                watched.invalidate_everywhere(rights)
        if rights.rechecks:
            state.top.ask(rights)

    def _ask_for_text(self, state: _State, statement: Any) -> None:
        """Have all rights asked about that SQL as text may change, by its words."""
        inner: Any = getattr(statement, "element", statement)
        words = set(_WORDS.findall(str(inner.text).lower()))
        named = (t for t in self._tracking.watched if str(t.name).lower() in words)
        self._lose_rights(state, named)

    def _note_unknown(self, tracked: Declared, error: Exception) -> None:
        self._failures.note(
            (tracked, "statement"),
            Failure(
                f"The rooms of a bulk statement on {tracked.name} can't be found out; "
                "all of its kind are told to read anew. This is a fault of "
                "flask_livepush: please report it with the traceback.",
                kind=tracked.kind,
            ),
            error=error,
        )

    # -- pushing ---------------------------------------------------------------------

    def _push(
        self,
        frame: Frame,
        *,
        since: float | None = None,
        uncertain: bool = False,
        undone: bool = False,
    ) -> None:
        """Hand over what a root transaction has; its connection is back in the pool."""
        emitter = self._emitter()
        if emitter is None:
            return
        allowed = frame.concerns_rows and self._allowed()
        try:
            batch = self._commits.batch(
                frame,
                since=since,
                allowed=allowed,
                uncertain=uncertain,
                undone=undone,
            )
        except BaseException:
            # Such as gevent's Timeout, which is not ours to end.
            concerned = frame.concerned
            self._abandon(
                [t for t in concerned if allowed or isinstance(t, Watched)],
                frame.rights,
            )
            raise
        self.pushed(emitter.publish_batch(batch))

    def _abandon(
        self, tracked: Sequence[Declared], rights: Batch | None = None
    ) -> None:
        """Let the sender tell all rooms of declarations to read anew."""
        emitter = self._emitter()
        if emitter is not None and (tracked or rights):
            batch = Batch()
            if rights is not None:
                batch.include(rights)
            for each in tracked:
                each.invalidate_everywhere(batch)
            emitter.publish_later(batch)

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


def _matched(result: Any, statement: Any, dialect: Dialect) -> int:
    """Return how many rows a statement has found; -1: nobody knows."""
    if statement._returning and dialect.name == "sqlite":
        return -1  # it counts them only when all have been fetched
    count = getattr(getattr(result, "raw", result), "rowcount", -1)
    return count if isinstance(count, int) else -1


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
    """Say whether a transaction whose commit was not announced may be committed.

    COMMIT may have been sent, and neither its answer nor the database's own refusal
    has come; or it was sent to some of several databases.
    """
    if not state.committing or state.flush is not None:
        return False
    if state.lost or len(set(state.connections)) > 1:
        return True
    return not (state.rolled_back or state.refused_commit)
