"""The statements that LivePush adds to those of the application, by database.

Counted, and each one asked for: what a commit reads is read once for each model, where
a row was only when it may be elsewhere, and nothing where nothing declared was written.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from tests.support.following import World, closing


class Boards(World):
    """Lists with cards that go with them, and notes that don't; jobs in two tables.

    Args:
        tracked: Whether LivePush follows its sessions and models.
    """

    def __init__(self, url: str, *, tracked: bool) -> None:
        super().__init__(url)
        if not tracked:
            self.Session = World.sessionmaker(self)

        class Board(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "boards"
            id: Mapped[int] = mapped_column(primary_key=True)
            cards: Mapped[list[Any]] = relationship(
                "Card", cascade="all, delete-orphan", order_by="Card.id"
            )
            notes: Mapped[list[Any]] = relationship("Note", order_by="Note.id")

        class Card(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "cards"
            id: Mapped[int] = mapped_column(primary_key=True)
            board_id: Mapped[int] = mapped_column(sa.ForeignKey("boards.id"))
            text: Mapped[str | None]
            hidden: Mapped[str | None]
            board: Mapped[Any] = relationship(Board, overlaps="cards")

        class Note(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "notes"
            id: Mapped[int] = mapped_column(primary_key=True)
            board_id: Mapped[int | None] = mapped_column(sa.ForeignKey("boards.id"))
            text: Mapped[str | None]

        class Task(self.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "tasks"
            id: Mapped[int] = mapped_column(primary_key=True)
            type: Mapped[str] = mapped_column(default="task")
            board_id: Mapped[int]
            title: Mapped[str | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "type",
                "polymorphic_identity": "task",
            }

        class Job(Task):
            __tablename__ = "jobs"
            id: Mapped[int] = mapped_column(sa.ForeignKey("tasks.id"), primary_key=True)
            state: Mapped[str | None]
            __mapper_args__ = {"polymorphic_identity": "job"}  # noqa: RUF012

        self.Board, self.Card, self.Note, self.Job = Board, Card, Note, Job
        if tracked:
            board = self.room("board:<int:board_id>")
            self.livepush.track(rooms=board, fields=("id", "text"))(Card)
            self.livepush.track(rooms=board, fields=("id", "text"))(Note)
            self.livepush.track(rooms=board, fields=("id", "title", "state"))(Job)
        self.create_tables()
        with self.Session() as session:
            session.add_all([Board(id=i) for i in (1, 2, 3)])
            session.flush()
            session.add_all([Card(board_id=1, text="a") for _ in range(100)])
            session.add_all([Note(board_id=3) for _ in range(9)])
            session.add_all([Job(board_id=1) for _ in range(70)])
            session.commit()


def statements(boards: Boards, work: Callable[[Boards, Session], object]) -> list[str]:
    """Return what is executed for something that is then committed."""
    seen: list[str] = []

    def execute(_: Any, __: Any, statement: str, *___: Any) -> None:
        if statement != "BEGIN":  # SQLite's, which the tests send themselves
            seen.append(" ".join(statement.split()))

    with boards.Session() as session:
        sa.event.listen(boards.engine, "before_cursor_execute", execute)
        try:
            work(boards, session)
            session.commit()
        finally:
            sa.event.remove(boards.engine, "before_cursor_execute", execute)
    return seen


def _flush_ten_times(boards: Boards, session: Session) -> None:
    for _ in range(10):
        session.add(boards.Card(board_id=1, text="x"))
        session.flush()


def _flush_before(boards: Boards, session: Session) -> None:
    session.add(boards.Card(board_id=1, text="x"))
    session.flush()
    session.add(boards.Card(board_id=1, text="y"))


def _in_savepoints(boards: Boards, session: Session) -> None:
    for _ in range(3):
        with session.begin_nested():
            session.add(boards.Card(board_id=1, text="x"))


def _update_many(boards: Boards, session: Session) -> None:
    for card in session.get(boards.Board, 1).cards[:50]:
        card.text = "many"


def _move_many(boards: Boards, session: Session) -> None:
    for card in session.get(boards.Board, 1).cards[:20]:
        card.board_id = 2


def _all_models(boards: Boards, session: Session) -> None:
    session.add(boards.Card(board_id=1))
    session.add(boards.Note(board_id=1))
    session.get(boards.Card, 30).text = "c"
    session.delete(session.get(boards.Card, 31))


def _roll_back(boards: Boards, session: Session) -> None:
    session.add(boards.Card(board_id=1))
    session.flush()
    session.rollback()


WORK: dict[str, Callable[[Boards, Session], object]] = {
    "read": lambda w, s: s.get(w.Card, 1),
    "insert": lambda w, s: s.add(w.Card(board_id=1, text="n")),
    "update": lambda w, s: setattr(s.get(w.Card, 1), "text", "b"),
    "update of what is not declared": lambda w, s: setattr(
        s.get(w.Card, 1), "hidden", "b"
    ),
    "a form that changes nothing": lambda w, s: setattr(
        s.get(w.Card, 1), "board_id", 1
    ),
    "move": lambda w, s: setattr(s.get(w.Card, 2), "board_id", 2),
    "delete": lambda w, s: s.delete(s.get(w.Card, 3)),
    "several of two models": _all_models,
    "ten flushes": _flush_ten_times,
    "a flush, and one by the commit": _flush_before,
    "three savepoints": _in_savepoints,
    "100 inserts": lambda w, s: s.add_all([w.Card(board_id=2) for _ in range(100)]),
    "50 updates": _update_many,
    "20 moves": _move_many,
    "58 orphans": lambda w, s: setattr(
        s.get(w.Board, 1), "cards", s.get(w.Board, 1).cards[58:]
    ),
    "9 children whose key is nulled": lambda w, s: s.delete(s.get(w.Board, 3)),
    "a statement by key": lambda w, s: s.execute(
        sa.update(w.Card).where(w.Card.id == 90).values(text="k")
    ),
    "a move by key": lambda w, s: s.execute(
        sa.update(w.Card).where(w.Card.id == 91).values(board_id=2)
    ),
    "a delete by key": lambda w, s: s.execute(sa.delete(w.Card).where(w.Card.id == 92)),
    "a statement on a room": lambda w, s: s.execute(
        sa.update(w.Card).where(w.Card.board_id == 2).values(text="k")
    ),
    "insert into two tables": lambda w, s: s.add(w.Job(board_id=1)),
    "update of one of two tables": lambda w, s: setattr(s.get(w.Job, 1), "state", "b"),
    "move of two tables": lambda w, s: setattr(s.get(w.Job, 2), "board_id", 2),
    "delete of two tables": lambda w, s: s.delete(s.get(w.Job, 3)),
    "58 orphans of two tables": lambda w, s: [
        s.delete(job) for job in s.scalars(sa.select(w.Job).where(w.Job.id > 12))
    ],
    "what is rolled back": _roll_back,
}

# On SQLite, PostgreSQL and MariaDB: statements that are added, and how many of them
# begin or end a savepoint. SQLite becomes the writer with one; a row that is gone from
# several tables is asked for with the clock first.
COSTS: dict[str, tuple[tuple[int, int], tuple[int, int], tuple[int, int]]] = {
    "read": ((0, 0), (0, 0), (0, 0)),
    "insert": ((1, 0), (3, 2), (1, 0)),
    "update": ((1, 0), (3, 2), (1, 0)),
    "update of what is not declared": ((0, 0), (0, 0), (0, 0)),
    "a form that changes nothing": ((0, 0), (0, 0), (0, 0)),
    "move": ((3, 0), (6, 4), (2, 0)),
    "delete": ((2, 0), (6, 4), (2, 0)),
    "several of two models": ((3, 0), (7, 4), (3, 0)),
    "ten flushes": ((1, 0), (3, 2), (1, 0)),
    "a flush, and one by the commit": ((1, 0), (3, 2), (1, 0)),
    "three savepoints": ((1, 0), (3, 2), (1, 0)),
    "100 inserts": ((1, 0), (3, 2), (1, 0)),
    "50 updates": ((1, 0), (3, 2), (1, 0)),
    "20 moves": ((3, 0), (6, 4), (2, 0)),
    "58 orphans": ((2, 0), (6, 4), (2, 0)),
    "9 children whose key is nulled": ((3, 0), (6, 4), (2, 0)),
    "a statement by key": ((1, 0), (3, 2), (1, 0)),
    "a move by key": ((3, 0), (6, 4), (2, 0)),
    "a delete by key": ((2, 0), (6, 4), (2, 0)),
    "a statement on a room": ((0, 0), (0, 0), (0, 0)),
    "insert into two tables": ((1, 0), (1, 0), (1, 0)),
    "update of one of two tables": ((1, 0), (1, 0), (1, 0)),
    "move of two tables": ((3, 0), (4, 2), (2, 0)),
    "delete of two tables": ((2, 0), (5, 2), (3, 0)),
    "58 orphans of two tables": ((2, 0), (5, 2), (3, 0)),
    "what is rolled back": ((0, 0), (0, 0), (0, 0)),
}


def _added(plain: list[str], tracked: list[str]) -> list[str]:
    added = list(tracked)
    for statement in plain:
        if statement in added:
            added.remove(statement)
    return added


def test_adds_no_more_statements_than_are_written_down_here(database_url: str) -> None:
    with closing(Boards(database_url, tracked=False)) as plain:
        without = {name: statements(plain, work) for name, work in WORK.items()}
        plain.Base.metadata.drop_all(plain.engine)
    with closing(Boards(database_url, tracked=True)) as tracked:
        dialect = tracked.engine.dialect.name
        number = ["sqlite", "postgresql", "mysql"].index(dialect)
        found = {}
        for name, work in WORK.items():
            added = _added(without[name], statements(tracked, work))
            if os.environ.get("COSTS"):
                print(dialect, name, added)
            savepoints = sum("SAVEPOINT" in statement for statement in added)
            found[name] = (len(added), savepoints)
        if os.environ.get("COSTS"):
            print("COSTS", dialect, found)
        else:
            assert found == {name: costs[number] for name, costs in COSTS.items()}
