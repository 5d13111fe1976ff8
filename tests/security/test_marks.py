"""No log and no figure has a payload, or the name of a user or room."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
import redis
import requests

from tests.support.login_client import Login, LoginSocket
from tests.support.redis import redis_server
from tests.support.servers import running
from tests.support.waiting import DEADLINE, until

APP = Path(__file__).parents[1] / "support" / "marked_app.py"
ROOM = "chat:ROOMMARK"
FAILURES = ("info", "rule", "snapshot", "rooms", "unknown", "field", "bytes")
JUNK = (
    b"VALUEMARK",
    b"~VALUEMARK",
    b'~["whisper", "VALUEMARK"]\n',
    b"epoch\nVALUEMARK 1 0 - 1 1 -\nab",
    b"epoch\n\xff\xfeVALUEMARK",
)


@pytest.fixture(params=["loop", "stock"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def joined(socket: LoginSocket, room: str = ROOM) -> None:
    until(
        lambda: (socket.join(room, presence=True) or {"ok": True})["ok"],
        what="it has not joined",
    )


def test_nothing_that_is_private_is_logged(engine: str, tmp_path: Path) -> None:
    with (
        redis_server() as server,
        running(
            APP,
            server.url,
            tmp_path / "database",
            env={"FLASK_LIVEPUSH_ENGINE": engine},
        ) as program,
    ):
        a, b = Login(program.url, "a"), Login(program.url, "b")
        first, second = a.connect(), b.connect()
        joined(first)
        joined(second)

        def do_all() -> None:
            for path in ("/write", "/write?n=1000", "/collide", "/tell"):
                a.post(path)

        do_all()
        for room in ("chat:ROOMMARK-closed", "VALUEMARK", "nowhere:ROOMMARK"):
            assert not first.join(room)["ok"]
        for event in ("typing", "VALUEMARK"):
            message = {"v": 1, "room": ROOM, "event": event, "data": "VALUEMARK"}
            first.call("livepush.whisper", message)
        for packet in ('42["connect","VALUEMARK"]', '42["VALUEMARK"', "4VALUEMARK"):
            stranger = b.connect()
            stranger._send(packet)
            stranger.close()
        for what in FAILURES:
            a.http.post(program.url + "/failing", json=[what], timeout=DEADLINE)
            do_all()
            third = b.connect()
            third.join(ROOM)
            third.close()
        a.http.post(program.url + "/failing", json=[], timeout=DEADLINE)

        with redis.Redis.from_url(server.url) as others:
            channel = next(c for c in others.pubsub_channels() if b"ROOMMARK" in c)
            for junk in JUNK:
                others.publish(channel, junk)
            for key in others.keys("*ROOMMARK*"):
                others.delete(key)
                others.set(key, "VALUEMARK")
            a.post("/tell")
            do_all()

        server.kill()
        do_all()
        first.join("chat:ROOMMARK-2")
        a.http.get(program.url + "/livepush/login", timeout=DEADLINE)
        server.start(keep=False)
        until(lambda: (first.join("chat:ROOMMARK-2") or {})["ok"], what="no join")
        do_all()
        metrics = requests.get(
            program.url + "/livepush/metrics",
            headers={"Authorization": "Bearer a-token-of-sixteen"},
            timeout=DEADLINE,
        ).text
        assert "livepush_publications_total" in metrics
        a.post("/logout")
        first.wait(lambda: first.ended is not None)
        for one in (first, second):
            one.close()
        for each in (a, b):
            each.close()
        with suppress(OSError):
            program.stop()
        log = program.log
    assert "flask_livepush" in log
    assert len(re.findall("Traceback", log)) > 3  # what failed is told
    assert marked(log) == []
    assert marked(metrics) == []


def marked(text: str) -> list[str]:
    """Return the lines that have what none may have."""
    marks = re.compile("ROOMMARK|USERMARK|VALUEMARK")
    # A line of code that a traceback shows is the program's.
    code = re.compile(r"^    ")
    return [
        line
        for line in text.splitlines()
        if marks.search(line) and not code.match(line)
    ]
