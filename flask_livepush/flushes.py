"""What one flush of a session does to the rows of tracked models.

It says which rows a flush has written, and where those were that it moves or deletes.
What they have become is read when the transaction is about to commit, or after it;
that, and when transactions begin and end, is ``capture``'s part.

Where a row was is read under its lock, just before the statement of the flush that
writes it: another transaction may have moved it since the session loaded it. Locks are
taken on what the statement writes and nothing else, in its order, and no firmer, or
transactions that only waited for each other would deadlock. SQLAlchemy calls our
listeners for all rows of a batch before the first statement; then it goes table by
table, in each by primary key. So the first statement on a table reads for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Final, Literal

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.orm import InstanceState, Mapper, Session
from sqlalchemy.sql import operators
from sqlalchemy.sql.elements import BinaryExpression, BindParameter, BooleanClauseList

from .declarations import Group
from .row import Values
from .rows import PrimaryKey, Rows

Touched = frozenset[str] | None  # attributes that were written; None: all
RowId = tuple[Group, PrimaryKey]


class _Before(Enum):
    SAME = "same"


#: A row that was where it is afterwards: nothing was written that names its rooms.
SAME: Final = _Before.SAME


@dataclass(frozen=True, slots=True)
class Op:
    """What a transaction has done to one row so far.

    Args:
        connection: The session's connection on which it was written.
        before: Where the row was, the columns of ``Group.membership``; None: nowhere.
        gone: Whether there is no such row any more.
        touched: The attributes that were written.
        loose: Columns of ``before`` that were read without a lock, in tables that the
            flush does not write.
        own: The same columns as the session's object has them, which may be stale;
            None: it has not loaded them.
        doubtful: Whether it was somewhere that nobody can name.
    """

    group: Group
    key: PrimaryKey
    connection: Connection
    before: Values | Literal[_Before.SAME] | None
    gone: bool
    touched: Touched
    loose: frozenset[str] = frozenset()
    own: Values | None = None
    doubtful: bool = False

    @property
    def row(self) -> RowId:
        """Which row it is."""
        return self.group, self.key

    def then(self, later: Op) -> Op:
        """Join this with what the transaction did to the row later."""
        first = later if self.before is SAME else self
        before, loose = first.before, first.loose
        if first is self and loose and isinstance(later.before, Mapping):
            # Since then it has been read under the lock of its own table, which the
            # transaction had not written before.
            known = {n: later.before[n] for n in loose - later.loose}
            before = {**before, **known} if isinstance(before, Mapping) else before
            loose -= known.keys()
        return replace(
            later,
            before=before,
            loose=loose,
            touched=(
                None
                if self.touched is None or later.touched is None
                else self.touched | later.touched
            ),
            doubtful=self.doubtful or later.doubtful,
        )


@dataclass(slots=True, eq=False)
class _Coming:
    """A row that is about to be updated or deleted.

    Args:
        instance: Its object; None: a statement of the application is on it.
        connection: None: not known yet.
    """

    instance: InstanceState[Any] | None
    mapper: Mapper[Any]
    key: PrimaryKey
    groups: tuple[Group, ...]
    siblings: tuple[Group, ...]
    connection: Connection | None
    deleted: bool
    touched: frozenset[str]


@dataclass(slots=True, eq=False)
class _Put:
    connection: Connection
    old_key: PrimaryKey | None
    touched: Touched
    own: Values | None


@dataclass(slots=True, eq=False)
class _Was:
    """Where a row was: None, if there was none when its lock was taken."""

    values: dict[str, Any] | None
    loose: frozenset[str] = field(default_factory=frozenset)


class Flush:
    """A flush that is under way.

    Args:
        session: The session that flushes.
        rows: Reads rows on its connections.
        groups: Returns the declarations that hold for a class.
        siblings: Returns those that hold for an object that changes its class.
        tables: Returns those in which rows of tracked models are, with the models.
        wrote: The connections on which something was written in the transaction.
    """

    def __init__(
        self,
        session: Session,
        rows: Rows,
        groups: Callable[[type], tuple[Group, ...]],
        siblings: Callable[[type], tuple[Group, ...]],
        tables: Callable[[], Mapping[Any, tuple[Mapper[Any], ...]]],
        wrote: set[Connection],
    ) -> None:
        self._session = session
        self._rows = rows
        self._groups = groups
        self._siblings = siblings
        self._tables = tables
        self._wrote = wrote
        # Asked for each row, and the same for all of a class.
        self._known: dict[type, tuple[tuple[Group, ...], tuple[Group, ...]]] = {}
        self._coming: dict[InstanceState[Any] | PrimaryKey, _Coming] = {}
        self._before: dict[RowId, _Was] = {}
        self._seen: set[InstanceState[Any]] = set()
        self._puts: dict[RowId, _Put] = {}
        self._deletes: dict[RowId, Connection] = {}

    def _holding_for(self, cls: type) -> tuple[tuple[Group, ...], tuple[Group, ...]]:
        """Return the declarations for a class, and those for one it may change into."""
        found = self._known.get(cls)
        if found is None:
            found = self._known[cls] = self._groups(cls), self._siblings(cls)
        return found

    def before_row(
        self, connection: Connection, target: object, *, deleted: bool
    ) -> None:
        """Take notice of an object whose row is about to be updated or deleted."""
        groups, siblings = self._holding_for(type(target))
        instance: InstanceState[Any] = sa.inspect(target)
        if (groups or siblings) and instance.identity:
            touched = frozenset() if deleted else _touched(instance)
            key = tuple(instance.identity)
            self._coming[instance] = _Coming(
                instance,
                instance.mapper,
                key,
                groups,
                siblings,
                connection,
                deleted,
                touched,
            )

    def expect(
        self, mapper: Mapper[Any], keys: Sequence[PrimaryKey], *, touched: Touched
    ) -> None:
        """Take notice of a statement of the application on rows of these keys.

        Args:
            touched: The attributes that it sets; None: it deletes the rows.
        """
        groups, siblings = self._holding_for(mapper.class_)
        if touched is None:
            siblings = ()
        for key in keys:
            self._coming[key] = _Coming(
                None,
                mapper,
                key,
                groups,
                siblings,
                None,
                touched is None,
                touched or frozenset(),
            )

    def _met(self) -> None:
        """Take it that the rows which were expected are written now."""
        for coming in self._coming.values():
            if coming.instance is None and coming.connection is not None:
                put = _Put(coming.connection, coming.key, coming.touched, None)
                for group in _holding(coming.groups, coming.siblings, coming.touched):
                    if coming.deleted:
                        self._deletes[group, coming.key] = coming.connection
                    elif group.concerns(coming.touched):
                        self._puts[group, coming.key] = put

    def before_statement(self, context: Any) -> list[PrimaryKey]:
        """Read where the rows are that an UPDATE or DELETE is to move or delete.

        Called just before the database is given the statement.

        Args:
            context: Its SQLAlchemy ``ExecutionContext``.

        Returns:
            The keys of a DELETE's rows, where one is not there: mostly another
            transaction has deleted it, but before the statement runs yet another may
            insert it again. Then :meth:`deleted` must be told how many there were.
        """
        compiled: Any = context.compiled
        statement = compiled.statement
        table = getattr(statement, "table", None)
        mappers = () if table is None else self._tables().get(table, ())
        if not mappers:
            return []
        # The ORM may have annotated it; that is another object of the same hash.
        table = next(t for t in mappers[0].tables if hash(t) == hash(table))
        assert isinstance(table, sa.Table)
        connection = context.root_connection
        deleted: bool = context.isdelete
        coming = {
            c.key: c
            for c in self._coming.values()
            if c.deleted is deleted
            and c.connection in (None, connection)
            and table in c.mapper.tables
        }
        wanted: dict[Group, dict[PrimaryKey, frozenset[str] | None]] = {}
        for key, c in coming.items():
            c.connection = connection
            if not deleted and c.instance is not None:
                # A listener of the application, called after ours, may have set more.
                c.touched |= _touched(c.instance)
            for group in _holding(c.groups, c.siblings, c.touched):
                wanted.setdefault(group, {})[key] = None if deleted else c.touched
        if not deleted:
            for target, key, touched in self._unannounced(context, table, set(coming)):
                for group in _holding(*self._holding_for(type(target)), touched):
                    self._put(group, key, connection, key, touched, target)
                    wanted.setdefault(group, {})[key] = touched
        for group, rows in wanted.items():
            self._read_before(connection, group, table, rows, deleted=deleted)
        if not deleted or not any(self._is_missing(c) for c in coming.values()):
            return []
        return _statement_keys(context, table, coming)

    def _is_missing(self, coming: _Coming) -> bool:
        found = (self._before.get((group, coming.key)) for group in coming.groups)
        return any(was is not None and was.values is None for was in found)

    def deleted(self, keys: Sequence[PrimaryKey], count: int) -> None:
        """Take notice of how many of these rows a DELETE has found."""
        wanted = set(keys)
        missing = {
            row
            for row, was in self._before.items()
            if was.values is None and row[1] in wanted
        }
        if count != len(wanted) - len({key for _, key in missing}):
            for row in missing:
                del self._before[row]  # it was somewhere after all

    def _unannounced(
        self, context: Any, table: sa.Table, announced: set[PrimaryKey]
    ) -> Iterator[tuple[object, PrimaryKey, frozenset[str]]]:
        """Find the rows that an UPDATE changes and no listener was called for.

        They are those of ``relationship(post_update=True)``, those of an object that
        is deleted while another gets its key, and those of a class that is not tracked
        and becomes one that is.
        """
        names = _primary_key_binds(context.compiled, table)
        if names is None:
            return
        mappers = self._tables()[table]
        for parameters in context.compiled_parameters:
            for mapper in mappers:
                key = tuple(
                    parameters[names[column]]
                    for column in _key_columns(mapper, table)
                    if column in names
                )
                if key in announced:
                    continue
                target = self._session.identity_map.get(
                    mapper.identity_key_from_primary_key(key)
                )
                if target is not None and self._is_concerned(type(target)):
                    yield target, key, _set_attributes(target, table, parameters, names)

    def _is_concerned(self, cls: type) -> bool:
        return any(self._holding_for(cls))

    def _read_before(
        self,
        connection: Connection,
        group: Group,
        table: sa.Table,
        rows: dict[PrimaryKey, frozenset[str] | None],
        *,
        deleted: bool,
    ) -> None:
        if table not in group.parts:
            return
        keys = [key for key in rows if self._is_unread((group, key), table)]
        if not deleted:
            # With those that move, those that are merely updated in the same table:
            # their turn is in between.
            written = group.source.attributes[table]
            keys = [key for key in keys if (rows[key] or frozenset()) & written]
            if not any(group.moves(rows[key]) for key in keys):
                return
        if not keys:
            return
        self._become_writer(connection, table)
        found = self._rows.about_to_change(
            connection, group, table, keys, deleted=deleted
        )
        primary_key = group.source.primary_key
        others = group.membership - set(primary_key) - group.parts[table]
        elsewhere: dict[PrimaryKey, Values] = {}
        if others:
            some = [key for key in keys if (group, key) not in self._before]
            if some:
                elsewhere = self._rows.unlocked(connection, group, others, some)
        for key in keys:
            if key not in found:
                self._before.setdefault((group, key), _Was(None))
                continue
            was = self._before.get((group, key))
            if was is None or was.values is None:
                was = _Was({**elsewhere.get(key, {})}, others)
                self._before[group, key] = was
            assert was.values is not None
            was.values.update(found[key])
            was.loose -= group.parts[table]

    def _is_unread(self, row: RowId, table: sa.Table) -> bool:
        was = self._before.get(row)
        return was is None or bool(was.loose & row[0].parts[table])

    def _become_writer(self, connection: Connection, table: sa.Table) -> None:
        if connection.dialect.name != "sqlite":
            return
        driver = connection.connection.dbapi_connection
        # In its legacy mode the driver commits at the end of a savepoint.
        begun = getattr(driver, "in_transaction", True)
        if connection not in self._wrote or not begun:
            self._rows.become_writer(connection, table)
            self._wrote.add(connection)

    def put(
        self, mapper: Mapper[Any], connection: Connection, target: object, *, new: bool
    ) -> None:
        """Note that an object's row was inserted or updated."""
        instance: InstanceState[Any] = sa.inspect(target)
        if instance in self._seen:
            return  # of a class and a base class that are both listened to
        self._seen.add(instance)
        coming = self._coming.pop(instance, None)
        groups, siblings = (
            (coming.groups, coming.siblings)
            if coming
            else (self._holding_for(type(target))[0], ())
        )
        if not (groups or siblings):
            return
        key = tuple(mapper.primary_key_from_instance(target))
        old = None if new or not instance.identity else tuple(instance.identity)
        # Nobody was told where a row is switched: deleted and added in one flush.
        touched = coming.touched | _touched(instance) if coming else None
        for group in _holding(groups, siblings, touched):
            if touched is None or group.concerns(touched):
                self._put(group, key, connection, old, touched, target)

    def _put(
        self,
        group: Group,
        key: PrimaryKey,
        connection: Connection,
        old_key: PrimaryKey | None,
        touched: Touched,
        target: object,
    ) -> None:
        known = self._puts.get((group, key))
        if known is not None and known.touched is not None and touched is not None:
            touched |= known.touched
        own = None
        if group.home is None:
            loaded: dict[str, Any] = sa.inspect(target).dict
            names = group.membership
            if names <= loaded.keys():
                own = {name: loaded[name] for name in names}
        self._puts[group, key] = _Put(connection, old_key, touched, own)

    def delete(self, connection: Connection, target: object) -> None:
        """Note that an object's row was deleted."""
        instance: InstanceState[Any] = sa.inspect(target)
        self._coming.pop(instance, None)
        key = tuple(instance.identity or ())
        for group in self._groups(type(target)):
            self._deletes[group, key] = connection

    def ops(self) -> Iterator[Op]:
        """Return what the flush did to each row."""
        self._met()
        yield from self._deleted()
        for (group, key), put in self._puts.items():
            before, was = self._was(group, key, put)
            yield Op(
                group,
                key,
                put.connection,
                before,
                gone=False,
                touched=put.touched,
                loose=frozenset() if was is None else was.loose,
                own=put.own,
                # It was somewhere, and is written now; or nobody has looked.
                doubtful=before is None and put.old_key == key,
            )

    def _was(
        self, group: Group, key: PrimaryKey, put: _Put
    ) -> tuple[Values | Literal[_Before.SAME] | None, _Was | None]:
        was = self._before.get((group, key))
        if was is not None:
            return _with_key(group, key, was.values), was
        if put.old_key is None or put.old_key != key:
            return None, None  # no row had this primary key
        return (None if group.moves(put.touched) else SAME), None

    def _deleted(self) -> Iterator[Op]:
        gone = dict(self._deletes)
        for (group, key), put in self._puts.items():
            gone.pop((group, key), None)
            if put.old_key is not None and put.old_key != key:
                gone[group, put.old_key] = put.connection  # its key was changed
        for (group, key), connection in gone.items():
            if (group, key) in self._puts:
                continue
            was = self._before.get((group, key))
            if was is not None and was.values is None:
                continue  # another transaction has deleted it, and says so itself
            yield Op(
                group,
                key,
                connection,
                None if was is None else _with_key(group, key, was.values),
                gone=True,
                touched=None,
                loose=frozenset() if was is None else was.loose,
                doubtful=was is None,
            )


def _holding(
    groups: Sequence[Group], siblings: Sequence[Group], touched: Touched
) -> Sequence[Group]:
    """Return the declarations for a row, with those of a class that it changes into."""
    if not siblings or not touched:
        return groups
    return [*groups, *(g for g in siblings if g.classes & touched)]


def _with_key(
    group: Group, key: PrimaryKey, values: Values | None
) -> dict[str, Any] | None:
    if values is None:
        return None
    return {**dict(zip(group.source.primary_key, key, strict=True)), **values}


def _touched(instance: InstanceState[Any]) -> frozenset[str]:
    """Return the columns whose new values the flush is writing."""
    return frozenset(
        name
        for name in list(instance.committed_state)
        if name in instance.mapper.columns
        and instance.attrs[name].history.has_changes()
    )


def _primary_key_binds(compiled: Any, table: sa.Table) -> dict[Any, str] | None:
    """Return the parameters that the WHERE of a flush compares the primary key with.

    None: it is no statement of a flush on one row after the other.
    """
    clause = compiled.statement.whereclause
    names: dict[Any, str] = compiled.bind_names
    conditions = (
        list(clause.clauses) if isinstance(clause, BooleanClauseList) else [clause]
    )
    # An application's statement has names that are made up when it is compiled.
    found = {
        condition.left: names[condition.right]
        for condition in conditions
        if isinstance(condition, BinaryExpression)
        and condition.operator is operators.eq
        and isinstance(condition.right, BindParameter)
        and condition.right in names
    }
    return found if all(c in found for c in table.primary_key) else None


def _statement_keys(
    context: Any, table: sa.Table, coming: dict[PrimaryKey, _Coming]
) -> list[PrimaryKey]:
    """Return the primary keys of the rows that a statement is on."""
    names = _primary_key_binds(context.compiled, table)
    if names is None:
        return list(coming)
    mapper = next(iter(coming.values())).mapper
    columns = _key_columns(mapper, table)
    found = [tuple(p[names[c]] for c in columns) for p in context.compiled_parameters]
    return [key for key in found if key in coming]


def _key_columns(mapper: Mapper[Any], table: sa.Table) -> list[Any]:
    """Return a table's columns that are a mapper's primary key, in its order."""
    return [
        next(
            (c for c in mapper.get_property_by_column(p).columns if c.table is table), p
        )
        for p in mapper.primary_key
    ]


def _set_attributes(
    target: object, table: sa.Table, parameters: dict[str, Any], binds: dict[Any, str]
) -> frozenset[str]:
    """Return the attributes of an object that an UPDATE of its row sets."""
    mapper = sa.inspect(type(target))
    where = set(binds.values())
    names = set()
    for column in table.columns:
        if column.key in parameters and column.key not in where:
            try:
                names.add(mapper.get_property_by_column(column).key)
            except sa.orm.exc.UnmappedColumnError:
                continue
    return frozenset(names)
