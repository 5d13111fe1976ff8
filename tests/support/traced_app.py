"""A server program under sentry-sdk and OpenTelemetry, which let threads inherit.

Around everything is a WSGI middleware that gives each request a Sentry user, a
breadcrumb and a span, called as its ``X-User``. ``/seen`` tells what rules, handlers
and tasks found of that, ``/events`` what Sentry was sent.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from typing import Any

import flask_login
import sentry_sdk
from flask import Flask, jsonify
from opentelemetry import baggage, context, trace
from opentelemetry.instrumentation.threading import ThreadingInstrumentor
from opentelemetry.sdk.trace import TracerProvider

from flask_livepush import LivePush
from tests.support.servers import serve
from tests.support.waiting import DEADLINE

events: list[Any] = []
seen: list[tuple[str, str, Any, Any, str]] = []


class Kept(sentry_sdk.transport.Transport):
    """Keeps what would be sent."""

    def capture_envelope(self, envelope: Any) -> None:
        """Keep the events of an envelope."""
        for item in envelope.items:
            if item.get_event() is not None:
                events.append(item.get_event())


sentry_sdk.init("https://key@127.0.0.1/1", transport=Kept, send_default_pii=True)
trace.set_tracer_provider(TracerProvider())
ThreadingInstrumentor().instrument()
tracer = trace.get_tracer("test")

app = Flask("traced")
app.config["SECRET_KEY"] = "secret"
app.config.from_prefixed_env()  # such as FLASK_LIVEPUSH_ENGINE
livepush = LivePush(app)
login = flask_login.LoginManager(app)


class User(flask_login.UserMixin):  # type: ignore[misc]
    """Whoever says so."""

    def __init__(self, name: str) -> None:
        self.id = name


@login.request_loader
def load(incoming: Any) -> User | None:
    """Believe the header."""
    name = incoming.headers.get("X-User")
    return User(name) if name else None


def look(what: str, user: str) -> None:
    """Note what is inherited here, and leave something behind."""
    scope = sentry_sdk.get_isolation_scope()
    crumbs = [str(crumb["message"]) for crumb in scope._breadcrumbs]
    span = trace.get_current_span()
    inherited = (scope._user or {}).get("id"), getattr(span, "name", None)
    seen.append((what, user, *inherited, " ".join(crumbs)))
    sentry_sdk.set_user({"id": f"left by {user}"})
    sentry_sdk.add_breadcrumb(message=f"left by {user}")
    context.attach(baggage.set_baggage("left by", user))


@livepush.room("chat:<int:room_id>")
def chat(user: Any, room_id: int) -> bool:
    """Fail for room 7."""
    look("rule", user.id)
    if room_id == 7:
        raise RuntimeError("a rule that fails")
    return True


@livepush.socketio.on("work")
def work(name: str) -> str:
    """Do something in the background."""
    look("handler", name)
    done = threading.Event()

    def task() -> None:
        look("task", name)
        done.set()

    livepush.socketio.start_background_task(task)
    assert done.wait(DEADLINE)
    return "done"


@app.get("/seen")
def tell_seen() -> Any:
    """Tell what was found."""
    return jsonify(seen)


@app.get("/events")
def tell_events() -> Any:
    """Tell what Sentry was sent."""
    return json.dumps(events, default=str)


class Around:
    """Gives each request what a tracing middleware would."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        name = environ.get("HTTP_X_USER", "nobody")
        with sentry_sdk.isolation_scope(), tracer.start_as_current_span(name):
            sentry_sdk.set_user({"id": name})
            sentry_sdk.add_breadcrumb(message=f"request of {name}")
            answer: Iterable[bytes] = self._application(environ, start_response)
            return answer


app.wsgi_app = Around(app.wsgi_app)  # type: ignore[method-assign]

if __name__ == "__main__":
    serve(app)
