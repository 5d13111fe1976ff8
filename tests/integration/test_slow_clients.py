"""A client that does not keep up costs what it may cost, and loses nothing for good."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import websocket

from tests.support.servers import MODES, Mode, running
from tests.support.waiting import DEADLINE

APP = Path(__file__).parents[1] / "support" / "live_app.py"
COUNT = 60
SIZE = 10_000


@contextmanager
def serving(mode: Mode, folder: Path, **settings: str) -> Iterator[str]:
    """Run a server that keeps 100 kB for a connection; give its URL."""
    env = {f"FLASK_LIVEPUSH_{name}": value for name, value in settings.items()}
    env["FLASK_LIVEPUSH_SEND_BUFFER_BYTES"] = "100000"
    with running(APP, str(folder / "live.db"), mode=mode, env=env) as server:
        yield server.url


class Slow:
    """A client that reads when it is told to, with little room in its kernel."""

    def __init__(self, url: str) -> None:
        self._wire = websocket.create_connection(
            f"{url.replace('http', 'ws')}/socket.io/?EIO=4&transport=websocket",
            header={"X-User": "1"},
            sockopt=((socket.SOL_SOCKET, socket.SO_RCVBUF, 4096),),
            timeout=DEADLINE,
        )
        self.close = self._wire.close
        assert self.read()[:1] == "0"
        self._wire.send("40")
        assert self.read()[:2] == "40"

    def read(self) -> str:
        """Return the next packet that is no heartbeat."""
        while (text := str(self._wire.recv())) == "2":
            self._wire.send("3")
        return text

    def subscribe(self, room: str, since: Any = None) -> Any:
        """Join a room; return the ack."""
        message = {"room": room} | ({"since": since} if since else {})
        self._wire.send(f'421["livepush.subscribe",{json.dumps(message)}]')
        text = self.read()
        assert text.startswith("431["), text[:100]
        return json.loads(text[3:])[0]


def flood(url: str, room: int) -> None:
    address = f"{url}/write/{room}?count={COUNT}&size={SIZE}"
    requests.post(address, timeout=DEADLINE).raise_for_status()


@pytest.mark.parametrize("mode", MODES)
def test_loses_publications_is_told_so_and_recovers_them(
    mode: Mode, tmp_path: Path
) -> None:
    room = "chat:1"
    with serving(mode, tmp_path) as url, closing(Slow(url)) as slow:
        position = slow.subscribe(room)
        flood(url, 1)
        last = position["offset"]
        while True:
            event, data, *meta = json.loads(slow.read()[2:])
            if event == "livepush.reset":
                break
            assert meta[0]["offset"] == last + 1
            last += 1
        assert data["room"] == room
        assert last < COUNT
        since = {"epoch": position["epoch"], "offset": last}
        ack = slow.subscribe(room, since)
        assert ack["recovered"]
        missed = [publication["offset"] for publication in ack["publications"]]
        assert missed == list(range(last + 1, COUNT + 1))
        flood(url, 1)
        assert json.loads(slow.read()[2:])[2]["offset"] == COUNT + 1


@pytest.mark.parametrize("mode", MODES)
def test_ends_when_it_does_not_catch_up(mode: Mode, tmp_path: Path) -> None:
    with (
        serving(mode, tmp_path, PING_TIMEOUT="0.5") as url,
        closing(Slow(url)) as slow,
    ):
        assert slow.subscribe("chat:2")["ok"]
        flood(url, 2)
        waited = threading.Event()
        for _ in range(int(DEADLINE / 0.05)):
            if requests.get(f"{url}/left", timeout=DEADLINE).json() == [0, 0, 0]:
                return
            waited.wait(0.05)
        raise AssertionError("it is still connected")
