"""Which sessions are followed, and which are refused."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_sqlalchemy.session import Session as FlaskSession
from sqlalchemy.ext.asyncio import (
    AsyncSession,
    async_scoped_session,
    async_sessionmaker,
)
from sqlalchemy.ext.horizontal_shard import ShardedSession
from sqlalchemy.orm import Mapped, Session, mapped_column, scoped_session, sessionmaker

from flask_livepush import ConfigError, LivePush, UsageError
from tests.support.following import (
    Chat,
    Screen,
    begin_by_hand,
    closing,
    events,
    flask_app,
    snapshot,
    sqlite_url,
)
from tests.support.postgres import Postgres
from tests.support.waiting import DEADLINE

CREATED = ["message.created"]


def _sessionmaker(chat: Chat) -> Any:
    maker = sessionmaker(chat.engine)
    chat.livepush.watch(maker)
    return maker()


def _scoped_session(chat: Chat) -> Any:
    registry = scoped_session(sessionmaker(chat.engine))
    chat.livepush.watch(registry)
    return registry()


def _session(chat: Chat) -> Any:
    session = Session(chat.engine)
    chat.livepush.watch(session)
    return session


def _session_class(chat: Chat) -> Any:
    class Own(Session):
        pass

    chat.livepush.watch(Own)
    return Own(chat.engine)


def _sessionmaker_of_a_class(chat: Chat) -> Any:
    class Own(Session):
        pass

    chat.livepush.watch(Own)
    maker = sessionmaker(chat.engine, class_=Own)
    chat.livepush.watch(maker)
    return maker()


def _twice(chat: Chat) -> Any:
    maker = sessionmaker(chat.engine)
    chat.livepush.watch(maker)
    chat.livepush.watch(maker)
    session = maker()
    chat.livepush.watch(session)
    return session


@pytest.mark.parametrize(
    "make",
    [
        _sessionmaker,
        _scoped_session,
        _session,
        _session_class,
        _sessionmaker_of_a_class,
        _twice,
    ],
)
def test_follows_whatever_is_watched_once(sqlite_chat: Chat, make: Any) -> None:
    screen = sqlite_chat.screen("chat:1")
    with make(sqlite_chat) as session:
        session.add(sqlite_chat.Message(room_id=1))
        with session.begin_nested():
            session.add(sqlite_chat.Message(room_id=1))
        session.commit()
        session.execute(
            sa.update(sqlite_chat.Message)
            .where(sqlite_chat.Message.room_id == 1)
            .values(n=2)
        )
        session.commit()
    assert events(screen) == [*CREATED, *CREATED, "message.invalidated"]
    screen.check()


def test_does_not_follow_what_is_not_watched(sqlite_chat: Chat) -> None:
    screen = sqlite_chat.screen("chat:1")
    with Session(sqlite_chat.engine) as session:
        session.add(sqlite_chat.Message(room_id=1))
        session.commit()
    assert events(screen) == []


@pytest.mark.parametrize(
    "target",
    [
        AsyncSession(),
        AsyncSession,
        async_sessionmaker(),
        async_scoped_session(async_sessionmaker(), scopefunc=lambda: None),
    ],
    ids=lambda target: type(target).__name__,
)
def test_refuses_an_asynchronous_session(sqlite_chat: Chat, target: Any) -> None:
    with pytest.raises(UsageError, match=r"AsyncSession.*sqlalchemy\.orm\.Session"):
        sqlite_chat.livepush.watch(target)


@pytest.mark.parametrize("target", [None, "session", object(), sa.MetaData()], ids=repr)
def test_refuses_what_is_no_session(sqlite_chat: Chat, target: Any) -> None:
    with pytest.raises(UsageError, match="sessionmaker"):
        sqlite_chat.livepush.watch(target)


def _on_the_engine(url: str) -> sa.Engine:
    return sa.create_engine(url, isolation_level="AUTOCOMMIT")


def _in_its_options(url: str) -> sa.Engine:
    return sa.create_engine(url, execution_options={"isolation_level": "AUTOCOMMIT"})


def _by_execution_options(url: str) -> sa.Engine:
    return sa.create_engine(url).execution_options(isolation_level="AUTOCOMMIT")


AUTOCOMMIT = pytest.mark.parametrize(
    "make", [_on_the_engine, _in_its_options, _by_execution_options]
)


@AUTOCOMMIT
def test_refuses_an_engine_in_autocommit(database_url: str, make: Any) -> None:
    engine = make(database_url)
    livepush = LivePush(flask_app())
    for target in (
        sessionmaker(engine),
        scoped_session(sessionmaker(engine)),
        Session(engine),
        sessionmaker(binds={sa.Table("t", sa.MetaData()): engine}),
    ):
        with pytest.raises(ConfigError, match="AUTOCOMMIT"):
            livepush.watch(target)
    engine.dispose()


@AUTOCOMMIT
def test_pushes_nothing_of_a_session_that_is_bound_to_autocommit_later(
    chat: Chat, make: Any, caplog: pytest.LogCaptureFixture
) -> None:
    engine = make(chat.engine.url)
    screen = chat.screen("chat:1")
    for _ in range(2):
        with chat.Session(bind=engine) as session:
            session.add(chat.Message(room_id=1))
            session.flush()
            session.rollback()
            session.add(chat.Message(room_id=1))
            session.commit()
    assert events(screen) == []
    assert caplog.text.count("AUTOCOMMIT") == 1
    engine.dispose()
    chat.post()
    assert events(screen) == CREATED


def test_pushes_nothing_of_a_transaction_that_is_set_to_autocommit(
    postgres_chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    chat = postgres_chat
    screen = chat.screen("chat:1")
    with chat.Session() as session:
        session.connection(execution_options={"isolation_level": "AUTOCOMMIT"})
        session.add(chat.Message(room_id=1))
        session.flush()
        session.rollback()
    assert events(screen) == []
    assert "AUTOCOMMIT" in caplog.text
    chat.post()
    assert events(screen) == CREATED


def test_pushes_nothing_when_mariadb_s_driver_commits_each_statement(
    mariadb_chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    chat = mariadb_chat
    screen = chat.screen("chat:1")
    engine = sa.create_engine(chat.engine.url, connect_args={"autocommit": True})
    for _ in range(2):
        with chat.Session(bind=engine) as session:
            session.add(chat.Message(room_id=1))
            session.commit()
    assert events(screen) == []
    assert caplog.text.count("autocommit in its connect arguments") == 1
    engine.dispose()
    chat.post()
    assert events(screen) == CREATED


def test_accepts_the_driver_s_autocommit_that_the_sqlite_recipe_sets(
    sqlite_chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    with sqlite_chat.engine.connect() as connection:
        assert connection.connection.dbapi_connection.isolation_level is None
    screen = sqlite_chat.screen("chat:1")
    sqlite_chat.post()
    assert events(screen) == CREATED
    assert caplog.text == ""


def _by_its_driver(engine: sa.Engine) -> None:
    """Let each new connection commit each statement, as an application's event may."""

    @sa.event.listens_for(engine, "connect")
    def on_connect(driver: Any, _: Any) -> None:
        if engine.dialect.name == "sqlite":
            driver.isolation_level = None
        elif engine.dialect.name == "postgresql":
            driver.autocommit = True
        else:
            driver.autocommit(True)


def test_pushes_nothing_when_a_driver_commits_each_statement(
    chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: it was noticed with MySQL's drivers alone; what was undone was pushed."""
    screen = chat.screen("chat:1")
    engine = sa.create_engine(chat.engine.url)
    _by_its_driver(engine)
    for _ in range(2):
        with chat.Session(bind=engine) as session:
            session.add(chat.Message(room_id=1))
            session.commit()
    assert events(screen) == []
    assert caplog.text.count("told to commit each statement") == 1
    engine.dispose()
    chat.post()
    assert events(screen) == CREATED


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("sqlite://", {"autocommit": True}),
        ("postgresql+psycopg://h/d", {"autocommit": True}),
        ("mysql+pymysql://h/d", {"autocommit": True}),
        ("mysql+pymysql://h/d", {"autocommit": 1}),
        ("mysql+pymysql://h/d?autocommit=true", {}),
    ],
    ids=str,
)
def test_refuses_connect_arguments_that_commit_each_statement(
    url: str, arguments: dict[str, Any]
) -> None:
    livepush = LivePush(flask_app())
    engine = sa.create_engine(url, connect_args=arguments)
    with pytest.raises(ConfigError, match="in its connect arguments"):
        livepush.watch(sessionmaker(engine))


@pytest.mark.parametrize(
    ("url", "arguments"),
    [
        ("sqlite://", {"isolation_level": None}),
        ("sqlite://", {"timeout": 5}),
        ("postgresql+psycopg://h/d", {"autocommit": False}),
        ("mysql+pymysql://h/d?charset=utf8mb4", {}),
    ],
    ids=str,
)
def test_takes_other_connect_arguments(url: str, arguments: dict[str, Any]) -> None:
    livepush = LivePush(flask_app())
    livepush.watch(sessionmaker(sa.create_engine(url, connect_args=arguments)))


def test_follows_bulk_statements_of_the_recipe_on_a_connection_that_stays_open(
    sqlite_chat: Chat, caplog: pytest.LogCaptureFixture
) -> None:
    sqlite_chat.post(1, body="old")
    screen = sqlite_chat.screen("chat:1")
    with (
        sqlite_chat.engine.connect() as connection,
        sqlite_chat.Session(bind=connection) as session,
    ):
        session.execute(sa.update(sqlite_chat.Message).values(body="new"))
        session.commit()
    assert screen.commits() == [["message.invalidated"]]
    assert caplog.text == ""
    screen.check()


@pytest.mark.parametrize(
    "make",
    [
        lambda: ShardedSession,
        lambda: sessionmaker(class_=ShardedSession),
        lambda: scoped_session(sessionmaker(class_=ShardedSession)),
    ],
    ids=["class", "sessionmaker", "scoped session"],
)
def test_refuses_a_sharded_session(make: Any) -> None:
    """Bug: it was followed, and the rows of one shard were pushed."""
    with pytest.raises(ConfigError, match="sessionmaker for each shard"):
        LivePush(flask_app()).watch(make())


def test_refuses_a_sharded_session_of_flask_sqlalchemy(tmp_path: Path) -> None:
    class Sharded(FlaskSession, ShardedSession):
        pass

    app = flask_app(SQLALCHEMY_DATABASE_URI=sqlite_url(tmp_path))
    SQLAlchemy(app, session_options={"class_": Sharded})
    with pytest.raises(ConfigError, match="ShardedSession"):
        LivePush(app)


# -- which sessions snapshots are read with ------------------------------------------


class _Behind(Chat):
    """A chat whose sessions read from a copy, which stands still."""

    def __init__(self, folder: Path, route: Any) -> None:
        (folder / "copy").mkdir()
        self.copy = sa.create_engine(sqlite_url(folder / "copy"))
        self._route = route
        super().__init__(sqlite_url(folder))

    def sessionmaker(self) -> Any:
        return sessionmaker(class_=self._route(self))

    def create_tables(self) -> None:
        super().create_tables()
        self.Base.metadata.create_all(self.copy)


def _by_clause(chat: _Behind) -> Any:
    class Routing(Session):
        def get_bind(self, mapper: Any = None, *, clause: Any = None, **_: Any) -> Any:
            writes = isinstance(clause, (sa.Insert, sa.Update, sa.Delete))
            return chat.engine if self._flushing or writes else chat.copy

    return Routing


def _by_flush(chat: _Behind) -> Any:
    class Routing(Session):
        def get_bind(self, mapper: Any = None, clause: Any = None) -> Any:
            return chat.engine if self._flushing else chat.copy

    return Routing


@pytest.mark.parametrize("route", [_by_clause, _by_flush])
def test_reads_snapshots_where_sessions_write_when_they_read_from_copies(
    tmp_path: Path, route: Any
) -> None:
    """Bug: newcomers had the rows of a copy that was behind, and kept them."""
    with closing(_Behind(tmp_path, route)) as chat:
        with chat.Session() as session:
            session.add(chat.Message(room_id=1))
            session.commit()
        assert list(chat.screen("chat:1").kinds["message"]) == [1]
        chat.copy.dispose()


def test_reads_snapshots_where_flask_sqlalchemy_writes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "copy").mkdir()
    app = flask_app(
        SQLALCHEMY_DATABASE_URI=sqlite_url(tmp_path),
        SQLALCHEMY_BINDS={"copy": sqlite_url(tmp_path / "copy")},
    )

    class Routing(FlaskSession):
        def get_bind(
            self, mapper: Any = None, clause: Any = None, bind: Any = None, **more: Any
        ) -> Any:
            if self._flushing or isinstance(clause, (sa.Update, sa.Delete, sa.Insert)):
                return super().get_bind(mapper, clause, bind, **more)
            return self._db.engines["copy"]

    db: Any = SQLAlchemy(app, session_options={"class_": Routing})
    livepush = LivePush(app)
    room = livepush.room("all")(lambda user: True)

    @livepush.track(rooms=room, fields=("id",))
    class Note(db.Model):  # type: ignore[misc, name-defined]
        id: Mapped[int] = mapped_column(primary_key=True)

    with app.app_context():
        for engine in db.engines.values():
            db.metadata.create_all(engine)
        db.session.add(Note())
        db.session.commit()
    assert snapshot(livepush, "all")["note"]["rows"] == [{"id": 1}]
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
    assert caplog.text == ""


class _Tenants(Chat):
    """A chat with a schema for each tenant, which a room's name doesn't tell."""

    def create_tables(self) -> None:
        with self.engine.begin() as connection:
            connection.execute(sa.schema.CreateSchema("other", if_not_exists=True))
        super().create_tables()
        self.Base.metadata.create_all(self.other())

    def other(self) -> Any:
        """Return an engine whose tables are those of the other tenant."""
        return self.engine.execution_options(schema_translate_map={None: "other"})


def test_says_that_newcomers_get_the_rows_of_another_schema(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: nobody did."""
    with postgres.database() as url, closing(_Tenants(url)) as chat:
        chat.post()
        assert caplog.text == ""
        for id in (1, 2):
            with chat.Session(bind=chat.other()) as session:
                session.add(chat.Room(id=id))
                session.commit()
        assert caplog.text.count("livepush.watch(…, snapshots=") == 1


def test_reads_snapshots_with_the_sessions_that_an_application_names(
    postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    with postgres.database() as url, closing(_Tenants(url)) as chat:
        asked = []

        def snapshots(room: str) -> Session:
            asked.append(room)
            return Session(chat.other())

        chat.livepush.watch(chat.Session, snapshots=snapshots)
        with chat.Session(bind=chat.other()) as session:
            session.add(chat.Room(id=1))
            session.add(chat.Message(room_id=1, body="of the other"))
            session.commit()
        rows = snapshot(chat.livepush, "chat:1")["message"]["rows"]
        assert [row["body"] for row in rows] == ["of the other"]
        assert asked == ["chat:1"]
        chat.livepush.watch(chat.Session, snapshots=sessionmaker(chat.engine))
        assert snapshot(chat.livepush, "chat:1")["message"]["rows"] == []
        assert caplog.text == ""


@pytest.mark.parametrize("given", [5, lambda: None, Session()], ids=repr)
def test_refuses_what_opens_no_session_for_a_snapshot(
    sqlite_chat: Chat, given: Any
) -> None:
    with pytest.raises(ConfigError, match="snapshots="):
        sqlite_chat.livepush.watch(sqlite_chat.Session, snapshots=given)


# -- Flask-SQLAlchemy ----------------------------------------------------------------


class Shop:
    """An application factory's modules: extensions and a model, and no app yet."""

    def __init__(self) -> None:
        self.db = SQLAlchemy()
        self.livepush = LivePush()
        db: Any = self.db

        @self.livepush.room("shop")
        def shop(user: Any) -> bool:
            return True

        @self.livepush.track(rooms=shop, fields=("id", "name"))
        class Order(db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str | None]

        self.Order: Any = Order
        self._apps: list[Flask] = []

    def create_app(self, url: str, *order: str, **settings: Any) -> Flask:
        """Set the extensions up in an order: "db" and "livepush"."""
        app = flask_app(SQLALCHEMY_DATABASE_URI=url, **settings)
        for name in order:
            getattr(self, name).init_app(app)
        with app.app_context():
            for engine in self.db.engines.values():
                if engine.dialect.name == "sqlite":
                    begin_by_hand(engine)
            self.db.create_all()

        @app.post("/orders")
        def post() -> str:
            self.db.session.add(self.Order(name="by a view"))
            self.db.session.commit()
            return ""

        @app.post("/failing")
        def fail() -> str:
            self.db.session.add(self.Order(name="committed"))
            self.db.session.commit()
            self.db.session.add(self.Order(name="flushed"))
            self.db.session.flush()
            raise ZeroDivisionError

        @app.cli.command("order")
        def order_() -> None:
            self.db.session.add(self.Order(name="by a command"))
            self.db.session.commit()

        app.shell_context_processor(lambda: {"db": self.db, "Order": self.Order})
        self._apps.append(app)
        return app

    def dispose(self) -> None:
        """Give the connections back."""
        for app in self._apps:
            with app.app_context():
                for engine in self.db.engines.values():
                    engine.dispose()


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.dispose()


ORDER = ("order.created",)
ORDERS = pytest.mark.parametrize("order", [("db", "livepush"), ("livepush", "db")])


@ORDERS
def test_follows_flask_sqlalchemy_in_views_commands_and_shells(
    shop: Shop, tmp_path: Path, order: tuple[str, str]
) -> None:
    app = shop.create_app(sqlite_url(tmp_path), *order)
    screen = Screen(shop.livepush, "shop")
    assert app.test_client().post("/orders").status_code == 200
    assert events(screen) == [*ORDER]
    result = app.test_cli_runner().invoke(args=["order"])
    assert result.exception is None
    assert events(screen) == [*ORDER]
    with app.app_context():
        shell = app.make_shell_context()
        shell["db"].session.add(shell["Order"](name="by a shell"))
        shell["db"].session.commit()
        assert events(screen) == [*ORDER]
        shell["db"].session.remove()
    screen.check()


def test_follows_flask_sqlalchemy_in_a_thread(shop: Shop, tmp_path: Path) -> None:
    app = shop.create_app(sqlite_url(tmp_path), "livepush", "db")
    screen = Screen(shop.livepush, "shop")

    def work() -> None:
        with app.app_context():
            shop.db.session.add(shop.Order(name="by a thread"))
            shop.db.session.commit()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(timeout=DEADLINE)
    assert not thread.is_alive()
    assert events(screen) == [*ORDER]
    screen.check()


def test_pushes_what_a_view_committed_before_it_raised(
    shop: Shop, tmp_path: Path
) -> None:
    app = shop.create_app(sqlite_url(tmp_path), "db", "livepush")
    app.config["PROPAGATE_EXCEPTIONS"] = False
    screen = Screen(shop.livepush, "shop")
    assert app.test_client().post("/failing").status_code == 500
    assert [data["name"] for _, data in screen.follow()] == ["committed"]
    screen.check()


def test_pushes_each_application_s_commits_to_its_own_rooms(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    one, two = (
        shop.create_app(sqlite_url(folder), *order)
        for folder, order in zip(
            folders, [("db", "livepush"), ("livepush", "db")], strict=True
        )
    )
    with one.app_context():
        first = shop.livepush.position("shop")
    with two.app_context():
        second = shop.livepush.position("shop")
    assert one.test_client().post("/orders").status_code == 200
    with one.app_context():
        assert shop.livepush.position("shop").offset == first.offset + 1
    with two.app_context():
        assert shop.livepush.position("shop") == second
        shop.db.session.add(shop.Order())
        shop.db.session.commit()
        assert shop.livepush.position("shop").offset == second.offset + 1
    assert caplog.text == ""


@ORDERS
def test_refuses_flask_sqlalchemy_in_autocommit(
    shop: Shop,
    tmp_path: Path,
    order: tuple[str, str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    options = {"isolation_level": "AUTOCOMMIT"}

    def create() -> Flask:
        return shop.create_app(
            sqlite_url(tmp_path), *order, SQLALCHEMY_ENGINE_OPTIONS=options
        )

    if order[0] == "db":
        with pytest.raises(ConfigError, match="AUTOCOMMIT"):
            create()
        return
    app = create()
    position = shop.livepush.position("shop")
    assert app.test_client().post("/orders").status_code == 200
    assert shop.livepush.position("shop") == position
    assert "AUTOCOMMIT" in caplog.text
