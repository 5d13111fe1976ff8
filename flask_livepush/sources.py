"""From which tables and columns of a database the values of a declaration are read.

A stamp orders only what a transaction has locked, so whether what is read lies in one
table or in several decides when it may be read: of one in the transaction that wrote
it, of several only after the commit (``docs/decisions.md``). What is read are plain
columns of plain tables: what the ORM adds to its own SELECTs (outer joins, unions,
criteria of loaders) would lock and show other rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import (
    Mapper,
    RelationshipDirection,
    RelationshipProperty,
)
from sqlalchemy.sql import operators, visitors
from sqlalchemy.sql.elements import BinaryExpression, BooleanClauseList

#: Under this name the values of a row have what says of which class it is.
DISCRIMINATOR = "<class>"


class NoPath(Exception):
    """A text is no path to a column of a related row; its message says why."""


@dataclass(frozen=True, slots=True)
class Path:
    """The way to a column of a related row, such as ``author.username``.

    Args:
        steps: Many-to-one relationships, from the model on.
        column: The name of the column at the end.
    """

    steps: tuple[RelationshipProperty[Any], ...]
    column: str

    @property
    def target(self) -> Mapper[Any]:
        """The model at the end."""
        return self.steps[-1].mapper


def find_path(mapper: Mapper[Any], text: str) -> Path:
    """Return the path that a text names.

    Raises:
        NoPath: A step is no many-to-one relationship, the end is no column, or a
            relationship joins by more than equal columns.
    """
    *names, end = text.split(".")
    steps = []
    for name in names:
        step = mapper.relationships.get(name)
        if step is None:
            known = ", ".join(mapper.relationships.keys()) or "none"
            raise NoPath(
                f"{mapper.class_.__name__} has no relationship {name!r}; its "
                f"relationships are {known}"
            )
        if step.direction is not RelationshipDirection.MANYTOONE or step.uselist:
            raise NoPath(
                f"the relationship {mapper.class_.__name__}.{name} leads to several "
                "rows, or its foreign key is in the other table; a path follows "
                "many-to-one relationships alone"
            )
        if not _joins_by_equal_columns(step):
            raise NoPath(
                f"the relationship {mapper.class_.__name__}.{name} joins by more than "
                "equal columns"
            )
        steps.append(step)
        mapper = step.mapper
    if not isinstance(mapper.columns.get(end), sa.Column):
        raise NoPath(
            f"{mapper.class_.__name__} has no column {end!r}; its columns are "
            f"{', '.join(mapper.columns.keys())}"
        )
    return Path(tuple(steps), end)


def _joins_by_equal_columns(step: RelationshipProperty[Any]) -> bool:
    conditions = list(_conjuncts(step.primaryjoin))
    return len(conditions) == len(step.local_remote_pairs or ()) and all(
        isinstance(c, BinaryExpression) and c.operator is operators.eq
        for c in conditions
    )


def _conjuncts(clause: Any) -> Iterable[Any]:
    if isinstance(clause, BooleanClauseList) and clause.operator is operators.and_:
        for part in clause.clauses:
            yield from _conjuncts(part)
    else:
        yield clause


class Source:
    """The tables and columns of one model, and the paths from it.

    Args:
        mapper: The model's.
        paths: Paths to columns of related rows, by the text that names them.
    """

    def __init__(self, mapper: Mapper[Any], paths: Mapping[str, Path]) -> None:
        self.mapper = mapper
        self.paths = dict(paths)
        self.columns: dict[str, Any] = dict(mapper.columns.items())
        self.primary_key = tuple(
            mapper.get_property_by_column(c).key for c in mapper.primary_key
        )
        #: The names of what has to be read to know whether a row is of the model.
        self.discriminators: frozenset[str] = frozenset()
        if mapper.single and mapper.polymorphic_on is not None:
            self.columns[DISCRIMINATOR] = mapper.polymorphic_on
            self.discriminators = frozenset((DISCRIMINATOR,))
        #: The attributes that have a column in a table, by table.
        self.attributes: dict[sa.Table, frozenset[str]] = {
            table: frozenset(
                n for n in self.columns if self._column_in(n, table) is not None
            )
            for table in mapper.tables
            if isinstance(table, sa.Table)
        }

    @property
    def key_table(self) -> sa.Table:
        """The table whose primary key is the model's."""
        table = self.mapper.primary_key[0].table
        assert isinstance(table, sa.Table)
        return table

    def is_of_model(self, values: Mapping[str, Any]) -> bool:
        """Say whether a row of the table is one of the model, and no other class's."""
        if not self.discriminators:
            return True
        return any(
            m.polymorphic_identity == values[DISCRIMINATOR]
            for m in self.mapper.self_and_descendants
        )

    def classes(self) -> frozenset[str]:
        """Return the attributes that say of which class a row is."""
        if not self.discriminators:
            return frozenset()
        return self._named(
            c
            for c in visitors.iterate(self.columns[DISCRIMINATOR])
            if isinstance(c, sa.Column)
        )

    def home(self, names: Iterable[str]) -> sa.Table | None:
        """Return the one table that has all of these columns; None: several have."""
        wanted = frozenset(names)
        found = [t for t, has in self.attributes.items() if wanted <= has]
        # With nothing but its primary key a row is in all of its tables.
        own = self.mapper.local_table
        return own if own in found else found[0] if found else None

    def parts(self, names: Iterable[str]) -> dict[sa.Table, frozenset[str]]:
        """Return columns by the tables they are in, the primary key left out.

        What is in no table alone, such as an expression over several, is left out too.
        """
        parts: dict[sa.Table, set[str]] = {}
        for name in names:
            if name in self.primary_key:
                continue
            for table, has in self.attributes.items():
                if name in has:
                    parts.setdefault(table, set()).add(name)
                    break
        return {table: frozenset(found) for table, found in parts.items()}

    def watched(self, names: Iterable[str]) -> frozenset[str]:
        """Return the attributes whose change may change one of these columns.

        An ``onupdate``, a generated column or an expression changes with any column of
        its table.
        """
        found: set[str] = set()
        for name in names:
            if name in self.paths:
                first = self.paths[name].steps[0]
                found |= self._named(first.local_columns)
                continue
            if name == DISCRIMINATOR:
                found |= self.classes()
                continue
            column = self.columns[name]
            found.add(name)
            if not isinstance(column, sa.Column):
                within = _tables(column)
                for table, has in self.attributes.items():
                    if not within or table in within:
                        found |= has
            elif column.onupdate is not None or column.server_onupdate is not None:
                found |= self.attributes.get(column.table, frozenset())
        return frozenset(found)

    def _named(self, columns: Iterable[Any]) -> frozenset[str]:
        names = set()
        for column in columns:
            try:
                names.add(self.mapper.get_property_by_column(column).key)
            except sa.orm.exc.UnmappedColumnError:
                continue
        return frozenset(names)

    def key_in(self, table: sa.Table) -> list[Any]:
        """Return a table's columns that are the model's primary key, in its order."""
        return [self._column_in(name, table) for name in self.primary_key]

    def select_in(self, table: sa.Table, names: Iterable[str]) -> sa.Select[Any]:
        """Return a SELECT of columns from one table that has all of them."""
        return sa.select(*(self._column_in(n, table) for n in names)).select_from(table)

    def select(self, names: Iterable[str]) -> sa.Select[Any]:
        """Return a SELECT of columns from all tables that it takes.

        Rows of other classes that are in the same table are among what it finds.
        """
        joins = _Joins(self.mapper)
        columns = [
            joins.column(self.paths[name]) if name in self.paths else self.columns[name]
            for name in names
        ]
        return sa.select(*columns).select_from(joins.found)

    def criterion(self) -> Any:
        """Return the condition under which a row is of the model."""
        if not self.discriminators:
            return sa.true()
        identities = [m.polymorphic_identity for m in self.mapper.self_and_descendants]
        return self.columns[DISCRIMINATOR].in_(identities)

    def _column_in(self, name: str, table: sa.Table) -> Any:
        column = self.columns[name]
        if not isinstance(column, sa.Column):
            within = _tables(column)
            alone = within == {table} and not _has_select(column)
            return column if alone else None
        if column.table is table:
            return column
        if name == DISCRIMINATOR:
            return None
        # Not by mapper.attrs, which needs all models to be there already.
        columns = self.mapper.get_property_by_column(column).columns
        return next((c for c in columns if getattr(c, "table", None) is table), None)


class _Joins:
    """What is selected from: the model's tables, and those of its paths."""

    def __init__(self, mapper: Mapper[Any]) -> None:
        self.found: Any = mapper.persist_selectable
        self._related: dict[tuple[RelationshipProperty[Any], ...], Any] = {}

    def column(self, path: Path) -> Any:
        related = self._join(path.steps)
        return _corresponding(related, path.target.columns[path.column])

    def _join(self, steps: tuple[RelationshipProperty[Any], ...]) -> Any:
        known = self._related.get(steps)
        if known is not None:
            return known
        *before, step = steps
        left = self._join(tuple(before)) if before else None
        selectable = step.mapper.persist_selectable
        right = (
            selectable.alias()
            if isinstance(selectable, sa.Table)
            else sa.select(*selectable.c).select_from(selectable).subquery()
        )
        condition = sa.and_(
            *(
                (local if left is None else _corresponding(left, local))
                == _corresponding(right, remote)
                for local, remote in step.local_remote_pairs or ()
            )
        )
        self.found = sa.outerjoin(self.found, right, condition)
        self._related[steps] = right
        return right


def _corresponding(selectable: Any, column: Any) -> Any:
    found = selectable.corresponding_column(column)
    assert found is not None, f"{column} is not in {selectable}"
    return found


def _tables(expression: Any) -> set[Any]:
    return {
        c.table
        for c in visitors.iterate(expression)
        if isinstance(c, sa.Column) and c.table is not None
    }


def _has_select(expression: Any) -> bool:
    return any(isinstance(e, sa.sql.Select) for e in visitors.iterate(expression))
