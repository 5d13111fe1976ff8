"""Random programs against one database, and whether every screen ends up right.

A program is a random sequence of what an application can do with a session. After each
end of a transaction all screens are compared with the database. A failure shows the
seed and what the program did; ``FUZZ_SEED=<seed>`` runs the same programs again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session
from sqlalchemy.orm.exc import ObjectDeletedError, StaleDataError

from tests.support.following import Chat, Screen

ROOMS = (1, 2, 3)
# What a session says of a program that makes no sense, such as one that changes an
# object whose row it has deleted in bulk.
_REFUSED = (
    sa.exc.IntegrityError,
    sa.exc.SAWarning,
    ObjectDeletedError,
    StaleDataError,
)


class _Undo(Exception):
    """Raised inside a savepoint to leave it."""


class Programs:
    """Runs random programs on one database.

    Args:
        chat: The application.
        seed: With it and its number, a program does the same again.
    """

    def __init__(self, chat: Chat, seed: str) -> None:
        self.chat = chat
        self.Message = chat.Message
        self.seed = seed
        self.screens = {room: chat.screen(f"chat:{room}") for room in ROOMS}
        self.random = Random()
        self.log: list[str] = []
        self.ids: set[int] = set()
        self.ends = 0
        self.events = 0
        self._data: list[tuple[int, Callable[[Session], str | None]]] = [
            (8, self._insert),
            (8, self._update),
            (6, self._move),
            (2, self._move_by_relationship),
            (5, self._delete),
            (2, self._switch),
            (2, self._insert_again),
            (2, self._change_key),
            (1, self._expire),
            (6, self._flush),
            (4, self._savepoint),
            (1, self._fail),
            (1, self._update_in_bulk),
            (1, self._delete_in_bulk),
            (1, self._insert_in_bulk),
        ]
        self._control: list[tuple[int, Callable[[Session], str | None]]] = [
            (5, self._begin_nested),
            (3, self._release),
            (3, self._roll_back_to),
            (4, self._commit),
            (2, self._roll_back),
            (1, self._close),
        ]

    def run(self, number: int) -> None:
        """Run one program."""
        self.random = Random(f"{self.seed}:{number}")
        self.log = [f"FUZZ_SEED={self.seed}, program {number}"]
        with self.chat.Session(
            expire_on_commit=self._chance(0.5), autoflush=self._chance(0.8)
        ) as session:
            for _ in range(self.random.randrange(3, 16)):
                self._step(session, [*self._data, *self._control])
            if self._chance(0.8):
                self._step(session, [(2, self._commit), (1, self._roll_back)])
        self.check()

    def _chance(self, part: float) -> bool:
        return self.random.random() < part

    def _step(self, session: Session, steps: list[Any]) -> None:
        step = self.random.choices([s for _, s in steps], [w for w, _ in steps])[0]
        try:
            done = step(session)
        except _REFUSED:
            self.log.append(f"{step.__name__} failed")
            (session.get_nested_transaction() or session).rollback()
            if steps is self._data:
                raise _Undo from None
        else:
            if done is not None:
                self.log.append(done)

    def check(self) -> None:
        """Compare, at the end of a transaction."""
        self.ends += 1
        table = self.Message.__table__.c
        with self.chat.engine.connect() as connection:
            rows = list(
                connection.execute(
                    sa.select(table.id, table.room_id, table.body, table.n)
                )
            )
        for room, screen in self.screens.items():
            self.events += len(screen.follow())
            shown = screen.kinds.get("message", {})
            truth = {
                r.id: {"id": r.id, "body": r.body, "n": r.n}
                for r in rows
                if r.room_id == room
            }
            assert shown == truth, "\n".join(
                [*self.log, f"{screen} shows {shown}", f"the database has {truth}"]
            )

    # -- what a program does ---------------------------------------------------------

    def _some(self, session: Session) -> Any:
        ids = session.scalars(sa.select(self.Message.id)).all()
        self.ids.update(ids)
        return session.get(self.Message, self.random.choice(ids)) if ids else None

    def _room(self) -> int | None:
        return self.random.choice((*ROOMS, *ROOMS, None))

    def _text(self) -> str:
        return f"{self.random.randrange(1000)}"

    def _insert(self, session: Session) -> str:
        room = self._room()
        session.add(self.Message(room_id=room, body=self._text()))
        return f"insert into {room}"

    def _update(self, session: Session) -> str | None:
        message = self._some(session)
        if message is None:
            return None
        name = self.random.choice(("body", "n", "secret", "large"))
        if name == "n":
            message.n = self.random.choice((1, self.Message.n + 1))
        else:
            setattr(message, name, self._text())
        return f"update {name} of {sa.inspect(message).identity}"

    def _move(self, session: Session) -> str | None:
        message = self._some(session)
        if message is None:
            return None
        message.room_id = room = self._room()
        return f"move {sa.inspect(message).identity} to {room}"

    def _move_by_relationship(self, session: Session) -> str | None:
        message = self._some(session)
        if message is None:
            return None
        message.room = room = session.get(self.chat.Room, self.random.choice(ROOMS))
        return f"move {sa.inspect(message).identity} to {room.id}, by relationship"

    def _delete(self, session: Session) -> str | None:
        message = self._some(session)
        if message is None:
            return None
        session.delete(message)
        return f"delete {sa.inspect(message).identity}"

    def _switch(self, session: Session) -> str | None:
        session.flush()
        message = self._some(session)
        if message is None:
            return None
        room = self._room()
        session.delete(message)
        session.add(self.Message(id=message.id, room_id=room, body=self._text()))
        session.flush()
        return f"switch {message.id} to {room}"

    def _insert_again(self, session: Session) -> str | None:
        session.flush()
        gone = sorted(self.ids - set(session.scalars(sa.select(self.Message.id))))
        if not gone:
            return None
        id, room = self.random.choice(gone), self._room()
        session.add(self.Message(id=id, room_id=room, body=self._text()))
        session.flush()
        return f"insert {id} again, into {room}"

    def _change_key(self, session: Session) -> str | None:
        session.flush()
        message = self._some(session)
        if message is None:
            return None
        old = message.id
        message.id = new = 1_000_000 + self.random.randrange(1_000_000)
        session.flush()
        return f"change the key of {old} to {new}"

    def _expire(self, session: Session) -> str:
        session.flush()
        session.expire_all()
        return "expire all"

    def _flush(self, session: Session) -> str:
        session.flush()
        return "flush"

    def _fail(self, session: Session) -> str:
        session.add(self.Message(room_id=1, n=sa.null()))
        session.flush()
        raise AssertionError("n may not be null")

    def _savepoint(self, session: Session) -> str:
        self.log.append("with a savepoint:")
        with suppress(_Undo), session.begin_nested():
            for _ in range(self.random.randrange(1, 5)):
                self._step(session, self._data)
            if self._chance(0.4):
                self.log.append("undo")
                raise _Undo
        return "end of the savepoint"

    def _where(self, session: Session) -> Any:
        message = self.Message
        ids = session.scalars(sa.select(message.id)).all() or [0]
        return self.random.choice(
            (
                message.room_id == self.random.choice(ROOMS),
                message.room_id.in_(self.random.sample(ROOMS, 2)),
                message.id == self.random.choice(ids),
                message.n > 0,
            )
        )

    def _update_in_bulk(self, session: Session) -> str:
        where = self._where(session)
        values = self.random.choice(
            (
                {"body": self._text()},
                {"n": self.Message.n + 1},
                {"room_id": self._room()},
            )
        )
        session.execute(sa.update(self.Message).where(where).values(values))
        return f"update where {where}: {values}"

    def _delete_in_bulk(self, session: Session) -> str:
        where = self._where(session)
        session.execute(sa.delete(self.Message).where(where))
        return f"delete where {where}"

    def _insert_in_bulk(self, session: Session) -> str:
        rows = [{"room_id": self._room(), "body": self._text(), "n": 0}] * 2
        session.execute(sa.insert(self.Message), rows)
        return f"insert {rows}"

    def _begin_nested(self, session: Session) -> str:
        session.begin_nested()
        return "begin nested"

    def _release(self, session: Session) -> str | None:
        nested = session.get_nested_transaction()
        if nested is None:
            return None
        nested.commit()
        return "release"

    def _roll_back_to(self, session: Session) -> str | None:
        nested = session.get_nested_transaction()
        if nested is None:
            return None
        nested.rollback()
        return "roll back to"

    def _commit(self, session: Session) -> None:
        self.log.append("commit")
        session.commit()
        self.check()

    def _roll_back(self, session: Session) -> None:
        self.log.append("roll back")
        session.rollback()
        self.check()

    def _close(self, session: Session) -> None:
        self.log.append("close")
        session.close()
        self.check()


def _run(chat: Chat, count: int) -> None:
    programs = Programs(chat, os.environ.get("FUZZ_SEED") or secrets.token_hex(4))
    print(f"FUZZ_SEED={programs.seed}")
    for number in range(count):
        programs.run(number)
        if number % 100 == 99:
            _empty(programs)
    # So that a program which does nothing is noticed.
    assert programs.ends > count
    assert programs.events > count


def _empty(programs: Programs) -> None:
    """Take the rows away, which otherwise become more and more."""
    with programs.chat.Session() as session:
        session.execute(sa.delete(programs.Message))
        session.commit()
    programs.ids.clear()
    for screen in programs.screens.values():
        screen.follow()


def test_converges_in_random_programs_on_sqlite(sqlite_chat: Chat) -> None:
    _run(sqlite_chat, 1000)


def test_converges_in_random_programs_on_postgresql(postgres_chat: Chat) -> None:
    _run(postgres_chat, 250)


def test_converges_in_random_programs_on_mariadb(mariadb_chat: Chat) -> None:
    _run(mariadb_chat, 250)


@pytest.mark.soak
@pytest.mark.parametrize("part", range(5))
def test_converges_in_many_random_programs(chat: Chat, part: int) -> None:
    _run(chat, 4000)


def test_a_screen_that_misses_an_event_is_noticed(sqlite_chat: Chat) -> None:
    """The referee can be trusted."""
    programs = Programs(sqlite_chat, "a seed")
    sqlite_chat.post(1)
    missed: Screen = programs.screens[1]
    missed.position = sqlite_chat.livepush.position(missed.room)
    with pytest.raises(AssertionError, match="the database has"):
        programs.check()
