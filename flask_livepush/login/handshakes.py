"""Whose a connection is: its handshake judged, and its user loaded, anew each time.

A handshake's session is opened from a copy, and never saved. Which login counts, where
several are there: what was given with the CONNECT alone, a ticket before what
``@livepush.authenticate`` takes; without that the request's, in Flask-Login's order. So
a page that gives a token is never another's whose cookie the browser still has. Nothing
in here knows rooms.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import flask_login
from flask import (
    Flask,
    current_app,
    g,
    has_app_context,
    has_request_context,
    request,
    session,
)
from flask.ctx import RequestContext
from flask.sessions import SecureCookieSessionInterface
from itsdangerous import BadSignature
from werkzeug.exceptions import HTTPException

from ..brokers.logins import Logins
from ..errors import BrokerError, ClientError, NotAuthorised, RefreshLogin, Unavailable
from ..failures import Failure, Failures, place_of
from ..logs import logger
from . import credentials
from .caller import Caller, Claim, Handshake
from .identity import Identities
from .ids import LoginIds
from .session import HANDSHAKE, KEY, ids_of, is_authenticated
from .tickets import LIFETIME, Ticket, Tickets

log = logger(__name__)

Authenticate = Callable[[Any], Any]
UsersLoader = Callable[[list[str]], Any]

# Left out of the handshake's environment: Flask-SocketIO's copy of the session, frozen
# when the first event came, and what belongs to the request that is over.
_STALE = ("saved_session", "werkzeug.request", "wsgi.input", "werkzeug.socket")
# In the handshake's environment: the number of the ticket that it was let in by.
_SPENT = "livepush.ticket"
_NOBODY = Claim(None, frozenset(), "nobody")


class SignedOut(NotAuthorised):
    """The login has ended."""


class Handshakes:
    """Judges the handshakes of one application.

    Args:
        app: The application, with Flask-Login set up or not.
        logins: Knows which logins have ended.
        ids: Makes ids of credentials.
        identities: Knows users' ids.
        tickets: Reads tickets.
        allow_anonymous: Whether visitors may connect who are not logged in.
        adopted: Whether the application decides itself who may connect; those whose
            login has ended may not.
        authenticate: Returns the application's hook for what is given with a CONNECT.
        users_loader: Returns its hook that loads many users at once.
        failures: Takes note of what fails.
    """

    def __init__(
        self,
        app: Flask,
        logins: Logins,
        ids: LoginIds,
        identities: Identities,
        tickets: Tickets,
        *,
        allow_anonymous: bool,
        adopted: bool = False,
        authenticate: Callable[[], Authenticate | None] = lambda: None,
        users_loader: Callable[[], UsersLoader | None] = lambda: None,
        failures: Failures | None = None,
    ) -> None:
        self._app = app
        self._logins = logins
        self._ids = ids
        self._identities = identities
        self._tickets = tickets
        self._allow_anonymous = allow_anonymous
        self._adopted = adopted
        self._authenticate = authenticate
        self._users_loader = users_loader
        self._failures = Failures() if failures is None else failures
        self._warned = False

    # -- what is asked of it -----------------------------------------------------------

    def may_be_somebody(self, handshake: Handshake) -> bool:
        """Say without waiting whether :meth:`caller` has anything to find out."""
        if not (self._allow_anonymous or self._adopted):
            return True
        manager = self._manager
        if handshake.payload or (manager is not None and _asks_requests(manager)):
            return True
        cookies = handshake.environ.get("HTTP_COOKIE", "")
        return any(f"{name}=" in cookies for name in self._cookies())

    def claim(self, handshake: Handshake) -> Claim:
        """Return what a handshake claims, before any user is loaded.

        Of a request loader's users, only that there may be one is known here. What is
        given with the CONNECT is not asked about either, but for tickets: the first
        time that one is seen, it is spent.

        Raises:
            NotAuthorised: The login has ended, or what was given is no login.
            RefreshLogin: It must be renewed over HTTP.
            Unavailable: Nobody can say.
        """
        with self._context(handshake):
            return self._judged(handshake)

    def caller(self, handshake: Handshake, *, adopted: bool | None = None) -> Caller:
        """Return whose a connection is; the user is loaded.

        Args:
            adopted: Whether the application decides itself about this one; by default
                as about all.

        Raises:
            NotAuthorised: The login has ended, or nobody is logged in.
            RefreshLogin: The login must be renewed over HTTP.
            Unavailable: Loading the user failed, or nobody can say.
        """
        adopted = self._adopted if adopted is None else adopted
        try:
            with self._context(handshake):
                claim, user = self._found(handshake)
                if is_authenticated(user):
                    return Caller(self._identities.of(user), claim)
        except (SignedOut, Unavailable):
            raise
        except ClientError:
            if not adopted:
                raise
            return Caller(None, _NOBODY)
        if not (self._allow_anonymous or adopted):
            raise NotAuthorised("Not logged in.")
        return Caller(None, Claim(None, claim.logins, claim.source))

    def load(self, keys: Iterable[str]) -> dict[str, Any]:
        """Load users, by what Flask-Login's user loader takes.

        They live in the application context at hand, if there is one of this
        application; else what they have not loaded yet can't be loaded later.

        Returns:
            Those that there are, by their keys.

        Raises:
            Unavailable: The application's loader failed.
        """
        wanted = list(dict.fromkeys(keys))
        loader = self._users_loader()
        manager = self._manager
        single = None if manager is None else manager.user_callback
        function: Any = loader or single
        if not wanted or function is None:
            return {}
        with ExitStack() as stack:
            if not (has_app_context() and _current_app() is self._app):
                stack.enter_context(self._app.app_context())
            with self._working(function, "user loader", "users"):
                if loader is not None:
                    return self._by_key(loader(list(wanted)), wanted)
                users = ((key, function(key)) for key in wanted)
                return {key: user for key, user in users if user is not None}

    @contextmanager
    def entered(self, handshake: Handshake, user: Any = None) -> Iterator[Any]:
        """Enter a request of a handshake, with a session of its own; yield its user.

        Args:
            user: The user, loaded a moment ago; None: it is loaded now.

        Raises:
            NotAuthorised: The login has ended, or what was given is no login.
            RefreshLogin: The login must be renewed over HTTP.
            Unavailable: Loading the user failed, or nobody can say.
        """
        with self._context(handshake):
            if user is None:
                user = self._found(handshake)[1]
            else:
                self._judged(handshake)
                self._preset(user)
            yield user

    def enter_user(self, handshake: Handshake, claim: Claim) -> None:
        """Let Flask-Login know the caller in the request at hand, a handler's.

        Only where the request itself does not tell: where the login was given with the
        CONNECT.

        Raises:
            ClientError: Nobody can say, or it is no login any more.
        """
        if claim.source == "payload":
            user = self._by_payload(handshake.payload)
        elif claim.source == "ticket" and claim.key is not None:
            user = self.load([claim.key]).get(claim.key)
        else:
            return
        self._preset(user if is_authenticated(user) else None)

    @property
    def loads_many(self) -> bool:
        """Whether the application loads many users at once."""
        return self._users_loader() is not None

    @property
    def can_load(self) -> bool:
        """Whether the application loads users by an id."""
        manager = self._manager
        single = None if manager is None else manager.user_callback
        return bool(single or self._users_loader())

    def user(self) -> Any:
        """Return the user of the request at hand."""
        if self._manager is None and "_login_user" not in g:
            self._warn()
            return flask_login.AnonymousUserMixin()
        return flask_login.current_user._get_current_object()

    # -- judging -----------------------------------------------------------------------

    def _found(self, handshake: Handshake) -> tuple[Claim, Any]:
        """Judge the handshake whose request was entered, and load its user."""
        claim = self._judged(handshake)
        if claim.source == "payload":
            return claim, self._preset(self._by_payload(handshake.payload))
        if claim.source in ("session", "ticket") and claim.key is not None:
            user = self.load([claim.key]).get(claim.key)
            if user is None and claim.source == "session":
                claim = self._of_request(handshake.environ, without_session=True)
                user = self._by_request(claim)
            return claim, self._preset(user)
        return claim, self._preset(self._by_request(claim))

    def _judged(self, handshake: Handshake) -> Claim:
        claim = self._claimed(handshake)
        self._check(claim.logins)
        return claim

    def _check(self, logins: Iterable[str]) -> None:
        if any(map(self._logins.has_ended, logins)):
            raise SignedOut("The login has ended.")

    def _claimed(self, handshake: Handshake) -> Claim:
        payload = handshake.payload
        if not payload:
            return self._of_request(handshake.environ)
        text = payload.get("ticket") if isinstance(payload, Mapping) else None
        ticket = self._tickets.read(text) if isinstance(text, str) else None
        if ticket is not None:
            return self._of_ticket(ticket, handshake.environ)
        if self._authenticate() is not None:
            given = credentials.in_payload(payload)
            return Claim(None, self._ids_of(given), "payload")
        if text is not None:
            raise NotAuthorised(
                "The ticket is none of this application's. Get one from "
                "<LIVEPUSH_URL_PREFIX>/ticket for each connection."
            )
        return self._of_request(handshake.environ)

    def _of_ticket(self, ticket: Ticket, environ: dict[str, Any]) -> Claim:
        if environ.get(_SPENT) != ticket.number:
            if not self._tickets.is_young(ticket):
                raise NotAuthorised(
                    f"The ticket is older than {LIFETIME} seconds. Get a new one for "
                    "each connection."
                )
            try:
                first = self._logins.spend(ticket.number, 2 * LIFETIME)
            except BrokerError as error:
                raise Unavailable(
                    "The server can't tell whether the ticket was used."
                ) from error
            if not first:
                raise NotAuthorised(
                    "The ticket was used already. Get a new one for each connection."
                )
            # The connection keeps the right to come again; others don't get it.
            environ[_SPENT] = ticket.number
        return Claim(ticket.key, ticket.logins, "ticket")

    def _of_request(
        self, environ: dict[str, Any], *, without_session: bool = False
    ) -> Claim:
        """Judge the request at hand as Flask-Login would, without writing anything."""
        manager = self._manager
        if manager is None:
            self._warn()
            return _NOBODY
        if without_session:
            session.pop("_user_id", None)
            session.pop(KEY, None)
        key = session.get("_user_id")
        if key is not None and self.can_load:
            held = session._get_current_object()  # type: ignore[attr-defined]
            logins = ids_of(self._app, self._ids, request, held)
            self._check(logins)
            self._check_protection(manager)
            _check_origin(environ)
            return Claim(str(key), frozenset(logins), "session")
        if not without_session:
            self._check_age()
        if self._is_remembered():
            raise RefreshLogin(
                "The browser is remembered; the login must be renewed over HTTP."
            )
        if not _asks_requests(manager):
            return _NOBODY
        given, is_said = credentials.in_request(
            environ, request.args, self._other_cookies()
        )
        if not is_said and given:
            _check_origin(environ)
        return Claim(None, self._ids_of(given), "request")

    def _ids_of(self, given: Iterable[str]) -> frozenset[str]:
        return frozenset(i for one in given for i in self._ids.of_credential(one))

    def _check_protection(self, manager: Any) -> None:
        """Do what SESSION_PROTECTION asks for, to the copy."""
        mode = self._app.config.get("SESSION_PROTECTION", manager.session_protection)
        if mode not in ("basic", "strong"):
            return
        if manager._session_identifier_generator() == session.get("_id"):
            return
        if mode == "strong" and not session.permanent:
            raise RefreshLogin(
                "The connection is from another client or address than the login; it "
                "must be renewed over HTTP."
            )
        session["_fresh"] = False

    def _check_age(self) -> None:
        """Send those away whose session's time is over, as they may have a newer one.

        Raises:
            RefreshLogin: The session's cookie is one of a login, or may be.
        """
        interface = self._app.session_interface
        cookie = request.cookies.get(interface.get_cookie_name(self._app))
        if not cookie or not session.keys() <= {"_permanent"}:
            return
        if self._allow_anonymous or self._adopted:
            # The visitor may have such a cookie for ever. Only of one that held a login
            # is it said, and the view of logins takes it away.
            if not isinstance(interface, SecureCookieSessionInterface):
                return
            signer = interface.get_signing_serializer(self._app)
            try:
                held = None if signer is None else signer.loads(cookie)
            except BadSignature:
                return
            if not isinstance(held, dict) or "_user_id" not in held:
                return
        raise RefreshLogin(
            "The session's time is over; the login must be renewed over HTTP."
        )

    def _is_remembered(self) -> bool:
        """Say whether the request has a cookie of "remember me" that is ours."""
        if session.get("_remember") == "clear":
            return False
        cookie = request.cookies.get(self._cookies()[1])
        if not cookie or not self._app.secret_key:
            return False
        try:
            return flask_login.decode_cookie(cookie) is not None
        except (TypeError, ValueError):  # a digest or an id of odd letters
            return False

    def _cookies(self) -> tuple[str, str]:
        """Return the names of the cookies of the session and of "remember me"."""
        remembered = self._app.config.get(
            "REMEMBER_COOKIE_NAME", flask_login.COOKIE_NAME
        )
        return self._app.session_interface.get_cookie_name(self._app), remembered

    def _other_cookies(self) -> dict[str, str]:
        known = self._cookies()
        return {k: v for k, v in request.cookies.items() if k not in known}

    # -- loading -----------------------------------------------------------------------

    def _by_request(self, claim: Claim) -> Any:
        if claim.source != "request":
            return None
        manager: Any = self._manager
        loader = manager.request_callback or manager._header_callback
        with self._working(loader, "request loader", "the user"):
            return self.user()

    def _by_payload(self, payload: Any) -> Any:
        hook: Any = self._authenticate()
        with self._working(hook, "hook @livepush.authenticate", "the user"):
            return hook(payload)

    def _by_key(self, found: Any, wanted: list[str]) -> dict[str, Any]:
        if isinstance(found, Mapping):
            users = {str(key): user for key, user in found.items()}
        else:
            name = getattr(self._manager, "id_attribute", "get_id")
            users = {str(getattr(user, name)()): user for user in found if user}
        return {k: users[k] for k in wanted if users.get(k) is not None}

    @contextmanager
    def _working(
        self, function: Callable[..., Any], what: str, loses: str
    ) -> Iterator[None]:
        """Call an application's function; what it raises is told by its name."""
        try:
            yield
        except ClientError:
            raise
        except HTTPException as error:
            raise NotAuthorised("Not logged in.") from error
        except Exception as error:
            name = getattr(function, "__qualname__", repr(function))
            reason = (
                f"The {what} {name} raised {type(error).__name__}, so {loses} could "
                "not be loaded; clients are told to try again."
            )
            place = ("login", what, place_of(error))
            self._failures.note(place, Failure(reason), error=error)
            raise Unavailable("The server failed; try again later.") from error

    def _preset(self, user: Any) -> Any:
        """Let this be Flask-Login's user of the request at hand."""
        manager = self._manager
        if user is None:
            user = (
                flask_login.AnonymousUserMixin()
                if manager is None
                else manager.anonymous_user()
            )
        g._login_user = user
        return user

    @contextmanager
    def _context(self, handshake: Handshake) -> Iterator[None]:
        """Enter a request of the handshake, with a session of its own."""
        environ = {k: v for k, v in handshake.environ.items() if k not in _STALE}
        environ["wsgi.input"] = io.BytesIO()
        environ[HANDSHAKE] = True
        context = self._app.request_context(environ)
        # Nobody asks which view this is; url_for needs the adapter afterwards.
        adapter, context.url_adapter = context.url_adapter, None
        # The application context is pushed by itself, so that it is a new one even
        # where another is active: database sessions are scoped to it.
        with ExitStack() as stack:
            stack.enter_context(self._app.app_context())
            with self._working(
                self._app.session_interface.open_session, "session", "the login"
            ):
                _push(context)
            stack.push(context)
            context.url_adapter = adapter
            yield

    @property
    def _manager(self) -> Any:
        return getattr(self._app, "login_manager", None)

    def _warn(self) -> None:
        if not self._warned and self._authenticate() is None:
            self._warned = True
            log.warning(
                "The application has no Flask-Login LoginManager: every visitor is "
                "anonymous. Set it up with login_manager.init_app(app)."
            )


def _asks_requests(manager: Any) -> bool:
    return bool(manager.request_callback or manager._header_callback)


def _check_origin(environ: Mapping[str, Any]) -> None:
    """Refuse a WebSocket that a cookie logs in and that does not say from where it is.

    Browsers always say it, and other origins are refused before; so only they can be
    made to send somebody else's cookie.
    """
    is_socket = str(environ.get("HTTP_UPGRADE", "")).lower() == "websocket"
    if is_socket and not environ.get("HTTP_ORIGIN"):
        raise NotAuthorised(
            "A WebSocket that is logged in by a cookie must send an Origin header; "
            "send one, or give the login with the CONNECT or in Authorization."
        )


def _push(context: RequestContext) -> None:
    """Enter a request; not half, where its session can't be opened."""
    try:
        context.push()
    except BaseException as error:
        if has_request_context() and request._get_current_object() is context.request:  # type: ignore[attr-defined]
            context.pop(error)
        raise


def _current_app() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined, no-any-return]
