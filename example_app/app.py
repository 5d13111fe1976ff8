"""The application: its settings and its security; little of it is about livepush."""

from __future__ import annotations

import os
from pathlib import Path

from flask import Flask, Response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import LoginManager, current_user
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import HTTPException

from .demo_data import fill
from .models import User, db, livepush, set_up_sqlite
from .views import bp

_ON_THE_LAPTOP = "only for 127.0.0.1, where nobody else can use it"

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

    ``SECRET_KEY`` and ``DATABASE_URL`` come from the environment.

    Args:
        local: It is served on 127.0.0.1 alone, so that a known secret and cookies
            without HTTPS do no harm.

    Raises:
        RuntimeError: ``SECRET_KEY`` is missing where others can reach the application.
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
        SQLALCHEMY_DATABASE_URI=os.environ.get("DATABASE_URL")
        or f"sqlite:///{app.instance_path}/chat.sqlite3",
        SESSION_COOKIE_HTTPONLY=True,
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_COOKIE_SECURE=not local,
        # As long as the session: a chat stays open for days.
        WTF_CSRF_TIME_LIMIT=None,
    )
    db.init_app(app)
    with app.app_context():
        if db.engine.dialect.name == "sqlite":
            set_up_sqlite(db.engine)
    livepush.init_app(app)
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
