"""Rights that depend on rows: whose are asked about when a watched table commits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from flask_livepush.brokers.logins import Recheck
from flask_livepush.emitter import Emitter
from tests.support.following import (
    World,
    closing,
    outgoing_of,
    replace_emitter,
    sqlite_url,
)

CHAT = "chat:<int:room_id>"


def recorded(world: World) -> list[Recheck]:
    """Let a world's orders to ask again be put into a list."""
    orders: list[Recheck] = []
    emitter = Emitter(outgoing_of(world.livepush), recheck=orders.extend)
    replace_emitter(world.livepush, emitter)
    return orders


class Club(World):
    """Rooms, their members by three kinds of tables, and users who may be banned."""

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        base = self.Base
        self.chat = self.room(CHAT)
        self.team = self.room("team:<int:team_id>:<slug>")
        guest_list = sa.Table(
            "guests",
            base.metadata,
            sa.Column("user_id", sa.ForeignKey("users.id"), primary_key=True),
            sa.Column("room_id", sa.ForeignKey("rooms.id"), primary_key=True),
        )

        class Room(base):  # type: ignore[misc, valid-type]
            __tablename__ = "rooms"
            id: Mapped[int] = mapped_column(primary_key=True)
            is_open: Mapped[bool] = mapped_column(default=False)
            guests: Mapped[list[Any]] = relationship("User", secondary=guest_list)

        class User(base):  # type: ignore[misc, valid-type]
            __tablename__ = "users"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]

        class Member(base):  # type: ignore[misc, valid-type]
            __tablename__ = "members"
            id: Mapped[int] = mapped_column(primary_key=True)
            user_id: Mapped[int | None] = mapped_column(sa.ForeignKey("users.id"))
            room_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rooms.id"))
            role: Mapped[str] = mapped_column(default="reader")

        class Entry(base):  # type: ignore[misc, valid-type]
            __tablename__ = "entries"
            id: Mapped[int] = mapped_column(primary_key=True)
            type: Mapped[str] = mapped_column(sa.String(20))
            room_id: Mapped[int | None]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "type",
                "polymorphic_identity": "entry",
            }

        class Invitation(Entry):
            __tablename__ = "invitations"
            id: Mapped[int] = mapped_column(
                sa.ForeignKey("entries.id"), primary_key=True
            )
            user_id: Mapped[int | None]
            __mapper_args__ = {"polymorphic_identity": "invitation"}  # noqa: RUF012

        self.Room_, self.User, self.Member = Room, User, Member
        self.Invitation, self.guests = Invitation, guest_list
        self.chat.recheck_on(Member, user="user_id")
        self.chat.recheck_on(guest_list, user="user_id")
        self.chat.recheck_on(Invitation, user="user_id")
        self.chat.recheck_on(Room, columns={"room_id": "id"})
        self.chat.recheck_on(User, user="id", columns={})
        self.create_tables()
        with self.Session() as session:
            session.add_all([Room(id=i) for i in range(1, 5)])
            session.add_all([User(id=i) for i in range(1, 5)])
            session.flush()
            session.add_all([Member(user_id=i, room_id=i) for i in (1, 2, 3)])
            session.add(Invitation(user_id=1, room_id=1))
            session.execute(guest_list.insert().values(user_id=4, room_id=4))
            session.commit()
        self.orders = recorded(self)

    def asked(self) -> set[tuple[str | None, str | None]]:
        """Return what was asked about since the last time."""
        found = [(o.user, o.room) for o in self.orders]
        assert len(found) == len(set(found)), "something is asked about twice"
        self.orders.clear()
        return set(found)


@pytest.fixture
def club(database_url: str) -> Iterator[Club]:
    with closing(Club(database_url)) as made:
        yield made


@pytest.fixture
def sqlite_club(tmp_path: Any) -> Iterator[Club]:
    with closing(Club(sqlite_url(tmp_path))) as made:
        yield made


def add(club: Club, session: Session) -> None:
    session.add(club.Member(user_id=1, room_id=2))


def add_many(club: Club, session: Session) -> None:
    session.add_all([club.Member(user_id=i, room_id=2) for i in (1, 2, 3)])


def delete(club: Club, session: Session) -> None:
    session.delete(session.get(club.Member, 1))


def change_what_no_column_names(club: Club, session: Session) -> None:
    session.get(club.Member, 1).role = "writer"  # type: ignore[union-attr]


def move_to_another_room(club: Club, session: Session) -> None:
    session.get(club.Member, 1).room_id = 2  # type: ignore[union-attr]


def move_to_another_user(club: Club, session: Session) -> None:
    session.get(club.Member, 1).user_id = 3  # type: ignore[union-attr]


def change_nothing(club: Club, session: Session) -> None:
    member = session.get(club.Member, 1)
    assert member is not None
    member.role, member.user_id = "reader", 1
    session.flush()


def delete_by_key(club: Club, session: Session) -> None:
    session.execute(sa.delete(club.Member).where(club.Member.id == 1))


def delete_by_keys_that_are_not_all_there(club: Club, session: Session) -> None:
    session.execute(sa.delete(club.Member).where(club.Member.id.in_([1, 77])))


def delete_one_s(club: Club, session: Session) -> None:
    session.execute(sa.delete(club.Member).where(club.Member.user_id == 1))


def delete_a_room_s(club: Club, session: Session) -> None:
    session.execute(sa.delete(club.Member).where(club.Member.room_id == 1))


def delete_one_in_a_room(club: Club, session: Session) -> None:
    member = club.Member
    session.execute(sa.delete(member).where(member.room_id == 1, member.user_id == 1))


def delete_some_in_rooms(club: Club, session: Session) -> None:
    member = club.Member
    session.execute(
        sa.delete(member).where(
            member.room_id.in_([1, 2]), member.user_id.in_([1, 2]), member.role != "x"
        )
    )


def delete_by_a_subquery(club: Club, session: Session) -> None:
    users = sa.select(club.User.id)
    session.execute(sa.delete(club.Member).where(club.Member.user_id.in_(users)))


def delete_all(club: Club, session: Session) -> None:
    session.query(club.Member).delete()


def bulk_insert(club: Club, session: Session) -> None:
    session.execute(
        sa.insert(club.Member),
        [{"user_id": 1, "room_id": 2}, {"user_id": 2, "room_id": 3}],
    )


def bulk_insert_mappings(club: Club, session: Session) -> None:
    session.bulk_insert_mappings(club.Member, [{"user_id": 1, "room_id": 2}])


def core_insert(club: Club, session: Session) -> None:
    table = club.Member.__table__
    session.execute(table.insert().values(user_id=1, room_id=2, role="x"))


def core_insert_on_the_connection(club: Club, session: Session) -> None:
    table = club.Member.__table__
    session.connection().execute(table.insert(), {"user_id": 1, "room_id": 2})


def insert_from_select(club: Club, session: Session) -> None:
    table = club.Member.__table__
    rows = sa.select(club.User.id, sa.literal(2), sa.literal("x"))
    session.execute(table.insert().from_select(["user_id", "room_id", "role"], rows))


def update_where(club: Club, session: Session) -> None:
    member = club.Member
    statement = sa.update(member).where(member.user_id == 1, member.room_id == 1)
    session.execute(statement.values(role="writer"))


def update_and_move(club: Club, session: Session) -> None:
    member = club.Member
    statement = sa.update(member).where(member.user_id == 1, member.room_id == 1)
    session.execute(statement.values(room_id=2))


def update_by_an_expression(club: Club, session: Session) -> None:
    member = club.Member
    statement = sa.update(member).where(member.user_id == 1, member.room_id == 1)
    session.execute(statement.values(room_id=member.room_id + 1))


def raw_sql(club: Club, session: Session) -> None:
    session.execute(sa.text("UPDATE members SET role = 'x' WHERE id = 1"))


def raw_sql_elsewhere(club: Club, session: Session) -> None:
    session.execute(sa.text("UPDATE entries SET room_id = 1 WHERE id = 77"))


def add_a_guest(club: Club, session: Session) -> None:
    room = session.get(club.Room_, 1)
    assert room is not None
    room.guests.append(session.get(club.User, 2))


def lose_a_guest(club: Club, session: Session) -> None:
    room = session.get(club.Room_, 4)
    assert room is not None
    room.guests.clear()


def core_delete_guests(club: Club, session: Session) -> None:
    session.execute(club.guests.delete().where(club.guests.c.room_id == 4))


def delete_of_joined_tables(club: Club, session: Session) -> None:
    session.delete(session.get(club.Invitation, 1))


def move_of_joined_tables(club: Club, session: Session) -> None:
    session.get(club.Invitation, 1).room_id = 2  # type: ignore[union-attr]


def lock_a_room(club: Club, session: Session) -> None:
    session.get(club.Room_, 3).is_open = True  # type: ignore[union-attr]


def rename_a_user(club: Club, session: Session) -> None:
    session.get(club.User, 3).name = "Ada"  # type: ignore[union-attr]


def savepoints(club: Club, session: Session) -> None:
    with session.begin_nested():
        session.add(club.Member(user_id=1, room_id=2))
    inner = session.begin_nested()
    session.add(club.Member(user_id=2, room_id=2))
    session.execute(club.guests.insert().values(user_id=2, room_id=2))
    session.flush()
    inner.rollback()


def of_nobody(club: Club, session: Session) -> None:
    session.add(club.Member(user_id=None, room_id=2))


def of_no_room(club: Club, session: Session) -> None:
    session.add(club.Member(user_id=2, room_id=None))


CASES: list[tuple[Callable[[Club, Session], None], set[Any]]] = [
    (add, {("1", "chat:2")}),
    (add_many, {("1", "chat:2"), ("2", "chat:2"), ("3", "chat:2")}),
    (delete, {("1", "chat:1")}),
    (change_what_no_column_names, {("1", "chat:1")}),
    (move_to_another_room, {("1", "chat:1"), ("1", "chat:2")}),
    (move_to_another_user, {("1", "chat:1"), ("3", "chat:1")}),
    (change_nothing, set()),
    (delete_by_key, {("1", "chat:1")}),
    (delete_by_keys_that_are_not_all_there, {(None, CHAT)}),
    (delete_one_s, {("1", CHAT)}),
    (delete_a_room_s, {(None, "chat:1")}),
    (delete_one_in_a_room, {("1", "chat:1")}),
    (
        delete_some_in_rooms,
        {("1", "chat:1"), ("1", "chat:2"), ("2", "chat:1"), ("2", "chat:2")},
    ),
    (delete_by_a_subquery, {(None, CHAT)}),
    (delete_all, {(None, CHAT)}),
    (bulk_insert, {("1", "chat:2"), ("2", "chat:3")}),
    (bulk_insert_mappings, {("1", "chat:2")}),
    (core_insert, {("1", "chat:2")}),
    (core_insert_on_the_connection, {("1", "chat:2")}),
    (insert_from_select, {(None, CHAT)}),
    (update_where, {("1", "chat:1")}),
    (update_and_move, {("1", "chat:1"), ("1", "chat:2")}),
    (update_by_an_expression, {("1", "chat:1"), ("1", CHAT)}),
    (raw_sql, {(None, CHAT)}),
    (raw_sql_elsewhere, {(None, CHAT)}),
    (add_a_guest, {("2", "chat:1")}),
    (lose_a_guest, {("4", "chat:4")}),
    (core_delete_guests, {(None, "chat:4")}),
    (delete_of_joined_tables, {("1", "chat:1")}),
    (move_of_joined_tables, {("1", "chat:1"), ("1", "chat:2")}),
    (lock_a_room, {(None, "chat:3")}),
    (rename_a_user, {("3", CHAT)}),
    (savepoints, {("1", "chat:2")}),
    (of_nobody, {(None, "chat:2")}),
    (of_no_room, {("2", CHAT)}),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[0].__name__)
def test_asks_about_whom_a_commit_concerns(
    club: Club, case: tuple[Callable[[Club, Session], None], set[Any]]
) -> None:
    work, expected = case
    with club.Session() as session:
        work(club, session)
        if session.new or session.dirty or session.deleted:
            session.flush()
        assert club.asked() == set(), "before the commit"
        session.rollback()
    assert club.asked() == set(), "it was rolled back"
    with club.Session() as session:
        work(club, session)
        session.commit()
    assert club.asked() == expected
