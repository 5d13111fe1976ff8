"""What is answered before the application is asked: its health, and who must not come.

Load balancers and platforms ask for it. An application's ``before_request`` that wants
a login, redirects to HTTPS or asks a database that is away must not make them restart
or drop a process, so it is no view of the application's. Nothing of the application is
told in here.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import parse_qs

# Seconds for which what was found out of the broker is told again.
_FRESH = 1.0

_NO_STORE = ("Cache-Control", "no-store")
_UNAVAILABLE = "503 SERVICE UNAVAILABLE"


class Health:
    """Answers ``/live`` and ``/ready``, and refuses new connections while leaving.

    Args:
        application: The WSGI application behind it.
        prefix: The URL path above both.
        connections: The URL path of Engine.IO; None: it is not ours.
        leaving: Says whether the process is about to end.
        broker: Says whether the broker answers, in a moment; None: there is none but
            this process's memory.
        now: Seconds of a clock that never falls.
        off: Whether there are no connections at all.
        root: The path above all of the application's, where pages are told it; a proxy
            may have taken it away, or nobody.
    """

    def __init__(
        self,
        application: Callable[..., Iterable[bytes]],
        *,
        prefix: str,
        connections: str | None,
        leaving: Callable[[], bool],
        broker: Callable[[], bool] | None,
        now: Callable[[], float],
        off: bool = False,
        root: str = "",
    ) -> None:
        self._application = application
        self._root = root
        # What is below it although nobody took it away.
        self._below = tuple(
            f"{root}{path}" for path in (f"{prefix}/", connections) if path is not None
        )
        self._off = off
        self._pages = {f"{prefix}/live": self._live, f"{prefix}/ready": self._ready}
        self._connections = connections
        self._leaving = leaving
        self._broker = broker
        self._now = now
        self._lock = threading.Lock()  # one asks, the others are told what was
        self._asked = float("-inf")
        self._state = "none" if broker is None else "ok"

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        path = environ.get("PATH_INFO", "")
        if self._root and path.startswith(self._below):
            script_name = f"{environ.get('SCRIPT_NAME', '')}{self._root}"
            path = path[len(self._root) :]
            environ = {**environ, "SCRIPT_NAME": script_name, "PATH_INFO": path}
        page = self._pages.get(path)
        if page is not None and environ["REQUEST_METHOD"] in ("GET", "HEAD"):
            status, told = page()
        elif self._connections is None or not path.startswith(self._connections):
            return self._application(environ, start_response)
        elif self._off:
            # Of pages from before; the application is spared their attempts.
            status, told = "404 NOT FOUND", {"message": "Live updates are off"}
        elif (
            self._leaving()
            and "sid" not in parse_qs(environ.get("QUERY_STRING", ""))
            and environ["REQUEST_METHOD"] != "OPTIONS"
        ):
            status, told = _UNAVAILABLE, {"message": "This process is leaving"}
        else:
            return self._application(environ, start_response)
        data = json.dumps(told).encode()
        headers = [
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(data))),
            _NO_STORE,
        ]
        start_response(status, headers)
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [data]

    def _live(self) -> tuple[str, dict[str, str]]:
        return "200 OK", {"status": "live"}

    def _ready(self) -> tuple[str, dict[str, str]]:
        # A broker that is away is told, and no reason to drop a process: it would be
        # one for all of them.
        if self._leaving():
            return _UNAVAILABLE, {"status": "draining", "broker": self._broker_state()}
        return "200 OK", {"status": "ready", "broker": self._broker_state()}

    def _broker_state(self) -> str:
        if self._broker is None:
            return self._state
        now = self._now()
        with self._lock:
            asks = now - self._asked >= _FRESH
            if asks:
                self._asked = now
        if asks:
            self._state = "ok" if self._broker() else "away"
        return self._state
