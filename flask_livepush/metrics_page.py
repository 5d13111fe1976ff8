"""The door to an application's metrics: nobody gets in without its token or its rule.

Nothing is computed for whoever may not see it, and nothing is counted in here.
"""

from __future__ import annotations

import hmac
import inspect
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Flask, Response, abort, request

from .logs import logger
from .metrics import Meters

log = logger(__name__)

Rule = Callable[[Any], Any]


class MetricsPage:
    """Serves the metrics of one application.

    Args:
        app: The application.
        prefix: The URL path above it.
        meters: What has been counted.
        token: Whoever sends it as ``Authorization: Bearer …`` may see them; None:
            nobody may by a token.
        rule: Returns the application's rule, if it has one.
        user: Returns the user of the request at hand.
    """

    def __init__(
        self,
        app: Flask,
        *,
        prefix: str,
        meters: Meters,
        token: str | None,
        rule: Callable[[], Rule | None],
        user: Callable[[], Any],
    ) -> None:
        self._meters = meters
        self._token = token
        self._rule = rule
        self._user = user
        blueprint = Blueprint("livepush_metrics", __name__, url_prefix=prefix)
        blueprint.add_url_rule("/metrics", "page", self._serve)
        app.register_blueprint(blueprint)

    def _serve(self) -> Response:
        rule = self._rule()
        if self._token is None and rule is None:
            abort(404)
        if not self._has_token() and not (rule is not None and self._allows(rule)):
            return self._refused()
        text, kind = self._meters.page()
        return Response(text, content_type=kind, headers={"Cache-Control": "no-store"})

    def _has_token(self) -> bool:
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if self._token is None or scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._token.encode())

    def _allows(self, rule: Rule) -> bool:
        try:
            answer = rule(self._user())
            if inspect.iscoroutine(answer):
                answer.close()  # it would warn that nobody awaited it
            if inspect.isawaitable(answer):
                raise TypeError("the rule returned an awaitable, which says nothing")
            return bool(answer)
        except Exception:
            log.exception("The rule of the metrics failed; nobody may see them")
            return False

    def _refused(self) -> Response:
        if self._token is None:
            return Response("This user may not see the metrics.\n", 403)
        challenge = {"WWW-Authenticate": 'Bearer realm="livepush metrics"'}
        return Response("The metrics need their token.\n", 401, challenge)
