"""An application's Flask-SocketIO: made, or adopted; its async mode; its WSGI layer.

What connections send is not its business.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable
from typing import Any

import flask_socketio
import socketio
from flask import Flask

from ..errors import ConfigError
from . import origins
from .engine.server import Engine
from .fanout import NAMESPACE


def instance(like: flask_socketio.SocketIO | None = None) -> flask_socketio.SocketIO:
    """Return a SocketIO that is not set up yet.

    Args:
        like: Another whose handlers, declared before it was set up, hold here too.
    """
    made = flask_socketio.SocketIO()
    if like is not None:
        hand_over(like, made)
    return made


def hand_over(declared: flask_socketio.SocketIO, to: flask_socketio.SocketIO) -> None:
    """Give the handlers that were declared on one SocketIO to another, too."""
    # What it keeps of a handler asks the instance that was decorated with, so each is
    # declared anew: else a second application's events went to the first.
    for event, handler, namespace in declared.handlers:
        to.on(event, namespace)(handler.__wrapped__)
    for handler in declared.namespace_handlers:
        to.on_namespace(copy.copy(handler))
    for namespace, handler in declared.exception_handlers.items():
        to.exception_handlers.setdefault(namespace, handler)
    if to.default_exception_handler is None:
        to.default_exception_handler = declared.default_exception_handler


def create(
    app: Flask,
    made: flask_socketio.SocketIO,
    *,
    async_mode: str | None,
    cors_origins: Any,
    ping_interval: float,
    ping_timeout: float,
    max_message_bytes: int,
    relay: socketio.PubSubManager | None,
) -> None:
    """Set up a Socket.IO server of our own for an application.

    Args:
        relay: Carries the application's own emits to other processes, if there are any.

    Raises:
        ConfigError: The async mode does not fit how the process is patched.
    """
    made.init_app(
        app,
        async_mode=choose_async_mode(async_mode),
        cors_allowed_origins=_with_own(cors_origins),
        ping_interval=ping_interval,
        ping_timeout=ping_timeout,
        max_http_buffer_size=max_message_bytes,
        **({} if relay is None else {"client_manager": relay}),
    )
    app.wsgi_app = _Bypass(made.sockio_mw)  # type: ignore[method-assign]


def silent(app: Flask, made: flask_socketio.SocketIO) -> flask_socketio.SocketIO:
    """Set up a Socket.IO server that nobody can connect to, and return its SocketIO.

    What an application emits by it reaches nobody.
    """
    application = app.wsgi_app
    made.init_app(app, async_mode=_patched() or "threading")
    app.wsgi_app = application  # type: ignore[method-assign]
    return made


def found(app: Flask) -> flask_socketio.SocketIO | None:
    """Return the SocketIO that an application has already."""
    return app.extensions.get("socketio")


def check_alone(app: Flask) -> None:
    """Check that an application has no SocketIO of its own.

    Raises:
        ConfigError: It has one; the server of another would take its place.
    """
    if found(app) is not None:
        raise ConfigError(
            f"The application {app.name!r} has a flask_socketio.SocketIO already, and "
            "LivePush would put another in its place, so that none of its handlers "
            "were called any more. Give it: LivePush(app, socketio=socketio), or "
            "livepush.init_app(app, socketio=socketio)."
        )


def keep_alone(app: Flask) -> None:
    """Refuse SocketIOs that are set up on an application later.

    One would take the place of the server that LivePush has there.
    """
    app.extensions = _Extensions(app.name, app.extensions)


class _Extensions(dict[str, Any]):
    """An application's extensions, where its SocketIO registers itself."""

    def __init__(self, app: str, extensions: dict[str, Any]) -> None:
        super().__init__(extensions)
        self._app = app

    def __setitem__(self, name: str, extension: Any) -> None:
        if name == "socketio" and extension is not self.get(name):
            raise ConfigError(
                f"LivePush is set up on the application {self._app!r}, and now a "
                "flask_socketio.SocketIO of the application's own is, which would take "
                "its place. Set it up first and give it: LivePush(app, "
                "socketio=socketio), or livepush.init_app(app, socketio=socketio). "
                "Or leave it out: livepush.socketio is one."
            )
        super().__setitem__(name, extension)


def _with_own(others: str | list[str] | None) -> Any:
    """Return what says whether an origin may connect: its own may always."""
    listed = [others] if isinstance(others, str) else others or ()

    def allows(origin: str | None, environ: dict[str, Any]) -> bool:
        return origin is not None and (
            origins.is_own(origin, environ) or origins.is_among(origin, listed)
        )

    return allows


def know_callers(
    made: flask_socketio.SocketIO, entered: Callable[[str, str], object]
) -> None:
    """Let the application's handlers know whose a connection is.

    Args:
        entered: Called in the request in which a handler runs, with the connection's
            sid and namespace; what it raises is raised by the handler.
    """
    handle = made._handle_event

    def handle_event(
        handler: Callable[..., Any], message: str, namespace: str, sid: str, *args: Any
    ) -> Any:
        def called(*given: Any) -> Any:
            entered(sid, namespace)
            return handler(*given)

        return handle(called, message, namespace, sid, *args)

    made._handle_event = handle_event


def path(made: flask_socketio.SocketIO) -> str:
    """Return the URL path of a server's Engine.IO, as its middleware compares it."""
    found: str = made.sockio_mw.engineio_path
    return found


class _Bypass:
    """Spares requests what Flask-SocketIO's middleware does to each.

    It copies the environment of those that are no Socket.IO's, and engineio's, below
    it, declares a class for each of those that are.

    Args:
        middleware: Flask-SocketIO's.
    """

    def __init__(self, middleware: Any) -> None:
        self._middleware = middleware

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        middleware = self._middleware
        if not environ.get("PATH_INFO", "").startswith(middleware.engineio_path):
            return middleware.wsgi_app(environ, start_response)
        engine = middleware.engineio_app.eio
        if isinstance(engine, Engine):
            environ = {**environ, "flask.app": middleware.flask_app}
            return engine.handle_request(environ, start_response)
        return middleware(environ, start_response)


def choose_async_mode(configured: str | None) -> str:
    """Return the mode that is configured, else what is patched, else threading.

    Raises:
        ConfigError: It is configured to one the process is not patched for.
    """
    patched = _patched()
    if configured is None:
        return patched or "threading"
    if configured != "threading" and configured != patched:
        call = {
            "eventlet": "import eventlet; eventlet.monkey_patch()",
            "gevent": "from gevent import monkey; monkey.patch_all()",
        }[configured]
        raise ConfigError(
            f"LIVEPUSH_ASYNC_MODE is {configured!r}, but the process is not "
            f"monkey-patched by it; begin the program with: {call}"
        )
    if configured == "threading" and patched is not None:
        raise ConfigError(
            f"LIVEPUSH_ASYNC_MODE is 'threading', but the process is monkey-patched by "
            f"{patched}; leave the setting out or set it to {patched!r}."
        )
    return configured


def _patched() -> str | None:
    eventlet = sys.modules.get("eventlet.patcher")
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    gevent = sys.modules.get("gevent.monkey")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    return None


def check_adopted(
    instance: Any, async_mode: str | None, *, app: Flask | None = None
) -> None:
    """Check that an application's own SocketIO can be adopted.

    Raises:
        ConfigError: It is none, is not set up yet, on another application or only to
            emit, or runs in another mode, also than the process.
    """
    if not isinstance(instance, flask_socketio.SocketIO):
        raise ConfigError(
            f"LivePush(socketio={instance!r}): it must be a flask_socketio.SocketIO."
        )
    if instance.server is None:
        raise ConfigError(
            "LivePush(socketio=…): the SocketIO is not set up yet; call "
            "socketio.init_app(app) before livepush.init_app(app)."
        )
    middleware = getattr(instance, "sockio_mw", None)
    if middleware is None or getattr(instance.server.manager, "write_only", False):
        raise ConfigError(
            "LivePush(app, socketio=…): the SocketIO is write-only, as SocketIO("
            "message_queue=…) without an application is: nobody can connect to it. Set "
            "it up on the application, SocketIO(app, …), and give that: LivePush(app, "
            "socketio=socketio). Processes that only emit need none: LivePush(app) "
            "with LIVEPUSH_MESSAGE_QUEUE."
        )
    namespaces = instance.server.namespaces
    if namespaces != "*" and NAMESPACE not in namespaces:
        raise ConfigError(
            f"LivePush(socketio=…): its namespaces are {namespaces!r}; add '/', which "
            "flask_livepush uses."
        )
    if async_mode not in (None, instance.async_mode):
        raise ConfigError(
            f"LIVEPUSH_ASYNC_MODE is {async_mode!r}, but the SocketIO given runs in "
            f"{instance.async_mode!r}; set it there and leave LIVEPUSH_ASYNC_MODE out."
        )
    if instance.async_mode != "threading" and instance.async_mode != _patched():
        raise ConfigError(
            f"LivePush(socketio=…): the SocketIO runs in {instance.async_mode!r}, but "
            "the process is not monkey-patched by it. Make it with SocketIO(app, "
            "async_mode='threading'), or patch the process at the program's beginning."
        )
    if app is not None and middleware.flask_app is not app:
        raise ConfigError(
            f"LivePush(app, socketio=…): the SocketIO is set up on the application "
            f"{middleware.flask_app.name!r}, not on this one, {app.name!r}; call "
            "socketio.init_app(app) before livepush.init_app(app, socketio=socketio)."
        )


def run(
    instance: flask_socketio.SocketIO, app: Flask, host: str, port: int, **options: Any
) -> None:
    """Serve an application with the development server of its async mode."""
    if instance.async_mode == "threading":
        # Flask-SocketIO refuses Werkzeug's server where there is no terminal.
        options.setdefault("allow_unsafe_werkzeug", True)
    instance.run(app, host=host, port=port, **options)
