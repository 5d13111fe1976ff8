"""Pages that start from the position they were rendered at, and what they include.

The position is read on ``request_started``, before any ``before_request`` can query:
what the view reads is then at least as new, and the page's connection is given
everything since.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from flask import Blueprint, Flask, Response, g, has_request_context, request, url_for
from flask.signals import request_started
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from .errors import BrokerError, UsageError
from .protocol.publication import Position
from .rooms import Room

log = logging.getLogger(__name__)

_MARK = "_livepush_pages"
_SCRIPT = files(__package__).joinpath("static", "livepush.js")
_YEAR = 365 * 24 * 60 * 60


def mark(view: Callable[..., Any], find: Callable[[], Room]) -> None:
    """Remember that a view renders a kind of room.

    Args:
        find: Returns the kind of room; asked with the first request.
    """
    setattr(view, _MARK, (*getattr(view, _MARK, ()), find))


class Pages:
    """What one application serves and renders.

    Args:
        app: The application.
        prefix: The URL path under which the script is served.
        position: Reads where a room stands.
        has_read: Says whether a database session that the view may use has read
            something already, so that what it gives may be older than a position read
            now.
    """

    def __init__(
        self,
        app: Flask,
        *,
        prefix: str,
        position: Callable[[str], Position],
        has_read: Callable[[], bool],
    ) -> None:
        self._app = app
        self._position = position
        self._has_read = has_read
        self._hash = hashlib.sha256(_SCRIPT.read_bytes()).hexdigest()[:16]
        blueprint = Blueprint("livepush", __name__, url_prefix=prefix)
        blueprint.add_url_rule("/livepush.js", "script", self._serve_script)
        app.register_blueprint(blueprint)
        app.add_template_global(self.room, "livepush_room")
        app.add_template_global(self.script, "livepush_script")

    def read_positions(self) -> None:
        """Read the positions of marked views from now on; may be repeated."""
        request_started.connect(self._on_request, self._app)

    def script(self, **attributes: str) -> Markup:
        """Return the script element of the client: ``{{ livepush_script() }}``.

        Args:
            attributes: More attributes, such as ``nonce`` for a content security policy
                or ``defer=""``.
        """
        source = url_for("livepush.script", v=self._hash)
        more = (Markup(' {}="{}"').format(k, v) for k, v in attributes.items())
        return Markup('<script src="{}"{}></script>').format(
            source, Markup("").join(more)
        )

    def room(self, name: str) -> Markup:
        """Return the element that gives the client a room's position.

        Raises:
            UsageError: The view is not decorated with ``livepush.page`` for this room.
        """
        positions: dict[str, Position | None] = (
            getattr(g, _MARK, {}) if has_request_context() else {}
        )
        if name not in positions:
            raise UsageError(
                f"livepush_room({name!r}) works in the template of a view decorated "
                "with @livepush.page and the pattern of that room; the position must "
                "be read before the view queries."
            )
        position = positions[name]
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

    def _on_request(self, app: Flask, **_: Any) -> None:
        view = app.view_functions.get(request.endpoint or "")
        pages = getattr(view, _MARK, ())
        if not pages:
            return
        positions: dict[str, Position | None] = {}
        for find in pages:
            room = find()
            given = request.view_args or {}
            missing = [v for v in room.pattern.variables if v not in given]
            if missing:
                raise UsageError(
                    f"@livepush.page({room.pattern.text!r}) on the view "
                    f"{request.endpoint!r}: its URL has no {missing[0]!r}; name a "
                    "variable of its route so, or take a room whose variables it has."
                )
            try:
                name = room.name(**{v: given[v] for v in room.pattern.variables})
            except UsageError:
                continue  # an address that names no room; the view will know
            positions[name] = self._read(name)
        setattr(g, _MARK, positions)

    def _read(self, name: str) -> Position | None:
        if self._has_read():
            return None
        try:
            return self._position(name)
        except BrokerError as error:
            log.error("Reading a page's position failed: %s", error)
            return None

    def _serve_script(self) -> Response:
        response = Response(_SCRIPT.read_bytes(), mimetype="text/javascript")
        response.set_etag(self._hash)
        if request.args.get("v") == self._hash:
            # The address changes with the content.
            response.cache_control.public = True
            response.cache_control.max_age = _YEAR
            response.cache_control.immutable = True
        else:
            response.cache_control.no_cache = True
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.make_conditional(request)
        return response
