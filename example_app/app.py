"""The application: its settings and its security; little of it is about livepush."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from flask import Config, Flask, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect
from sqlalchemy import make_url
from werkzeug.exceptions import HTTPException
from werkzeug.middleware.proxy_fix import ProxyFix

from .demo_data import fill
from .models import User, db, livepush, set_up_sqlite
from .views import bp

_ON_THE_LAPTOP = "only for 127.0.0.1, where nobody else can use it"

# Hosts that run several instances, at the latest during a deployment, each with a disk
# of its own that goes when it does; each host sets its variable in all of them.
_HOSTS = {"GAE_INSTANCE": "App Engine", "K_SERVICE": "Cloud Run", "DYNO": "Heroku"}

# Files of our own and connections to ourselves: all that livepush needs as well. Its
# script is a file, and the positions it prints into pages are data, never executed.
_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",  # fetch, and the WebSocket to this very origin
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)


def create_app(*, local: bool = False) -> Flask:
    """Make the application.

    ``SECRET_KEY``, ``DATABASE_URL`` and ``PROXIES`` (how many of them stand in front
    and tell the client's address and scheme) come from the environment, and so does
    every ``LIVEPUSH_…`` setting, as JSON or as text.

    Args:
        local: It is served on 127.0.0.1 alone, so that a known secret and cookies
            without HTTPS do no harm.

    Raises:
        RuntimeError: ``SECRET_KEY`` is missing where others can reach the application;
            or several instances would each be a chat of its own.
    """
    app = Flask(__name__, instance_path=str(Path(__file__).parent / "instance"))
    secret = os.environ.get("SECRET_KEY", "")
    if not local and secret in ("", _ON_THE_LAPTOP):
        raise RuntimeError(
            "SECRET_KEY is not set, and others could forge logins without it; set it "
            "to a long random text, the same for all processes: "
            'python -c "import secrets; print(secrets.token_hex(32))"'
        )
    os.makedirs(app.instance_path, exist_ok=True)
    app.config.update(
        SECRET_KEY=secret or _ON_THE_LAPTOP,
        SQLALCHEMY_DATABASE_URI=_database_url()
        or f"sqlite:///{app.instance_path}/chat.sqlite3",
        # A database server closes connections when it is restarted.
        SQLALCHEMY_ENGINE_OPTIONS={"pool_pre_ping": True},
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=not local,
        REMEMBER_COOKIE_HTTPONLY=True,
        REMEMBER_COOKIE_SAMESITE="Lax",
        REMEMBER_COOKIE_SECURE=not local,
        # As long as the session: a chat stays open for days.
        WTF_CSRF_TIME_LIMIT=None,
    )
    app.config.update(_livepush_settings())
    db.init_app(app)
    if not local:
        _refuse_separate_instances(app)
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            set_up_sqlite(db.engine)
    livepush.init_app(app)
    proxies = int(os.environ.get("PROXIES", "0"))
    if proxies:
        # After livepush, and so around it: a room's rule sees what a view sees. The
        # host stays as it is, no proxy of ours changes it.
        app.wsgi_app = ProxyFix(  # type: ignore[method-assign]
            app.wsgi_app, x_for=proxies, x_proto=1
        )
    CSRFProtect(app)
    login_manager = LoginManager(app)
    login_manager.login_view = "chat.login"
    login_manager.login_message = ""
    login_manager.user_loader(lambda user_id: db.session.get(User, int(user_id)))
    app.register_blueprint(bp)
    app.register_error_handler(HTTPException, _show_error)
    app.register_error_handler(CSRFError, _show_csrf_error)
    app.after_request(_secure)
    app.cli.command("fill", help="Create the tables and the demo's users.")(
        lambda: print(*fill(app), sep="\n")
    )
    return app


def _database_url() -> str | None:
    """Return the database's URL, for the driver that requirements.txt installs."""
    url = os.environ.get("DATABASE_URL")
    for scheme in ("postgres://", "postgresql://"):  # as hosts write it
        if url and url.startswith(scheme):
            return f"postgresql+psycopg://{url.removeprefix(scheme)}"
    return url


def _livepush_settings() -> dict[str, Any]:
    found = Config(".")
    found.from_prefixed_env("LIVEPUSH")
    return {f"LIVEPUSH_{key}": value for key, value in found.items()}


def _refuse_separate_instances(app: Flask) -> None:
    host = next((_HOSTS[key] for key in _HOSTS if key in os.environ), None)
    if host is None:
        return
    if make_url(app.config["SQLALCHEMY_DATABASE_URI"]).get_backend_name() == "sqlite":
        raise RuntimeError(
            f"The database is SQLite, a file on this instance's own disk, and {host} "
            "runs several instances: each would be another chat, and lose it with its "
            "disk. Set DATABASE_URL to a database they share, such as "
            "postgresql+psycopg://chat:password@10.0.0.5/chat."
        )
    if not app.config.get("LIVEPUSH_MESSAGE_QUEUE"):
        raise RuntimeError(
            f"LIVEPUSH_MESSAGE_QUEUE is not set, and {host} runs several instances: "
            "the users of one would not see what those of another write. Set it to a "
            "Redis they share, such as redis://10.0.0.3:6379."
        )


def _show_error(error: HTTPException) -> ResponseReturnValue:
    """Answer in the form that was asked for: chat.js shows the sentence as it is."""
    code, sentence = error.code or 500, error.description or error.name
    if request.accept_mimetypes.best == "application/json":
        return {"error": sentence}, code
    return render_template("error.html", title=error.name, sentence=sentence), code


def _show_csrf_error(error: CSRFError) -> ResponseReturnValue:
    if not current_user.is_authenticated and request.endpoint != "chat.login":
        return redirect(url_for("chat.login"))  # the session has ended
    error.description = (
        "This form is too old, or the browser kept no cookie (except on 127.0.0.1 it "
        "needs HTTPS for that). Reload the page and try again."
    )
    return _show_error(error)


def _secure(response: Response) -> Response:
    response.headers["Content-Security-Policy"] = _POLICY
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response
