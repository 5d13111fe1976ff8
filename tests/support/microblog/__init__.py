"""A blog with a factory, blueprints and a Flask-SocketIO of its own, given live pages.

It was one before flask_livepush: followers are told by its own ``socketio`` of those
who write, moderators have a namespace. What was added are the lines marked "live",
as docs/guide.md has them. It is mounted below ``/blog``, beside another application.
"""

from __future__ import annotations

import os

from flask import Flask
from flask_login import LoginManager
from flask_socketio import SocketIO
from flask_sqlalchemy import SQLAlchemy
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flask_livepush import LivePush

db = SQLAlchemy()
login = LoginManager()
socketio = SocketIO()
livepush = LivePush()  # live


def create_app() -> Flask:
    """Return the blog."""
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY="blog",
        SQLALCHEMY_DATABASE_URI=os.environ["BLOG_DATABASE"],
    )
    app.config.from_prefixed_env()
    db.init_app(app)
    login.init_app(app)
    from . import events, views

    app.register_blueprint(views.blog)
    socketio.init_app(app, async_mode="threading")
    livepush.init_app(app, socketio=socketio)  # live
    assert events.WRITING
    with app.app_context():
        db.create_all()
        views.add_users()
    return app


def create_site() -> DispatcherMiddleware:
    """Return the site: the blog is a part of it."""
    return DispatcherMiddleware(Flask("site"), {"/blog": create_app()})
