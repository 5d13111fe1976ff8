"""``LivePush``: the public interface, and where an application's parts are joined.

No rule of the protocol and no behaviour of a part may be in here.
"""

from __future__ import annotations

import gc
import json
import random
import time
import weakref
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from flask import (
    Flask,
    current_app,
    has_app_context,
    has_request_context,
    request,
)
from flask.signals import appcontext_pushed
from werkzeug.routing import BaseConverter
from werkzeug.routing.converters import DEFAULT_CONVERTERS

from . import config as configuration
from . import draining, logs, message_queue, origins, receivers, signals
from .auth import Auth
from .brokers.base import Broker
from .brokers.logins import Ended, Logins, Recheck
from .connections import Connections
from .door import Door
from .draining import Drain, Draining
from .emitter import Emitter
from .errors import BrokerError, ConfigError, UsageError
from .failures import Failure, Failures
from .health import Health
from .hub import Hub
from .login.bearer import Bearer
from .login.handshakes import Authenticate, Handshakes, UsersLoader
from .login.identity import Hook, Identities
from .login.ids import LoginIds, secret_keys
from .login.session import LoginSessions
from .login.tickets import Tickets
from .login.views import LoginViews
from .logs import logger
from .message_queue import MessageQueue
from .metrics import Meters
from .metrics_page import MetricsPage
from .metrics_page import Rule as MetricsRule
from .node import Node
from .outgoing import Outgoing, Receipt
from .pages import Find, Names, Pages, application_root, mark
from .presence.here import Presence
from .protocol import relayed
from .protocol.batch import Batch
from .protocol.publication import Draft, Position, invalidated
from .push_changes import PushChanges
from .revalidation import Revalidation
from .rooms import Pattern, Room, Rooms, Rule
from .transports import instance as instances
from .transports import link as connections
from .transports import socketio as events
from .transports.fanout import Fanout
from .transports.farewell import Farewell

if TYPE_CHECKING:
    from flask_socketio import SocketIO
    from sqlalchemy import Engine

    from .live_models import LiveModels

log = logger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
M = TypeVar("M", bound=MetricsRule)
H = TypeVar("H", bound=Hook)
C = TypeVar("C", bound=type)

_STATE = invalidated("state")
# Where an application keeps its parts, which end with it.
_PARTS = "livepush.parts"
# Seconds between two looks, while this process ends, whether logins are told.
_LAST_WORDS = 0.02
# Seconds that a commit outside of a request waits until what it has for all rooms is
# told: as long as it may wait for a publication.
_TASK_PATIENCE = 0.25


@dataclass(frozen=True, slots=True)
class _App:
    """What belongs to one application."""

    app: Flask
    config: configuration.Config
    broker: Broker
    outgoing: Outgoing
    emitter: Emitter
    socketio: SocketIO
    pages: Pages
    meters: Meters
    presence: Presence
    draining: Draining
    revalidation: Revalidation
    failures: Failures
    logins: Logins
    login_ids: LoginIds
    login_sessions: LoginSessions
    tickets: Tickets
    #: Called when a context is entered, until Flask-SQLAlchemy is found.
    look: Callable[..., None] | None


@dataclass(frozen=True, slots=True)
class _Off:
    """What belongs to an application that has turned everything off."""

    app: Flask
    config: configuration.Config
    socketio: SocketIO
    pages: Pages
    meters: Meters


class LivePush:
    """Pushes what an application commits to every screen that shows it.

    Args:
        app: The application, or None to call :meth:`init_app` later; several may
            share one LivePush. It holds the one it is made with; whose that come by
            ``init_app`` somebody else must, and they end when nobody does.
        socketio: The application's own ``flask_socketio.SocketIO``, set up already;
            its server, arguments and handlers are kept.
    """

    #: ``livepush.signals.failed``, for collectors of errors.
    signals = signals

    def __init__(
        self, app: Flask | None = None, socketio: SocketIO | None = None
    ) -> None:
        self._adopted = socketio
        # One that no application has yet, and another with the handlers of the last.
        self._own: SocketIO | None = None
        self._handlers: SocketIO | None = None
        self._held = app
        # A factory may be called for each test: who is done with one lets it go.
        self._set_up: list[weakref.ref[Flask]] = []
        self._rooms = Rooms()
        self._has_pages = False
        self._metrics_rule: MetricsRule | None = None
        self._models: LiveModels | None = None
        self._some_are_disabled = False
        self._authenticate: Authenticate | None = None
        self._users_loader: UsersLoader | None = None
        self._warned: set[str | None] = set()
        self._failures = Failures(self._tell_failure)
        # Its variable is called as the columns are that say whose a row is, so that
        # track(rooms=livepush.user) works for such models.
        self.user = self.room("user:<path:user_id>", presence=False)(self._is_user)
        self._identities = Identities(self.user.pattern, self._failures)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, socketio: SocketIO | None = None) -> None:
        """Set the extension up on an application; its settings are read now.

        The settings are those of ``docs/configuration.md``, all ``LIVEPUSH_…``.

        Args:
            socketio: The application's own ``flask_socketio.SocketIO``, set up on it
                already; its server, arguments and handlers are kept.

        Raises:
            ConfigError: A setting is unknown or wrong; the application has a SocketIO
                that is not given; or that one can't be adopted.
            UsageError: It was set up on this application already.
        """
        if "livepush" in app.extensions:
            raise UsageError(
                "LivePush is set up on this application already; call init_app once, "
                "or LivePush(app) alone."
            )
        settings = configuration.read(app.config)
        logs.show_texts(_texts(app.debug, settings.log_error_texts))
        adopted = self._adopted if socketio is None else socketio
        if not settings.enabled:
            self._set_up_off(app, settings, adopted)
            return
        if adopted is None:
            instances.check_alone(app)
        else:
            self._check_adopted(app, settings, adopted)
        queue = message_queue.of(app.name, settings, app.config)
        instance = self._set_up_socketio(app, settings, queue, adopted)
        server = instance.server
        meters = Meters(
            app.name,
            spawn=server.start_background_task,
            sleep=server.sleep,
            now=time.perf_counter,
        )
        if settings.metrics_token is not None or self._metrics_rule is not None:
            meters.switch_on()

        def tell(failure: Failure) -> None:
            meters.count("failures_total", failure.what)
            signals.tell_failed(app, failure)

        failures = Failures(tell)
        broker = message_queue.broker(queue, settings, server, meters)
        peers = message_queue.peers(queue, server)
        logins = message_queue.logins(
            queue,
            settings,
            session_lifetime=app.permanent_session_lifetime.total_seconds(),
            server=server,
            failures=failures,
            metrics=meters,
            engine=partial(_engine, app),
        )
        login_ids = LoginIds(app)
        login_sessions = LoginSessions(
            app, logins, login_ids, self._identities, now=time.time
        )
        tickets = Tickets(app, login_ids, now=time.time)
        handshakes = Handshakes(
            app,
            logins,
            login_ids,
            self._identities,
            tickets,
            allow_anonymous=settings.allow_anonymous,
            adopted=adopted is not None,
            authenticate=lambda: self._authenticate,
            users_loader=lambda: self._users_loader,
            failures=failures,
        )
        bearer = Bearer(
            handshakes.claim,
            keys=partial(secret_keys, app),
            may_be_somebody=handshakes.may_be_somebody,
        )
        link = connections.link(server, settings, peers, meters, bearing=bearer)
        fanout = Fanout(server, link.outlet, reset_within=settings.reset_within)
        hub = Hub(
            fanout,
            max_rooms=settings.max_rooms,
            max_held=max(1000, settings.history_size),
            opened=broker.subscribe,
            closed=broker.unsubscribe,
            metrics=meters,
        )
        link.evict_by(hub.evict)
        LoginViews(
            app,
            prefix=settings.url_prefix,
            handshakes=handshakes,
            sessions=login_sessions,
            tickets=tickets,
            ids=login_ids,
            allow_anonymous=settings.allow_anonymous,
            origins=settings.cors_origins,
        )
        auth = Auth(
            handshakes,
            self._rooms,
            self._identities,
            allow_anonymous=settings.allow_anonymous,
            failures=failures,
        )
        presence = Presence(
            message_queue.presence(queue),
            relay=lambda room, step: broker.relay(room, relayed.write(step)),
            tell=hub.presence,
            spawn=server.start_background_task,
            sleep=server.sleep,
            now=time.monotonic,
            damping=settings.presence_damping,
        )
        node = Node(
            broker=broker,
            hub=hub,
            door=Door(
                app,
                self._rooms,
                auth,
                models=lambda: self._models,
                # Sixteen times as much may wait for a client, of all its rooms.
                max_snapshot_bytes=12 * settings.send_buffer_bytes,
                failures=failures,
            ),
            presence=presence,
            spawn=server.start_background_task,
            now=time.monotonic,
            snapshot_timeout=settings.snapshot_timeout,
            joins=settings.max_joins_per_second,
            whispers=settings.max_whispers_per_second,
            metrics=meters,
            failures=failures,
        )
        farewell = Farewell(
            server,
            fanout,
            max_age=settings.max_connection_age,
            now=time.monotonic,
            dice=random.Random().random,
        )
        if farewell.look_every is not None:
            link.every(farewell.look_every, farewell.ask_the_old)
        registry = Connections(
            handshakes.caller,
            logins,
            judge_guest=partial(handshakes.caller, adopted=True),
            may_be_somebody=handshakes.may_be_somebody,
            recheck=lambda orders: revalidation.recheck(orders),  # noqa: PLW0108
            came=lambda: revalidation.begin(),  # noqa: PLW0108
            max_per_user=settings.max_connections_per_user,
            spawn=server.start_background_task,
            sleep=server.sleep,
            now=time.monotonic,
            metrics=meters,
        )
        revalidation = Revalidation(
            registry,
            handshakes,
            rules=auth,
            rooms=hub,
            node=node,
            context=app.app_context,
            spawn=server.start_background_task,
            sleep=server.sleep,
            now=time.monotonic,
            dice=random.Random().random,
            interval=settings.revalidate_interval,
            rate=settings.revalidate_rate,
            metrics=meters,
            failures=failures,
        )
        logins.listen(registry)
        connected = events.Events(
            server,
            node=node,
            fanout=fanout,
            outlet=link.outlet,
            spawn=link.spawn,
            spawn_first=link.spawn_first,
            spawn_answers=link.spawn_answers,
            connections=registry,
            bearing=bearer,
            max_pending=settings.max_pending_messages,
            in_order=adopted is None,
            farewell=farewell,
            metrics=meters,
        )

        def enter_caller(sid: str, namespace: str) -> None:
            found = connected.connection_of(sid, namespace)
            if found is not None:
                handshakes.enter_user(found.handshake, found.caller.claim)

        instances.know_callers(instance, enter_caller)
        outgoing = Outgoing(
            broker,
            spawn=server.start_background_task,
            sleep=server.sleep,
            now=time.monotonic,
            max_bytes=settings.max_queued_bytes,
            metrics=meters,
        )
        pages = Pages(
            app,
            prefix=settings.url_prefix,
            connections=instances.path(instance),
            position=lambda room: _position(outgoing, failures, room),
            has_read=self._has_read,
            knows=self.knows,
            own=self.user,
            expected_id=login_sessions.expected,
            current_id=login_sessions.current,
            failures=failures,
        )
        if self._has_pages:
            pages.read_positions()
        MetricsPage(
            app,
            prefix=settings.url_prefix,
            meters=meters,
            token=settings.metrics_token,
            rule=lambda: self._metrics_rule,
            user=handshakes.user,
        )
        leaving = Draining(
            settings,
            server.async_mode,
            clients=farewell,
            untold=lambda: connected.untold,
            open_sockets=link.open_sockets,
            hand_back=link.hand_back,
            users=presence,
            sent=lambda: outgoing.finish() and logins.finish(_LAST_WORDS),
            spawn=server.start_background_task,
            sleep=server.sleep,
            now=time.monotonic,
        )
        app.wsgi_app = Health(  # type: ignore[method-assign]
            app.wsgi_app,
            prefix=settings.url_prefix,
            connections=instances.path(instance),
            root=application_root(app),
            leaving=lambda: leaving.begun,
            broker=None if queue is None else outgoing.answers,
            now=time.monotonic,
        )
        meters.gauge("queue_depth", lambda: outgoing.depth)
        meters.gauge("queue_bytes", lambda: outgoing.waiting_bytes)
        app.extensions["livepush"] = self
        app.extensions[_PARTS] = _App(
            app=app,
            config=settings,
            broker=broker,
            outgoing=outgoing,
            emitter=Emitter(
                outgoing,
                metrics=meters,
                patience=_patience,
                failures=failures,
                recheck=logins.recheck,
            ),
            socketio=instance,
            pages=pages,
            meters=meters,
            presence=presence,
            draining=leaving,
            revalidation=revalidation,
            failures=failures,
            logins=logins,
            login_ids=login_ids,
            login_sessions=login_sessions,
            tickets=tickets,
            look=self._find_flask_sqlalchemy(app),
        )
        app.teardown_appcontext(self._end_unannounced)
        instances.keep_alone(app)
        self._remember(app)

    def _set_up_off(
        self, app: Flask, settings: configuration.Config, adopted: SocketIO | None
    ) -> None:
        """Let what is declared and called work on, and do nothing.

        No hook, no connection, no message queue; also in place of what may be at fault.
        """
        log.warning("LIVEPUSH_ENABLED is False: nothing of %s is pushed", app.name)
        theirs = adopted or instances.found(app)
        instance = theirs or instances.silent(app, self._take_own())
        meters = Meters(
            app.name,
            spawn=instance.start_background_task,
            sleep=instance.sleep,
            now=time.perf_counter,
        )
        pages = Pages(
            app,
            prefix=settings.url_prefix,
            position=lambda room: None,
            has_read=lambda: False,
            knows=self.knows,
            own=self.user,
            expected_id=lambda: None,
            current_id=lambda: None,
            failures=self._failures,
            off=True,
        )
        app.wsgi_app = Health(  # type: ignore[method-assign]
            app.wsgi_app,
            prefix=settings.url_prefix,
            connections=None if theirs else instances.path(instance),
            root=application_root(app),
            leaving=lambda: False,
            broker=None,
            now=time.monotonic,
            off=True,
        )
        if settings.metrics_token is not None:
            meters.switch_on()
        # Its rule is asked about users, of whom nothing is known here.
        MetricsPage(
            app,
            prefix=settings.url_prefix,
            meters=meters,
            token=settings.metrics_token,
            rule=lambda: None,
            user=lambda: None,
        )
        draining.turned_off(app)
        app.extensions["livepush"] = self
        app.extensions[_PARTS] = _Off(app, settings, instance, pages, meters)
        self._remember(app)

    def _remember(self, app: Flask) -> None:
        self._set_up = [ref for ref in self._set_up if ref() is not None]
        self._set_up.append(weakref.ref(app))
        self._listen()

    def _listen(self) -> None:
        """Have hooks unless all that there is has been turned off."""
        states = self._states
        self._some_are_disabled = any(
            isinstance(state, _Off) or state.config.disabled_kinds for state in states
        )
        if self._models is not None:
            self._models.listen(not states or bool(self._apps))

    def _disabled_kinds(self) -> configuration.Kinds:
        """Return the kinds of which nothing is pushed from here."""
        if not self._some_are_disabled:
            return configuration.NO_KINDS
        state = self._find_app()
        if isinstance(state, _Off):
            return configuration.ALL_KINDS
        return configuration.NO_KINDS if state is None else state.config.disabled_kinds

    @property
    def _states(self) -> list[_App | _Off]:
        """What belongs to each application that is still there."""
        apps = (ref() for ref in self._set_up)
        return [app.extensions[_PARTS] for app in apps if app is not None]

    @property
    def _apps(self) -> list[_App]:
        """The same of those that have not turned everything off."""
        return [state for state in self._states if isinstance(state, _App)]

    def _end_unannounced(self, _: BaseException | None = None) -> None:
        if self._models is not None:
            self._models.end_unannounced()

    @property
    def socketio(self) -> SocketIO:
        """The Flask-SocketIO instance, for an application's own events.

        With several applications, the one of the application at hand.
        """
        if self._adopted is not None:
            return self._adopted
        if self._states:
            return self._app().socketio
        if self._own is None:
            self._own = instances.instance(self._handlers)
        return self._own

    def run(
        self, app: Flask, *, host: str = "127.0.0.1", port: int = 5000, **options: Any
    ) -> None:
        """Serve the application with the development server of its async mode.

        A SIGTERM drains first, unless the application handles that signal itself.

        Args:
            port: 0 takes a free one.
            options: For Flask-SocketIO's ``run``, such as ``debug`` or
                ``use_reloader``.
        """
        instance = self._state_of(app).socketio
        server = instance.server
        draining.at_sigterm(server.start_background_task, server.sleep)
        instances.run(instance, app, host, port, **options)

    @property
    def authenticates(self) -> bool:
        """Whether there is a hook for what is given with a CONNECT."""
        return self._authenticate is not None

    def drain(self) -> Drain:
        """Let this process leave politely; it returns at once.

        It is ready no more and refuses new connections, its clients go elsewhere one
        after the other, what waits is sent. ``.wait()`` returns when that is done,
        after ``LIVEPUSH_DRAIN_SECONDS`` at the latest; the process must end then.
        Gunicorn's hooks and :meth:`run` do it by themselves at a SIGTERM.
        """
        return draining.begin(state.draining for state in self._apps)

    # -- declarations ----------------------------------------------------------------

    def room(
        self,
        pattern: str,
        *,
        converters: Mapping[str, type[BaseConverter]] | None = None,
        whisper: bool | Iterable[str] = False,
        presence: bool = True,
    ) -> Callable[[Rule], Room]:
        """Decorate the rule of a kind of room: who may join it.

        Args:
            pattern: Text with Werkzeug's converters, such as ``chat:<int:room_id>``.
            converters: Converters of the application's own, by name; those of an
                application that is set up already are known.
            whisper: The names of events that subscribers may send each other, kept
                nowhere: ``("typing",)``. True: all but those of the room's kinds; then
                only ``meta.whisper`` tells them from the application's own events.
            presence: Whether subscribers may know which users are in the room.

        The rule is called ``(user, **values)`` for each join, in a request context of
        the connection's handshake, and returns whether the user may. The decorated name
        becomes a :class:`Room`.

        Raises:
            ConfigError: The pattern is bad, or another rule has it.
        """
        known: dict[str, type[BaseConverter]] = dict(DEFAULT_CONVERTERS)
        for app in self._states:
            known.update(app.app.url_map.converters)
        compiled = Pattern(pattern, known | dict(converters or {}))

        def decorate(rule: Rule) -> Room:
            room = Room(
                compiled,
                rule,
                self.emit,
                whisper=whisper,
                presence=presence,
                watch=self._watch_rights,
            )
            self._rooms.add(room)
            return room

        return decorate

    def identity(self, function: H) -> H:
        """Decorate the function that says which id a user has.

        It is called with the user and returns a text, a whole number or a UUID: the id
        in ``user:<id>``, of :meth:`notify` and in presence. Without it that is the
        primary key of a mapped class, and the attribute ``id`` of another. It must not
        change while a user is logged in, and be nobody else's.

        One that returns a dict says what others may know of a user, as
        :meth:`user_info` does, and leaves the id as it is.

        Raises:
            ConfigError: There is one already.
        """
        if self._identities.hook is not None:
            raise ConfigError("@livepush.identity was used already; keep one of them.")
        self._identities.hook = function
        return function

    def user_info(self, function: H) -> H:
        """Decorate the function that says what others may know of a user.

        It is called with the user once for each join of a room that has presence,
        where the rule was called, and returns a dict of what JSON can hold; it arrives
        as the user's ``info``. Without it others see the id alone.

        Raises:
            ConfigError: There is one already.
        """
        if self._identities.info_hook is not None:
            raise ConfigError("@livepush.user_info was used already; keep one of them.")
        self._identities.info_hook = function
        return function

    def authenticate(self, function: H) -> H:
        """Decorate the function that knows users by what is given with a CONNECT.

        It is called with that, ``auth`` in Socket.IO's words, whenever it is decided
        about the connection: when it comes, at joins, and from time to time. It returns
        the user, or None if it is nobody's or no longer. What is given so decides
        alone: no cookie is looked at then.

        Raises:
            ConfigError: There is one already.
        """
        if self._authenticate is not None:
            raise ConfigError(
                "@livepush.authenticate was used already; keep one of them."
            )
        self._authenticate = function
        return function

    def users_loader(self, function: H) -> H:
        """Decorate the function that loads many users at once.

        It is called with a list of what Flask-Login's user loader takes one of, and
        returns the users in any order, or a dict of them by that. Without it the user
        loader is called for each.

        Raises:
            ConfigError: There is one already.
        """
        if self._users_loader is not None:
            raise ConfigError(
                "@livepush.users_loader was used already; keep one of them."
            )
        self._users_loader = function
        return function

    def track(
        self,
        bare: None = None,
        /,
        *,
        rooms: Any = None,
        fields: Any = None,
        kind: str | None = None,
        key: str = "id",
        when: Callable[[Any], Any] | None = None,
        latest: int = 100,
        order_by: Any = None,
        columns: tuple[str, ...] | None = None,
        of: Any = None,
        snapshot: Callable[..., Any] | None = None,
        allow_secret: bool | tuple[str, ...] = False,
    ) -> Callable[[C], C]:
        """Decorate a model: its commits are pushed, wherever they happen.

        May be stacked, for more rooms, another kind, or other rows. The arguments are
        those of :class:`~flask_livepush.tracking.Tracked`.

        Raises:
            ConfigError: Something named does not exist or does not fit.
        """
        if bare is not None or rooms is None or fields is None:
            raise ConfigError(
                "@livepush.track: say in which rooms and with which fields, as "
                "@livepush.track(rooms=chat, fields=('id', 'text'))."
            )

        def decorate(model: C) -> C:
            self._live_models().track(
                model,
                rooms=rooms,
                fields=fields,
                kind=kind,
                key=key,
                when=when,
                latest=latest,
                order_by=order_by,
                columns=columns,
                of=of,
                snapshot=snapshot,
                allow_secret=allow_secret,
            )
            return model

        return decorate

    def watch(
        self, target: Any, *, models: type | None = None, snapshots: Any = None
    ) -> None:
        """Follow the sessions of plain SQLAlchemy.

        Args:
            target: A sessionmaker, a scoped session, a Session or a class of them.
                Flask-SQLAlchemy's ``db.session`` is followed by itself.
            models: With several databases, the base class of the models whose
                snapshots are read with these sessions.
            snapshots: Where snapshots have to be read with others, a sessionmaker of
                these, or a function that is given a room's name and returns a fresh
                Session. Without it they are read where the sessions write.

        Raises:
            UsageError: It is asynchronous, or no session.
            ConfigError: Its engine is set to AUTOCOMMIT, its driver to commit each
                statement, or it is a ShardedSession.
        """
        self._live_models().sessions.watch(target, models=models, snapshots=snapshots)

    def page(self, *rooms: str | Room | Names) -> Callable[[F], F]:
        """Decorate a view that renders rooms: its page starts from their positions.

        Args:
            rooms: Each a Room or its pattern, whose variables the view's URL has;
                ``livepush.user`` without them, the visitor's own; or a callable, given
                what it takes of the URL's variables, that returns a room's name,
                several, or None. It is called before the view, and must not query.

        In the template, ``{{ livepush_room("chat:1") }}`` gives the position to the
        client, ``{{ livepush_room() }}`` those of all the page's rooms. May be stacked.

        Raises:
            ConfigError: Something is no room.
        """
        if not rooms:
            raise ConfigError(
                "@livepush.page(): say which room the view renders, as "
                "@livepush.page('chat:<int:room_id>')."
            )
        finds = [self._finder(room) for room in rooms]

        def decorate(view: F | None = None, /, **given: Any) -> F:
            if view is None or not callable(view):
                raise UsageError(
                    "@livepush.page decorates a view without saying which room it "
                    "renders; write @livepush.page('chat:<int:room_id>')."
                )
            mark(view, finds)
            self._has_pages = True
            for app in self._states:
                app.pages.read_positions()
            return view

        return decorate

    def _finder(self, given: str | Room | Names) -> Find:
        if isinstance(given, Room) or (callable(given) and not isinstance(given, type)):
            return lambda: given
        if not isinstance(given, str):
            raise ConfigError(
                f"@livepush.page({given!r}): call it with a room, its pattern, or a "
                "callable that returns a room's name, as "
                "@livepush.page('chat:<int:room_id>')."
            )

        def find() -> Room:
            room = self._rooms.of_pattern(given)
            if room is None:
                if self._rooms.find(given) is not None:
                    raise UsageError(
                        f"@livepush.page({given!r}): it is the name of one room, and "
                        f"no pattern; write @livepush.page(lambda: {given!r})."
                    )
                known = ", ".join(repr(p) for p in self._rooms.patterns())
                raise UsageError(
                    f"@livepush.page({given!r}): no room has this pattern; declare it "
                    f"with @livepush.room. Those that are: {known}."
                )
            return room

        return find

    def metrics_rule(self, rule: M) -> M:
        """Decorate the rule of the metrics: who may see them.

        It is called ``(user)`` for each request of ``/livepush/metrics``, in its
        context, and returns whether the user may. Without it and without
        ``LIVEPUSH_METRICS_TOKEN`` there is no such page, and nothing is counted.

        Raises:
            ConfigError: There is one already, or prometheus_client is missing.
        """
        if self._metrics_rule is not None:
            raise ConfigError(
                f"@livepush.metrics_rule on {rule!r}: the metrics have a rule already; "
                "join the two into one function."
            )
        for app in self._states:
            app.meters.switch_on()
        self._metrics_rule = rule
        return rule

    def push_changes(self, target: Any = None, /, **declaration: Any) -> Any:
        """Push what a view, a task, a command or a block commits.

        A view's response gets a ``Livepush-Position`` header, so that the poster's own
        page neither misses nor doubles its change. In the forms
        ``@livepush.push_changes``, ``@livepush.push_changes()``,
        ``@livepush.push_changes(Model, rooms=…, fields=…)`` for a model that is not
        tracked, and each of the two latter in a ``with`` statement.

        Args:
            declaration: As for :meth:`track`.
        """
        if target is not None and not isinstance(target, type):
            if not callable(target):
                raise ConfigError(
                    f"push_changes({target!r}): it decorates a function, or takes a "
                    "model with rooms= and fields=."
                )
            return PushChanges(self._scope, self._may_tell)(target)
        if target is None and not declaration:
            return PushChanges(self._scope, self._may_tell)
        if target is None:
            raise ConfigError(
                f"push_changes({', '.join(f'{name}=…' for name in declaration)}): say "
                "of which model, as push_changes(Model, rooms=…, fields=…)."
            )
        tracked = self._live_models().declare(target, **declaration)
        return PushChanges(
            lambda: self._live_models().scope((tracked,)), self._may_tell
        )

    def _may_tell(self, name: str) -> bool:
        # Who was notified is nobody else's business.
        if not self.user.has_name(name):
            return True
        state = self._app()
        if isinstance(state, _Off):
            return False
        identity = state.login_sessions.current()
        return identity is not None and name == self.user.name(user_id=identity)

    def _is_user(self, user: Any, user_id: str) -> bool:
        """Let users into their own rooms: the rule of ``user:<id>``."""
        return self._identities.of(user) == user_id

    def _scope(self) -> AbstractContextManager[dict[str, Position]]:
        return self._live_models().scope(())

    # -- verbs -----------------------------------------------------------------------

    def emit(
        self,
        room: str | Room,
        event: str,
        data: Any = None,
        *,
        after_commit: bool | None = None,
    ) -> Receipt:
        """Emit an event to a room.

        Args:
            room: A room's name, or a Room without variables.
            data: What JSON can hold; date-times, Decimal, UUID and Enum too.
            after_commit: None waits for the commit of a transaction that has written
                something, and vanishes on its rollback; at once where there is none.
                True waits for any transaction that is open, False for none.

        Raises:
            UsageError: No rule knows the room, or the event's name is reserved.
            EncodingError: The data can't be sent to a browser.
            BrokerError: The broker refuses it, as what is too large. One that does
                not answer is no error: the receipt says "queued", or "dropped" when
                the queue is full.
        """
        state = self._app()
        name = self._room_name(room)
        draft = Emitter.draft(event, data)
        if isinstance(state, _Off):
            return Receipt("off")
        if after_commit is not False and self._models is not None:
            batch = Batch()
            batch.event(name, draft)
            if self._models.defer(batch, wait=after_commit is True):
                return Receipt("deferred")
        receipt = state.emitter.publish(name, [draft])
        if self._models is not None and receipt.position is not None:
            self._models.pushed({name: receipt.position})
        return receipt

    def notify(
        self,
        user: Any,
        event: str,
        data: Any = None,
        *,
        after_commit: bool | None = None,
    ) -> Receipt:
        """Emit an event to every device of one user.

        Args:
            user: The user, or its id: the primary key, or what ``@livepush.identity``
                returns.

        Raises:
            UsageError: It is no user, or one without an id.
        """
        room = self.user.name(user_id=self._identity_of("notify", user))
        return self.emit(room, event, data, after_commit=after_commit)

    def end_login(self, credential: str) -> None:
        """End the login of a token, a key or the like: its connections are closed.

        For what a request loader or :meth:`authenticate` knows users by, when the
        application revokes it. Where the credential was somewhere else than in a
        header, the query, a cookie or what was given with the CONNECT, connections end
        when users are next asked about.

        Args:
            credential: As the client sends it, with ``Bearer`` or without.

        Raises:
            UsageError: It is empty, or the application has no SECRET_KEY.
        """
        state = self._app()
        given = isinstance(credential, str) and bool(credential.strip())
        if isinstance(state, _Off):
            return
        ids = state.login_ids.of_credential(credential) if given else ()
        if not ids:
            raise UsageError(
                "livepush.end_login(…) takes the token or key that the client sends, "
                "as text, in an application that has a SECRET_KEY."
            )
        state.logins.end([Ended(one) for one in ids])

    def disconnect_user(self, user: Any) -> None:
        """Close all connections of a user, in all processes.

        At once; where a transaction is open that has written, again with its commit.
        Whoever is still logged in may connect again: log the user out, change what
        ``get_id()`` returns, or deactivate the user before.

        Args:
            user: The user, or its id, as for :meth:`notify`.

        Raises:
            UsageError: It is no user, or one without an id.
        """
        identity = self._identity_of("disconnect_user", user)
        state = self._app()
        if isinstance(state, _App):
            order = Recheck(user=identity, close=True)
            state.logins.recheck([order])
            if self._models is not None:
                # Until the commit others see the user as it was: whoever is quick comes
                # back meanwhile.
                batch = Batch()
                batch.recheck(order, whole=order)
                self._models.defer(batch, wait=False)

    def _identity_of(self, verb: str, user: Any) -> str:
        identity = self._identities.named(user)
        if identity is None:
            raise UsageError(
                f"livepush.{verb}(…): it must be a user or the id of one, and not of "
                f"type {type(user).__name__} without an id. Say with "
                "@livepush.identity which id such users have."
            )
        return identity

    def invalidate(self, target: Any) -> None:
        """Tell screens to read anew what no session saw change.

        For raw SQL, Core statements, triggers and cascades of the database. Waits for
        the commit of a transaction that has written.

        Args:
            target: A tracked model (all its live rooms), one of its objects (its
                rooms), a Room (all live rooms of that pattern), or a room's name.

        Raises:
            UsageError: It is none of these.
        """
        if not isinstance(self._find_app(), _Off):
            self._waiting_for_commit(self._staleness(target))

    def _waiting_for_commit(self, batch: Batch) -> None:
        if self._models is not None:
            if self._models.defer(batch, wait=False):
                return
            # What was written on the session's connection behind its back is not
            # known: say it now, and again should the open transaction commit.
            self._models.defer(batch, wait=True, on_close=False)
        state = self._app()
        if isinstance(state, _App):
            state.emitter.publish_batch(batch)

    def recheck(self, user: Any = None, room: str | Room | None = None) -> None:
        """Ask again, at once and in every process, who may be in rooms.

        For rights that no watched table says (:meth:`Room.recheck_on`): a role in
        another system, a block list in a file. Users are loaded anew, and whose login
        is none any more is disconnected. Waits for the commit of a transaction that has
        written, and vanishes on its rollback.

        Args:
            user: The user, or its id in ``user:<id>``; None: everybody.
            room: A room's name, or a Room for all of that pattern; None: all rooms.

        Raises:
            UsageError: It is no user, or no rule knows the room.
        """
        identity = None if user is None else self._identity_of("recheck", user)
        name = room.pattern.text if isinstance(room, Room) else room
        if isinstance(room, str) and self._rooms.of_pattern(room) is None:
            name = self._room_name(room)
        if isinstance(self._find_app(), _Off):
            return
        batch = Batch()
        order = Recheck(identity, name)
        batch.recheck(order, whole=order)
        self._waiting_for_commit(batch)

    def row(self, target: object) -> dict[str, Any]:
        """Return the declared fields of an object of a tracked model, as JSON has them.

        What a view answers with, or renders into a page, for ``store.merge`` and
        ``room.store(kind, {rows})``: the same that is pushed. Where ``track`` is
        stacked, by the declaration next to the class.

        Raises:
            UsageError: Its model is not tracked.
        """
        row = None if self._models is None else self._models.row(target)
        if row is None:
            raise UsageError(
                f"livepush.row({target!r}): its model is not tracked; decorate it with "
                "@livepush.track."
            )
        return row

    def suppress(self) -> AbstractContextManager[None]:
        """Push no change of a row that is flushed and committed inside a block.

        For imports and the like; :meth:`invalidate` afterwards what screens show.
        """
        return self._live_models().capture.suppress()

    def position(self, room: str | Room) -> Position | None:
        """Return where a room stands: its epoch and the offset of its last event.

        None while the message queue does not answer: a page without a position works,
        its client gets a snapshot.

        Raises:
            UsageError: No rule knows the room.
        """
        state = self._app()
        name = self._room_name(room)
        if isinstance(state, _Off):
            return None
        return _position(state.outgoing, state.failures, name)

    def presence(self, room: str | Room) -> list[dict[str, Any]]:
        """Return the users that are in a room now, in any process.

        Each as ``{"id": …}``, and ``"info"`` where the identity hook tells something.

        Raises:
            UsageError: No rule knows the room, or it has no presence.
            BrokerError: The message queue does not answer.
        """
        name = self._room_name(room)
        found = self._rooms.find(name)
        if found is None or not found[0].presence:
            raise UsageError(
                f"The room {name!r} was declared with presence=False; nobody knows who "
                "is in it."
            )
        state = self._app()
        users = {} if isinstance(state, _Off) else state.presence.users(name)
        return [
            {"id": user, **({"info": json.loads(info)} if info else {})}
            for user, info in users.items()
        ]

    def knows(self, room: str) -> bool:
        """Say whether a rule knows a room of this name."""
        return self._rooms.find(room) is not None

    # -- joining the parts -----------------------------------------------------------

    def _set_up_socketio(
        self,
        app: Flask,
        settings: configuration.Config,
        queue: MessageQueue | None,
        adopted: SocketIO | None,
    ) -> SocketIO:
        if adopted is not None:
            allowed = adopted.server.eio.cors_allowed_origins
            origins.guard(app, allowed, instances.path(adopted))
            return adopted
        instance = self._take_own()
        instances.create(
            app,
            instance,
            async_mode=settings.async_mode,
            cors_origins=settings.cors_origins,
            ping_interval=settings.ping_interval,
            ping_timeout=settings.ping_timeout,
            max_message_bytes=settings.max_message_bytes,
            relay=None if queue is None else queue.relay,
        )
        return instance

    def _take_own(self) -> SocketIO:
        """Return a SocketIO for an application, with the handlers declared so far."""
        instance = self._own or instances.instance(self._handlers)
        # It will hold the application, which is to hold it in turn and nobody else.
        self._own, self._handlers = None, instances.instance(instance)
        return instance

    def _check_adopted(
        self, app: Flask, settings: configuration.Config, adopted: SocketIO
    ) -> None:
        if self._adopted is not None and adopted is not self._adopted:
            raise ConfigError(
                "init_app(app, socketio=…): LivePush(socketio=…) was given another "
                "SocketIO; give one of the two."
            )
        if adopted is self._adopted and self._set_up:
            raise ConfigError(
                "LivePush(socketio=…) has adopted the SocketIO of one application "
                "already; make a LivePush for each, or give each its own with "
                "livepush.init_app(app, socketio=…)."
            )
        instances.check_adopted(adopted, settings.async_mode, app=app)
        if self._own is not None:
            instances.hand_over(self._own, adopted)
            self._own = None

    def _find_flask_sqlalchemy(self, app: Flask) -> Callable[..., None] | None:
        """Watch ``db.session``, whichever of the two extensions is set up first.

        Returns:
            What must be kept as long as the application; None: it was found.
        """
        if "sqlalchemy" in app.extensions:
            with app.app_context():
                self._live_models().watch_flask_sqlalchemy(app.extensions["sqlalchemy"])
            return None

        def look(sender: Flask, **_: Any) -> None:
            if "sqlalchemy" in sender.extensions:
                receivers.disconnect(appcontext_pushed, look, sender)
                try:
                    db = sender.extensions["sqlalchemy"]
                    self._live_models().watch_flask_sqlalchemy(db)
                except ConfigError as error:
                    reason = f"db.session is not followed, nothing is pushed: {error}"
                    self._failures.note(reason, Failure(reason))

        receivers.connect(appcontext_pushed, look, app)
        return look

    def _live_models(self) -> LiveModels:
        if self._models is None:
            try:
                from .live_models import LiveModels
            except ImportError as error:
                raise ConfigError(
                    "Tracking models needs SQLAlchemy; install "
                    "flask-livepush[sqlalchemy]."
                ) from error
            self._models = LiveModels(
                emitter=self._emitter_at_commit,
                may_push=self._may_push,
                wall=time.time,
                monotonic=time.monotonic,
                knows=self.knows,
                failures=self._failures,
                disabled=self._disabled_kinds,
            )
            self._listen()
        return self._models

    def _watch_rights(self, room: Room, model: Any, **declaration: Any) -> None:
        self._live_models().watch_rights(room, model, **declaration)

    def _tell_failure(self, failure: Failure) -> None:
        """Tell what fails where no application is known but by the context."""
        state = self._find_app()
        if state is not None:
            state.meters.count("failures_total", failure.what)
        signals.tell_failed(None if state is None else state.app, failure)

    def _has_read(self) -> bool:
        return self._models is not None and self._models.have_read()

    def _state_of(self, app: Flask) -> _App | _Off:
        state = self._of(app)
        if state is None:
            raise UsageError(
                "LivePush is not set up on this application; call "
                "livepush.init_app(app)."
            )
        return state

    def _of(self, app: Flask) -> _App | _Off | None:
        if app.extensions.get("livepush") is not self:
            return None
        return app.extensions.get(_PARTS)

    def _find_app(self) -> _App | _Off | None:
        if has_app_context():
            app = current_app._get_current_object()  # type: ignore[attr-defined]
            state = self._of(app)
            if state is not None:
                return state
        states = self._states
        return states[0] if len(states) == 1 else None

    def _app(self) -> _App | _Off:
        state = self._find_app()
        if state is None and len(self._states) > 1:
            gc.collect()  # some may be nobody's any more
            state = self._find_app()
        if state is not None:
            return state
        if not self._states:
            raise UsageError(
                "LivePush is set up on no application; call livepush.init_app(app), "
                "and keep the application."
            )
        raise UsageError(
            "LivePush is set up on several applications; enter the context of one "
            "with app.app_context()."
        )

    def _emitter_at_commit(self) -> Emitter | None:
        state = self._find_app()
        if state is None:
            why = (
                "LivePush is set up on several applications and none is at hand; enter "
                "the context of one with app.app_context()."
                if self._states
                else "LivePush is set up on no application, or nobody holds it any "
                "more; call livepush.init_app(app), and keep the application."
            )
            self._failures.note(why, Failure(f"A commit was not pushed: {why}"))
            return None
        return None if isinstance(state, _Off) else state.emitter

    def _may_push(self, in_scope: bool) -> bool:
        state = self._find_app()
        if state is None or in_scope or state.config.push == "commits":
            return True
        endpoint = request.endpoint if has_request_context() else None
        if endpoint not in self._warned:
            self._warned.add(endpoint)
            log.warning(
                "A commit of tracked models in %s was not pushed, since LIVEPUSH_PUSH "
                "is 'decorated'; decorate it with @livepush.push_changes.",
                f"the view {endpoint!r}" if endpoint else "code outside of views",
            )
        return False

    def _room_name(self, room: str | Room) -> str:
        name = room.name() if isinstance(room, Room) else room
        if not isinstance(name, str) or self._rooms.find(name) is None:
            raise UsageError(
                f"No rule knows the room {name!r}; declare its pattern with "
                "@livepush.room, or build its name with Room.name(…)."
            )
        return name

    def _staleness(self, target: Any) -> Batch:
        batch = Batch()
        if isinstance(target, Room):
            for draft in self._stale_drafts(target):
                kind = draft.event.removesuffix(".invalidated")
                batch.invalidate_everywhere(kind, target.has_name)
            return batch
        if isinstance(target, str):
            found = self._rooms.find(self._room_name(target))
            for draft in self._stale_drafts(found[0]) if found else ():
                batch.event(target, draft)
            return batch
        stale = None if self._models is None else self._models.staleness(target)
        if stale is None:
            raise UsageError(
                f"livepush.invalidate({target!r}): it must be a tracked model, an "
                "object of one, a Room or a room's name."
            )
        return stale

    def _stale_drafts(self, room: Room) -> list[Draft]:
        kinds = [] if self._models is None else self._models.kinds_of(room)
        drafts = [invalidated(kind) for kind in kinds]
        return [*drafts, _STATE] if room.state is not None or not drafts else drafts


def _position(outgoing: Outgoing, failures: Failures, room: str) -> Position | None:
    try:
        found = outgoing.position(room)
    except BrokerError as error:
        reason = f"Pages have no positions until the message queue answers: {error}"
        failures.note("positions", Failure(reason, what="broker"))
        return None
    failures.over("positions")
    return found


def _texts(debug: bool, setting: bool | None) -> logs.Texts:
    if setting is None:
        return "all" if debug else "own"
    return "all" if setting else "none"


def _engine(app: Flask) -> Engine | None:
    """Return the database of Flask-SQLAlchemy; None: there is none."""
    db: Any = app.extensions.get("sqlalchemy")
    if not hasattr(type(db), "engine"):
        return None
    with app.app_context():
        found: Engine = db.engine
    return found


def _patience() -> float:
    # A task's process may end with its commit, in ways that nobody is told of.
    return 0.0 if has_request_context() else _TASK_PATIENCE
