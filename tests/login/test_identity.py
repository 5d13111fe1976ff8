"""The one id of a user: its primary key, or what the application says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import ForeignKey, Uuid, create_engine, event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from flask_livepush.login.identity import Identities
from flask_livepush.rooms import Pattern
from tests.support.judging import own_rooms

NUMBER = UUID("00000000-0000-4000-8000-00000000000a")


class Base(DeclarativeBase):
    pass


class Person(Base):
    __tablename__ = "person"
    number: Mapped[int] = mapped_column("nr", primary_key=True)
    #: Whoever has it is logged in as this user.
    fs_uniquifier: Mapped[str] = mapped_column(default="a credential")
    id: Mapped[str] = mapped_column(default="not the key")

    def get_id(self) -> str:
        return self.fs_uniquifier


class Admin(Person):
    __tablename__ = "admin"
    number: Mapped[int] = mapped_column(ForeignKey("person.nr"), primary_key=True)


class Thing(Base):
    __tablename__ = "thing"
    key: Mapped[UUID] = mapped_column(Uuid, primary_key=True)


class Seat(Base):
    __tablename__ = "seat"
    row: Mapped[int] = mapped_column(primary_key=True)
    column: Mapped[int] = mapped_column(primary_key=True)


class Plain:
    is_authenticated = True

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    def get_id(self) -> str:
        return "a credential"


@pytest.fixture
def session() -> Iterator[Session]:
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        yield session
    engine.dispose()


def test_is_the_primary_key_of_a_mapped_user_and_loads_nothing(
    session: Session,
) -> None:
    """Bug: rows went to ``user:<key>``, and their owner might join another room."""
    identities = Identities(own_rooms())
    users = [Person(number=7), Admin(number=8), Thing(key=NUMBER)]
    # Before they are written, by what the application has given them.
    assert [identities.of(user) for user in users] == ["7", "8", str(NUMBER)]
    session.add_all(users)
    session.commit()
    assert session.connection().closed is False
    statements: list[str] = []
    event.listen(
        session.connection(), "before_execute", lambda *a: statements.append(a)
    )
    assert [identities.of(user) for user in users] == ["7", "8", str(NUMBER)]
    session.expire_all()
    session.expunge(users[0])
    assert [identities.of(user) for user in users] == ["7", "8", str(NUMBER)]
    assert statements == []


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        (Plain(id=7), "7"),
        (Plain(id="ada"), "ada"),
        (Plain(id="a/b:c"), "a/b:c"),
        (Plain(id=NUMBER), str(NUMBER)),
        (Plain(id=7, is_authenticated=False), None),
        (None, None),
    ],
    ids=str,
)
def test_is_the_id_of_a_plain_object(user: Any, expected: str | None) -> None:
    assert Identities(own_rooms()).of(user) == expected


@pytest.mark.parametrize(
    "user",
    [
        Plain(),
        Plain(id=None),
        Plain(id=b"7"),
        Plain(id=""),
        Plain(id="/x"),
        Plain(id="x" * 200),
        Plain(id=lambda: 7),
        Seat(row=1, column=2),
        Person(),
    ],
    ids=lambda user: type(user).__name__,
)
def test_who_has_none_is_noted_once_with_the_remedy(
    user: Any, caplog: pytest.LogCaptureFixture
) -> None:
    identities = Identities(own_rooms())
    assert identities.of(user) is None
    assert identities.of(user) is None
    (record,) = caplog.records
    assert "@livepush.identity" in record.message
    assert type(user).__name__ in record.message
    assert "credential" not in caplog.text


def test_is_written_as_the_rooms_name_has_it() -> None:
    identities = Identities(own_rooms())
    for value in (7, "7", NUMBER, "Ada Lovelace", "é", True):
        text = identities.named(value)
        assert text == own_rooms().value_text("user_id", value)
        assert own_rooms().name({"user_id": value}) == f"user:{text}"
        assert identities.of(Plain(id=value)) == text
    assert identities.named(Plain(id=7)) == "7"
    nobody = Plain(is_authenticated=False, is_anonymous=True, id=7)
    for value in ("", "/x", "x" * 200, None, nobody):
        assert identities.named(value) is None


def test_a_deactivated_user_has_a_name_and_is_nobody() -> None:
    """Bug: whoever was just deactivated could not be disconnected."""
    identities = Identities(own_rooms())
    user = Plain(is_authenticated=False, is_anonymous=False, id=7)
    assert identities.named(user) == "7"
    assert identities.of(user) is None


def test_the_application_may_say_another() -> None:
    identities = Identities(own_rooms())
    identities.hook = lambda user: f"{user.row}-{user.column}"
    assert identities.of(Seat(row=1, column=2)) == "1-2"
    identities.hook = lambda user: NUMBER
    assert identities.of(Plain(id=7)) == str(NUMBER)
    assert identities.of(Plain(is_authenticated=False)) is None
    assert identities.info(Plain(id=7)) == ""


@pytest.mark.parametrize("said", [None, ["Ada"], b"x", "", "x" * 200])
def test_what_is_no_id_leaves_a_user_without_one(
    said: Any, caplog: pytest.LogCaptureFixture
) -> None:
    identities = Identities(own_rooms())
    identities.hook = lambda user: said
    assert identities.of(Plain(id=7)) is None
    assert identities.of(Plain(id=7)) is None
    if said is not None:
        assert len(caplog.records) == 1
        assert "Ada" not in caplog.text


def test_a_hook_that_raises_leaves_a_user_without_one(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The default may be another one's id by what the hook says of that one."""

    def hook(user: Any) -> Any:
        raise LookupError("a bug")

    identities = Identities(own_rooms())
    identities.hook = hook
    assert identities.of(Plain(id=7)) is None
    assert identities.of(Plain(id=7)) is None
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "a bug" in caplog.text


def test_a_hook_that_returns_a_dict_tells_others_as_it_always_has() -> None:
    identities = Identities(own_rooms())
    asked: list[Any] = []
    identities.hook = lambda user: asked.append(user) or {"name": "Ada"}
    user = Plain(id=7)
    assert identities.of(user) == "7"
    assert identities.info(user) == '{"name":"Ada"}'
    assert identities.of(user) == identities.of(user) == "7"
    assert len(asked) == 2  # its id is not asked for again
    identities.info_hook = lambda user: {"name": "Bob"}
    assert identities.info(user) == '{"name":"Bob"}'


@pytest.mark.parametrize(
    ("told", "info"),
    [
        (None, ""),
        ("Ada", ""),
        (["Ada"], ""),
        ({"at": b"x"}, ""),
        ({"at": b"x", "name": "Ada"}, '{"name":"Ada"}'),
        ({"name": "\ud83d", "n": 2**53, "f": float("inf")}, ""),
    ],
    ids=repr,
)
def test_what_can_not_be_sent_is_left_out_and_noted(
    told: Any, info: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: a user whose name ends with half an emoji could join no room any more."""
    identities = Identities(own_rooms())
    identities.info_hook = lambda user: told
    for _ in range(2):
        assert identities.info(Plain(id=7)) == info
    assert [r.levelname for r in caplog.records] == ["ERROR"]
    assert "user_info" in caplog.text
    assert "Ada" not in caplog.text


def test_a_user_info_that_raises_tells_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def hook(user: Any) -> Any:
        raise LookupError("a bug")

    identities = Identities(own_rooms())
    identities.info_hook = hook
    assert identities.info(Plain(id=7)) == ""
    assert "a bug" in caplog.text


def test_users_without_sqlalchemy_need_none() -> None:
    assert "sqlalchemy" not in vars(sys.modules[Identities.__module__])
    assert Identities(Pattern("user:<int:user_id>")).named("ada") is None
