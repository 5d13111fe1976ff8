"""What one flush of a session does to the rows of tracked models.

Everything is read while the transaction holds the rows' locks: before their UPDATE or
DELETE where the rows are that it moves or deletes, after the flush what they have
become, with a stamp. When transactions begin and end is ``capture``'s part.

Reading where rows are locks them, a moment before the flush would. Locks must be taken
in the order of the flush's own statements, and be no firmer, or transactions that only
waited for each other would deadlock. SQLAlchemy updates one mapper's rows after the
other's, and at last deletes; in each it goes by primary key, and calls our listeners
for all rows before the first statement. So the first call reads for all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import (
    InstanceState,
    Mapper,
    RelationshipDirection,
    Session,
)

from .rows import PrimaryKey, Rows
from .tracking import Tracked, Values

Group = tuple[Tracked, ...]  # the declarations of one model
RowId = tuple[type, PrimaryKey]


@dataclass(frozen=True, slots=True)
class Op:
    """What a flush did to one row.

    Args:
        before: Where the row was, the columns of ``Tracked.membership``; None: nowhere.
        after: What it is, the columns of ``Tracked.reads``; None: gone.
        touched: The columns that were written; None: all.
        stamp: Orders the versions of the row, in microseconds; None: nothing does.
    """

    tracked: Group
    row: RowId
    before: Values | None
    after: Values | None
    touched: frozenset[str] | None
    stamp: int | None

    def then(self, later: Op) -> Op:
        """Join this with what a later flush of the transaction did to the row."""
        touched = (
            None
            if self.touched is None or later.touched is None
            else self.touched | later.touched
        )
        return replace(later, before=self.before, touched=touched)


@dataclass(frozen=True, slots=True)
class _Put:
    group: Group
    old_key: PrimaryKey | None
    touched: frozenset[str] | None


class Flush:
    """A flush that is under way.

    Args:
        session: The session that flushes.
        rows: Reads rows on its connections.
        groups: Returns the declarations that hold for a class, by model.
    """

    def __init__(
        self,
        session: Session,
        rows: Rows,
        groups: Callable[[type], tuple[Group, ...]],
    ) -> None:
        self._session = session
        self._rows = rows
        self._groups = groups
        self._before: dict[RowId, Values | None] = {}
        self._begun: set[tuple[Group, bool]] = set()
        self._touched: dict[InstanceState[Any], frozenset[str]] = {}
        self._puts: dict[RowId, _Put] = {}
        self._deletes: dict[RowId, Group] = {}
        # Their rows have left rooms that nobody can name.
        self.doubtful: set[Tracked] = set()

    def begin(self) -> None:
        """Become the writer, in a database that has one, if rows may leave their rooms.

        Read at once where rows are whose object is deleted while another gets their
        key: that is one UPDATE, which :meth:`before_row` is not called for.
        """
        writes: dict[Group, None] = {}
        for target, deleted in (
            *((o, True) for o in self._session.deleted),
            *((o, False) for o in self._session.dirty),
        ):
            for group in self._groups(type(target)):
                if deleted or _may_move(sa.inspect(target), group):
                    writes[group] = None
        for group in writes:
            self._rows.become_writer(self._session, group[0])
        self._read_exchanged()

    def _read_exchanged(self) -> None:
        if not (self._session.deleted and self._session.new):
            return
        new: dict[Mapper[Any], set[PrimaryKey]] = {}
        for target in self._session.new:
            mapper = sa.inspect(target).mapper
            key = tuple(mapper.primary_key_from_instance(target))
            new.setdefault(mapper.base_mapper, set()).add(key)
        wanted: dict[Group, list[PrimaryKey]] = {}
        for target in self._session.deleted:
            mapper = sa.inspect(target).mapper
            key = tuple(sa.inspect(target).identity or ())
            keys = new.get(mapper.base_mapper, set())
            # A key that is a foreign key may be set during the flush.
            unknown = keys and any(column.foreign_keys for column in mapper.primary_key)
            if key in keys or unknown:
                for group in self._groups(type(target)):
                    wanted.setdefault(group, []).append(key)
        for group, found in wanted.items():
            self._read_before(group, found, deleted=False)

    def before_row(self, target: object, *, deleted: bool) -> None:
        """Look at an object just before its UPDATE or DELETE.

        Its foreign keys are set by now, and orphans are known to be deleted; where that
        shows that the row moves after all, it is read now.
        """
        instance: InstanceState[Any] = sa.inspect(target)
        touched = _touched(instance)
        self._touched[instance] = touched | self._touched.get(instance, frozenset())
        for group in self._groups(type(target)):
            if (group, deleted) not in self._begun:
                self._begun.add((group, deleted))
                self._read_all(group, deleted=deleted)
            key = tuple(instance.identity or ())
            moves = deleted or any(
                touched & t.membership or (touched and t.follow & t.membership)
                for t in group
            )
            if key and moves and (group[0].model, key) not in self._before:
                self._read_before(group, [key], deleted=deleted)

    def put(self, mapper: Mapper[Any], target: object, *, inserted: bool) -> None:
        """Note that an object's row was inserted or updated."""
        instance: InstanceState[Any] = sa.inspect(target)
        key = tuple(mapper.primary_key_from_instance(target))
        old = None if inserted or not instance.identity else tuple(instance.identity)
        # Not there where a row is switched: deleted and added in one flush.
        touched = self._touched.get(instance)
        if touched is not None:
            # A listener of the application, called after ours, may have set more.
            touched |= _touched(instance)
        for group in self._groups(type(target)):
            model = group[0].model
            self._puts[model, key] = _Put(group, old, touched)
            if old and touched and (model, old) not in self._before:
                self.doubtful.update(t for t in group if touched & t.membership)

    def delete(self, target: object) -> None:
        """Note that an object's row was deleted."""
        key = tuple(sa.inspect(target).identity or ())
        for group in self._groups(type(target)):
            self._deletes[group[0].model, key] = group

    def ops(self) -> list[Op]:
        """Read what the rows have become, and return what the flush did to each."""
        return [*self._deleted(), *self._written()]

    def concerned(self) -> list[Tracked]:
        """Return the declarations of the rows that were flushed."""
        groups = (*self._deletes.values(), *(p.group for p in self._puts.values()))
        return list(dict.fromkeys(t for group in groups for t in group))

    def _read_all(self, group: Group, *, deleted: bool) -> None:
        """Read where the rows of a model are that are deleted, or moved.

        With those that move, those that are merely updated: their turn is in between.
        """
        instances: list[InstanceState[Any]] = [
            sa.inspect(target)
            for target in (self._session.deleted if deleted else self._session.dirty)
            if group in self._groups(type(target))
        ]
        if not deleted:
            instances = [i for i in instances if _touched(i) or _may_move(i, group)]
            if not any(_may_move(instance, group) for instance in instances):
                return
        keys = [tuple(i.identity) for i in instances if i.identity]
        self._read_before(group, keys, deleted=deleted)

    def _read_before(
        self, group: Group, keys: list[PrimaryKey], *, deleted: bool
    ) -> None:
        keys = [key for key in keys if (group[0].model, key) not in self._before]
        found = self._rows.about_to_change(self._session, group, keys, deleted=deleted)
        for key in keys:
            self._before[group[0].model, key] = found.get(key)

    def _deleted(self) -> list[Op]:
        gone = dict(self._deletes)
        for row, put in self._puts.items():
            gone.pop(row, None)
            if put.old_key is not None and put.old_key != row[1]:
                gone[row[0], put.old_key] = put.group  # its primary key was changed
        ops = []
        stamps: dict[type, int | None] = {}
        for row, group in gone.items():
            if row in self._puts:
                continue
            before = self._before.get(row)
            if before is None:
                self.doubtful.update(group)
                continue
            if row[0] not in stamps:
                stamps[row[0]] = self._rows.now(self._session, group[0])
            ops.append(Op(group, row, before, None, None, stamps[row[0]]))
        return ops

    def _written(self) -> list[Op]:
        by_group: dict[Group, list[RowId]] = {}
        for row, put in self._puts.items():
            if put.touched is None or put.touched:
                by_group.setdefault(put.group, []).append(row)
        ops = []
        for group, wanted in by_group.items():
            found = self._rows.written(self._session, group, [key for _, key in wanted])
            for row in wanted:
                if row[1] in found:  # else a trigger has taken it away again
                    after, stamp = found[row[1]]
                    put = self._puts[row]
                    before = self._was(row, put, after)
                    ops.append(Op(group, row, before, after, put.touched, stamp))
        return ops

    def _was(self, row: RowId, put: _Put, after: Values) -> Values | None:
        if row in self._before:
            before = self._before[row]
            if before is None and put.old_key == row[1]:
                self.doubtful.update(put.group)  # it was somewhere
            return before
        if put.old_key is None or put.old_key != row[1]:
            return None  # no row had this primary key
        return after  # nothing was written that names its rooms


def _touched(instance: InstanceState[Any]) -> frozenset[str]:
    """Return the columns whose new values the flush is writing."""
    return frozenset(
        name
        for name in list(instance.committed_state)
        if name in instance.mapper.columns
        and instance.attrs[name].history.has_changes()
    )


def _may_move(instance: InstanceState[Any], group: Group) -> bool:
    """Say, before it is written, whether that may change what rooms the row is in."""
    membership = frozenset().union(*(t.membership for t in group))
    changed = instance.committed_state
    if any(name in membership for name in changed):
        return True
    if changed and any(t.follow & t.membership for t in group):
        return True
    # A foreign key is set from its relationship only during the flush.
    mapper = instance.mapper
    for name in changed:
        relationship = mapper.relationships.get(name)
        if (
            relationship is not None
            and relationship.direction is RelationshipDirection.MANYTOONE
            and any(
                mapper.get_property_by_column(column).key in membership
                for column in relationship.local_columns
            )
        ):
            return True
    return False
