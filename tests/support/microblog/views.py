"""Users, posts and pages of the blog."""

from __future__ import annotations

from typing import Any

import flask_login
from flask import Blueprint, redirect, render_template_string, request, url_for
from sqlalchemy.orm import Mapped, mapped_column

from . import db, livepush, login

blog = Blueprint("blog", __name__)


class User(flask_login.UserMixin, db.Model):  # type: ignore[name-defined,misc]
    """Who reads and writes."""

    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    is_moderator: Mapped[bool] = mapped_column(default=False)


timeline = livepush.room("timeline")(lambda user: user.is_authenticated)  # live


@livepush.track(rooms=timeline, fields=("id", "body", "author.name"))  # live
class Post(db.Model):  # type: ignore[name-defined,misc]
    """What somebody wrote."""

    id: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[str]
    author_id: Mapped[int] = mapped_column(db.ForeignKey(User.id))
    author: Mapped[User] = db.relationship()


@login.user_loader  # type: ignore[untyped-decorator]
def load_user(key: str) -> Any:
    """Return a user by the session."""
    return db.session.get(User, int(key))


def add_users() -> None:
    """Let there be two."""
    if db.session.get(User, 1) is None:
        db.session.add_all([User(name="ann", is_moderator=True), User(name="bob")])
        db.session.commit()


@blog.get("/login/<name>")
def log_in(name: str) -> Any:
    """Log somebody in."""
    user = db.session.scalars(db.select(User).filter_by(name=name)).one()
    flask_login.login_user(user)
    return redirect(url_for("blog.index"))


@blog.get("/logout")
def log_out() -> str:
    """Log out."""
    flask_login.logout_user()
    return "bye"


@blog.get("/")
@flask_login.login_required  # type: ignore[untyped-decorator]
def index() -> str:
    """Show all posts."""
    return render_template_string(PAGE)


@blog.post("/")
@flask_login.login_required  # type: ignore[untyped-decorator]
def write() -> Any:
    """Write one."""
    body, author = request.form["body"], flask_login.current_user.id
    db.session.add(Post(body=body, author_id=author))
    db.session.commit()
    return redirect(url_for("blog.index"))


PAGE = """<!doctype html><html lang="en"><title>Blog</title><h1>Blog</h1>
<form method="post"><input name="body" aria-label="Post" required><button>Post</button>
</form><ul id="posts"></ul><p id="state"></p>
{{ livepush_script() }}<script>
const live = LivePush.connect();
const posts = live.room("timeline").store("post");
posts.subscribe(rows => document.getElementById("posts").replaceChildren(
  ...rows.map(row => Object.assign(document.createElement("li"),
    {textContent: `${row["author.name"]}: ${row.body}`}))));
live.onRefused(() => { document.getElementById("state").textContent = "Signed out"; });
</script></html>"""
