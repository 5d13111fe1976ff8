"""All that needs SQLAlchemy, behind one door that is opened when it is needed."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from sqlalchemy import event, inspect
from sqlalchemy.orm import Mapper, scoped_session

from . import snapshots
from .capture import Capture, Scope
from .commits import Note
from .declarations import Tracking
from .emitter import Emitter
from .errors import ConfigError
from .failures import Failures
from .protocol.batch import Batch
from .protocol.publication import Position
from .rooms import Room
from .rows import ProcessClock, Rows
from .sessions import Sessions, refusal
from .tracking import Tracked
from .watching import Watched


class LiveModels:
    """The tracked models of one extension, and the sessions that commit them.

    Args:
        emitter: Returns where a commit of the moment goes; None: nowhere.
        may_push: Says whether a commit may push rows, given whether it is in a scope.
        wall: Seconds since 1970.
        monotonic: Seconds of a clock that never falls.
        knows: Says whether a rule knows a room's name.
        failures: Takes note of what fails at run time.
    """

    def __init__(
        self,
        *,
        emitter: Callable[[], Emitter | None],
        may_push: Callable[[bool], bool],
        wall: Callable[[], float],
        monotonic: Callable[[], float],
        knows: Callable[[str], bool],
        failures: Failures,
    ) -> None:
        self._knows = knows
        self._failures = failures
        self._tracking = Tracking()
        self.capture = Capture(
            self._tracking,
            emitter=emitter,
            may_push=may_push,
            rows=Rows(ProcessClock(wall), monotonic),
            now=monotonic,
            failures=failures,
            apart=self._apart,
        )
        self.sessions = Sessions(self.capture.follow, failures)

    def _apart(self) -> AbstractContextManager[None]:
        return self.sessions.apart()

    def declare(self, model: Any, **declaration: Any) -> Tracked:
        """Check a declaration that holds in a scope alone."""
        for needed in ("rooms", "fields"):
            if needed not in declaration:
                raise ConfigError(
                    f"push_changes({getattr(model, '__name__', model)}, …) needs "
                    f"{needed}=, as livepush.track does."
                )
        return self._tracked(model, **declaration)

    def track(self, model: Any, **declaration: Any) -> None:
        """Add a declaration; raises ConfigError where it does not fit."""
        tracked = self._tracked(model, **declaration)
        self._tracking.add(tracked)
        self.capture.listen_to(tracked)
        if tracked.paths:
            _check_when_mapped(tracked)

    def watch_rights(self, room: Room, model: Any, **declaration: Any) -> None:
        """Add a declaration of whose rights depend on the rows of a table.

        Raises:
            ConfigError: It does not fit.
        """
        watched = Watched(room, model, **declaration)
        self._tracking.watch(watched)
        if watched.table is None:
            self.capture.listen_to(watched)

    def _tracked(self, model: Any, **declaration: Any) -> Tracked:
        return Tracked(model, knows=self._knows, failures=self._failures, **declaration)

    def watch_flask_sqlalchemy(self, db: Any) -> None:
        """Follow ``db.session``; to be called in an application's context.

        Raises:
            ConfigError: An engine is set to AUTOCOMMIT.
        """
        session = getattr(db, "session", None)
        if not isinstance(session, scoped_session):
            return  # another extension of that name; livepush.watch() is for it
        for engine in db.engines.values():
            problem = refusal(engine)
            if problem is not None:
                raise ConfigError(problem)
        metadatas = db.metadatas

        def owns(model: Any) -> bool:
            return model.metadata in metadatas.values()

        self.sessions.watch(session, owns=owns)

    def defer(self, batch: Batch, *, wait: bool, on_close: bool = True) -> bool:
        """Let a batch wait for the commit of an open transaction, if it is to."""
        return self.capture.defer(Note(batch, on_close=on_close), wait=wait)

    def pushed(self, positions: Mapping[str, Position]) -> None:
        """Let the scopes of the moment know where rooms stand."""
        self.capture.pushed(positions)

    @contextmanager
    def scope(self, tracked: tuple[Tracked, ...]) -> Iterator[dict[str, Position]]:
        """Push what is committed inside; yield where the rooms then stand."""
        with self.capture.scope(Scope(tracked)) as scope:
            yield scope.positions

    def end_unannounced(self) -> None:
        """Push what was committed in a session whose end we were not told of."""
        self.capture.end_unannounced()

    def have_read(self) -> bool:
        """Say whether a session that a view will use may hold older rows."""
        return self.capture.has_open_transaction() or self.sessions.have_read()

    def kinds_of(self, room: Room) -> list[str]:
        """Return the kinds whose rows a room has."""
        return [t.kind for t in self._tracking.of_room(room)]

    def snapshot(
        self, room: Room, name: str, values: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Read the rows of a room, by kind, in fresh sessions."""
        kinds = {}
        for tracked in self._tracking.of_room(room):
            found = snapshots.read(
                tracked,
                room,
                name,
                values,
                connect=partial(self.sessions.connection, tracked.mapper, name),
                apart=self.sessions.apart,
            )
            # Of a function nobody may know which rooms it names; mostly not this one.
            if tracked.rooms or tracked.of or tracked.select or found["rows"]:
                kinds[tracked.kind] = found
        return kinds

    def row(self, target: object) -> dict[str, Any] | None:
        """Return an object's declared fields; None when its model is not tracked."""
        for tracked in self._tracking.of_class(type(target)):
            if isinstance(tracked, Tracked):
                return tracked.row(target)
        return None

    def staleness(self, target: Any) -> Batch | None:
        """Return what tells screens that a model or an object of one is stale.

        None when it is neither.
        """
        batch = Batch()
        if isinstance(target, type):
            is_mapped = inspect(target, raiseerr=False) is not None
            found = self._tracking.of_model(target) if is_mapped else ()
            for tracked in found:
                tracked.invalidate_everywhere(batch)
        else:
            found = self._tracking.of_class(type(target))
            for tracked in found:
                tracked.invalidate_object(target, batch)
        return batch if found else None


def _check_when_mapped(tracked: Tracked) -> None:
    """Look for the paths of a declaration once all models that they lead to are there.

    SQLAlchemy maps relationships with the first query, or ``configure_mappers()``: that
    raises the ConfigError of a path that leads nowhere.
    """
    # What listens to all mappers is there for ever.
    unchecked = {weakref.ref(tracked)}

    def check() -> None:
        for reference in tuple(unchecked):
            found = reference()
            if found is None or found.mapper.configured:  # of this registry
                unchecked.discard(reference)
            if found is not None and found.mapper.configured:
                found.check_paths()

    check()
    if unchecked:
        event.listen(Mapper, "after_configured", check)
