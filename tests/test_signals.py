"""``livepush.signals.failed`` reaches every receiver, and no error of one anybody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from flask import Flask

from flask_livepush import LivePush, signals
from flask_livepush.failures import Failure
from tests.support.figures import figure

FAILURE = Failure("Something failed.", kind="message", room="chat", what="row")


@contextmanager
def receiving(*receivers: Any) -> Iterator[None]:
    for receiver in receivers:
        signals.failed.connect(receiver)
    try:
        yield
    finally:
        for receiver in receivers:
            signals.failed.disconnect(receiver)


@pytest.fixture
def told() -> Iterator[list[Any]]:
    """What receivers are told, each as (sender, arguments)."""
    found: list[Any] = []

    def receive(sender: Any, **arguments: Any) -> None:
        found.append((sender, arguments))

    with receiving(receive):
        yield found


def test_is_at_hand_from_the_extension() -> None:
    assert LivePush().signals.failed is signals.failed


def test_tells_kind_room_and_reason_alone(told: list[Any]) -> None:
    app = Flask("told")
    signals.tell_failed(app, FAILURE)
    signals.tell_failed(None, FAILURE)
    arguments = {"kind": "message", "room": "chat", "reason": "Something failed."}
    assert told == [(app, arguments), (None, arguments)]


def test_tells_the_others_when_a_receiver_raises(
    told: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    def first(sender: Any, **arguments: Any) -> None:
        raise ZeroDivisionError

    def second(sender: Any, **arguments: Any) -> None:
        raise ZeroDivisionError

    with receiving(first, second):
        signals.tell_failed(None, FAILURE)
    assert len(told) == 1
    assert caplog.text.count("A receiver of livepush.signals.failed raised") == 2


def test_tells_no_receiver_of_what_fails_in_one(told: list[Any]) -> None:
    def receive(sender: Any, **arguments: Any) -> None:
        signals.tell_failed(None, FAILURE)

    with receiving(receive):
        signals.tell_failed(None, FAILURE)
    assert len(told) == 1


def test_counts_by_application() -> None:
    token = "sixteen-or-more-letters"
    livepush = LivePush()
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        app.config.update(SECRET_KEY="secret", LIVEPUSH_METRICS_TOKEN=token)
        livepush.init_app(app)
    with apps[1].app_context():
        livepush._failures.note("place", FAILURE)
    livepush._failures.note("place", FAILURE)  # no application is at hand
    headers = {"Authorization": f"Bearer {token}"}
    found = [
        figure(
            app.test_client().get("/livepush/metrics", headers=headers).text,
            "failures_total",
            "row",
        )
        for app in apps
    ]
    assert found == [0, 1]
