"""What is kept of a handshake."""

from __future__ import annotations

import io
import sys

from flask import Flask, request
from werkzeug.test import EnvironBuilder

from flask_livepush.transports.engine.environ import slim


def test_keeps_what_says_something_and_nothing_that_is_dead() -> None:
    asked = {
        "HTTP_COOKIE": "session=1",
        "QUERY_STRING": "EIO=4",
        "wsgi.input": io.BytesIO(b"body"),
        "wsgi.errors": io.StringIO(),
        "gunicorn.socket": object(),
        "werkzeug.socket": object(),
        "wsgi.multithread": True,
        "flask.app": "app",
    }
    kept = slim(asked)
    assert kept.pop("wsgi.input").read() == b""
    assert kept == {
        "HTTP_COOKIE": "session=1",
        "QUERY_STRING": "EIO=4",
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "flask.app": "app",
    }
    assert asked["wsgi.input"].read() == b"body"  # the request itself goes on


def test_a_handler_that_asks_for_the_body_finds_none() -> None:
    """Bug: request.form and get_data() in an event's handler were a KeyError."""
    app = Flask(__name__)
    environ = EnvironBuilder(method="GET", path="/socket.io/").get_environ()
    environ["wsgi.input_terminated"] = True  # as gunicorn has it
    with app.request_context(slim(environ)):
        assert request.get_data() == b""
        assert request.form == {}
        assert request.get_json(silent=True) is None


def test_equal_texts_of_two_connections_are_one_object() -> None:
    agents = ["".join(("Mozil", "la")) for _ in range(2)]
    assert agents[0] is not agents[1]
    first, second = (slim({"HTTP_USER_AGENT": agent}) for agent in agents)
    assert first["HTTP_USER_AGENT"] is second["HTTP_USER_AGENT"]
