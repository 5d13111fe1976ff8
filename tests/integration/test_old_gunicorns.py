"""The gunicorns that many applications pin: they serve, and workers leave politely."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.gunicorns import OLD, WORKERS, gunicorn
from tests.support.live_client import LiveClient
from tests.support.protocol_servers import Place, problems
from tests.support.waiting import until

from .test_leaving import (
    LONG,
    SECONDS,
    SETTINGS,
    answers,
    asked,
    ended,
    enter,
    enter_polling,
    is_refused,
)


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("version", OLD)
def test_a_worker_serves_and_ends_as_soon_as_its_clients_have_gone(
    version: str, worker: str
) -> None:
    """Bug: AttributeError: no attribute 'set_accept_enabled', and no worker began."""
    with gunicorn(worker, settings=SETTINGS, version=version) as server:
        place = Place(server)
        assert place.request("", path="/livepush/ready").status == 200
        for transport in ("websocket", "polling"):
            client = LiveClient(server.url, transport)
            client.client.disconnect()
        websocket, query = enter(server), enter_polling(server)
        with place.connect() as poll:
            poll.send_request(query)
            server.send(signal.SIGTERM)
            assert 0 < asked(websocket.read()) <= SECONDS / 2
            assert 0 < asked(poll.answer().text) <= SECONDS / 2
            until(lambda: is_refused(server))
        websocket.close()
        ended(server)
        assert server.returncode == 0
    assert problems(server) == []


@pytest.mark.parametrize("version", OLD)
def test_a_worker_that_still_answers_drains_and_listens_no_more(
    version: str, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    with gunicorn("gthread", settings=SETTINGS, version=version) as server:
        websocket = enter(server)
        with Place(server).connect() as slow:
            slow.send_request(f"gate={gate}", path="/slow")
            server.send(signal.SIGTERM)
            # The view does not return before this is told.
            assert asked(websocket.read()) > 0
            until(lambda: not answers(server))
            gate.unlink()
            assert slow.answer().text == "done"
        websocket.close()
        ended(server)
    assert problems(server) == []


@pytest.mark.parametrize("version", OLD)
def test_a_worker_without_clients_ends_at_once(version: str) -> None:
    with gunicorn("gthread", settings=LONG, version=version) as server:
        enter(server).close()
        Place(server).request("", "POST", path="/emit/1/1")
        server.send(signal.SIGTERM)
        ended(server)
    assert problems(server) == []


@pytest.mark.parametrize("version", OLD)
def test_a_worker_that_had_its_requests_is_followed_by_another(version: str) -> None:
    settings = {**SETTINGS, "LIVEPUSH_DRAIN_SECONDS": 2}
    args = ("--max-requests", "10")
    with gunicorn("gthread", *args, settings=settings, version=version) as server:
        place = Place(server)
        for _ in range(10):
            assert place.request("", path="/livepush/live").status == 200
        until(lambda: server.log.count("Booting worker") == 2)
        until(lambda: answers(server))
    assert problems(server) == []
