"""All declarations of one extension: which of them hold for a class, a table, a room.

Those of one model that are read at once, in one way, are a :class:`Group`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapper

from .errors import ConfigError
from .rooms import Room
from .sources import Source
from .tracking import Tracked
from .watching import Watched

#: What is declared of a model.
Declared = Tracked | Watched

# What is remembered of declarations that hold in blocks alone.
_MAX_GROUPS = 1_000


class Group:
    """Declarations of one model whose columns are read at once, in one way.

    Args:
        tracked: Of one model; all with the same home, or none.
        home: The table that has all that they read, while a transaction has its row
            locked; None: what they read is read after the commit.
    """

    def __init__(self, tracked: Sequence[Declared], home: sa.Table | None) -> None:
        self.tracked = tuple(tracked)
        #: Those of them that say whose rights are to be asked about again, and no more.
        self.watched = tuple(t for t in tracked if isinstance(t, Watched))
        self.home = home
        self.model: type = tracked[0].model
        self.mapper = tracked[0].mapper
        paths = {text: path for t in tracked for text, path in t.source.paths.items()}
        self.source = Source(self.mapper, paths)
        self.reads: frozenset[str] = frozenset().union(*(t.reads for t in tracked))
        self.membership: frozenset[str] = frozenset().union(
            *(t.membership for t in tracked)
        )
        #: The columns that say in which rooms a row is, by table.
        self.parts = self._parts()
        self.classes = self.source.classes()

    def __repr__(self) -> str:
        return f"<Group of {self.tracked}>"

    def _parts(self) -> dict[sa.Table, frozenset[str]]:
        if self.home is not None:
            return {self.home: self.membership - set(self.source.primary_key)}
        found = self.source.parts(self.membership)
        return found or {self.source.key_table: frozenset()}

    def concerns(self, touched: frozenset[str] | None) -> bool:
        """Say whether what is read may have changed with these attributes."""
        return any(t.concerns(touched) for t in self.tracked)

    def moves(self, touched: frozenset[str] | None) -> bool:
        """Say whether a row's rooms may have changed with these attributes."""
        return any(t.moves(touched) for t in self.tracked)


def _grouped(tracked: Sequence[Declared], late: frozenset[str]) -> tuple[Group, ...]:
    """Put declarations together; ``late`` are kinds to be read after the commit."""
    found: dict[tuple[type, sa.Table | None], list[Declared]] = {}
    for t in tracked:
        if isinstance(t, Tracked):
            home = None if t.kind in late else t.home
            found.setdefault((t.model, home), []).append(t)
    for t in tracked:
        if isinstance(t, Watched):
            # Nothing orders what it says: it may be read with the rest.
            own = (t.model, t.home)
            found.setdefault(
                (t.model, None)
                if own not in found and (t.model, None) in found
                else own,
                [],
            ).append(t)
    return tuple(Group(several, home) for (_, home), several in found.items())


def _covers(tracked: Declared, mapper: Mapper[Any]) -> bool:
    """Say whether a declaration holds for the objects of a mapper.

    The rows of a concrete subclass are in a table of their own, with keys of their own.
    """
    found: Mapper[Any] | None = mapper
    while found is not None and found is not tracked.mapper:
        found = None if found.concrete else found.inherits
    return found is not None


def _by_table(
    tracked: Iterable[Declared],
) -> Mapping[Any, tuple[Mapper[Any], ...]]:
    found: dict[Any, dict[Mapper[Any], None]] = {}
    for t in tracked:
        for table in t.mapper.tables:
            found.setdefault(table, {})[t.mapper] = None
    return {table: tuple(mappers) for table, mappers in found.items()}


class Tracking:
    """All declarations of one extension."""

    def __init__(self) -> None:
        self._tracked: list[Declared] = []
        #: The tables by whose rows rights change, with what is declared of them.
        self.watched: dict[Any, tuple[Watched, ...]] = {}
        self._forget()

    def _forget(self) -> None:
        self._by_class: dict[type, tuple[Declared, ...]] = {}
        self._by_model: dict[tuple[Any, ...], tuple[Group, ...]] = {}
        self._groups: dict[tuple[Any, ...], tuple[Group, ...]] = {}
        self._siblings: dict[type, tuple[Group, ...]] = {}
        self._rights: dict[type, tuple[Group, ...]] = {}
        self._rights_by_model: dict[type, tuple[Group, ...]] = {}
        self._tables: Mapping[Any, tuple[Mapper[Any], ...]] | None = None

    def add(self, tracked: Tracked) -> None:
        """Add a declaration.

        Raises:
            ConfigError: Another model has the same kind in the same room, or the same
                declaration exists.
        """
        for other in self._tracked:
            if isinstance(other, Watched) or other.kind != tracked.kind:
                continue
            others = other.rooms or other.of
            shared = [r for r in tracked.rooms or tracked.of if r in others]
            if shared:
                raise ConfigError(
                    f"track() of {tracked.name}: room {shared[0].pattern.text!r} has "
                    f"the kind {tracked.kind!r} of {other.name} already; give "
                    "another with kind=."
                )
        self._tracked.append(tracked)
        self._forget()

    def watch(self, watched: Watched) -> None:
        """Add a declaration of whose rights depend on the rows of a table."""
        for table in watched.tables:
            self.watched[table] = (*self.watched.get(table, ()), watched)
        if watched.table is None:
            self._tracked.append(watched)
            self._forget()

    def all(self) -> tuple[Declared, ...]:
        """Return all declarations of models."""
        return tuple(self._tracked)

    def of_model(self, cls: type) -> tuple[Declared, ...]:
        """Return the declarations whose rows a statement on a class may touch."""
        return tuple(
            t
            for t in self._tracked
            if issubclass(cls, t.model) or issubclass(t.model, cls)
        )

    def of_class(self, cls: type) -> tuple[Declared, ...]:
        """Return the declarations that hold for objects of a class."""
        found = self._by_class.get(cls)
        if found is None:
            mapper: Mapper[Any] | None = sa.inspect(cls, raiseerr=False)
            found = tuple(t for t in self._tracked if mapper and _covers(t, mapper))
            self._by_class[cls] = found
        return found

    def groups(self, cls: type, more: tuple[Declared, ...] = ()) -> tuple[Group, ...]:
        """Return the same, those of one model that are read in one way together.

        Args:
            more: Declarations that hold besides, at the moment.
        """
        key = (cls, *more)
        found = self._groups.get(key)
        if found is None:
            mapper: Mapper[Any] = sa.inspect(cls)
            own = (*self.of_class(cls), *(t for t in more if _covers(t, mapper)))
            models = dict.fromkeys(t.model for t in own)
            groups = [g for m in models for g in self._groups_of(m, more)]
            if len(self._groups) >= _MAX_GROUPS:
                self._groups.clear()
            found = self._groups[key] = tuple(groups)
        return found

    def _groups_of(self, model: type, more: tuple[Declared, ...]) -> tuple[Group, ...]:
        # One for all classes that have them: a row has one entry in a commit.
        key = (model, *more)
        found = self._by_model.get(key)
        if found is None:
            known = (*self._tracked, *more)
            late = frozenset(t.kind for t in known if t.home is None and t.kind)
            found = _grouped([t for t in known if t.model is model], late)
            if len(self._by_model) >= _MAX_GROUPS:
                self._by_model.clear()
            self._by_model[key] = found
        return found

    def rights(self, cls: type) -> tuple[Group, ...]:
        """Return the groups for a class of what is watched alone."""
        if not self.watched:
            return ()
        found = self._rights.get(cls)
        if found is None:
            own = [t for t in self.of_class(cls) if isinstance(t, Watched)]
            models = dict.fromkeys(t.model for t in own)
            groups = (self._rights_of(model) for model in models)
            found = self._rights[cls] = tuple(g for several in groups for g in several)
        return found

    def _rights_of(self, model: type) -> tuple[Group, ...]:
        found = self._rights_by_model.get(model)
        if found is None:
            own = [t for t in self._tracked if isinstance(t, Watched)]
            own = [t for t in own if t.model is model]
            found = self._rights_by_model[model] = _grouped(own, frozenset())
        return found

    def siblings(self, cls: type) -> tuple[Group, ...]:
        """Return the groups whose rows an object becomes that changes its class.

        They are other classes of the same table, told apart by a discriminator.
        """
        found = self._siblings.get(cls)
        if found is None:
            mapper: Mapper[Any] = sa.inspect(cls)
            own = self.of_class(cls)
            models = dict.fromkeys(
                t.model
                for t in self._tracked
                if t.mapper.single
                and t.mapper.local_table is mapper.local_table
                and t not in own
            )
            groups = (g for m in models for g in self._groups_of(m, ()))
            found = self._siblings[cls] = tuple(groups)
        return found

    def tables(
        self, more: tuple[Declared, ...] = ()
    ) -> Mapping[Any, tuple[Mapper[Any], ...]]:
        """Return the tables in which rows of tracked models are, with the models."""
        if more:
            return _by_table((*self._tracked, *more))
        if self._tables is None:
            self._tables = _by_table(self._tracked)
        return self._tables

    def of_room(self, room: Room) -> tuple[Tracked, ...]:
        """Return the declarations that have rows in a kind of room."""
        return tuple(
            t for t in self._tracked if isinstance(t, Tracked) and t.belongs_to(room)
        )
