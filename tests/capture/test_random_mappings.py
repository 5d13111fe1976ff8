"""Random programs on mappings that are less simple than a table and a room.

As in ``test_random_programs``, with joined inheritance, values of related rows,
columns that ``post_update`` writes, functions for rooms and fields, keys that are
UUIDs, classes that change, statements by key, and listeners of others that raise.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from random import Random
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from tests.capture.test_random_programs import Programs
from tests.support.following import World, closing

DESKS = (1, 2, 3)
STATES = ("a", "b")
PEOPLE = (1, 2, 3)
# Listeners that raise: registered before ours, after it, and after it as the first.
BEFORE, AFTER, FIRST = (f"after_commit, {n}" for n in ("before", "after", "first"))
RAISING = (BEFORE, AFTER, FIRST, "before_commit", "after_flush")


class SearchIsDown(Exception):
    """Raised by a listener of the application."""


class Office(World):
    """Jobs in two tables, teams and people that refer to each other, notes, pets."""

    #: The listener that is to raise next, and the one that raised last.
    raises: str | None = None
    raised: str | None = None
    #: What a listener of before_commit does besides.
    also: Callable[[Session], None] | None = None

    def sessionmaker(self) -> Any:
        maker = super().sessionmaker()
        # Registered before LivePush follows it.
        sa.event.listen(maker, "after_commit", self._listener(BEFORE))
        return maker

    def __init__(self, url: str) -> None:
        super().__init__(url)
        base, track = self.Base, self.livepush.track
        desk, state = self.room("desk:<int:desk_id>"), self.room("state:<state>")
        led, under = self.room("led:<int:lead_id>"), self.room("under:<int:up_id>")

        class Person(base):  # type: ignore[misc, valid-type]
            __tablename__ = "people"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]
            up_id: Mapped[int | None] = mapped_column(sa.ForeignKey("people.id"))
            up: Mapped[Any] = relationship(
                "Person", remote_side=[id], post_update=True, back_populates="downs"
            )
            downs: Mapped[list[Any]] = relationship(
                "Person", post_update=True, back_populates="up"
            )

        class Team(base):  # type: ignore[misc, valid-type]
            __tablename__ = "teams"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]
            lead_id: Mapped[int | None] = mapped_column(sa.ForeignKey("people.id"))
            lead: Mapped[Any] = relationship(Person, post_update=True)

        class Task(base):  # type: ignore[misc, valid-type]
            __tablename__ = "tasks"
            id: Mapped[int] = mapped_column(primary_key=True)
            type: Mapped[str] = mapped_column(default="task")
            desk_id: Mapped[int | None]
            title: Mapped[str | None]
            hidden: Mapped[str | None]
            edits: Mapped[int] = mapped_column(default=0, onupdate=1)
            person_id: Mapped[int | None] = mapped_column(sa.ForeignKey("people.id"))
            person: Mapped[Any] = relationship(Person)
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "type",
                "polymorphic_identity": "task",
            }

        class Job(Task):
            __tablename__ = "jobs"
            id: Mapped[int] = mapped_column(sa.ForeignKey("tasks.id"), primary_key=True)
            state: Mapped[str | None]
            done: Mapped[int] = mapped_column(default=0)
            __mapper_args__ = {"polymorphic_identity": "job"}  # noqa: RUF012

        class Note(base):  # type: ignore[misc, valid-type]
            __tablename__ = "notes"
            id: Mapped[UUID] = mapped_column(sa.Uuid, primary_key=True)
            desk_id: Mapped[int | None]
            text: Mapped[str | None]

        class Pet(base):  # type: ignore[misc, valid-type]
            __tablename__ = "pets"
            id: Mapped[int] = mapped_column(primary_key=True)
            kind: Mapped[str | None]
            desk_id: Mapped[int | None]
            name: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "kind",
                "polymorphic_identity": "pet",
            }

        class Dog(Pet):
            __mapper_args__ = {"polymorphic_identity": "dog"}  # noqa: RUF012

        class Cat(Pet):
            __mapper_args__ = {"polymorphic_identity": "cat"}  # noqa: RUF012

        options: dict[str, Any] = {"latest": 10_000}
        track(
            rooms=(desk, state),
            fields={
                "id": "id",
                "title": "title",
                "state": "state",
                "edits": "edits",
                "by": "person.name",
            },
            **options,
        )(Job)
        track(rooms=desk, fields=("id", "title"), kind="brief", **options)(Job)
        track(rooms=state, fields=("id", "done"), kind="progress", **options)(Job)
        track(rooms=desk, fields=("id", "title"), **options)(Task)
        track(
            rooms=desk, fields={"id": "id", "by": "person.name"}, kind="by", **options
        )(Task)
        track(rooms=led, fields=("id", "name", "lead_id"), **options)(Team)
        track(
            rooms=under,
            fields={"id": "id", "name": "name", "up": "up.name"},
            **options,
        )(Person)
        track(rooms=under, fields=("id", "up_id"), kind="place", **options)(Person)
        track(
            rooms=lambda note: [f"desk:{note.desk_id}"] if note.desk_id else None,
            of=desk,
            columns=("desk_id", "text"),
            fields={"id": str, "text": lambda note: (note.text or "").upper()},
            order_by="id",
            **options,
        )(Note)
        track(rooms=desk, fields=("id", "name"), **options)(Dog)
        track(
            rooms=desk,
            fields=("id", "name"),
            when=lambda cat: cat.name != "away",
            **options,
        )(Cat)
        self.Person, self.Team, self.Task, self.Job = Person, Team, Task, Job
        self.Note, self.Pet, self.Dog, self.Cat = Note, Pet, Dog, Cat
        self.create_tables()
        listen, maker = sa.event.listen, self.Session
        listen(maker, "after_commit", self._listener(AFTER))
        listen(maker, "after_commit", self._listener(FIRST), insert=True)
        listen(maker, "before_commit", self._do_also)
        listen(maker, "before_commit", self._listener("before_commit"))
        listen(maker, "after_flush", self._listener("after_flush"))
        self.empty()

    def _listener(self, name: str) -> Callable[..., None]:
        def listener(*_: Any) -> None:
            if self.raises == name:
                self.raises, self.raised = None, name
                raise SearchIsDown

        return listener

    def _do_also(self, session: Session) -> None:
        also, self.also = self.also, None
        if also is not None:
            also(session)

    def empty(self) -> None:
        """Take all rows away, and let there be a few people."""
        with self.Session() as session:
            session.execute(sa.update(self.Person).values(up_id=None))
            for model in (self.Team, self.Job, self.Task, self.Note, self.Pet):
                session.execute(sa.delete(model.__table__))
                self.livepush.invalidate(model if model is not self.Pet else self.Dog)
            self.livepush.invalidate(self.Cat)
            session.execute(sa.delete(self.Person))
            session.add_all([self.Person(id=i, name=f"p{i}") for i in PEOPLE])
            session.commit()


class Mappings(Programs):
    """Runs random programs on such mappings.

    Args:
        office: The application.
        seed: With it and its number, a program does the same again.
    """

    def __init__(self, office: Office, seed: str) -> None:
        self.office: Any = office
        self.chat: Any = office
        self.seed = seed
        names = [
            *(f"desk:{i}" for i in DESKS),
            *(f"state:{s}" for s in STATES),
            *(f"led:{i}" for i in PEOPLE),
            *(f"under:{i}" for i in PEOPLE),
        ]
        self.all = [office.screen(name) for name in names]
        self.random = Random()
        self.log = []
        self.ends = self.events = 0
        #: Whether a program has done nothing after which rooms are to read anew.
        self.precise = True
        # Events of the application, those that had to arrive and those that did.
        self.expected = self.arrived = 0
        self._data = [
            (9, self._insert),
            (12, self._update),
            (8, self._move),
            (6, self._relate),
            (4, self._delete),
            (2, self._replace),
            (2, self._rename),
            (2, self._become),
            (4, self._by_key),
            (1, self._in_bulk),
            (5, self._flush),
            (1, self._expire),
            (4, self._savepoint),
        ]
        self._control = [
            (3, self._begin_nested),
            (2, self._release),
            (2, self._roll_back_to),
            (5, self._commit),
            (1, self._roll_back),
            (1, self._close),
            (2, self._raise),
            (2, self._write_before_commit),
        ]

    def run(self, number: int) -> None:
        """Run one program; it ends where a listener raises."""
        self.random = Random(f"{self.seed}:{number}")
        self.log = [f"FUZZ_SEED={self.seed}, program {number}"]
        self.precise = True
        with self.office.Session(
            expire_on_commit=self._chance(0.5), autoflush=self._chance(0.8)
        ) as session:
            try:
                for _ in range(self.random.randrange(3, 16)):
                    self._step(session, [*self._data, *self._control])
                if self._chance(0.8):
                    self._step(session, [(2, self._commit), (1, self._roll_back)])
            except SearchIsDown:
                self.log.append("a listener raised")
        self.office.raises = self.office.also = None
        self.check()

    def check(self) -> None:
        """Compare, at the end of a transaction."""
        self.ends += 1
        for screen in self.all:
            told = [event for event, _ in screen.follow()]
            self.events += len(told)
            self.arrived += told.count("mine")
            stale = {event for event in told if event.endswith(".invalidated")}
            assert not (stale and self.precise), "\n".join([*self.log, f"{stale}"])
            try:
                screen.check()
            except AssertionError as error:
                raise AssertionError("\n".join([*self.log, str(error)])) from None
        assert self.arrived == self.expected, "\n".join([*self.log, "an event is lost"])

    # -- what a program does ---------------------------------------------------------

    def _models(self) -> tuple[Any, ...]:
        office = self.office
        return (
            office.Job,
            office.Job,
            office.Task,
            office.Team,
            office.Person,
            office.Note,
            office.Pet,
        )

    def _one(self, session: Session, *models: Any) -> Any:
        model = self.random.choice(models or self._models())
        keys = sorted(session.scalars(sa.select(model.id)).all())
        return session.get(model, self.random.choice(keys)) if keys else None

    def _desk(self) -> int | None:
        return self.random.choice((*DESKS, *DESKS, None))

    def _named(self, row: Any) -> str:
        return f"{type(row).__name__} {sa.inspect(row).identity}"

    def _make(self, **values: Any) -> Any:
        office, text = self.office, self._text()
        choice = self.random.choice(("job", "job", "task", "team", "note", "pet"))
        if choice == "job":
            state = self.random.choice((*STATES, None))
            return office.Job(
                title=text,
                desk_id=self._desk(),
                state=state,
                person_id=self.random.choice((*PEOPLE, None)),
                **values,
            )
        if choice == "task":
            return office.Task(title=text, desk_id=self._desk(), **values)
        if choice == "team":
            return office.Team(
                name=text, lead_id=self.random.choice((*PEOPLE, None)), **values
            )
        if choice == "pet":
            model = self.random.choice((office.Pet, office.Dog, office.Cat))
            return model(name=text, desk_id=self._desk(), **values)
        id = UUID(int=self.random.getrandbits(128), version=4)
        return office.Note(text=text, desk_id=self._desk(), **{"id": id, **values})

    def _insert(self, session: Session) -> str:
        row = self._make()
        session.add(row)
        return f"insert a {type(row).__name__}"

    def _update(self, session: Session) -> str | None:
        row = self._one(session)
        if row is None or isinstance(row, self.office.Person):
            return None
        names = [n for n in ("title", "text", "name", "hidden") if hasattr(row, n)]
        if isinstance(row, self.office.Job):
            names += ["done", "both"]
        name = self.random.choice(names)
        if name == "both":
            row.title, row.state = self._text(), self.random.choice(STATES)
        elif name == "done":
            row.done = self.random.randrange(100)
        elif isinstance(row, self.office.Cat):
            row.name = self.random.choice((self._text(), "away"))
        else:
            setattr(row, name, self._text())
        return f"update {name} of {self._named(row)}"

    def _move(self, session: Session) -> str | None:
        row = self._one(session)
        if row is None:
            return None
        office = self.office
        if isinstance(row, office.Job) and self._chance(0.6):
            row.state = self.random.choice((*STATES, row.state, None))
        elif isinstance(row, office.Team):
            row.lead_id = self.random.choice((*PEOPLE, row.lead_id, None))
        elif isinstance(row, office.Person):
            row.up_id = self.random.choice((*PEOPLE, row.up_id, None))
        else:
            row.desk_id = self.random.choice((self._desk(), row.desk_id))
        return f"move {self._named(row)}"

    def _relate(self, session: Session) -> str | None:
        """Set relationships, of which ``post_update`` writes some."""
        office = self.office
        row = self._one(session, office.Team, office.Person, office.Job)
        if row is None:
            return None
        other = self.random.choice((self._one(session, office.Person), None))
        if isinstance(row, office.Team):
            row.lead = other
            if self._chance(0.3):
                row.name = self._text()
        elif isinstance(row, office.Job):
            row.person = other
        elif self._chance(0.5):
            row.up = other
        elif other is not None and self._chance(0.5):
            row.downs.append(other)
        else:
            row.downs = []
        return f"relate {self._named(row)} and {other and self._named(other)}"

    def _delete(self, session: Session) -> str | None:
        row = self._one(session)
        if row is None or isinstance(row, self.office.Person):
            return None
        session.delete(row)
        return f"delete {self._named(row)}"

    def _replace(self, session: Session) -> str | None:
        session.flush()
        row = self._one(session, self.office.Job, self.office.Note, self.office.Team)
        if row is None:
            return None
        id, model = row.id, type(row)
        session.delete(row)
        if self._chance(0.5):
            session.flush()
        made = self._make()
        while type(made) is not model:
            made = self._make()
        made.id = id
        session.add(made)
        session.flush()
        return f"replace {model.__name__} {id}"

    def _rename(self, session: Session) -> str | None:
        """Change what paths lead to, and say so."""
        office = self.office
        row = self._one(session, office.Person)
        if row is None:
            return None
        row.name = self._text()
        session.flush()
        self.precise = False
        office.livepush.invalidate(office.Task)
        office.livepush.invalidate(office.Job)
        office.livepush.invalidate(office.Person)
        return f"rename {self._named(row)}"

    def _become(self, session: Session) -> str | None:
        row = self._one(session, self.office.Pet)
        if row is None:
            return None
        row.kind = kind = self.random.choice(("dog", "cat", "pet"))
        if self._chance(0.3):
            row.desk_id = self._desk()
        session.flush()
        session.expunge(row)
        return f"{self._named(row)} becomes a {kind}"

    def _by_key(self, session: Session) -> str | None:
        """Execute a statement on a row, or several, that the keys are given of."""
        session.flush()
        row = self._one(session)
        if row is None:
            return None
        office, id = self.office, row.id
        # Of models with subclasses, and of several tables, all is told to read anew.
        self.precise &= isinstance(row, (office.Team, office.Person, office.Note))
        values: dict[str, Any]
        if isinstance(row, office.Job):
            values = {"title": self._text(), "state": self.random.choice(STATES)}
            if self._chance(0.5):
                values["desk_id"] = self._desk()
            session.execute(sa.update(office.Job), [{"id": id, **values}])
            session.expire(row)
            return f"update by key {self._named(row)}"
        model = {office.Dog: office.Pet, office.Cat: office.Pet}.get(type(row)) or type(
            row
        )
        if isinstance(row, office.Person):
            values = {"up_id": self.random.choice((*PEOPLE, None))}
        elif isinstance(row, office.Team):
            values = {"lead_id": self.random.choice((*PEOPLE, None))}
        else:
            values = {"desk_id": self._desk()}
        if self._chance(0.2) and not isinstance(row, office.Person):
            session.execute(sa.delete(model).where(model.id == id))
            return f"delete by key {model.__name__} {id}"
        where = (
            model.id == id
            if self._chance(0.5)
            else model.id.in_([id, *session.scalars(sa.select(model.id).limit(2))])
        )
        session.execute(sa.update(model).where(where).values(values))
        return f"update {model.__name__} where {where}"

    def _in_bulk(self, session: Session) -> str:
        office = self.office
        self.precise = False
        model = self.random.choice((office.Note, office.Dog, office.Task))
        session.execute(
            sa.update(model)
            .where(model.desk_id == self.random.choice(DESKS))
            .values(desk_id=self.random.choice(DESKS))
        )
        return f"update {model.__name__} in bulk"

    def _raise(self, session: Session) -> str:
        self.office.raises = self.random.choice(RAISING)
        # Nobody knows then whether COMMIT was sent.
        self.precise &= self.office.raises not in (FIRST, "before_commit")
        return f"{self.office.raises} is to raise"

    def _write_before_commit(self, session: Session) -> str:
        """Let a listener write, when what was written has been read already."""
        flushes, random = self._chance(0.5), Random(self.random.random())

        def also(session: Session) -> None:
            model = random.choice((self.office.Job, self.office.Team))
            row = session.scalars(sa.select(model).limit(1)).first()
            if row is not None:
                name = "title" if isinstance(row, self.office.Job) else "name"
                setattr(row, name, f"also {random.random()}")
            if flushes:
                session.flush()

        self.office.also = also
        return "a listener of before_commit is to write"

    def _commit(self, session: Session) -> None:
        """Commit, mostly with an event, which must arrive if it is committed."""
        office = self.office
        root = session.get_nested_transaction() is None and session.in_transaction()
        emits = root and self._chance(0.5)
        if emits:
            office.livepush.emit("desk:1", "mine", after_commit=True)
        self.log.append("commit")
        try:
            session.commit()
        except SearchIsDown:
            if emits and office.raised in (BEFORE, AFTER):
                self.expected += 1
            raise
        self.expected += emits
        self.check()


def _run(office: Office, count: int) -> None:
    programs = Mappings(office, os.environ.get("FUZZ_SEED") or secrets.token_hex(4))
    print(f"FUZZ_SEED={programs.seed}")
    for number in range(count):
        programs.run(number)
        if number % 25 == 24:
            office.empty()
            for screen in programs.all:
                screen.follow()
    assert programs.ends > count
    assert programs.events > count


@pytest.fixture
def office(database_url: str) -> Iterator[Office]:
    with closing(Office(database_url)) as made:
        yield made


_COUNTS = {"sqlite": 1_000, "postgresql": 150, "mysql": 150}


@pytest.mark.filterwarnings("ignore:Flushing object")
def test_converges_in_random_programs_on_such_mappings(office: Office) -> None:
    count = int(os.environ.get("FUZZ_COUNT") or _COUNTS[office.engine.dialect.name])
    _run(office, count)


@pytest.mark.filterwarnings("ignore:Flushing object")
def test_a_screen_that_misses_an_event_is_noticed(office: Office) -> None:
    """The referee can be trusted."""
    programs = Mappings(office, "a seed")
    with office.Session() as session:
        session.add(office.Job(desk_id=1))
        session.commit()
    programs.all[0].position = office.livepush.position("desk:1")
    with pytest.raises(AssertionError, match="the database has"):
        programs.check()
