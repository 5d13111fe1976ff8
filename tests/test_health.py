"""What load balancers are told, whatever the application thinks of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask, abort
from werkzeug.test import Client

from flask_livepush import LivePush
from flask_livepush.health import Health
from tests.support.brokers import Clock


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("204 NO CONTENT", [])
    return []


class Front:
    """Health in front of an application that answers 204."""

    def __init__(self, *, broker: bool = True) -> None:
        self.clock = Clock()
        self.leaving = False
        self.answers = True
        self.asked = 0
        health = Health(
            application,
            prefix="/livepush",
            connections="/socket.io/",
            leaving=lambda: self.leaving,
            broker=self._ask if broker else None,
            now=self.clock,
        )
        self.client = Client(health)

    def _ask(self) -> bool:
        self.asked += 1
        return self.answers

    def get(self, path: str, method: str = "GET") -> Any:
        return self.client.open(path, method=method)


def test_a_process_is_live_as_long_as_it_answers() -> None:
    front = Front()
    front.leaving = True
    front.answers = False
    answer = front.get("/livepush/live")
    assert (answer.status_code, answer.json) == (200, {"status": "live"})
    assert answer.headers["Cache-Control"] == "no-store"
    assert front.asked == 0


def test_it_is_ready_until_it_leaves() -> None:
    front = Front(broker=False)
    answer = front.get("/livepush/ready")
    assert (answer.status_code, answer.json) == (
        200,
        {"status": "ready", "broker": "none"},
    )
    front.leaving = True
    answer = front.get("/livepush/ready")
    assert (answer.status_code, answer.json) == (
        503,
        {"status": "draining", "broker": "none"},
    )


def test_a_broker_that_is_away_is_told_and_takes_nobody_out() -> None:
    front = Front()
    assert front.get("/livepush/ready").json["broker"] == "ok"
    front.answers = False
    # It is not asked for each request: anybody may send them.
    assert front.get("/livepush/ready").json["broker"] == "ok"
    assert front.asked == 1
    front.clock.now += 1
    answer = front.get("/livepush/ready")
    assert (answer.status_code, answer.json["broker"]) == (200, "away")


def test_a_broker_that_hangs_holds_one_request() -> None:
    front = Front()
    during: list[Any] = []

    def hang() -> bool:
        during.append(front.get("/livepush/ready").json)
        return False

    front._ask = hang  # type: ignore[method-assign]
    front.client.application._broker = hang  # type: ignore[attr-defined]
    assert front.get("/livepush/ready").json["broker"] == "away"
    assert during == [{"status": "ready", "broker": "ok"}]


@pytest.mark.parametrize("path", ["/livepush/live", "/livepush/ready"])
def test_head_has_no_body_and_other_methods_are_the_application_s(path: str) -> None:
    front = Front()
    answer = front.get(path, "HEAD")
    assert (answer.status_code, answer.data) == (200, b"")
    for other in ("POST", "DELETE"):
        assert front.get(path, other).status_code == 204
    assert front.get(f"{path}/more").status_code == 204


def test_who_leaves_refuses_new_connections_alone() -> None:
    front = Front()
    new = "/socket.io/?EIO=4&transport=websocket"
    assert front.get(new).status_code == 204
    front.leaving = True
    assert front.get(new).status_code == 503
    assert front.get(f"{new}&sid=").status_code == 503
    assert front.get(f"{new}&sid=x").status_code == 204
    assert front.get(f"{new}&sid=x", "POST").status_code == 204
    assert front.get(new, "OPTIONS").status_code == 204
    assert front.get("/").status_code == 204


def test_an_application_that_refuses_everybody_does_not_refuse_this() -> None:
    app = Flask("app")
    app.config["LIVEPUSH_URL_PREFIX"] = "/push"
    LivePush(app)
    app.before_request(lambda: abort(401))
    client = app.test_client()
    assert client.get("/push/metrics").status_code == 401
    assert client.get("/push/live").status_code == 200
    assert client.get("/push/ready").json == {"status": "ready", "broker": "none"}
