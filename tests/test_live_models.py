"""Tracked models seen from an application: snapshots by callables, rows, headers."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_login import LoginManager, UserMixin, login_user
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker

from flask_livepush import ConfigError, LivePush, UsageError
from flask_livepush.errors import Unavailable
from tests.support.following import snapshot


class Site:
    """An application with documents in rooms that a callable names."""

    def __init__(self, folder: Path) -> None:
        app = self.app = Flask(__name__)
        app.config["SECRET_KEY"] = "secret"
        app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{folder / 'db.sqlite'}"
        db = self.db = SQLAlchemy(app)
        login_manager = LoginManager(app)
        livepush = self.livepush = LivePush(app)

        @login_manager.user_loader
        def load(user_id: str) -> Any:
            user = UserMixin()
            user.id = user_id
            return user

        self.load = load
        self.tag = livepush.room("tag:<tag>")(lambda user, tag: True)
        livepush.room("board:<int:board_id>")(lambda user, board_id: True)

        def tags(row: Any) -> list[str]:
            if row.tags == "boom":
                raise ZeroDivisionError
            return [self.tag.name(tag=tag) for tag in row.tags.split()]

        @livepush.track(rooms=tags, columns=("tags",), fields=("id", "title", "at"))
        class Doc(db.Model):  # type: ignore[name-defined, misc]
            id: Mapped[int] = mapped_column(primary_key=True)
            tags: Mapped[str]
            title: Mapped[str]
            at: Mapped[datetime] = mapped_column(default=datetime(2026, 1, 2, 3, 4))

        self.Doc = Doc
        with app.app_context():
            db.create_all()

    def add(self, *tags: str) -> None:
        with self.app.app_context():
            self.db.session.add_all(self.Doc(tags=t, title=t) for t in tags)
            self.db.session.commit()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_a_snapshot_has_the_rows_that_a_callable_puts_into_the_room(site: Site) -> None:
    """Bug: they were in no snapshot, so that an invalidation emptied their store."""
    site.add("a", "b", "a b")
    found = snapshot(site.livepush, "tag:a")
    assert [row["title"] for row in found["doc"]["rows"]] == ["a", "a b"]
    assert snapshot(site.livepush, "board:1") == {}


def test_a_snapshot_fails_when_a_callable_raises(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    """Bug: the row was left out of it, and the join answered as if it had not been."""
    site.add("a", "boom")
    with pytest.raises(Unavailable):
        snapshot(site.livepush, "tag:a")
    assert "ZeroDivisionError" in caplog.text


def test_says_once_that_a_callable_names_what_no_rule_knows(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.tag = site.livepush.user  # its names are made with another variable
    site.add("a")
    assert "rooms= of Doc" in caplog.text


def test_gives_a_row_as_it_is_pushed(site: Site) -> None:
    site.add("a")
    with site.app.app_context():
        doc = site.db.session.get(site.Doc, 1)
        assert site.livepush.row(doc) == {
            "id": 1,
            "title": "a",
            "at": "2026-01-02T03:04:00",
        }
    with pytest.raises(UsageError, match="not tracked"):
        site.livepush.row(object())


def test_the_header_names_no_other_users_room(site: Site) -> None:
    @site.app.post("/tell")
    @site.livepush.push_changes
    def tell() -> str:
        login_user(site.load("ada"))
        for user in ("ada", "bob"):
            site.livepush.notify(user, "hello")
        site.livepush.emit("board:1", "hello")
        return ""

    header = site.app.test_client().post("/tell").headers["Livepush-Position"]
    rooms = [entry.split("=")[0] for entry in header.split(", ")]
    assert sorted(rooms) == ["board%3A1", "user%3Aada"]


@pytest.mark.parametrize("user", [None, object()])
def test_refuses_to_notify_nobody(site: Site, user: object) -> None:
    with site.app.app_context(), pytest.raises(UsageError, match="notify"):
        site.livepush.notify(user, "hello")


def test_declarations_that_can_not_work_are_refused(site: Site) -> None:
    with pytest.raises(ConfigError, match=r"livepush\.page"):
        site.livepush.page(5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="push_changes"):
        site.livepush.push_changes(5)
    with pytest.raises(ConfigError, match="when="):
        site.livepush.track(
            rooms=lambda row: [],
            columns=("tags",),
            fields=("id",),
            when=True,  # type: ignore[arg-type]
        )(site.Doc)


def test_reads_each_model_from_its_own_database(tmp_path: Path) -> None:
    class One(DeclarativeBase):
        pass

    class Other(DeclarativeBase):
        pass

    app = Flask(__name__)
    livepush = LivePush(app)
    room = livepush.room("all")(lambda user: True)
    for base in (One, Other):
        engine = create_engine(f"sqlite:///{tmp_path / base.__name__}.sqlite")

        class Thing(base):  # type: ignore[valid-type, misc]
            __tablename__ = "thing"
            id: Mapped[int] = mapped_column(primary_key=True)
            name: Mapped[str]

        kind = base.__name__.lower()
        livepush.track(rooms=room, fields=("id", "name"), kind=kind)(Thing)
        base.metadata.create_all(engine)
        make = sessionmaker(engine)
        livepush.watch(make, models=base)
        with make.begin() as session:
            session.add(Thing(name=kind))
    found = snapshot(livepush, "all")
    assert {k: v["rows"][0]["name"] for k, v in found.items()} == {
        "one": "one",
        "other": "other",
    }
