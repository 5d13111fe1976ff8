"""Polling where nothing keeps a client with one process: any of them answers."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support.protocol_servers import POLLING, answer_of, later
from tests.support.raw import Answer, Raw
from tests.support.redis import redis_server, redis_url
from tests.support.servers import MODES, Server, running
from tests.support.waiting import DEADLINE, until

__all__ = ["redis_url"]

APP = Path(__file__).parents[1] / "support" / "cluster_app.py"
UNKNOWN = {"code": 1, "message": "Session ID unknown"}
# Seconds after which a request was left to itself: its owner has 45.
LATE = 30.0


@pytest.fixture(scope="module", params=MODES)
def nodes(
    request: pytest.FixtureRequest,
    redis_url: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Server]]:
    """Two processes of one application."""
    file = tmp_path_factory.mktemp(request.param) / "cluster.db"
    with ExitStack() as stack:
        yield [
            stack.enter_context(running(APP, str(file), redis_url, mode=request.param))
            for _ in range(2)
        ]


def ask(node: Server, query: str, method: str = "GET", body: str = "") -> Answer:
    with Raw(node.port) as raw:
        return raw.request(query, method, body=body)


def opened(node: Server) -> str:
    """Open a session and return what its requests say."""
    answer = ask(node, POLLING)
    assert answer.status == 200, answer
    return f"{POLLING}&sid={answer_of(answer.text)['sid']}"


def joined(owner: Server, other: Server, room: str = "chat:1") -> str:
    """Open a session with one process and let it join a room through the other."""
    query = opened(owner)
    assert ask(other, query, "POST", "40").text == "ok"
    assert ask(other, query).text.startswith("40{")
    subscribe = ["livepush.subscribe", {"v": 1, "room": room}]
    assert ask(other, query, "POST", f"420{json.dumps(subscribe)}").text == "ok"
    assert ask(other, query).text.startswith('430[{"ok":true')
    return query


def write(node: Server, room: int, body: str) -> None:
    answer = requests.post(f"{node.url}/write/{room}/{body}", timeout=DEADLINE)
    assert answer.status_code == 200


def waiting(node: Server, query: str) -> Future[Answer]:
    """Begin a poll that finds nothing yet."""
    return later(lambda: ask(node, query))


def test_any_process_answers_for_the_owner(nodes: list[Server]) -> None:
    owner, other = nodes
    query = joined(owner, other)
    polls = [waiting(other, query)]
    write(other, 1, "hello")
    answer = polls[0].result(DEADLINE)
    assert answer.status == 200
    assert answer.headers["livepush-forwarded"] == "1"
    assert "hello" in answer.text
    write(owner, 1, "again")
    assert "again" in ask(owner, query).text


def test_a_client_that_goes_leaves_no_poll_behind(nodes: list[Server]) -> None:
    """Else the next one would be one too many, and end the session."""
    owner, other = nodes
    query = joined(owner, other)
    with Raw(other.port) as raw:
        raw.send_request(query)
        until(lambda: _polled(owner, query))
    until(lambda: not _polled(owner, query))
    write(owner, 1, "still there")
    assert "still there" in ask(owner, query).text


def test_two_polls_at_once_end_the_session_wherever_they_come(
    nodes: list[Server],
) -> None:
    owner, other = nodes
    query = joined(owner, other)
    first = waiting(other, query)
    until(lambda: _polled(owner, query))
    assert ask(owner, query).status == 400
    assert first.result(DEADLINE).text == "1"
    for node in nodes:
        assert ask(node, query).json == UNKNOWN


@pytest.mark.parametrize(
    "sid", ["x", "x" * 28, "{}" * 14, "%0d%0aSet-Cookie:a=b", "a" * 27 + "%0a"]
)
def test_nobody_is_asked_for_a_forged_session(nodes: list[Server], sid: str) -> None:
    for method in ("GET", "POST"):
        answer = ask(nodes[0], f"{POLLING}&sid={sid}", method, "40")
        assert (answer.status, answer.json) == (400, UNKNOWN)


def test_what_is_too_large_is_not_forwarded(nodes: list[Server]) -> None:
    query = joined(*nodes)
    assert ask(nodes[1], query, "POST", "4" + "x" * 2_000_000).status == 413
    write(nodes[0], 1, "undisturbed")
    assert "undisturbed" in ask(nodes[1], query).text


def test_a_websocket_for_a_session_of_another_process_is_refused(
    nodes: list[Server],
) -> None:
    query = joined(*nodes)
    with Raw(nodes[1].port) as raw:
        answer = raw.upgrade(query.replace("polling", "websocket"))
    assert (answer.status, answer.json) == (400, UNKNOWN)
    write(nodes[0], 1, "still polling")
    assert "still polling" in ask(nodes[1], query).text


def test_jsonp_is_refused(nodes: list[Server]) -> None:
    assert ask(nodes[0], f"{POLLING}&j=0").status == 400


def test_clients_of_a_process_that_died_are_told_soon(
    nodes: list[Server], redis_url: str, tmp_path: Path
) -> None:
    with running(APP, str(tmp_path / "dead.db"), redis_url) as owner:
        query = joined(owner, nodes[0], "chat:2")
        poll = waiting(nodes[0], query)
        until(lambda: _polled(owner, query))
        owner.kill()
    assert poll.result(LATE).json == UNKNOWN
    assert ask(nodes[0], query).json == UNKNOWN


@pytest.fixture
def three(redis_url: str, tmp_path: Path) -> Iterator[list[Server]]:
    """Three processes that a test may end: an owner, and two others."""
    file = str(tmp_path / "three.db")
    with ExitStack() as stack:
        yield [stack.enter_context(running(APP, file, redis_url)) for _ in range(3)]


def test_a_poll_that_a_proxy_sends_again_goes_on(three: list[Server]) -> None:
    """Bug: it was one too many, as the owner waited for the process that died."""
    owner, dying, other = three
    query = joined(owner, other)
    lost = waiting(dying, f"{query}&t=x1")
    first = until(lambda: _polled(owner, query))
    dying.kill()
    with pytest.raises(AssertionError, match="without an answer"):
        lost.result(DEADLINE)
    again = waiting(other, f"{query}&t=x1")
    until(lambda: _polled(owner, query) not in (0, first))
    write(owner, 1, "hello")
    assert "hello" in again.result(DEADLINE).text
    write(owner, 1, "still there")
    assert "still there" in ask(other, f"{query}&t=x2").text


def test_a_poll_whose_answer_was_lost_ends_the_session(three: list[Server]) -> None:
    """Bug: what the client got next did not follow what it had."""
    owner, dying, other = three
    query = joined(owner, other)
    lost = waiting(dying, f"{query}&t=x1")
    until(lambda: _polled(owner, query))
    dying.send(signal.SIGSTOP)
    write(owner, 1, "lost")
    until(lambda: not _polled(owner, query))
    dying.kill()
    with pytest.raises(AssertionError, match="without an answer"):
        lost.result(DEADLINE)
    assert ask(other, f"{query}&t=x1").status == 400
    assert ask(other, f"{query}&t=x2").json == UNKNOWN


def test_clients_of_a_process_that_stands_still_are_told(three: list[Server]) -> None:
    owner, other, _ = three
    query = joined(owner, other)
    poll = waiting(other, query)
    until(lambda: _polled(owner, query))
    owner.send(signal.SIGSTOP)
    assert poll.result(DEADLINE).json == UNKNOWN
    owner.send(signal.SIGCONT)
    # Its answer to that poll finds nobody.
    write(owner, 1, "hello")


def test_polls_end_when_redis_does_and_go_on_when_it_is_back(tmp_path: Path) -> None:
    file = str(tmp_path / "redis.db")
    with redis_server() as redis, ExitStack() as stack:
        owner, other = (
            stack.enter_context(running(APP, file, redis.url)) for _ in range(2)
        )
        query = joined(owner, other)
        poll = waiting(other, query)
        until(lambda: _polled(owner, query))
        redis.kill()
        assert poll.result(LATE).status == 503
        assert ask(other, query).status == 503
        assert ask(other, POLLING).status == 200
        redis.start(keep=False)
        query = opened(owner)

        def answered() -> bool:
            return ask(other, query, "POST", "40").status == 200

        until(answered)
        assert ask(other, query).text.startswith("40{")


def _polled(node: Server, query: str) -> int:
    """Return which poll of a session waits; 0: none does."""
    sid = query.partition("sid=")[2].partition("&")[0]
    found: int = requests.get(f"{node.url}/polled/{sid}", timeout=DEADLINE).json()
    return found
