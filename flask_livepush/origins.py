"""Whose pages may connect to a Socket.IO server that an application has set up itself.

Browsers send cookies with a connection whoever's page opens it, so what a server that
takes every origin gives is what every site can have that a visitor happens to open.
Which origins one allows, and whether visitors log in by cookie, is all that is looked
at in here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from .errors import ConfigError

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

_REMEDY = (
    "List the origins of your own front ends, as SocketIO(app, cors_allowed_origins="
    "['https://www.example.org']), or leave it out: then the site's own alone may."
)


def problem(allowed: Any) -> str | None:
    """Return why ``cors_allowed_origins`` lets every site in; None: it does not.

    A function is taken for one that knows: what it allows nobody else can say.

    Source: python-engineio, ``_cors_allowed_origins`` and ``handle_request``.
    """
    if allowed is None or callable(allowed):
        return None
    if isinstance(allowed, list) and not allowed:
        reason = "is [], which switches the check of origins off"
    elif "*" in ([allowed] if isinstance(allowed, str) else allowed):
        reason = "allows '*'"
    elif "null" in ([allowed] if isinstance(allowed, str) else allowed):
        reason = "allows 'null', the origin of any site's sandboxed frames"
    else:
        return None
    return (
        f"LivePush(socketio=…): its cors_allowed_origins {reason}, and visitors log in "
        "by cookie: every site that one of them opens could connect as that user. "
        f"{_REMEDY}"
    )


def has_cookie_logins(app: Any) -> bool:
    """Say whether cookies say who a visitor is, as far as the application is set up.

    Flask-Login loads users of its session and of "remember me" by a user_loader; where
    there is a request_loader alone, each request has to prove itself.
    """
    manager = getattr(app, "login_manager", None)
    return getattr(manager, "_user_callback", None) is not None


def guard(app: Any, allowed: Any, path: str) -> None:
    """Refuse a server that lets every site in where visitors log in by cookie.

    Args:
        app: The application; it may get its user_loader later.
        allowed: The server's ``cors_allowed_origins``.
        path: Under which the server answers.

    Raises:
        ConfigError: It is known now; else each request to the server raises it.
    """
    found = problem(allowed)
    if found is None:
        return
    if has_cookie_logins(app):
        raise ConfigError(found)
    app.wsgi_app = _Guard(app.wsgi_app, app, found, path)


class _Guard:
    """Answers nobody's Socket.IO once it turns out that visitors log in by cookie."""

    def __init__(self, wsgi: WSGI, app: Any, found: str, path: str) -> None:
        self._wsgi = wsgi
        self._app = app
        self._found = found
        self._path = path

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        is_ours = environ.get("PATH_INFO", "").startswith(self._path)
        if is_ours and has_cookie_logins(self._app):
            raise ConfigError(self._found)
        return self._wsgi(environ, start_response)
