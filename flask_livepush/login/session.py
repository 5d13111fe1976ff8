"""The id of a login in Flask's session: how it comes there, and how the login ends.

Over HTTP alone; sockets judge sessions and never write one (``handshakes``). Nothing in
here marks a session as accessed that the application has not looked into: Flask would
add ``Vary: Cookie`` to the response.

What is kept under one key is a text: the id, or two for those that came by a cookie of
"remember me", and the user's identity, so that it is known before any query.

When another login takes the place of one, that one ends with the response: its clients
come back at once, and must find the new cookie then. A logout ends it immediately.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import flask.globals
import flask_login
from flask import Flask, Request, Response, g, has_request_context, request
from flask.signals import request_finished, request_started
from flask_login import signals as login_signals

from ..brokers.logins import Ended, Logins
from ..receivers import connect
from .identity import Identities
from .ids import LoginIds, is_id

#: Our key in the session.
KEY = "_livepush_login"
#: In the environment of a request that is a handshake: the session is judged there, and
#: neither written nor ended by what becomes of it.
HANDSHAKE = "livepush.handshake"
# In the environment of a request that has begun and is to be answered.
_BEGUN = "livepush.login"
# Flask has one context for both in newer versions.
_CONTEXTS: Any = vars(flask.globals).get("request_ctx", flask.globals.app_ctx)
# Flask-Login's in the session; without them a request is nobody's.
_USER = "_user_id"
_FLASK_LOGINS = (_USER, "_fresh", "_id")
# Where the identity of the request's user is remembered, with the user.
_CURRENT = "_livepush_identity"
# Seconds in which requests with the same cookie of "remember me" are of one login.
_TOGETHER = 30

Session = MutableMapping[str, Any]


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept of a login in a session.

    Args:
        logins: Its ids.
        identity: The user's, if it has one.
    """

    logins: tuple[str, ...]
    identity: str | None = None

    def written(self) -> str:
        """Return it as one text."""
        return " ".join((".".join(self.logins), *filter(None, [self.identity])))


def kept_in(session: Session | None) -> Kept | None:
    """Return what a session keeps of a login; None: nothing, or nothing of ours."""
    return None if session is None else _read(peek(session, KEY))


def _read(value: object) -> Kept | None:
    if not isinstance(value, str):
        return None
    ids, _, identity = value.partition(" ")
    logins = tuple(ids.split("."))
    return Kept(logins, identity or None) if all(map(is_id, logins)) else None


def peek(session: Session, key: str) -> Any:
    """Return what is in a session without marking it as accessed."""
    if isinstance(session, dict):
        return dict.get(session, key)
    accessed = getattr(session, "accessed", None)
    try:
        return session.get(key)
    finally:
        if accessed is not None:
            session.accessed = accessed  # type: ignore[attr-defined]


def ids_of(
    app: Flask, ids: LoginIds, asked: Request, session: Session
) -> tuple[str, ...]:
    """Return the ids of the login that a request's session holds; empty: there is none.

    The id of a session from before there were ids is derived from its cookie, so that
    all who are sent the same cookie find the same id.
    """
    if peek(session, _USER) is None:
        return ()
    kept = kept_in(session)
    return derived_ids(app, ids, asked) if kept is None else kept.logins


def derived_ids(app: Flask, ids: LoginIds, asked: Request) -> tuple[str, ...]:
    """Return the ids that a session's cookie has where the session holds none."""
    cookie = asked.cookies.get(app.session_interface.get_cookie_name(app))
    return ids.derived("session", cookie) if cookie else ()


@dataclass(slots=True)
class _Begun:
    """What a request's session held when the request began.

    Args:
        session: The session itself.
        value: What was kept under our key, read or not.
        user: What Flask-Login's user loader takes.
        client: By which client and address it logged in, as Flask-Login has them;
            None: it does not matter, as the session is permanent.
        again: Whether clients of the login are to come back, if it ends.
    """

    session: Session
    value: Any
    user: Any
    client: Any = None
    again: bool = False

    @property
    def kept(self) -> Kept | None:
        """What the session kept of a login."""
        return _read(self.value)

    def forget(self) -> None:
        """Let what becomes of the session end nothing."""
        self.value = self.user = None


def _begin_with(session: Session) -> _Begun | None:
    """Note what a session holds of a login; None: nothing, as a visitor's."""
    user, value = peek(session, _USER), peek(session, KEY)
    if user is None and value is None:
        return None
    begun = _Begun(session, value, user)
    if not peek(session, "_permanent"):
        begun.client = peek(session, "_id")
    return begun


class LoginSessions:
    """Gives logins their ids, and ends them.

    Args:
        app: The application.
        logins: Is told which have ended, and knows them.
        ids: Makes ids.
        identities: Knows whose they are.
        now: Seconds since 1970, as other processes have them.
    """

    def __init__(
        self,
        app: Flask,
        logins: Logins,
        ids: LoginIds,
        identities: Identities,
        *,
        now: Callable[[], float],
    ) -> None:
        self._app = app
        self._logins = logins
        self._ids = ids
        self._identities = identities
        self._now = now
        connect(request_started, self._on_started, app)
        connect(request_finished, self._on_finished, app)
        app.after_request(self._before_saving)
        connect(login_signals.user_accessed, self._on_accessed, app)
        connect(login_signals.user_logged_in, self._on_logged_in, app)
        connect(login_signals.user_logged_out, self._on_logged_out, app)
        connect(login_signals.user_loaded_from_cookie, self._on_remembered, app)
        connect(login_signals.session_protected, self._on_protected, app)

    # -- of the request at hand --------------------------------------------------------

    def expected(self) -> str | None:
        """Return the identity that the session holds; it may turn out to be wrong.

        Nothing is queried. None: nobody is logged in, or the session does not say who.
        """
        session = flask.session
        kept = kept_in(session._get_current_object())  # type: ignore[attr-defined]
        return None if kept is None or session.get(_USER) is None else kept.identity

    def current(self) -> str | None:
        """Return the identity of the request's user; None: nobody, or without one."""
        if not hasattr(self._app, "login_manager"):
            return None
        user = flask_login.current_user._get_current_object()
        known = g.get(_CURRENT)
        if known is None or known[0] is not user:
            known = (user, self._identities.of(user))
            setattr(g, _CURRENT, known)
        identity: str | None = known[1]
        self._correct(identity)
        return identity

    def held(self) -> tuple[str, ...]:
        """Return the ids of the login in the request's session; empty: none."""
        session = flask.session._get_current_object()  # type: ignore[attr-defined]
        return ids_of(self._app, self._ids, request, session)

    def _correct(self, identity: str | None) -> None:
        """Let the session say whose it is, where it does not or is wrong."""
        begun = _begun()
        kept = None if begun is None else kept_in(begun.session)
        if begun is None or kept is None or identity in (None, kept.identity):
            return
        if self._is_by_session(begun.session):
            begun.session[KEY] = Kept(kept.logins, identity).written()

    def _is_by_session(self, session: Session) -> bool:
        """Say whether the request's user, who is loaded, is the session's."""
        manager = self._app.login_manager  # type: ignore[attr-defined]
        name = getattr(manager, "id_attribute", "get_id")
        user = g.get("_login_user")
        key = peek(session, _USER)
        if user is None or key is None:
            return False
        try:
            return bool(key == getattr(user, name)())
        except Exception:  # noqa: BLE001 - a request loader's user may have no such id
            return False

    # -- the request -------------------------------------------------------------------

    def _on_started(self, app: Flask, **_: Any) -> None:
        context = _context()
        known = vars(context)
        session = known.get("_session", known.get("session"))
        begun = None if session is None else _begin_with(session)
        context.request.environ[_BEGUN] = begun

    def _before_saving(self, response: Response) -> Response:
        """See to it that what is saved says whose it is, and no more than that."""
        begun: _Begun | None = _context().request.environ.get(_BEGUN)
        if begun is None:
            return response
        session = begun.session
        held = ids_of(self._app, self._ids, request, session)
        if any(map(self._logins.has_ended, held)):
            # Nobody has asked for the user; signed anew, it would be good for ever.
            self._refuse(session, begun)
            return response
        user, value = peek(session, _USER), peek(session, KEY)
        kept = _read(value)
        if kept is None or (value == begun.value and user == begun.user):
            return response
        if user is None:
            # The application has taken the login out by hand. A key of ours that stays
            # would make Flask-Login write the sessions of visitors.
            del session[KEY]
        elif value == begun.value:
            # Another user's, put there by hand; or the same under another key, as after
            # a change of the password.
            begun.again = self._is_by_session(session)
            identity = kept.identity if begun.again else None
            session[KEY] = Kept((self._ids.new(),), identity).written()
        elif begun.value is None and kept.identity is None and "_login_user" in g:
            self.current()
        return response

    def _on_finished(self, app: Flask, **_: Any) -> None:
        begun: _Begun | None = _context().request.environ.pop(_BEGUN, None)
        if begun is None or begun.user is None:
            return
        session = begun.session
        if peek(session, KEY) == begun.value and peek(session, _USER) is not None:
            return
        before = self._before(begun)
        now = ids_of(self._app, self._ids, request, session)
        if not set(before) & set(now) and not self._is_foreign(begun):
            self._end(before, again=begun.again)

    def _is_foreign(self, begun: _Begun) -> bool:
        """Say whether SESSION_PROTECTION would have let go of the request's session."""
        manager = getattr(self._app, "login_manager", None)
        mode = self._app.config.get(
            "SESSION_PROTECTION", getattr(manager, "session_protection", None)
        )
        if manager is None or mode != "strong" or begun.client is None:
            return False
        return bool(manager._session_identifier_generator() != begun.client)

    def _before(self, begun: _Begun) -> tuple[str, ...]:
        """Return the ids of the login that the request came with."""
        kept = begun.kept
        if kept is not None:
            return kept.logins
        if begun.user is None:
            return ()
        return derived_ids(self._app, self._ids, request)

    def _end(self, logins: Iterable[str], *, again: bool = False) -> None:
        self._logins.end([Ended(login, again) for login in logins])

    # -- what Flask-Login says ---------------------------------------------------------

    def _on_accessed(self, app: Flask, **_: Any) -> None:
        if HANDSHAKE in request.environ:
            return
        session: Session = flask.session._get_current_object()  # type: ignore[attr-defined]
        if session.get(_USER) is None:
            return
        begun = _begun()
        if begun is None and _is_answered():
            # A session that is only read when it is asked for something.
            begun = request.environ[_BEGUN] = _begin_with(session)
        logins = ids_of(app, self._ids, request, session)
        if any(map(self._logins.has_ended, logins)):
            self._refuse(session, begun)
        elif logins and begun is not None and kept_in(session) is None:
            session[KEY] = Kept(logins[:1]).written()

    def _refuse(self, session: Session, begun: _Begun | None) -> None:
        """Let the request be nobody's, as the login has ended.

        The session is not saved for it alone: a request that was on its way when its
        browser logged in again would take the new cookie away.
        """
        modified = getattr(session, "modified", None)
        for key in (*_FLASK_LOGINS, KEY):
            session.pop(key, None)
        if modified is not None:
            session.modified = modified  # type: ignore[attr-defined]
        if begun is not None:
            begun.forget()

    def _on_logged_in(self, app: Flask, user: Any = None, **_: Any) -> None:
        if not has_request_context() or HANDSHAKE in request.environ:
            return
        self._begin((self._ids.new(),), user)

    def _on_remembered(self, app: Flask, user: Any = None, **_: Any) -> None:
        if _is_answered():
            self._begin(self._remembered_ids(), user)

    def _begin(self, logins: tuple[str, ...], user: Any) -> None:
        session: Session = flask.session._get_current_object()  # type: ignore[attr-defined]
        before, begun = kept_in(session), _begun()
        identity = self._identities.of(user)
        session[KEY] = Kept(logins, identity).written()
        if begun is None:
            # Nothing is answered, such as an event of a socket; or the login that was
            # here is of this very request.
            if before is not None:
                self._end(before.logins, again=_same(before.identity, identity))
            return
        kept = begun.kept
        begun.again = (
            begun.user == session.get(_USER)
            if kept is None
            else _same(kept.identity, identity)
        )

    def _remembered_ids(self) -> tuple[str, ...]:
        """Return the ids of a login by the cookie of "remember me".

        That is the same on all devices and for a year. When a browser restores its
        tabs, several requests come at once with nothing but it, and the last answer's
        session stays: a connection with another one's must end with it. So the ids are
        derived, from the cookie, the client and the time: of two periods that overlap,
        so that any two requests within their half have one in common.
        """
        name = self._app.config.get("REMEMBER_COOKIE_NAME", flask_login.COOKIE_NAME)
        cookie = request.cookies.get(name, "")
        manager = self._app.login_manager  # type: ignore[attr-defined]
        client = str(manager._session_identifier_generator())
        half = int(self._now() // _TOGETHER)
        found: list[str] = []
        for period in (half // 2 * 2, (half + 1) // 2 * 2 - 1):
            derived = self._ids.derived("remember", cookie, client, str(period))[:1]
            found += [one for one in derived if not self._logins.has_ended(one)]
        return tuple(found) or (self._ids.new(),)

    def _on_logged_out(self, app: Flask, user: Any = None, **_: Any) -> None:
        if not has_request_context():
            return
        session: Session = flask.session._get_current_object()  # type: ignore[attr-defined]
        kept, begun = kept_in(session), _begun()
        ending = set() if kept is None else set(kept.logins)
        if begun is not None:
            ending.update(self._before(begun))
            begun.forget()
        elif kept is None and not _is_answered() and is_authenticated(user):
            # Nothing is answered, such as an event of a socket.
            ending.update(derived_ids(app, self._ids, request))
        if KEY in session:
            del session[KEY]
        if ending:
            self._end(sorted(ending))

    def _on_protected(self, app: Flask, **_: Any) -> None:
        """Let go of a login whose cookie somebody else has sent.

        It does not end: whoever took the cookie would log its owner out.
        """
        session: Session = flask.session._get_current_object()  # type: ignore[attr-defined]
        if HANDSHAKE in request.environ or _USER in session:
            return
        session.pop(KEY, None)
        begun = _begun()
        if begun is not None:
            begun.forget()


def _context() -> Any:
    """Return the context of the request at hand.

    Past the proxies, one of which marks the session as accessed.
    """
    return _CONTEXTS._get_current_object()


def _begun() -> _Begun | None:
    if not has_request_context():
        return None
    found: _Begun | None = request.environ.get(_BEGUN)
    return found


def _is_answered() -> bool:
    """Say whether the request is one over HTTP that has begun."""
    return has_request_context() and _BEGUN in request.environ


def is_authenticated(user: Any) -> bool:
    """Say whether somebody is logged in."""
    return bool(getattr(user, "is_authenticated", False))


def _same(one: str | None, other: str | None) -> bool:
    return one is not None and one == other
