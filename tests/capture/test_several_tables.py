"""What lies in several tables: inheritance, mapped joins, values of related rows.

A lock holds still one table's row, and the stamp read under it orders nothing of the
others. So these are read after the commit, and what a reader does not see then need
not be gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.declarative import AbstractConcreteBase, ConcreteBase
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from tests.support.following import World, check, closing, events

DEADLINE = 60.0  # seconds
ROWS = 60

CREATED, UPDATED, DELETED = "task.created", "task.updated", "task.deleted"


class Staff(World):
    """Tasks and, in a table more, jobs; people; both ways of joining them.

    ``Job`` is a ``Task`` with a column of its own; both have one that names a room.
    """

    def __init__(self, url: str, **mapper: Any) -> None:
        super().__init__(url)
        base = self.Base
        self.desk = self.room("desk:<int:desk_id>")
        self.state = self.room("state:<state>")

        class Person(base):  # type: ignore[misc, valid-type]
            __tablename__ = "people"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]
            boss_id: Mapped[int | None] = mapped_column(sa.ForeignKey("people.id"))
            boss: Mapped[Any] = relationship("Person", remote_side=[id])

        class Task(base):  # type: ignore[misc, valid-type]
            __tablename__ = "tasks"
            id: Mapped[int] = mapped_column(primary_key=True)
            type: Mapped[str] = mapped_column(default="task")
            desk_id: Mapped[int | None]
            title: Mapped[str | None]
            note: Mapped[str | None]
            edits: Mapped[int] = mapped_column(default=0, onupdate=1)
            person_id: Mapped[int | None] = mapped_column(sa.ForeignKey("people.id"))
            person: Mapped[Any] = relationship(Person)
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "type",
                "polymorphic_identity": "task",
                **mapper,
            }

        class Job(Task):
            __tablename__ = "jobs"
            id: Mapped[int] = mapped_column(sa.ForeignKey("tasks.id"), primary_key=True)
            state: Mapped[str | None]
            done: Mapped[int] = mapped_column(default=0)
            __mapper_args__ = {"polymorphic_identity": "job"}  # noqa: RUF012

        self.Person, self.Task, self.Job = Person, Task, Job

    def track(self, model: Any, rooms: Any, *fields: Any, **options: Any) -> None:
        """Track a model under the kind "task" if nothing else is said."""
        options = {"kind": "task", "latest": 1_000, **options}
        self.livepush.track(rooms=rooms, fields=fields[0], **options)(model)

    def add(self, *rows: Any) -> None:
        """Make the tables, and commit rows."""
        self.create_tables()
        with self.Session() as session:
            session.add_all(rows)
            session.commit()


@pytest.fixture
def staff(database_url: str) -> Iterator[Staff]:
    with closing(Staff(database_url)) as made:
        yield made


@pytest.fixture(params=["postgresql", "mariadb"])
def server_staff(request: pytest.FixtureRequest) -> Iterator[Staff]:
    """On each database that has several writers at once."""
    name = "schema_url" if request.param == "postgresql" else "mariadb_url"
    with closing(Staff(request.getfixturevalue(name))) as made:
        yield made


def race(world: World, model: Any, first: str, second: str, ids: range) -> list[str]:
    """Let two threads write one attribute each of the same rows at the same moment.

    Returns:
        What went wrong in the application.
    """
    barrier = threading.Barrier(2)
    wrong: list[str] = []

    def write(name: str) -> None:
        for id in ids:
            with world.Session(expire_on_commit=False) as session:
                row = session.get(model, id)
                session.commit()
                barrier.wait(DEADLINE)
                setattr(row, name, "new")
                try:
                    session.commit()
                except sa.exc.DBAPIError as error:
                    wrong.append(str(error.orig))

    with ThreadPoolExecutor(2) as executor:
        for future in [executor.submit(write, name) for name in (first, second)]:
            future.result(DEADLINE)
    return wrong


# -- races ---------------------------------------------------------------------------


def test_no_row_stays_stale_when_each_of_its_tables_is_written(staff: Staff) -> None:
    """Bug: on PostgreSQL 154 to 183 of 200 rows stayed stale for ever."""
    staff.track(staff.Job, staff.desk, ("id", "title", "state"))
    staff.add(*(staff.Job(id=i, desk_id=1, title="old") for i in range(1, ROWS)))
    screen = staff.screen("desk:1")
    assert race(staff, staff.Job, "title", "state", range(1, ROWS)) == []
    screen.check()
    assert all(
        (row["title"], row["state"]) == ("new", "new")
        for row in screen.kinds["task"].values()
    )


def test_no_row_stays_stale_of_a_class_that_is_mapped_to_a_join(
    database_url: str,
) -> None:
    """Bug: 77 of 100 did."""
    with closing(World(database_url)) as world:
        left = sa.Table(
            "lefts",
            world.Base.metadata,
            sa.Column("id", sa.Integer, primary_key=True),
            sa.Column("box_id", sa.Integer),
            sa.Column("a", sa.String(20)),
        )
        right = sa.Table(
            "rights",
            world.Base.metadata,
            sa.Column("left_id", sa.ForeignKey("lefts.id"), primary_key=True),
            sa.Column("b", sa.String(20)),
        )

        class Both(world.Base):  # type: ignore[misc, name-defined]
            __table__ = left.join(right)
            id = sa.orm.column_property(left.c.id, right.c.left_id)

        world.livepush.track(
            rooms=world.room("box:<int:box_id>"), fields=("id", "a", "b"), latest=1_000
        )(Both)
        world.create_tables()
        with world.Session() as session:
            session.add_all([Both(id=i, box_id=1, a="old") for i in range(1, ROWS)])
            session.commit()
        screens = world.screens("box:1", "box:2")
        assert race(world, Both, "a", "b", range(1, ROWS)) == []
        check(screens)
        with world.Session() as session:
            session.get(Both, 1).box_id = 2
            session.delete(session.get(Both, 2))
            session.commit()
        assert events(*screens) == [
            ["both.deleted", "both.deleted"],
            ["both.created"],
        ]
        check(screens)


def test_no_row_stays_stale_when_what_it_is_related_to_is_another(
    staff: Staff,
) -> None:
    """The foreign key is the row's own, and the value of another row."""
    staff.track(
        staff.Task, staff.desk, {"id": "id", "title": "title", "by": "person.name"}
    )
    staff.create_tables()
    with staff.Session() as session:
        session.add_all([staff.Person(id=i, name=f"p{i}") for i in (1, 2)])
        session.flush()
        session.add_all(
            [staff.Task(id=i, desk_id=1, person_id=1) for i in range(1, ROWS)]
        )
        session.commit()
    screen = staff.screen("desk:1")
    barrier = threading.Barrier(2)

    def write(number: int) -> None:
        for id in range(1, ROWS):
            with staff.Session(expire_on_commit=False) as session:
                row = session.get(staff.Task, id)
                session.commit()
                barrier.wait(DEADLINE)
                row.person_id = 2 if number else 1
                row.title = f"by {number}"
                session.commit()

    with ThreadPoolExecutor(2) as executor:
        for future in [executor.submit(write, n) for n in (0, 1)]:
            future.result(DEADLINE)
    screen.check()


# -- joined inheritance --------------------------------------------------------------


def test_follows_rows_of_two_tables(staff: Staff) -> None:
    staff.track(staff.Job, staff.desk, ("id", "title", "state", "edits"))
    staff.add()
    one, two = staff.screens("desk:1", "desk:2")
    job = staff.Job
    with staff.Session() as session:
        session.add(job(id=1, desk_id=1, state="new"))
        session.commit()
        assert one.follow() == [
            (CREATED, {"id": 1, "title": None, "state": "new", "edits": 0})
        ]
        row = session.get(job, 1)
        row.state = "done"
        session.commit()
        # The UPDATE was of the other table, and its onupdate= did not run.
        assert one.follow() == [
            (UPDATED, {"id": 1, "title": None, "state": "done", "edits": 0})
        ]
        row.note = "not declared"
        session.commit()
        assert one.follow() == [
            (UPDATED, {"id": 1, "title": None, "state": "done", "edits": 1})
        ]
        row.done = 1
        session.commit()
        row.desk_id = 2
        session.commit()
        assert events(one, two) == [[DELETED], [CREATED]]
        session.delete(row)
        session.commit()
        assert events(one, two) == [[], [DELETED]]
        session.add(job(id=1, desk_id=1, state="again"))
        session.commit()
        assert events(one, two) == [[CREATED], []]
    check([one, two])


@pytest.mark.parametrize("autoflush", [True, False])
def test_deletes_and_inserts_again_in_one_commit(staff: Staff, autoflush: bool) -> None:
    staff.track(staff.Job, staff.desk, ("id", "title", "state"))
    staff.add(staff.Job(id=1, desk_id=1, state="a"))
    screens = staff.screens("desk:1", "desk:2")
    with staff.Session(autoflush=autoflush) as session:
        session.delete(session.get(staff.Job, 1))
        session.flush()
        session.add(staff.Job(id=1, desk_id=2, state="b"))
        session.commit()
        check(screens)
        session.delete(session.get(staff.Job, 1))
        session.add(staff.Job(id=1, desk_id=1, state="c"))
        session.commit()
        check(screens)
        row = session.get(staff.Job, 1)
        row.id = 9
        # The foreign key to the base is not one that the database changes.
        if staff.is_sqlite:
            session.rollback()
        else:
            with pytest.raises(sa.exc.IntegrityError):
                session.commit()
            session.rollback()
    check(screens)


def test_a_room_is_named_by_a_column_of_the_table_that_is_not_written(
    staff: Staff,
) -> None:
    """The one names rooms of the base, the other of the sub table."""
    staff.track(staff.Job, (staff.desk, staff.state), ("id", "title", "state"))
    staff.add(staff.Job(id=1, desk_id=1, state="a"))
    screens = staff.screens("desk:1", "desk:2", "state:a", "state:b")
    with staff.Session() as session:
        row = session.get(staff.Job, 1)
        row.state = "b"
        session.commit()
        assert events(*screens) == [[UPDATED], [], [DELETED], [CREATED]]
        row.desk_id = 2
        session.commit()
        assert events(*screens) == [[DELETED], [CREATED], [], [UPDATED]]
        row.desk_id, row.state = 1, "a"
        session.commit()
        assert events(*screens) == [[CREATED], [DELETED], [CREATED], [DELETED]]
        row.title = "t"
        session.commit()
        assert events(*screens) == [[UPDATED], [], [UPDATED], []]
        session.delete(row)
        session.commit()
        assert events(*screens) == [[DELETED], [], [DELETED], []]
    check(screens)


@pytest.mark.parametrize("rooms", ["state first", "desk first"])
def test_a_row_that_moves_by_one_table_and_then_by_the_other(
    staff: Staff, rooms: str
) -> None:
    """Bug: all rooms were told to read anew, as if others had moved it."""
    staff.track(staff.Job, (staff.desk, staff.state), ("id", "title", "state"))
    staff.add(staff.Job(id=1, desk_id=1, state="a"))
    screens = staff.screens("desk:1", "desk:2", "state:a", "state:b")
    with staff.Session() as session:
        row = session.get(staff.Job, 1)
        steps = [("state", "b"), ("desk_id", 2)]
        for name, value in steps if rooms == "state first" else reversed(steps):
            setattr(row, name, value)
            session.flush()
        session.commit()
        assert events(*screens) == [[DELETED], [CREATED], [DELETED], [CREATED]]
        row.state = "a"
        session.flush()
        session.delete(row)
        session.commit()
        assert events(*screens) == [[], [DELETED], [], [DELETED]]
    check(screens)


def test_a_row_that_others_move_by_the_other_table_meanwhile_is_found(
    server_staff: Staff,
) -> None:
    """A flush of one table holds no lock of the other, which another then writes."""
    staff = server_staff
    staff.track(staff.Job, (staff.desk, staff.state), ("id", "title", "state"))
    staff.add(staff.Job(id=1, desk_id=1, state="a"))
    screens = staff.screens("desk:1", "desk:2", "state:a", "state:b")
    with staff.Session() as one, staff.Session() as two:
        one.get(staff.Job, 1).desk_id = 2
        one.flush()
        two.get(staff.Job, 1).state = "b"
        two.flush()
        two.commit()
        one.commit()
    check(screens)


def test_a_base_and_its_subclass_are_tracked_both(staff: Staff) -> None:
    staff.track(staff.Task, staff.desk, ("id", "title"))
    staff.track(staff.Job, staff.state, ("id", "title", "state"), kind="job")
    staff.add(staff.Job(id=1, desk_id=1, state="a"), staff.Task(id=2, desk_id=1))
    desk, state = staff.screens("desk:1", "state:a")
    with staff.Session() as session:
        session.get(staff.Job, 1).title = "t"
        session.commit()
        assert events(desk, state) == [[UPDATED], ["job.updated"]]
        session.get(staff.Job, 1).state = "b"
        session.commit()
        assert events(desk, state) == [[], ["job.deleted"]]
        session.delete(session.get(staff.Job, 1))
        session.delete(session.get(staff.Task, 2))
        session.commit()
        assert sorted(events(desk)) == [DELETED, DELETED]
    check([desk, state])


def test_two_declarations_of_a_kind_one_of_which_lies_in_two_tables(
    staff: Staff,
) -> None:
    """A kind is read in one way: its stamps come from one place."""
    staff.track(staff.Job, staff.desk, ("id", "title"))
    staff.track(staff.Job, staff.state, ("id", "title", "state"))
    staff.add(*(staff.Job(id=i, desk_id=1, state="a") for i in range(1, 20)))
    screens = staff.screens("desk:1", "state:a", "state:new")
    assert race(staff, staff.Job, "title", "state", range(1, 20)) == []
    check(screens)
    with staff.Session() as session:
        session.get(staff.Job, 1).title = "t"
        session.commit()
    assert events(*screens) == [[UPDATED], [], [UPDATED]]
    check(screens)


@pytest.mark.parametrize("polymorphic", ["*", None])
def test_the_orm_s_own_joins_lock_nothing(
    database_url: str, polymorphic: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: our FOR UPDATE failed on the nullable side of an outer join."""
    with closing(Staff(database_url, with_polymorphic=polymorphic)) as staff:
        staff.track(staff.Task, (staff.desk,), ("id", "title"))
        staff.add(staff.Job(id=1, desk_id=1), staff.Task(id=2, desk_id=1))
        screens = staff.screens("desk:1", "desk:2")
        with staff.Session() as session:
            for id in (1, 2):
                session.get(staff.Task, id).desk_id = 2
            session.commit()
            assert events(*screens) == [[DELETED] * 2, [CREATED] * 2]
            for id in (1, 2):
                session.delete(session.get(staff.Task, id))
            session.commit()
            assert events(*screens) == [[], [DELETED] * 2]
        check(screens)
    assert caplog.records == []


def test_a_version_in_the_base_counts_updates_of_the_sub_table(
    database_url: str,
) -> None:
    with closing(World(database_url)) as world:

        class Base(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "bases"
            id: Mapped[int] = mapped_column(primary_key=True)
            box_id: Mapped[int]
            version: Mapped[int] = mapped_column()
            __mapper_args__ = {"version_id_col": version}  # noqa: RUF012

        class Sub(Base):
            __tablename__ = "subs"
            id: Mapped[int] = mapped_column(sa.ForeignKey("bases.id"), primary_key=True)
            a: Mapped[str | None]

        box = world.room("box:<int:box_id>")
        world.livepush.track(rooms=box, fields=("id", "version"), kind="v")(Sub)
        world.livepush.track(rooms=box, fields=("id", "version", "a"), kind="w")(Sub)
        world.create_tables()
        screen = world.screen("box:1")
        with world.Session() as session:
            session.add(Sub(id=1, box_id=1))
            session.commit()
            session.get(Sub, 1).a = "b"
            session.commit()
        told = [(event, data["version"]) for event, data in screen.follow()]
        assert sorted(told) == [
            ("v.created", 1),
            ("v.updated", 2),
            ("w.created", 1),
            ("w.updated", 2),
        ]
        screen.check()


def test_rows_of_concrete_classes_are_in_tables_of_their_own(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: deleting the subclass's row 1 took the base's row 1 off the screen."""
    with closing(World(database_url)) as world:
        box = world.room("box:<int:box_id>")

        class Plain(ConcreteBase, world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "plains"
            id: Mapped[int] = mapped_column(primary_key=True)
            box_id: Mapped[int]
            a: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_identity": "plain",
                "concrete": True,
            }

        class Rich(Plain):
            __tablename__ = "riches"
            id: Mapped[int] = mapped_column(primary_key=True)
            box_id: Mapped[int]
            a: Mapped[str | None]
            b: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_identity": "rich",
                "concrete": True,
            }

        world.livepush.track(rooms=box, fields=("id", "a"))(Plain)
        world.livepush.track(rooms=box, fields=("id", "b"))(Rich)
        world.create_tables()
        screens = world.screens("box:1", "box:2")
        with world.Session() as session:
            session.add_all([Plain(id=1, box_id=1), Rich(id=1, box_id=1)])
            session.commit()
            assert sorted(events(screens[0])) == ["plain.created", "rich.created"]
            check(screens)
        with world.Session() as session:
            session.delete(session.get(Rich, 1))
            session.commit()
            assert events(*screens) == [["rich.deleted"], []]
            check(screens)
        with world.Session() as session:
            session.get(Plain, 1).box_id = 2
            session.commit()
            assert events(*screens) == [["plain.deleted"], ["plain.created"]]
            check(screens)
    assert caplog.records == []


def test_classes_of_an_abstract_concrete_base_are_tracked_each(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(World(database_url)) as world:
        box = world.room("box:<int:box_id>")

        class Thing(AbstractConcreteBase, world.Base):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            box_id: Mapped[int]

        class One(Thing):
            __tablename__ = "ones"
            id: Mapped[int] = mapped_column(primary_key=True)
            box_id: Mapped[int]
            a: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_identity": "one",
                "concrete": True,
            }

        class Two(Thing):
            __tablename__ = "twos"
            id: Mapped[int] = mapped_column(primary_key=True)
            box_id: Mapped[int]
            b: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_identity": "two",
                "concrete": True,
            }

        sa.orm.configure_mappers()
        world.livepush.track(rooms=box, fields=("id", "a"))(One)
        world.livepush.track(rooms=box, fields=("id", "b"))(Two)
        world.create_tables()
        screens = world.screens("box:1", "box:2")
        with world.Session() as session:
            session.add_all([One(id=1, box_id=1), Two(id=1, box_id=1)])
            session.commit()
            assert sorted(events(screens[0])) == ["one.created", "two.created"]
            session.get(One, 1).box_id = 2
            session.delete(session.get(Two, 1))
            session.commit()
            assert [sorted(e) for e in events(*screens)] == [
                ["one.deleted", "two.deleted"],
                ["one.created"],
            ]
            check(screens)
    assert caplog.records == []


# -- values of related rows ----------------------------------------------------------


def test_a_path_leads_to_a_value_of_a_related_row(staff: Staff) -> None:
    staff.track(
        staff.Task,
        staff.desk,
        {"id": "id", "title": "title", "by": "person.name", "boss": "person.boss.name"},
    )
    staff.add(staff.Person(id=1, name="Ada"))
    with staff.Session() as session:
        session.add(staff.Person(id=2, name="Bob", boss_id=1))
        session.commit()
    one, two = staff.screens("desk:1", "desk:2")
    with staff.Session() as session:
        row = staff.Task(id=1, desk_id=1)
        session.add(row)
        session.commit()
        assert one.follow()[0][1] == {"id": 1, "title": None, "by": None, "boss": None}
        row.person_id = 2
        session.commit()
        assert one.follow()[0][1] == {
            "id": 1,
            "title": None,
            "by": "Bob",
            "boss": "Ada",
        }
        row.person = session.get(staff.Person, 1)
        session.commit()
        assert one.follow() == [
            (UPDATED, {"id": 1, "title": None, "by": "Ada", "boss": None})
        ]
        row.desk_id = 2
        session.commit()
        assert events(one, two) == [[DELETED], [CREATED]]
        row.person = None
        session.commit()
        assert two.follow()[0][1]["by"] is None
        row.note = "not declared"
        session.commit()
        assert events(one, two) == [[], []]
    check([one, two])


def test_a_change_of_the_related_row_is_told_by_hand(staff: Staff) -> None:
    staff.track(staff.Task, staff.desk, {"id": "id", "by": "person.name"})
    staff.add(staff.Person(id=1, name="Ada"))
    with staff.Session() as session:
        session.add(staff.Task(id=1, desk_id=1, person_id=1))
        session.commit()
        screen = staff.screen("desk:1")
        session.get(staff.Person, 1).name = "Eve"
        session.commit()
        assert events(screen) == []
        staff.livepush.invalidate(staff.Task)
    screen.check()
    assert screen.kinds["task"][1]["by"] == "Eve"


def test_a_path_to_the_class_itself_and_to_one_of_two_tables(
    database_url: str,
) -> None:
    with closing(Staff(database_url)) as staff:

        class Note(staff.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            desk_id: Mapped[int]
            up_id: Mapped[int | None] = mapped_column(sa.ForeignKey("notes.id"))
            job_id: Mapped[int | None] = mapped_column(sa.ForeignKey("jobs.id"))
            up: Mapped[Any] = relationship("Note", remote_side=[id])
            job: Mapped[Any] = relationship(staff.Job)

        staff.track(
            Note,
            staff.desk,
            {
                "id": "id",
                "up": "up.id",
                "upper": "up.up.desk_id",
                "title": "job.title",
                "state": "job.state",
                "by": "job.person.name",
            },
        )
        staff.add(staff.Person(id=1, name="Ada"))
        screen = staff.screen("desk:1")
        with staff.Session() as session:
            session.add(staff.Job(id=7, title="t", state="s", person_id=1))
            session.add(Note(id=1, desk_id=1))
            session.flush()
            session.add(Note(id=2, desk_id=1, up_id=1))
            session.commit()
            note = Note(id=3, desk_id=1, up_id=2, job_id=7)
            session.add(note)
            session.commit()
            assert screen.follow()[-1][1] == {
                "id": 3,
                "up": 2,
                "upper": 1,
                "title": "t",
                "state": "s",
                "by": "Ada",
            }
            note.job = None
            session.commit()
            assert screen.follow()[-1][1] == {
                "id": 3,
                "up": 2,
                "upper": 1,
                "title": None,
                "state": None,
                "by": None,
            }
            session.get(Note, 2).up_id = None
            session.commit()
            # Of note 3, which was not written, one has to be told by hand.
            staff.livepush.invalidate(Note)
        screen.check()


def test_a_property_over_another_table_is_read_after_the_commit(
    database_url: str,
) -> None:
    with closing(Staff(database_url)) as staff:
        count = (
            sa.select(sa.func.count(staff.Person.id))
            .where(staff.Person.boss_id == staff.Task.person_id)
            .correlate_except(staff.Person)
            .scalar_subquery()
        )
        staff.Task.crew = sa.orm.column_property(count)
        staff.track(staff.Task, staff.desk, ("id", "crew"))
        staff.add(staff.Person(id=1))
        screen = staff.screen("desk:1")
        with staff.Session() as session:
            session.add(staff.Person(id=2, boss_id=1))
            session.add(staff.Task(id=1, desk_id=1, person_id=2))
            session.commit()
            session.get(staff.Task, 1).person_id = 1
            session.commit()
        assert [data["crew"] for _, data in screen.follow()] == [0, 1]
        screen.check()


# -- who reads -----------------------------------------------------------------------


def test_a_row_that_our_reader_may_not_see_is_not_deleted(schema_url: str) -> None:
    """Row-level security by a setting that the writer has, and nobody else."""
    with closing(Staff(schema_url)) as staff:
        staff.track(staff.Job, staff.desk, ("id", "title", "state"))
        staff.add(staff.Job(id=1, desk_id=1, title="old", state="old"))
        role = f"reader_{schema_url.rpartition('test_')[2]}"
        schema = schema_url.rpartition("%3D")[2]
        with staff.engine.begin() as connection:
            for statement in (
                f"CREATE ROLE {role}",
                f"GRANT USAGE ON SCHEMA {schema} TO {role}",
                f"GRANT ALL ON ALL TABLES IN SCHEMA {schema} TO {role}",
                "ALTER TABLE tasks ENABLE ROW LEVEL SECURITY",
                "CREATE POLICY mine ON tasks USING "
                "(desk_id = NULLIF(current_setting('app.desk', true), '')::int)",
            ):
                connection.execute(sa.text(statement))
        screen = staff.screen("desk:1")
        try:

            @sa.event.listens_for(staff.engine, "connect")
            def connect(driver: Any, _: Any) -> None:
                driver.execute(f"SET ROLE {role}")
                driver.commit()

            staff.engine.dispose()
            with staff.Session() as session:
                session.execute(sa.text("SET LOCAL app.desk = '1'"))
                session.get(staff.Job, 1).title = "new"
                session.commit()
            told = screen._since()
            assert [p.event for p in told] == ["task.invalidated"]
            with staff.Session() as session:
                session.execute(sa.text("SET LOCAL app.desk = '1'"))
                session.add(staff.Job(id=2, desk_id=1, state="mine"))
                session.commit()
            assert [p.event for p in screen._since()] == ["task.invalidated"]
            with staff.Session() as session:
                session.execute(sa.text("SET LOCAL app.desk = '1'"))
                session.delete(session.get(staff.Job, 1))
                session.commit()
            assert [p.event for p in screen._since()] == ["task.deleted"]
        finally:
            sa.event.remove(staff.engine, "connect", connect)
            staff.engine.dispose()
            with staff.engine.begin() as connection:
                connection.execute(sa.text(f"DROP OWNED BY {role} CASCADE"))
                connection.execute(sa.text(f"DROP ROLE {role}"))


def test_a_row_in_a_schema_that_our_reader_does_not_search_is_not_deleted(
    schema_url: str,
) -> None:
    """Tenants by ``SET LOCAL search_path``: what is read elsewhere is another row."""
    with closing(Staff(schema_url)) as staff:
        staff.track(staff.Job, staff.desk, ("id", "title", "state"))
        staff.add()
        schema = schema_url.rpartition("%3D")[2]
        with staff.engine.begin() as connection:
            connection.execute(sa.text(f"CREATE SCHEMA {schema}_other"))
            connection.execute(sa.text(f"SET LOCAL search_path = {schema}_other"))
            staff.Base.metadata.create_all(connection)
        screen = staff.screen("desk:1")
        with staff.Session() as session:
            session.execute(sa.text(f"SET LOCAL search_path = {schema}_other"))
            session.add(staff.Job(id=1, desk_id=1, state="mine"))
            session.commit()
            assert [p.event for p in screen._since()] == ["task.invalidated"]


def test_the_writer_s_schemas_are_those_that_are_read(schema_url: str) -> None:
    with closing(Staff(schema_url)) as staff:
        staff.track(staff.Job, staff.desk, ("id", "title", "state"))
        staff.add()
        schema = schema_url.rpartition("%3D")[2] + "_mapped"
        translated = staff.engine.execution_options(schema_translate_map={None: schema})
        with translated.begin() as connection:
            connection.execute(sa.schema.CreateSchema(schema))
            staff.Base.metadata.create_all(connection)
        screen = staff.screen("desk:1")
        with staff.Session(bind=translated) as session:
            session.add(staff.Job(id=1, desk_id=1, state="mine"))
            session.commit()
            assert screen._since()[0].event == CREATED
            session.get(staff.Job, 1).state = "new"
            session.commit()
            assert '"new"' in screen._since()[0].data
        with staff.Session() as session:
            session.connection(
                execution_options={"schema_translate_map": {None: schema}}
            )
            session.get(staff.Job, 1).state = "newer"
            session.commit()
            assert '"newer"' in screen._since()[0].data
            session.connection(
                execution_options={"schema_translate_map": {None: schema}}
            )
            session.delete(session.get(staff.Job, 1))
            session.commit()
            assert screen._since()[0].event == DELETED


# -- what else can happen ------------------------------------------------------------


def test_pushes_nothing_of_what_is_rolled_back(staff: Staff) -> None:
    staff.track(staff.Job, staff.desk, ("id", "title", "state"))
    staff.add(staff.Job(id=1, desk_id=1, state="a"))
    screens = staff.screens("desk:1", "desk:2")
    with staff.Session() as session:
        session.get(staff.Job, 1).desk_id = 2
        session.flush()
        session.rollback()
        assert events(*screens) == [[], []]
        inner = session.begin_nested()
        session.get(staff.Job, 1).desk_id = 2
        session.flush()
        inner.rollback()
        session.get(staff.Job, 1).state = "b"
        session.commit()
        assert events(*screens) == [[UPDATED], []]
    check(screens)


Write = Callable[[Staff, Session], None]


def _update_sub(staff: Staff, session: Session) -> None:
    session.execute(sa.update(staff.Job).where(staff.Job.state == "a").values(done=2))


def _move_base(staff: Staff, session: Session) -> None:
    session.execute(sa.update(staff.Task).where(staff.Task.id == 1).values(desk_id=2))


def _delete_base(staff: Staff, session: Session) -> None:
    session.execute(sa.delete(staff.Task).where(staff.Task.id == 2))


def _by_key(staff: Staff, session: Session) -> None:
    session.execute(
        sa.update(staff.Job), [{"id": 1, "title": "k", "state": "k", "desk_id": 2}]
    )


def _insert(staff: Staff, session: Session) -> None:
    session.execute(
        sa.insert(staff.Job), [{"id": 5, "desk_id": 1, "state": "i", "type": "job"}]
    )


@pytest.mark.parametrize(
    "write",
    [_move_base, _delete_base, _by_key, _insert, _update_sub],
    ids=lambda w: w.__name__.strip("_"),
)
def test_bulk_statements_on_several_tables(staff: Staff, write: Write) -> None:
    staff.track(staff.Job, staff.desk, ("id", "title", "state", "done"))
    staff.track(staff.Task, staff.desk, ("id", "title"), kind="any")
    staff.add(staff.Job(id=1, desk_id=1, state="a"), staff.Task(id=2, desk_id=1))
    screens = staff.screens("desk:1", "desk:2")
    with staff.Session() as session:
        write(staff, session)
        session.commit()
    check(screens)
