"""How connections are served: what looks after them beside stock drivers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest
import socketio

from flask_livepush.transports.link import StockTicks


class Server(socketio.Server):  # type: ignore[misc]
    """A server whose background tasks and clock are the test's."""

    def __init__(self) -> None:
        super().__init__(async_mode="threading")
        self.tasks: deque[Callable[[], None]] = deque()
        self.slept: list[float] = []
        self.at: dict[int, Callable[[], object]] = {}

    def start_background_task(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        self.tasks.append(target)

    def sleep(self, seconds: float = 0) -> None:
        self.slept.append(seconds)
        self.at.get(len(self.slept), lambda: None)()

    def come(self, eio_sid: str) -> None:
        self.eio.sockets[eio_sid] = object()
        self.eio.handlers["connect"](eio_sid, {})


def test_looks_from_time_to_time_while_there_are_connections(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server()
    ticks = StockTicks(server)
    looks: list[str] = []

    def fail() -> None:
        looks.append("slow")
        raise OSError("a bug")

    ticks.every(2, lambda: looks.append("quick"))
    ticks.every(4, fail)
    server.come("a")
    server.come("b")
    assert len(server.tasks) == 1
    assert set(server.environ) == {"a", "b"}  # the server has learned of them
    server.at[4] = server.eio.sockets.clear
    server.tasks.popleft()()
    assert server.slept == [2, 2, 2, 2]
    assert looks == ["quick", "quick", "slow", "quick", "quick", "slow"]
    assert "a bug" in caplog.text
    server.come("c")
    assert len(server.tasks) == 1


def test_nobody_looks_where_nothing_is_to_be_looked_at() -> None:
    server = Server()
    StockTicks(server)
    server.come("a")
    assert not server.tasks
