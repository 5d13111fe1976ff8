"""Applications that LivePush follows, and screens that show what it pushes.

A :class:`Screen` does with a room's publications what the JavaScript store does, and
checks what must hold for every one of them: offsets without a hole, ``more`` on all but
the last of a commit, no field that was not declared.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    deferred,
    mapped_column,
    relationship,
    sessionmaker,
)

from flask_livepush import LivePush, Room
from flask_livepush.brokers.base import Broker
from flask_livepush.emitter import Emitter
from flask_livepush.outgoing import Outgoing
from flask_livepush.protocol.encoding import encode
from flask_livepush.protocol.publication import Position, Publication

from .brokers import begun
from .postgres import Postgres
from .waiting import DEADLINE, until

Shown = dict[str, dict[Any, dict[str, Any]]]
_numbers = count(1)


def flask_app(**settings: Any) -> Flask:
    """Return an application whose rooms forget nothing while a test runs."""
    app = Flask("following")
    app.config.update(
        SECRET_KEY="of no use",
        LIVEPUSH_HISTORY_SIZE=100_000,
        LIVEPUSH_ASYNC_MODE="threading",
    )
    app.config.update(settings)
    return app


def create_engine(url: str, **options: Any) -> sa.Engine:
    """Return an engine; with SQLite, one whose SAVEPOINTs work.

    Source: "Serializable isolation / Savepoints / Transactional DDL" in the
    documentation of SQLAlchemy's pysqlite dialect.
    """
    engine = sa.create_engine(url, **options)
    if engine.dialect.name == "sqlite":
        begin_by_hand(engine)
    return engine


def begin_by_hand(engine: sa.Engine) -> None:
    """Let SQLAlchemy emit BEGIN, instead of the driver when it sees fit."""

    @sa.event.listens_for(engine, "connect")
    def on_connect(driver: Any, _: Any) -> None:
        driver.isolation_level = None
        driver.execute("PRAGMA synchronous=OFF")
        driver.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN")


class World:
    """A Flask application with LivePush, and plain SQLAlchemy beside it.

    Args:
        url: Of the database.
        settings: The application's configuration.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        class Base(DeclarativeBase):
            # MariaDB wants to know how long a VARCHAR may be.
            type_annotation_map: ClassVar[Any] = {str: sa.String(200)}

        self.app = flask_app(**settings)
        self.livepush = LivePush(self.app)
        self.engine = create_engine(url)
        self.Base: Any = Base
        self.Session = self.sessionmaker()
        self.livepush.watch(self.Session)

    def sessionmaker(self) -> Any:
        """Return what makes the sessions that LivePush is to follow."""
        return sessionmaker(self.engine)

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is SQLite."""
        return self.engine.dialect.name == "sqlite"

    def room(self, pattern: str) -> Room:
        """Declare a room that nobody needs to be let into."""
        return self.livepush.room(pattern)(lambda user, **values: True)

    def create_tables(self) -> None:
        """Create the tables of all models so far."""
        self.Base.metadata.create_all(self.engine)

    def screen(self, room: str) -> Screen:
        """Open a screen that shows a room from now on."""
        return Screen(self.livepush, room)

    def screens(self, *rooms: str) -> list[Screen]:
        """Open a screen for each room."""
        return [self.screen(room) for room in rooms]

    def scalar(self, statement: str) -> Any:
        """Return the first value of a query, asked behind everybody's back."""
        with self.engine.connect() as connection:
            return connection.execute(sa.text(statement)).scalar()


class Screen:
    """One room as a page shows it.

    Args:
        livepush: Set up on one application.
        room: The room's name.
    """

    def __init__(self, livepush: LivePush, room: str) -> None:
        self._livepush = livepush
        self.room = room
        self.kinds: Shown = {}
        self.position = Position("", 0)
        self.read_anew()

    def __repr__(self) -> str:
        return f"<Screen of {self.room} at {self.position.offset}>"

    def read_anew(self) -> None:
        """Start from a snapshot, whose position is read before it."""
        self._wait()
        # As somebody's who has joined: the room has an epoch.
        self.position = begun(broker_of(self._livepush), self.room)
        self.kinds = {}
        self._keys = {}
        for kind, rows in snapshot(self._livepush, self.room).items():
            self._keys[kind] = rows["key"]
            self.kinds[kind] = {row[rows["key"]]: row for row in rows["rows"]}

    def follow(self) -> list[tuple[str, Any]]:
        """Apply what has been published since, and return it: (event, data).

        To be called once a commit, if what ``more`` says is to be checked.
        """
        told = self._since()
        stale = False
        for publication in told:
            kind, _, verb = publication.event.rpartition(".")
            data = json.loads(publication.data)
            if verb in ("created", "updated"):
                self._put(kind, data)
            elif verb == "deleted":
                assert list(data) == [self._keys.get(kind, "id")], data
                self.kinds.setdefault(kind, {}).pop(*data.values(), None)
            elif verb == "invalidated":
                assert data == {}
                stale = True
        if stale:
            self.read_anew()
        return [(p.event, json.loads(p.data)) for p in told]

    def _wait(self) -> None:
        """Wait until all that was committed so far has been published."""
        outgoing = outgoing_of(self._livepush)
        outgoing.wait_until_told(DEADLINE)  # looks more often
        until(outgoing.finish, what=f"{self}: something waits")

    def _since(self) -> list[Publication]:
        self._wait()
        answer = broker_of(self._livepush).history(self.room, self.position)
        told = answer.publications
        assert told is not None, f"{self} can't be recovered"
        first = self.position.offset + 1
        assert [p.offset for p in told] == list(range(first, first + len(told)))
        assert answer.position == replace(
            self.position, offset=self.position.offset + len(told)
        )
        assert not told or not told[-1].more, f"{self}: a commit that never ends"
        self.position = answer.position
        return told

    def _put(self, kind: str, data: dict[str, Any]) -> None:
        declared = [
            set(t.fields)
            for t in self._livepush._models._tracking.all()  # type: ignore[union-attr]
            if t.kind == kind
        ]
        # A field whose value can't be sent is missing.
        assert not declared or any(set(data) <= fields for fields in declared), (
            f"undeclared fields in {data}"
        )
        self.kinds.setdefault(kind, {})[data[self._keys.get(kind, "id")]] = data

    def commits(self) -> list[list[str]]:
        """Return the events since, in the groups that ``more`` makes of them.

        The screen stays where it is.
        """
        self._wait()
        groups: list[list[str]] = [[]]
        answer = broker_of(self._livepush).history(self.room, self.position)
        for publication in answer.publications or ():
            groups[-1].append(publication.event)
            if not publication.more:
                groups.append([])
        return groups[:-1]

    def check(self) -> None:
        """Follow, and fail unless the screen shows what the database has."""
        self.follow()
        shown = {kind: rows for kind, rows in self.kinds.items() if rows}
        newcomer = Screen(self._livepush, self.room)
        truth = {kind: rows for kind, rows in newcomer.kinds.items() if rows}
        assert shown == truth, f"{self} shows {shown}, the database has {truth}"


def events(*screens: Screen) -> list[Any]:
    """Follow, and return the names of the events, a list a screen where several."""
    told = [[event for event, _ in screen.follow()] for screen in screens]
    return told[0] if len(told) == 1 else told


def check(screens: Iterable[Screen]) -> None:
    """Fail unless every screen shows what the database has."""
    for screen in screens:
        screen.check()


# The only places that look behind the extension's public interface.


def broker_of(livepush: LivePush) -> Broker:
    """Return the broker of a LivePush with one application, to read histories."""
    return livepush._app().broker


def outgoing_of(livepush: LivePush) -> Outgoing:
    """Return what is in front of that broker."""
    return livepush._app().outgoing


def snapshot(livepush: LivePush, room: str) -> dict[str, Any]:
    """Return what a newcomer of a room starts from, by kind, as it arrives."""
    found = livepush._rooms.find(room)
    assert found is not None
    assert livepush._models is not None
    with livepush._apps[0].app.app_context():
        kinds: dict[str, Any] = json.loads(
            encode(livepush._models.snapshot(found[0], room, found[1]))
        )
    return kinds


def replace_emitter(livepush: LivePush, emitter: Emitter) -> None:
    """Let commits go out through another emitter."""
    parts = livepush._app()
    parts.app.extensions["livepush.parts"] = replace(parts, emitter=emitter)


class Chat(World):
    """The application of most tests: chats, their messages, tags of messages.

    ``Message`` is tracked in ``chat:<int:room_id>`` with its id, body and n; its
    ``secret`` and ``large`` are nobody's business.
    """

    def __init__(self, url: str, **settings: Any) -> None:
        super().__init__(url, **settings)
        base = self.Base
        self.chat = self.room("chat:<int:room_id>")

        class Room(base):  # type: ignore[misc, valid-type]
            __tablename__ = "rooms"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]
            messages: Mapped[list[Any]] = relationship(
                "Message", order_by="Message.id", cascade="all"
            )

        tagged = sa.Table(
            "tagged",
            base.metadata,
            sa.Column("message_id", sa.ForeignKey("messages.id"), primary_key=True),
            sa.Column("tag_id", sa.ForeignKey("tags.id"), primary_key=True),
        )

        class Tag(base):  # type: ignore[misc, valid-type]
            __tablename__ = "tags"
            id: Mapped[int] = mapped_column(primary_key=True)

        @self.livepush.track(rooms=self.chat, fields=("id", "body", "n"))
        class Message(base):  # type: ignore[misc, valid-type]
            __tablename__ = "messages"
            id: Mapped[int] = mapped_column(primary_key=True)
            room_id: Mapped[int | None] = mapped_column(sa.ForeignKey("rooms.id"))
            body: Mapped[str | None]
            n: Mapped[int] = mapped_column(default=0)
            secret: Mapped[str | None]
            large: Mapped[str | None] = deferred(mapped_column(sa.Text))
            room: Mapped[Any] = relationship(Room, overlaps="messages")
            tags: Mapped[list[Any]] = relationship(Tag, secondary=tagged)

        self.Room: Any = Room
        self.Message: Any = Message
        self.Tag: Any = Tag
        self.create_tables()
        with self.Session() as session:
            session.add_all([Room(id=i) for i in range(1, 5)])
            session.commit()

    def post(self, room_id: int | None = 1, **values: Any) -> Any:
        """Commit a message and return its id."""
        with self.Session() as session:
            message = self.Message(room_id=room_id, **values)
            session.add(message)
            session.commit()
            return message.id

    def get(self, session: Session, id: Any) -> Any:
        """Return a message in a session."""
        message = session.get(self.Message, id)
        assert message is not None
        return message


@contextmanager
def closing(world: Any) -> Iterator[Any]:
    """Give a world's connections back at the end."""
    try:
        yield world
    finally:
        world.engine.dispose()


def sqlite_url(folder: Path) -> str:
    """Return the URL of a database in a file, so that several connections share it."""
    return f"sqlite:///{folder / 'test.db'}"


@pytest.fixture(scope="session")
def shared_database(postgres: Postgres) -> Iterator[str]:
    """The URL of a PostgreSQL database in which tests have schemas of their own."""
    with postgres.database() as url:
        yield url


@pytest.fixture
def schema_url(shared_database: str) -> str:
    """The URL of an empty PostgreSQL schema, which costs less than a database."""
    name = f"test_{next(_numbers)}"
    engine = sa.create_engine(shared_database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateSchema(name))
    return f"{shared_database}?options=-csearch_path%3D{name}"


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database, once of each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    name = "schema_url" if request.param == "postgresql" else "mariadb_url"
    url: str = request.getfixturevalue(name)
    return url


#: For tables of tests whose outcome depends on the dialect and on no server: without
#: MariaDB, which is slow at making tables.
BUT_MARIADB = pytest.mark.parametrize(
    "database_url", ["sqlite", "postgresql"], indirect=True
)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """An application without models, on SQLite."""
    with closing(World(sqlite_url(tmp_path))) as made:
        yield made


@pytest.fixture
def chat(database_url: str) -> Iterator[Chat]:
    """The chat application, once on each kind of database."""
    with closing(Chat(database_url)) as made:
        yield made


@pytest.fixture(params=["postgresql", "mariadb"])
def server_chat(request: pytest.FixtureRequest) -> Chat:
    """The chat application, once on each database that has several writers at once."""
    name = "postgres_chat" if request.param == "postgresql" else "mariadb_chat"
    chat: Chat = request.getfixturevalue(name)
    return chat


@pytest.fixture
def sqlite_chat(tmp_path: Path) -> Iterator[Chat]:
    """The chat application on SQLite."""
    with closing(Chat(sqlite_url(tmp_path))) as made:
        yield made


@pytest.fixture
def postgres_chat(schema_url: str) -> Iterator[Chat]:
    """The chat application on PostgreSQL."""
    with closing(Chat(schema_url)) as made:
        yield made


@pytest.fixture
def mariadb_chat(mariadb_url: str) -> Iterator[Chat]:
    """The chat application on MariaDB."""
    with closing(Chat(mariadb_url)) as made:
        yield made
