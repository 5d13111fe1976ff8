"""From which tables and columns a declaration is read: one table, or several."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    column_property,
    configure_mappers,
    mapped_column,
    relationship,
)

from flask_livepush import ConfigError
from flask_livepush.sources import DISCRIMINATOR, NoPath, Source, find_path
from tests.support.following import World


@pytest.fixture
def models() -> Iterator[Any]:
    """Models of one table, of several, and of classes in one table."""

    class Base(DeclarativeBase):
        pass

    class User(Base):
        __tablename__ = "users"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]
        boss_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
        boss: Mapped[Any] = relationship("User", remote_side=[id])
        tasks: Mapped[list[Any]] = relationship("Task", back_populates="author")

    class Task(Base):
        __tablename__ = "tasks"
        id: Mapped[int] = mapped_column(primary_key=True)
        type: Mapped[str]
        board_id: Mapped[int]
        changed: Mapped[int] = mapped_column(default=0, onupdate=1)
        author_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
        author: Mapped[Any] = relationship("User", back_populates="tasks")
        __mapper_args__ = {  # noqa: RUF012
            "polymorphic_on": "type",
            "polymorphic_identity": "task",
            "with_polymorphic": "*",
        }

    class Chore(Task):
        __tablename__ = "chores"
        id: Mapped[int] = mapped_column(sa.ForeignKey("tasks.id"), primary_key=True)
        tool: Mapped[str]
        __mapper_args__ = {"polymorphic_identity": "chore"}  # noqa: RUF012

    class Errand(Task):
        shop: Mapped[str | None] = mapped_column()
        __mapper_args__ = {"polymorphic_identity": "errand"}  # noqa: RUF012

    Task.next_board = column_property(Task.board_id + 1)  # type: ignore[attr-defined]
    Task.users = column_property(  # type: ignore[attr-defined]
        sa.select(sa.func.count(User.id)).scalar_subquery()
    )
    configure_mappers()
    yield SimpleNamespace(User=User, Task=Task, Chore=Chore, Errand=Errand)
    Base.registry.dispose()


def source(model: Any, *paths: str) -> Source:
    mapper = sa.inspect(model)
    return Source(mapper, {text: find_path(mapper, text) for text in paths})


def test_knows_the_one_table_that_has_all_columns(models: Any) -> None:
    chore = source(models.Chore)
    tasks, chores = models.Task.__table__, models.Chore.__table__
    assert chore.home(["id", "board_id"]) is tasks
    assert chore.home(["id", "tool"]) is chores
    assert chore.home(["id"]) is chores
    assert chore.home(["board_id", "tool"]) is None
    assert chore.home(["next_board"]) is tasks
    assert chore.home(["users"]) is None
    assert chore.parts(["id", "board_id", "tool"]) == {
        tasks: {"board_id"},
        chores: {"tool"},
    }


def test_adds_no_tables_that_the_orm_would(models: Any) -> None:
    """``with_polymorphic="*"`` makes outer joins, which can't be locked."""
    text = str(source(models.Task).select(["id", "board_id"]))
    assert "JOIN" not in text
    inside = source(models.Chore).select_in(models.Task.__table__, ["board_id"])
    assert "chores" not in str(inside)


def test_knows_which_attributes_change_a_column(models: Any) -> None:
    task = source(models.Task, "author.name")
    assert task.watched(["board_id"]) == {"board_id"}
    assert task.watched(["author.name"]) == {"author_id"}
    everything = {"id", "type", "board_id", "changed", "author_id", "next_board"}
    assert task.watched(["changed"]) >= everything
    assert task.watched(["next_board"]) >= everything
    # What an expression over another table depends on is not known.
    assert task.watched(["users"]) >= {"users"}


def test_tells_classes_of_one_table_apart(models: Any) -> None:
    errand = source(models.Errand)
    assert errand.discriminators == {DISCRIMINATOR}
    assert errand.classes() == {"type"}
    assert errand.is_of_model({DISCRIMINATOR: "errand"})
    assert not errand.is_of_model({DISCRIMINATOR: "task"})
    assert "tasks.type IN" in str(errand.criterion())
    task = source(models.Task)
    assert not task.discriminators
    assert task.is_of_model({})


def test_follows_paths_of_several_steps_by_outer_joins(models: Any) -> None:
    text = str(source(models.Task, "author.boss.name").select(["author.boss.name"]))
    assert text.count("LEFT OUTER JOIN users") == 2


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("writer.name", "Task has no relationship 'writer'"),
        ("author.nam", "User has no column 'nam'"),
        ("author.tasks.id", "leads to several rows"),
        ("author.boss.boss", "User has no column 'boss'"),
    ],
)
def test_says_what_is_no_path(models: Any, path: str, says: str) -> None:
    with pytest.raises(NoPath, match=says):
        find_path(sa.inspect(models.Task), path)


def test_refuses_a_relationship_that_joins_by_more_than_columns(models: Any) -> None:
    user = models.User
    models.Task.friend = relationship(
        user,
        primaryjoin=sa.and_(models.Task.author_id == user.id, user.name != ""),
        viewonly=True,
        foreign_keys=[models.Task.author_id],
    )
    with pytest.raises(NoPath, match="more than equal columns"):
        find_path(sa.inspect(models.Task), "friend.name")


def test_a_path_is_checked_when_the_models_are_mapped(world: World) -> None:
    """When it is declared, the model that it leads to may still be missing."""
    track = world.livepush.track

    @track(rooms=world.room("all"), fields={"id": "id", "author": "author.nam"})
    class Note(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "notes"
        id: Mapped[int] = mapped_column(primary_key=True)
        author_id: Mapped[int] = mapped_column(sa.ForeignKey("writers.id"))
        author: Mapped[Any] = relationship("Writer")

    class Writer(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "writers"
        id: Mapped[int] = mapped_column(primary_key=True)
        name: Mapped[str]

    with pytest.raises(ConfigError, match=r"'author\.nam' .* Writer has no column"):
        world.Base.registry.configure()
    with pytest.raises(ConfigError, match=r"'author\.nam' .* Writer has no column"):
        track(rooms=world.room("b"), fields={"author": "author.nam"}, kind="b")(Note)
    with pytest.raises(ConfigError, match="has no relationship 'writer'"):
        track(rooms=world.room("c"), fields={"author": "writer.name"}, kind="c")(Note)
