"""What a transaction has done to rows, what they have become, and what that pushes.

Rows of one table are read while the transaction has them locked, so that their stamps
order their versions as their commits do. Of several tables one lock orders nothing:
those are read after the commit, from one snapshot, whose stamp is a moment before it;
who commits last then reads last, and with the highest stamp. When either happens is
``capture``'s part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from sqlalchemy.engine import Connection, Engine
from sqlalchemy.orm import SessionTransaction

from .declarations import Declared, Group
from .failures import Failure, Failures
from .flushes import SAME, Op, RowId
from .logs import logger
from .protocol.batch import Batch
from .row import Values
from .rows import PrimaryKey, Rows, harmless, is_application_s
from .tracking import Change
from .watching import Watched

log = logger(__name__)

# Rows of one transaction that are pushed; of more, the rooms are told to read anew. A
# screen is better off with that than with so many rows.
_MAX_PUSHED = 10_000
# Rows whose keys a transaction holds in memory; with more, all rooms read anew.
_MAX_ROWS = 200_000

# What a row has become, and its stamp; None: it is gone, or nothing orders it.
Read = tuple[Values | None, int | None]


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
class Frame:
    """A root or nested transaction, and what was flushed in it.

    Args:
        ops: What was done to each row.
        reads: What rows have become, where that was read since they were last written.
        stale: Declarations of which it is not known which rows were written.
        rights: What its statements are to have asked about again.
    """

    transaction: SessionTransaction | None
    ops: dict[RowId, Op] = field(default_factory=dict)
    reads: dict[RowId, Read] = field(default_factory=dict)
    stale: dict[Declared, None] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    rights: Batch | None = None
    committed: bool = False
    wrote: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to push."""
        return not (self.ops or self.stale or self.notes or self.rights)

    @property
    def concerns_rows(self) -> bool:
        """Whether it has changes of rows to be shown, or what stands for them."""
        return (
            any(len(group.watched) < len(group.tracked) for group, _ in self.ops)
            or any(not isinstance(t, Watched) for t in self.stale)
            or any(n.of_rows for n in self.notes)
        )

    @property
    def concerned(self) -> dict[Declared, None]:
        """The declarations of the rows it has."""
        found = dict(self.stale)
        for group, _ in self.ops:
            found.update(dict.fromkeys(group.tracked))
        return found

    def add(self, op: Op) -> None:
        """Add what was done to a row."""
        row = op.row
        known = self.ops.get(row)
        self.ops[row] = op if known is None else known.then(op)
        self.reads.pop(row, None)
        if len(self.ops) > _MAX_ROWS:
            self.lose(self.concerned)
            self.ops.clear()
            self.reads.clear()

    def ask(self, rights: Batch) -> None:
        """Add what is to be asked about again."""
        if self.rights is None:
            self.rights = Batch()
        self.rights.include(rights)

    def lose(self, tracked: Iterable[Declared]) -> None:
        """Give up knowing which rows of declarations were written."""
        self.stale.update(dict.fromkeys(tracked))

    def include(self, inner: Frame) -> None:
        """Take over what a transaction inside this one has committed."""
        for op in inner.ops.values():
            self.add(op)
        self.reads.update((r, v) for r, v in inner.reads.items() if r in self.ops)
        self.stale.update(inner.stale)
        self.notes.extend(inner.notes)
        if inner.rights is not None:
            self.ask(inner.rights)
        self.wrote |= inner.wrote


class Commits:
    """Reads what transactions have written, and says what is pushed.

    Args:
        rows: Reads rows.
        failures: Takes note of what can't be read.
        apart: Lets functions of the application have sessions of their own.
    """

    def __init__(
        self,
        rows: Rows,
        *,
        failures: Failures,
        apart: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._rows = rows
        self._failures = failures
        self._apart = apart

    # -- before COMMIT ---------------------------------------------------------------

    def read(self, frame: Frame) -> None:
        """Read what the rows of one table have become that the transaction has locked.

        One SELECT for each model, on each of the session's connections, in one
        savepoint where there must be one.

        Raises:
            DBAPIError: It is the application's to know: the transaction is gone.
        """
        connections: dict[Connection, list[Op]] = {}
        for row, op in frame.ops.items():
            if row[0].home is not None and row not in frame.reads:
                connections.setdefault(op.connection, []).append(op)
        whole = len(frame.ops) <= _MAX_PUSHED
        for connection, ops in connections.items():
            self._read_on(connection, ops, frame, whole=whole)

    def _read_on(
        self, connection: Connection, ops: list[Op], frame: Frame, *, whole: bool
    ) -> None:
        written: dict[Group, list[PrimaryKey]] = {}
        for op in ops:
            if not op.gone:
                written.setdefault(op.group, []).append(op.key)
        try:
            with harmless(connection):
                for group, keys in written.items():
                    self._read_group(connection, group, keys, frame, whole=whole)
                self._stamp_gone(connection, ops, frame)
        except Exception as error:
            if is_application_s(error):
                raise
            for group in {op.group for op in ops}:  # whose fault it is does not show
                self._try_group(connection, group, ops, frame, whole=whole)

    def _try_group(
        self,
        connection: Connection,
        group: Group,
        ops: list[Op],
        frame: Frame,
        *,
        whole: bool,
    ) -> None:
        own = [op for op in ops if op.group is group]
        keys = [op.key for op in own if not op.gone]
        try:
            with harmless(connection):
                self._read_group(connection, group, keys, frame, whole=whole)
                self._stamp_gone(connection, own, frame)
        except Exception as error:
            if is_application_s(error):
                raise
            frame.lose(group.tracked)
            self._note(group, error)

    def _note(self, group: Group, error: Exception) -> None:
        self._failures.note(
            (group.model, "read"),
            Failure(
                f"Rows of {group.model.__name__} that were written can't be read; "
                "their rooms are told to read anew. The traceback says why: mostly the "
                "database lacks a column, or its user may not read it.",
                kind=group.tracked[0].kind,
            ),
            error=error,
        )

    def _read_group(
        self,
        connection: Connection,
        group: Group,
        keys: list[PrimaryKey],
        frame: Frame,
        *,
        whole: bool,
    ) -> None:
        names = group.reads if whole else group.membership
        found = self._rows.written(connection, group, keys, names=names)
        for key, (values, stamp) in found.items():
            frame.reads[group, key] = values, stamp if whole else None

    def _stamp_gone(self, connection: Connection, ops: list[Op], frame: Frame) -> None:
        """Give rows that are not there any more a stamp of a moment after their end."""
        gone = [op.row for op in ops if op.row not in frame.reads]
        if not gone:
            return
        stamps = [frame.reads[op.row][1] for op in ops if op.row in frame.reads]
        known = [stamp for stamp in stamps or [self._rows.now(connection)] if stamp]
        stamp = max(known) if len(known) == max(1, len(stamps)) else None
        for row in gone:
            frame.reads[row] = None, stamp

    # -- after the commit ------------------------------------------------------------

    def batch(
        self,
        frame: Frame,
        *,
        since: float | None = None,
        allowed: bool = True,
        uncertain: bool = False,
        undone: bool = False,
    ) -> Batch:
        """Return what a root transaction pushes; its connections are back in the pool.

        Functions of the application run in here, and rows of several tables are read.

        Args:
            since: A moment before it was committed.
            allowed: Whether changes of rows are pushed; whose rights depend on them is
                asked about all the same.
            uncertain: Whether it may not have been committed.
            undone: Whether it may be that only the end of it was committed, and rows
                that were flushed earlier are not what they were.
        """
        batch = Batch(since)
        if allowed or any(group.watched for group, _ in frame.ops) or frame.stale:
            stale = dict(frame.stale)
            reads = self._all_reads(frame, stale, allowed=allowed)
            calls = allowed and any(t.calls for g, _ in frame.ops for t in g.tracked)
            with self._apart() if calls else nullcontext():
                for row, op in frame.ops.items():
                    told = op.group.tracked if allowed else op.group.watched
                    if told:
                        self._push(op, reads.get(row), batch, stale, told)
                    if uncertain and op.own is not None:
                        _invalidate(told, op.own, batch)
            for tracked in stale:
                if allowed or isinstance(tracked, Watched):
                    tracked.invalidate_everywhere(batch)
            if undone:
                batch = batch.doubted()
        for note in frame.notes:
            if allowed or not note.of_rows:
                batch.include(note.batch)
        if frame.rights is not None:
            batch.include(frame.rights)
        return batch.doubted() if uncertain else batch

    def _push(
        self,
        op: Op,
        read: Read | None,
        batch: Batch,
        stale: dict[Declared, None],
        tracked: Sequence[Declared],
    ) -> None:
        if op.doubtful:
            stale.update(dict.fromkeys(tracked))
        if read is None:
            return  # it could not be read, and all rooms are told so
        after, stamp = read
        before = op.before
        if before is SAME:
            if after is None:
                # Something took it away, a trigger or another transaction.
                if op.own is None:
                    stale.update(dict.fromkeys(tracked))
                else:
                    _invalidate(tracked, op.own, batch)
                return
            before = after
        if after is None and stamp is None and op.own is not None:
            _invalidate(tracked, op.own, batch)
        if before and after and any(before[n] != after[n] for n in op.loose):
            # Other transactions have moved it meanwhile, by other tables.
            stale.update(dict.fromkeys(tracked))
        if before is not None or after is not None:
            change = Change(before, after, op.touched, stamp)
            for each in tracked:
                each.push(change, batch)

    def _all_reads(
        self, frame: Frame, stale: dict[Declared, None], *, allowed: bool
    ) -> Mapping[RowId, Read]:
        unread: dict[tuple[Engine | Connection, Group], list[Op]] = {}
        for row, op in frame.ops.items():
            if row in frame.reads or not (allowed or op.group.watched):
                continue
            if op.group.tracked[0] not in stale:
                unread.setdefault((_bind(op.connection), op.group), []).append(op)
        if not unread:
            return frame.reads
        whole = len(frame.ops) <= _MAX_PUSHED
        reads = dict(frame.reads)
        for (bind, group), ops in unread.items():
            try:
                found = self._committed(bind, group, ops)
            except Exception as error:  # noqa: BLE001 - the view goes on
                stale.update(dict.fromkeys(group.tracked))
                self._note(group, error)
                continue
            for row, (values, stamp) in found.items():
                # What was to be read in the transaction and was not, since a listener
                # of the application came between, has no stamp that fits its others.
                ordered = whole and group.home is None
                reads[row] = values, stamp if ordered else None
        return reads

    def _committed(
        self, bind: Engine | Connection, group: Group, ops: Sequence[Op]
    ) -> dict[RowId, Read]:
        options = ops[0].connection.get_execution_options()
        translated = options.get("schema_translate_map")
        gone = frozenset(op.key for op in ops if op.gone)
        with self._rows.afterwards(bind, translated) as reader:
            # Before the rows are: another transaction may insert one of them again.
            stamp = reader.now() if gone else None
            found = reader.committed(group, [op.key for op in ops], gone=gone)
        # A row that this reader does not see need not be gone: then nothing orders it.
        return {
            op.row: found.get(op.key, (None, stamp if op.gone else None)) for op in ops
        }


def _bind(connection: Connection) -> Engine | Connection:
    """Return where the rows of a transaction that has ended are read.

    Where the application has opened the connection itself, it may have begun a
    transaction there that goes on, and nobody else sees what is in it.
    """
    return connection.engine if connection.closed else connection


def _invalidate(declared: Sequence[Declared], values: Values, batch: Batch) -> None:
    for each in declared:
        each.invalidate(values, batch)
