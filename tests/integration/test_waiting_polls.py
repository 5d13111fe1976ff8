"""Polls that wait hold no thread of their server, and the site beside them answers."""

from __future__ import annotations

import json
from contextlib import ExitStack

import pytest

from tests.support.protocol_servers import Place, problems, serving
from tests.support.raw import Raw
from tests.support.waiting import until

SUBSCRIBE = f"420{json.dumps(['livepush.subscribe', {'v': 1, 'room': 'lobby'}])}"
CLIENTS = 100


def joined(place: Place) -> Raw:
    """Open a session by polling that is in the lobby, and let its poll wait."""
    query = place.open()
    for body in ("40", SUBSCRIBE):
        assert place.request(query, "POST", body=body).text == "ok"
        assert place.request(query).status == 200
    raw = place.connect()
    raw.send_request(query)
    return raw


@pytest.mark.parametrize("kind", ["gunicorn-gthread", "werkzeug", "eventlet-wsgi"])
def test_many_wait_on_a_few_threads(kind: str) -> None:
    threads = ("--threads", "2") if kind.startswith("gunicorn") else ()
    with serving(kind, *threads) as program, ExitStack() as stack:
        place = Place(program)
        before = place.state()["threads"]
        waiting = [stack.enter_context(joined(place)) for _ in range(CLIENTS)]
        state = until(lambda: _all_polled(place))
        # The loop, the handlers and what is begun with the first client.
        assert state["threads"] <= before + 20
        place.request("number=7", "POST", path="/emit")
        for raw in waiting:
            answer = raw.answer()
            assert answer.status == 200
            assert '["ding",7' in answer.text
            assert answer.headers["connection"] == "close"
        assert not problems(program)


def _all_polled(place: Place) -> dict[str, int]:
    state = place.state()
    polled = [session["polled"] for session in state["sessions"].values()]
    return state if polled.count(True) == CLIENTS else {}
