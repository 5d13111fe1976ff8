"""What waits for a client that polls, and what it may lose."""

from __future__ import annotations

from flask_livepush.protocol.pace import Pace
from flask_livepush.transports.engine.loop import PATIENCE
from flask_livepush.transports.engine.packets import Frame, message
from flask_livepush.transports.engine.session import Session

LIMIT = 100


def session(closed: list[str] | None = None) -> Session:
    ends = closed if closed is not None else []
    return Session("sid", Pace(10, 10), lambda session, reason: ends.append(reason))


def test_gives_what_waits_in_order_once() -> None:
    client = session()
    frames = [message("a"), message("b"), message("c")]
    assert client.put(frames[:2], False, LIMIT)
    assert client.put(frames[2:], True, LIMIT)
    assert client.take() == frames
    assert client.take() == []
    assert client.size == 0


def test_loses_what_may_be_lost_and_keeps_the_rest() -> None:
    client = session()
    kept, lost = message("kept"), message("x" * 60)
    assert client.put([kept], False, LIMIT)
    assert client.put([lost], True, LIMIT)
    assert not client.put([lost], True, LIMIT)  # said once
    assert client.put([lost], True, LIMIT)
    late = message("late")
    assert client.put([late], False, LIMIT)
    assert client.take() == [kept, late]
    assert client.put([lost], True, LIMIT)
    assert client.take() == []  # until it is told to take such again
    client.lossy = False
    assert client.put([lost], True, LIMIT)
    assert client.take() == [lost]


def test_what_can_not_be_lost_has_a_bound_too() -> None:
    client = session()
    frame = message("x" * (LIMIT - 3))
    for _ in range(PATIENCE):
        assert client.put([frame], False, LIMIT)
    assert not client.put([frame], False, LIMIT)


def test_one_that_is_alone_always_fits() -> None:
    client = session()
    assert client.put([message("x" * 1000)], True, LIMIT)
    assert [type(frame) for frame in client.take()] == [Frame]


def test_is_what_python_socketio_looks_for() -> None:
    reasons: list[str] = []
    client = session(reasons)
    assert (client.upgraded, client.closed) == (False, False)
    client.session["a"] = 1
    assert client.session == {"a": 1}
    client.session = {}
    client.close(wait=False)
    client.close(wait=False, reason="transport error")
    assert reasons == ["server disconnect", "transport error"]
