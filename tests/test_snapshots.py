"""What a newcomer starts from: which rows, how many, in which order."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column, scoped_session, sessionmaker

from flask_livepush import ConfigError, LivePush
from flask_livepush.errors import Unavailable
from tests.support.following import (
    World,
    check,
    closing,
    events,
    flask_app,
    snapshot,
    sqlite_url,
)
from tests.test_tracking import add, change, item


def test_starts_a_newcomer_with_the_newest_rows_in_order(world: World) -> None:
    model = item(world, rooms=world.room("all"), fields=("id",), latest=3)
    add(world, *(model() for _ in range(3)))
    assert snapshot(world.livepush, "all") == {
        "item": {
            "key": "id",
            "rows": [{"id": 1}, {"id": 2}, {"id": 3}],
            "partial": False,
        }
    }
    add(world, model())
    assert snapshot(world.livepush, "all") == {
        "item": {
            "key": "id",
            "rows": [{"id": 2}, {"id": 3}, {"id": 4}],
            "partial": True,
        }
    }


def test_reads_a_snapshot_while_another_transaction_is_open(database_url: str) -> None:
    with closing(World(database_url)) as world:
        model = item(world, rooms=world.room("all"), fields=("id", "title"))
        add(world, model(title="old"))
        with world.Session() as session:
            session.get(model, 1).title = "uncommitted"
            if not world.is_sqlite:
                session.flush()
            assert world.screen("all").kinds["item"][1]["title"] == "old"
            session.rollback()


# -- in which order ------------------------------------------------------------------


def note(world: World, **track: Any) -> Any:
    """Return a model with a key that has no order, tracked in one room."""

    @world.livepush.track(rooms=world.room("all"), fields=("n",), **track)
    class Note(world.Base):  # type: ignore[misc, name-defined]
        __tablename__ = "note"
        id: Mapped[uuid.UUID] = mapped_column(primary_key=True, default=uuid.uuid4)
        n: Mapped[int]
        rank: Mapped[int | None]
        at: Mapped[datetime | None]

    world.create_tables()
    return Note


def numbers(world: World) -> list[int]:
    """Return the rows of a snapshot, by what tells them apart."""
    return [row["n"] for row in snapshot(world.livepush, "all")["note"]["rows"]]


def test_has_the_newest_rows_by_what_sorts_them(database_url: str) -> None:
    """Bug: of more rows than wanted, those with the highest UUIDs were shown."""
    with closing(World(database_url)) as world:
        model = note(world, order_by="at", latest=10)
        start = datetime(2026, 1, 1)
        add(world, *(model(n=n, at=start + timedelta(hours=n)) for n in range(60)))
        for n in range(60, 65):
            add(world, model(n=n, at=start + timedelta(hours=n)))
            assert numbers(world) == list(range(n - 9, n + 1))


@pytest.mark.parametrize(
    ("order_by", "expected"),
    [
        ("n", [3, 4, 5]),
        ("-n", [3, 4, 5]),  # newest first, as in the client: the same rows
        (("rank", "n"), [2, 4, 1]),
        (("rank", "-n"), [4, 2, 1]),
        (("-rank", "n"), [4, 2, 1]),
        ("-rank", [2, 4, 1]),
        (lambda m: m.rank, [2, 4, 1]),
        (lambda m: -m.rank, [1, 2, 4]),  # the lowest ranks
        (lambda m: m.n.desc(), [3, 4, 5]),
        (lambda m: [m.rank.desc().nulls_last(), m.n], [4, 2, 1]),
        (lambda m: (m.n % 2, m.n), [1, 3, 5]),
    ],
    ids=str,
)
def test_sorts_as_it_is_told_with_nulls_first(
    database_url: str, order_by: Any, expected: list[int]
) -> None:
    with closing(World(database_url)) as world:
        model = note(world)
        if callable(order_by):
            order_by = order_by(model)
        world.livepush.track(
            rooms=world.room("sorted"), fields=("n",), kind="note",
            order_by=order_by, latest=3,
        )(model)  # fmt: skip
        ranks = {1: 9, 2: 5, 3: None, 4: 5, 5: None}
        for n, rank in ranks.items():
            add(world, model(id=uuid.UUID(int=n), n=n, rank=rank))
        found = snapshot(world.livepush, "sorted")["note"]
        assert [row["n"] for row in found["rows"]] == expected
        assert found["partial"] is True


def test_says_that_a_key_has_no_order(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    note(world)
    assert "track() of Note" in caplog.text
    assert "order_by='created_at'" in caplog.text


@pytest.mark.parametrize("order_by", ["n", "id"])
def test_says_nothing_where_an_order_is_given(
    world: World, order_by: str, caplog: pytest.LogCaptureFixture
) -> None:
    note(world, order_by=order_by)
    assert caplog.text == ""


@pytest.mark.parametrize("order_by", ["nothing", "-nothing", 5, ("n", None)], ids=str)
def test_refuses_an_order_by_what_is_no_column(world: World, order_by: Any) -> None:
    with pytest.raises(ConfigError, match="order_by"):
        note(world, order_by=order_by)


# -- functions that say which rows are in a room -------------------------------------


class Timelines(World):
    """Posts, in the timelines of those who follow their author.

    Args:
        track: What is declared besides rooms and fields.
    """

    def __init__(self, url: str, **track: Any) -> None:
        super().__init__(url)
        base, self.calls, self.broken = self.Base, 0, False
        self.timeline = self.room("timeline:<int:user_id>")
        self.other = self.room("other:<int:n>")

        class Follow(base):  # type: ignore[misc, valid-type]
            __tablename__ = "follow"
            author: Mapped[int] = mapped_column(primary_key=True)
            follower: Mapped[int] = mapped_column(primary_key=True)

        class Post(base):  # type: ignore[misc, valid-type]
            __tablename__ = "post"
            id: Mapped[int] = mapped_column(primary_key=True)
            author: Mapped[int]
            body: Mapped[str | None]

        self.Follow: Any = Follow
        self.Post: Any = Post
        given = {
            name: getattr(self, value) if isinstance(value, str) else value
            for name, value in track.items()
        }
        self.livepush.track(
            rooms=self.rooms, columns=("author",), fields=("id", "body"), **given
        )(Post)
        self.create_tables()
        add(self, *(Follow(author=1, follower=f) for f in range(5)))

    def rooms(self, row: Any) -> list[str]:
        """Name the timelines of those who follow a post's author."""
        self.calls += 1
        if self.broken:
            raise ZeroDivisionError("the database is away")
        with self.Session() as session:
            found = session.scalars(
                sa.select(self.Follow.follower).where(self.Follow.author == row.author)
            )
            return [self.timeline.name(user_id=follower) for follower in found]

    def posts_of(self, user_id: int) -> Any:
        """Select the posts of a timeline, as a view would."""
        return (
            sa.select(self.Post)
            .join(self.Follow, self.Follow.author == self.Post.author)
            .where(self.Follow.follower == user_id)
        )

    def newest_posts_of(self, user_id: int) -> Any:
        """Select some of them, and all twice over."""
        return (
            sa.union_all(self.posts_of(user_id), self.posts_of(user_id))
            if user_id == 4
            else self.posts_of(user_id).order_by(self.Post.id.desc()).limit(2)
        )

    def bodies(self, room: str) -> list[str]:
        """Return what the posts of a snapshot say."""
        found = snapshot(self.livepush, room).get("post", {"rows": []})
        return [row["body"] for row in found["rows"]]


def test_asks_a_callable_only_of_the_rooms_that_it_names(tmp_path: Path) -> None:
    """Bug: whoever joined any room had it called for the newest 5,000 rows."""
    with closing(Timelines(sqlite_url(tmp_path), of="timeline")) as world:
        add(world, *(world.Post(author=1 + n % 2, body=str(n)) for n in range(20)))
        world.calls = 0
        assert snapshot(world.livepush, "other:1") == {}
        assert snapshot(world.livepush, "user:7") == {}
        assert world.calls == 0
        assert world.bodies("timeline:3") == [str(n) for n in range(0, 20, 2)]
        assert world.calls == 20
        assert world.livepush._models is not None
        assert world.livepush._models.kinds_of(world.other) == []


@pytest.mark.parametrize("of", ["timeline", None])
def test_finds_the_rows_of_a_callable_s_room_by_a_query(
    database_url: str, of: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: rows that were not among the newest 5,000 of all rooms were not found."""
    track = {"snapshot": "posts_of", "latest": 3} | ({"of": of} if of else {})
    with closing(Timelines(database_url, **track)) as world:
        assert caplog.text == ""
        add(world, *(world.Post(author=1, body=str(n)) for n in range(5)))
        with world.livepush.suppress():
            add(world, *(world.Post(author=2) for _ in range(50)))
        world.calls = 0
        assert world.bodies("timeline:3") == ["2", "3", "4"]
        assert snapshot(world.livepush, "timeline:3")["post"]["partial"] is True
        assert snapshot(world.livepush, "timeline:99")["post"]["rows"] == []
        assert snapshot(world.livepush, "other:1") == {}
        assert world.calls == 8
        screen = world.screen("timeline:2")
        add(world, world.Post(author=1, body="new"))
        change(world, world.Post, 1, author=2)
        assert events(screen) == ["post.created", "post.deleted"]
        assert world.bodies("timeline:2") == ["3", "4", "new"]


def test_takes_any_select_of_the_model(database_url: str) -> None:
    track = {"of": "timeline", "snapshot": "newest_posts_of"}
    with closing(Timelines(database_url, **track)) as world:
        add(world, *(world.Post(author=1, body=str(n)) for n in range(4)))
        assert world.bodies("timeline:3") == ["2", "3"]
        assert world.bodies("timeline:4") == ["0", "1", "2", "3"]


@pytest.mark.parametrize("joined", [True, False], ids=["joined-table", "single-table"])
def test_finds_rows_of_a_class_of_a_hierarchy_by_a_query(
    database_url: str, joined: bool
) -> None:
    with closing(World(database_url)) as world:
        room = world.room("board:<int:board_id>")

        class Shape(world.Base):  # type: ignore[misc, name-defined]
            __tablename__ = "shape"
            id: Mapped[int] = mapped_column(primary_key=True)
            type: Mapped[str]
            board_id: Mapped[int]
            __mapper_args__ = {  # noqa: RUF012
                "polymorphic_on": "type",
                "polymorphic_identity": "shape",
            }

        class Circle(Shape):
            __mapper_args__ = {"polymorphic_identity": "circle"}  # noqa: RUF012
            radius: Mapped[int | None] = mapped_column()
            if joined:
                __tablename__ = "circle"
                id: Mapped[int] = mapped_column(
                    sa.ForeignKey("shape.id"), primary_key=True
                )

        world.livepush.track(
            rooms=lambda row: room.name(board_id=row.board_id),
            columns=("board_id",),
            of=room,
            snapshot=lambda board_id: sa.select(Circle).where(
                Circle.board_id == board_id, Circle.radius > 1
            ),
            fields=("id", "radius"),
        )(Circle)
        world.create_tables()
        add(
            world,
            Shape(board_id=1),
            Circle(board_id=1, radius=1),
            Circle(board_id=1, radius=2),
            Circle(board_id=2, radius=3),
        )
        found = snapshot(world.livepush, "board:1")["circle"]["rows"]
        assert found == [{"id": 3, "radius": 2}]


def test_checks_what_a_select_finds_by_the_callable(tmp_path: Path) -> None:
    def everything(user_id: int) -> Any:
        return sa.select(world.Post)

    with closing(Timelines(sqlite_url(tmp_path), snapshot=everything)) as world:
        add(world, world.Post(author=2, body="of 2"), world.Post(author=1, body="of 1"))
        assert world.bodies("timeline:3") == ["of 1"]


def test_says_that_a_callable_is_asked_of_every_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Timelines(sqlite_url(tmp_path))) as world:
        assert "of=timeline" in caplog.text
        add(world, world.Post(author=1, body="a"))
        assert world.bodies("timeline:3") == ["a"]  # and loses nothing meanwhile
        assert snapshot(world.livepush, "other:1") == {}


def test_leaves_a_row_out_of_a_room_that_its_callable_was_not_declared_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Timelines(sqlite_url(tmp_path), of="other")) as world:
        screens = world.screens("timeline:3", "other:1")
        for _ in range(2):
            add(world, world.Post(author=1))
        assert events(*screens) == [[], []]
        assert caplog.text.count("Add that Room to of=") == 1
        check(screens)


@pytest.mark.parametrize("broken", ["rooms", "snapshot", "when"])
def test_a_join_fails_when_a_function_raises(
    tmp_path: Path, broken: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: it answered that all was well, with fewer rows or none."""

    def fails(*_: Any, **values: Any) -> Any:
        if world.broken:
            raise ZeroDivisionError("the database is away")
        return world.posts_of(**values) if broken == "snapshot" else True

    track = {"of": "timeline"} | ({broken: fails} if broken != "rooms" else {})
    with closing(Timelines(sqlite_url(tmp_path), **track)) as world:
        world.app.config["LIVEPUSH_ALLOW_ANONYMOUS"] = True
        failures: list[dict[str, Any]] = []

        def failed(sender: Flask, **failure: Any) -> None:
            # Applications of earlier tests may still tell of theirs.
            if failure["kind"]:
                failures.append(failure)

        world.livepush.signals.failed.connect(failed)
        add(world, world.Post(author=1, body="a"))
        world.broken = True
        app = flask_app(LIVEPUSH_ALLOW_ANONYMOUS=True)
        world.livepush.init_app(app)
        client = world.livepush._state_of(app).socketio.test_client(app)
        for _ in range(2):
            answer = client.emit(
                "livepush.subscribe", {"v": 1, "room": "timeline:3"}, callback=True
            )
            assert answer["error"]["code"] == 120
            assert answer["error"]["temporary"] is True
        assert [(f["kind"], f["room"]) for f in failures] == [
            ("post", "timeline:<int:user_id>")
        ] * 2
        assert caplog.text.count("Which rows of Post a newcomer gets") == 1
        world.broken = False
        answer = client.emit(
            "livepush.subscribe", {"v": 1, "room": "timeline:3"}, callback=True
        )
        assert answer["ok"] is True


@pytest.mark.parametrize(
    ("track", "names"),
    [
        ({"of": 5}, "of="),
        ({"of": ("timeline",)}, "of="),
        ({"snapshot": 5}, "snapshot="),
        ({"of": "timeline", "snapshot": lambda post_id: None}, "(user_id)"),
    ],
    ids=str,
)
def test_refuses_what_says_nothing_of_a_callable(
    tmp_path: Path, track: dict[str, Any], names: str
) -> None:
    with pytest.raises(ConfigError, match="Post") as raised:
        Timelines(sqlite_url(tmp_path), **track)
    assert names in str(raised.value)


@pytest.mark.parametrize("more", ["of", "snapshot"])
def test_refuses_what_is_for_callables_where_rooms_are_given(
    world: World, more: str
) -> None:
    room = world.room("all")
    with pytest.raises(ConfigError, match="of= and snapshot="):
        item(world, rooms=room, fields=("id",), **{more: room})


def test_fails_when_a_snapshot_returns_no_select(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Timelines(sqlite_url(tmp_path), snapshot=lambda user_id: [])) as world:
        with pytest.raises(Unavailable):
            world.bodies("timeline:3")
        assert "must return select(Post)" in caplog.text


def test_refuses_the_same_kind_twice_in_a_callable_s_room(tmp_path: Path) -> None:
    with (
        closing(Timelines(sqlite_url(tmp_path), of="timeline")) as world,
        pytest.raises(ConfigError, match="kind="),
    ):
        world.livepush.track(
            rooms=lambda row: [], columns=(), of=world.timeline, fields=("id",)
        )(world.Post)


def test_reads_on_until_a_function_lets_enough_rows_pass(world: World) -> None:
    asked: list[int] = []

    def is_open(row: Any) -> bool:
        asked.append(row.id)
        return not row.done

    model = item(world, rooms=world.room("all"), fields=("id",), latest=3, when=is_open)
    add(world, *(model(done=n >= 4) for n in range(40)))
    asked.clear()
    found = snapshot(world.livepush, "all")["item"]
    assert [row["id"] for row in found["rows"]] == [2, 3, 4]
    assert found["partial"] is True
    assert len(asked) == len(set(asked)) == 40  # nothing is asked twice


# -- functions and sessions ----------------------------------------------------------


def test_calls_functions_when_nothing_is_open(world: World) -> None:
    """Bug: on SQLite an open cursor and a writer waited for each other."""
    writer = sa.create_engine(world.engine.url, connect_args={"timeout": 0})

    def write(row: Any) -> int:
        with writer.begin() as connection:
            done = connection.execute(sa.text("UPDATE item SET count = count + 1"))
        return int(done.rowcount)

    model = item(
        world,
        rooms=world.room("all"),
        fields={"id": "id", "x": write},
        when=lambda row: write(row) > 0,
    )
    with world.livepush.suppress():
        add(world, *(model() for _ in range(600)))
    found = snapshot(world.livepush, "all")["item"]["rows"]
    assert [row["x"] for row in found] == [600] * 100
    writer.dispose()


class Blog:
    """An application whose fields are looked up with its own scoped session."""

    def __init__(self, folder: Path, *, plain: bool) -> None:
        app = self.app = flask_app(SQLALCHEMY_DATABASE_URI=sqlite_url(folder))
        self.db: Any = SQLAlchemy(app)
        self.livepush = LivePush(app)
        with app.app_context():
            self.engine = self.db.engine
        self.session: Any = self.db.session
        if plain:
            self.session = scoped_session(sessionmaker(self.engine))
            self.livepush.watch(self.session)
        self.seen: list[Any] = []
        db = self.db

        class Author(db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        self.Author: Any = Author

        def author(row: Any) -> str:
            self.seen.append(self.session())
            return str(self.session.get(Author, row.author).name)

        room = self.livepush.room("all")(lambda user: True)

        @self.livepush.track(rooms=room, fields={"id": "id", "author": author})
        class Entry(db.Model):  # type: ignore[misc, name-defined]
            id: Mapped[int] = mapped_column(primary_key=True)
            author: Mapped[int]

        self.Entry: Any = Entry
        with app.app_context():
            db.create_all()
            self.session.add(Author(id=1, name="Ada"))
            self.session.commit()
            self.session.remove()


@pytest.fixture(params=[False, True], ids=["Flask-SQLAlchemy", "scoped_session"])
def blog(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Blog]:
    made = Blog(tmp_path, plain=request.param)
    yield made
    made.engine.dispose()


def test_gives_functions_a_session_of_their_own_after_a_commit(blog: Blog) -> None:
    """Bug: one that queried left the view's session in a new transaction."""
    with blog.app.app_context():
        own = blog.session()
        own.add_all([blog.Entry(author=1), blog.Entry(author=1)])
        own.commit()
        assert not own.in_transaction()
        assert blog.session() is own
        assert len(blog.seen) == 2
        assert own not in blog.seen
        assert len({id(session) for session in blog.seen}) == 1  # one for a commit
        assert not blog.seen[0].in_transaction()  # and it is closed
        blog.session.remove()


def test_gives_functions_a_session_of_their_own_in_a_snapshot(blog: Blog) -> None:
    with blog.app.app_context():
        blog.session.add(blog.Entry(author=1))
        blog.session.commit()
        own = blog.session()
        blog.session.get(blog.Author, 1).name = "not committed"
        blog.seen.clear()
        found = snapshot(blog.livepush, "all")["entry"]["rows"]
        assert found == [{"id": 1, "author": "Ada"}]
        assert own not in blog.seen
        assert blog.session() is own
        assert own.in_transaction()
        blog.session.remove()


def test_puts_sessions_back_when_a_function_fails(blog: Blog) -> None:
    with blog.app.app_context():
        own = blog.session()
        own.add(blog.Entry(author=99))  # there is no such author
        own.commit()
        assert blog.session() is own
        assert not own.in_transaction()
        blog.session.remove()
