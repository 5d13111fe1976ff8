"""The two addresses of logins: one renews a session, one gives a ticket.

Pages of other origins that may connect may ask them too. Whether somebody is logged in
is Flask-Login's business; nothing is written in here but a session that it renews.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flask import Blueprint, Flask, Response, jsonify, request, session
from werkzeug.datastructures import MultiDict

from ..errors import NotAuthorised, UsageError
from . import credentials
from .handshakes import Handshakes
from .ids import LoginIds, secret_keys
from .session import LoginSessions, is_authenticated
from .tickets import LIFETIME, Tickets

# How long a browser need not ask again whether it may send its token, in seconds.
_PREFLIGHT_AGE = "600"


class LoginViews:
    """Serves ``<prefix>/login`` and ``<prefix>/ticket``.

    Args:
        app: The application.
        prefix: The URL path above them.
        handshakes: Knows the request's user.
        sessions: Knows the login of the request's session.
        tickets: Writes tickets.
        ids: Makes ids of credentials.
        allow_anonymous: Whether visitors may connect who are not logged in.
        origins: Other origins whose pages may ask, with cookies and tokens.
    """

    def __init__(
        self,
        app: Flask,
        *,
        prefix: str,
        handshakes: Handshakes,
        sessions: LoginSessions,
        tickets: Tickets,
        ids: LoginIds,
        allow_anonymous: bool,
        origins: str | Iterable[str] | None,
    ) -> None:
        self._app = app
        self._handshakes = handshakes
        self._sessions = sessions
        self._tickets = tickets
        self._ids = ids
        self._allow_anonymous = allow_anonymous
        self._origins = {origins} if isinstance(origins, str) else set(origins or ())
        blueprint = Blueprint("livepush_login", __name__, url_prefix=prefix)
        for path, view in (("login", self._login), ("ticket", self._ticket)):
            blueprint.add_url_rule(
                f"/{path}",
                path,
                view,
                methods=["GET", "OPTIONS"],
                provide_automatic_options=False,
            )
        blueprint.after_request(self._finish)
        app.register_blueprint(blueprint)

    def _login(self) -> Response:
        """Touch the user: a cookie of "remember me" becomes a session by it."""
        if request.method == "OPTIONS":
            return Response(status=204)
        if is_authenticated(self._handshakes.user()):
            return jsonify(ok=True)
        name = self._app.session_interface.get_cookie_name(self._app)
        if name in request.cookies and not session:
            # Its time is over. Taken away, it is not asked about again.
            session.modified = True
        return jsonify(ok=True) if self._allow_anonymous else _refused()

    def _ticket(self) -> Response:
        if request.method == "OPTIONS":
            return Response(status=204)
        user = self._handshakes.user()
        if not is_authenticated(user):
            return _refused()
        manager: Any = self._app.login_manager  # type: ignore[attr-defined]
        if not secret_keys(self._app):
            raise UsageError("A ticket is signed: set SECRET_KEY to a random text.")
        if not self._handshakes.can_load:
            raise UsageError(
                "A ticket needs what loads its user by an id: decorate a function with "
                "@login_manager.user_loader or @livepush.users_loader."
            )
        key = str(getattr(user, getattr(manager, "id_attribute", "get_id"))())
        try:
            logins = self._logins(key)
        except NotAuthorised as error:
            return _refused(error.message)
        return jsonify(ticket=self._tickets.issue(key, logins), seconds=LIFETIME)

    def _logins(self, key: str) -> frozenset[str]:
        """Return the ids of the login by which the request's user was loaded."""
        if str(session.get("_user_id")) == key:
            return frozenset(self._sessions.held())
        given, _ = credentials.in_request(
            request.environ, MultiDict(request.args), request.cookies
        )
        return frozenset(i for one in given for i in self._ids.of_credential(one))

    def _finish(self, response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        response.vary.add("Origin")
        origin = request.headers.get("Origin")
        if origin not in self._origins:
            return response
        headers = response.headers
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Allow-Credentials"] = "true"
        if request.method == "OPTIONS":
            asked = request.headers.get("Access-Control-Request-Headers", "")
            headers["Access-Control-Allow-Methods"] = "GET"
            headers["Access-Control-Allow-Headers"] = asked or "Authorization"
            headers["Access-Control-Max-Age"] = _PREFLIGHT_AGE
        return response


def _refused(message: str = "Not logged in.") -> Response:
    response = jsonify(ok=False, message=message)
    response.status_code = 401
    return response
