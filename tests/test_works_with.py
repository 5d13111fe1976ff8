"""What docs/works-with.md says of an application's own tests is true as it is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from flask import Flask, request
from flask_login import LoginManager, UserMixin, current_user, login_user
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import Mapped, mapped_column

from flask_livepush import LivePush

PAGE = Path(__file__).parents[1] / "docs" / "works-with.md"


def notes() -> ModuleType:
    """Return an application as the page takes it for granted."""
    db, livepush, logins = SQLAlchemy(), LivePush(), LoginManager()

    class User(UserMixin):  # type: ignore[misc]
        def __init__(self, name: str) -> None:
            self.id = name

    logins.user_loader(User)
    room = livepush.room("notes")(lambda user: user.is_authenticated)

    @livepush.track(rooms=room, fields=("id", "text"))
    class Note(db.Model):  # type: ignore[name-defined,misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        text: Mapped[str]

    def create_app(settings: dict[str, Any]) -> Flask:
        app = Flask("notes")
        # As it is set for production; nobody listens there.
        queue = "redis://127.0.0.1:1"
        app.config.update(SECRET_KEY="secret", LIVEPUSH_MESSAGE_QUEUE=queue)
        app.config.update(settings)
        db.init_app(app)
        logins.init_app(app)
        livepush.init_app(app)

        @app.post("/login")
        def login() -> str:
            login_user(User(request.form["name"]))
            return ""

        @app.post("/notes")
        def add() -> str:
            assert current_user.is_authenticated
            db.session.add(Note(text=request.form["text"]))
            db.session.commit()
            return ""

        return app

    module = ModuleType("notes")
    module.__dict__.update(create_app=create_app, db=db, livepush=livepush)
    return module


def test_a_push_is_seen_without_redis_as_the_page_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "notes", notes())
    page = PAGE.read_text(encoding="utf-8")
    found = re.search(r"```python\n(import time\n.*?)```", page, re.DOTALL)
    assert found is not None
    names: dict[str, Any] = {}
    exec(compile(found[1], str(PAGE), "exec"), names)
    make = names["app"].__wrapped__
    for _ in range(3):  # for each test anew
        names["test_a_note_is_pushed"](make())
    with pytest.raises(AssertionError, match="did not come"):
        names["received"](_Silent(), "note.created", 0.001)


class _Silent:
    def get_received(self) -> list[Any]:
        return []
