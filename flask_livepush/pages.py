"""Pages that start from the position they were rendered at, and what they include.

The position is read on ``request_started``, before any ``before_request`` can query:
what the view reads is then at least as new, and the page's connection is given
everything since.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from flask import Blueprint, Flask, Response, g, has_request_context, request, url_for
from flask.signals import request_started
from jinja2 import pass_context
from jinja2.runtime import Context
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup
from werkzeug.datastructures import Accept

from .errors import UsageError
from .failures import Failure, Failures, place_of
from .protocol.publication import Position
from .receivers import connect
from .rooms import Room

_MARK = "_livepush_pages"
_STATIC = files(__package__).joinpath("static")
_SCRIPT = _STATIC.joinpath("livepush.js")
_ENCODED = {
    "br": _STATIC.joinpath("livepush.js.br"),
    "gzip": _STATIC.joinpath("livepush.js.gz"),
}
_YEAR = 365 * 24 * 60 * 60


# Where clients look for Socket.IO unless they are told.
_USUAL = "/socket.io"

Names = Callable[..., str | Iterable[str] | None]
Find = Callable[[], Room | Names]


def mark(view: Callable[..., Any], finds: Iterable[Find]) -> None:
    """Remember that a view renders rooms.

    Args:
        finds: Each returns a kind of room, or what is given the view's arguments and
            returns names of rooms; asked with each request.
    """
    setattr(view, _MARK, (*getattr(view, _MARK, ()), *finds))


@dataclass(slots=True)
class _Page:
    """What is known of the page at hand.

    Args:
        positions: Where its rooms stand; None: nobody could say.
        own: The name of the visitor's own room, as far as it is known before a query;
            empty: the page has none.
        open: Whether it may have rooms that nobody could name before the view.
    """

    positions: dict[str, Position | None]
    own: str | None = ""
    open: bool = False


class Pages:
    """What one application serves and renders.

    Args:
        app: The application.
        prefix: The URL path under which the script is served.
        connections: The URL path of Socket.IO.
        position: Reads where a room stands; None: nobody can say.
        has_read: Says whether a database session that the view may use has read
            something already, so that what it gives may be older than a position read
            now.
        knows: Says whether a rule knows a room's name.
        own: The kind of room whose one variable is the visitor's id.
        expected_id: Returns that id before a query, or None.
        current_id: Returns it, or None: the visitor is not logged in.
        failures: Takes note of callables that fail.
        off: Whether nothing is pushed: pages have no positions, and their script is
            told so.
    """

    def __init__(
        self,
        app: Flask,
        *,
        prefix: str,
        connections: str = _USUAL,
        position: Callable[[str], Position | None],
        has_read: Callable[[], bool],
        knows: Callable[[str], bool],
        own: Room,
        expected_id: Callable[[], str | None],
        current_id: Callable[[], str | None],
        failures: Failures,
        off: bool = False,
    ) -> None:
        self._app = app
        self._off = off
        self._connections = connections.rstrip("/")
        self._knows = knows
        self._own = own
        self._expected_id = expected_id
        self._current_id = current_id
        self._failures = failures
        self._position = position
        self._has_read = has_read
        self._hash = hashlib.sha256(_SCRIPT.read_bytes()).hexdigest()[:16]
        # As it is, and as its encodings, by their names; the best first.
        self._scripts = {
            name: path.read_bytes() for name, path in _ENCODED.items() if path.is_file()
        }
        blueprint = Blueprint("livepush", __name__, url_prefix=prefix)
        blueprint.add_url_rule("/livepush.js", "script", self._serve_script)
        app.register_blueprint(blueprint)
        app.add_template_global(self.room, "livepush_room")
        app.add_template_global(self._script_of, "livepush_script")

    def read_positions(self) -> None:
        """Read the positions of marked views from now on; may be repeated."""
        if not self._off:
            connect(request_started, self._on_request, self._app)

    def script(self, **attributes: str) -> Markup:
        """Return the script element of the client: ``{{ livepush_script() }}``.

        Args:
            attributes: More attributes, such as ``defer=""``, or the ``nonce`` of a
                content security policy. In a template that is found by itself where
                it is called ``csp_nonce``: a variable or function of the template, as
                Flask-Talisman has it, or an attribute of ``g``.
        """
        source = url_for("livepush.script", v=self._hash)
        root = application_root(self._app)
        if has_request_context():
            root = request.script_root or root
            if not request.script_root:
                source = f"{root}{source}"
        if self._off:
            attributes = {**attributes, "data-livepush-off": ""}
        elif root or self._connections != _USUAL:
            path = f"{root}{self._connections}"
            attributes = {**attributes, "data-livepush-path": path}
        more = (Markup(' {}="{}"').format(k, v) for k, v in attributes.items())
        return Markup('<script src="{}"{}></script>').format(
            source, Markup("").join(more)
        )

    @pass_context
    def _script_of(self, context: Context, **attributes: str) -> Markup:
        if "nonce" not in attributes:
            nonce = context.get("csp_nonce") or g.get("csp_nonce")
            nonce = nonce() if callable(nonce) else nonce
            if nonce:  # of Flask-Talisman it is empty where no policy has one
                attributes["nonce"] = str(nonce)
        return self.script(**attributes)

    def room(self, name: str | None = None) -> Markup:
        """Return the element that gives the client a room's position.

        Args:
            name: The room's; None: all rooms of the page, the visitor's own too.

        Raises:
            UsageError: The view is not decorated with ``livepush.page`` for this room.
        """
        if self._off:
            return Markup("")
        page: _Page | None = g.get(_MARK) if has_request_context() else None
        if page is None:
            raise UsageError(
                f"livepush_room({'' if name is None else repr(name)}) works in the "
                "template of a view decorated with @livepush.page and that room; the "
                "position must be read before the view queries."
            )
        own = self._own_name(self._current_id()) if page.own != "" else None
        if name is None:
            # The visitor may be another than the session said, or nobody.
            names = [n for n in page.positions if n != page.own]
            names += [] if own is None else [own]
            return Markup("").join(_element(n, page.positions.get(n)) for n in names)
        if name not in page.positions and name != own and not page.open:
            known = ", ".join(map(repr, page.positions)) or "none"
            raise UsageError(
                f"livepush_room({name!r}): the view is decorated with @livepush.page "
                f"for other rooms, which are here {known}. Add this one, as "
                "@livepush.page('chat:<int:room_id>'), @livepush.page(livepush.user) "
                "or @livepush.page(callable); the position must be read before the "
                "view queries."
            )
        return _element(name, page.positions.get(name))

    def _on_request(self, app: Flask, **_: Any) -> None:
        view = app.view_functions.get(request.endpoint or "")
        finds = getattr(view, _MARK, ())
        if not finds:
            return
        page = _Page({})
        setattr(g, _MARK, page)
        names: dict[str, None] = {}
        for find in finds:
            names.update(dict.fromkeys(self._names(find(), page)))
        # After all names: what is asked for one may have queried.
        for name in names:
            page.positions[name] = self._read(name)

    def _names(self, declared: Room | Names, page: _Page) -> list[str]:
        given: Mapping[str, Any] = request.view_args or {}
        if not isinstance(declared, Room):
            return self._named(declared, given, page)
        missing = [v for v in declared.pattern.variables if v not in given]
        if missing and declared is self._own:
            page.own = self._own_name(self._expected_id())
            return [] if page.own is None else [page.own]
        if missing:
            raise UsageError(
                f"@livepush.page({declared.pattern.text!r}) on the view "
                f"{request.endpoint!r}: its URL has no {missing[0]!r}; name a variable "
                "of its route so, take a room whose variables it has, or give a "
                "callable that returns the room's name."
            )
        try:
            return [declared.name(**{v: given[v] for v in declared.pattern.variables})]
        except UsageError:
            return []  # an address that names no room; the view will know

    def _named(
        self, function: Names, given: Mapping[str, Any], page: _Page
    ) -> list[str]:
        page.open = True
        try:
            found = function(**_accepted(function, given))
            names = [found] if isinstance(found, str) else list(found or ())
            if not all(isinstance(name, str) for name in names):
                raise TypeError("it must return a room's name, several, or None")
        except Exception as error:  # noqa: BLE001
            named = getattr(function, "__qualname__", repr(function))
            reason = (
                f"@livepush.page({named}) on the view {request.endpoint!r} raised "
                f"{type(error).__name__}; the page has no position, and clients get a "
                "snapshot. It is called with the arguments of the view's URL, and "
                "returns a room's name, several, or None."
            )
            place = ("pages", request.endpoint, place_of(error))
            self._failures.note(place, Failure(reason), error=error)
            return []
        return [name for name in names if self._knows(name)]

    def _own_name(self, identity: str | None) -> str | None:
        if identity is None:
            return None
        try:
            return self._own.name(user_id=identity)
        except UsageError:
            return None

    def _read(self, name: str) -> Position | None:
        return None if self._has_read() else self._position(name)

    def _serve_script(self) -> Response:
        encoding = self._encoding(request.accept_encodings)
        script = _SCRIPT.read_bytes() if encoding is None else self._scripts[encoding]
        response = Response(script, mimetype="text/javascript")
        response.vary.add("Accept-Encoding")
        if encoding is None:
            response.set_etag(self._hash)
        else:
            response.headers["Content-Encoding"] = encoding
            response.set_etag(f"{self._hash}-{encoding}")
        if request.args.get("v") == self._hash:
            # The address changes with the content.
            response.cache_control.public = True
            response.cache_control.max_age = _YEAR
            response.cache_control.immutable = True
        else:
            response.cache_control.no_cache = True
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.make_conditional(request)
        # It is the HTTP server's, which would add another.
        response.headers.pop("Date", None)
        return response

    def _encoding(self, accepted: Accept) -> str | None:
        """Return the best encoding that a client takes; None: as it is."""
        plain = accepted["identity"] if "identity" in accepted.values() else 0
        for name in self._scripts:
            if accepted[name] > 0 and accepted[name] >= plain:
                return name
        return None


def application_root(app: Flask) -> str:
    """Return the path above all of an application's, as it says itself; empty: none.

    Proxies may take it away before it comes to the application, with no word of it.
    """
    root = str(app.config.get("APPLICATION_ROOT") or "").strip("/")
    return f"/{root}" if root else ""


def _element(name: str, position: Position | None) -> Markup:
    return Markup(
        '<script type="application/json" data-livepush-room>{}</script>'
    ).format(
        htmlsafe_json_dumps(
            {
                "room": name,
                "epoch": position and position.epoch,
                "offset": position and position.offset,
            }
        )
    )


def _accepted(function: Names, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a view's arguments that a function takes."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return dict(given)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return dict(given)
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return {name: value for name, value in given.items() if name in names}
