"""What libraries for errors and traces see of others: threads inherit by them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import socketio

from tests.support.servers import MODES, Mode, Server, running
from tests.support.waiting import DEADLINE, until

PROGRAM = Path(__file__).parents[1] / "support" / "traced_app.py"


@contextmanager
def connected(server: Server, user: str, transport: str) -> Iterator[socketio.Client]:
    client = socketio.Client(
        reconnection=False, handle_sigint=False, request_timeout=DEADLINE
    )
    client.connect(
        server.url,
        transports=[transport],
        headers={"X-User": user},
        wait_timeout=DEADLINE,
    )
    try:
        yield client
    finally:
        client.disconnect()


def ask(server: Server, path: str) -> Any:
    with urlopen(f"{server.url}{path}", timeout=DEADLINE) as answer:
        return json.loads(answer.read())


@pytest.mark.parametrize(
    ("mode", "engine"), [*((mode, "loop") for mode in MODES), ("threading", "stock")]
)
def test_no_task_inherits_of_whoever_let_its_thread_begin(
    mode: Mode, engine: str
) -> None:
    """Bug: an error in one user's rule came with the breadcrumbs of another's request.

    Sentry's and OpenTelemetry's integrations give each thread a copy of the context of
    whoever starts it; our threads stay.
    """
    env = {"FLASK_LIVEPUSH_ENGINE": engine}
    with running(PROGRAM, mode=mode, env=env) as server, ExitStack() as stack:
        clients = {
            (user, transport): stack.enter_context(connected(server, user, transport))
            for user in ("visitor-a", "visitor-b", "visitor-c")
            for transport in ("polling", "websocket")
        }
        for number in range(3):
            for (user, _), client in clients.items():
                message = {"v": 1, "room": f"chat:{number}"}
                answer = client.call("livepush.subscribe", message, timeout=DEADLINE)
                assert answer["ok"]
                assert client.call("work", user, timeout=DEADLINE) == "done"
        seen = ask(server, "/seen")
        assert len(seen) == 3 * 3 * len(clients)
        assert {what for what, *_ in seen} == {"rule", "handler", "task"}
        inherited = [found for found in seen if found[2:] != [None, None, ""]]
        assert inherited == []
        message = {"v": 1, "room": "chat:7"}
        failing = clients["visitor-b", "websocket"]
        answer = failing.call("livepush.subscribe", message, timeout=DEADLINE)
        assert answer["ok"] is False
        until(lambda: "a rule that fails" in json.dumps(ask(server, "/events")))
        told = json.dumps(ask(server, "/events"))
        for others in ("visitor-a", "visitor-c", "request of"):
            assert others not in told
