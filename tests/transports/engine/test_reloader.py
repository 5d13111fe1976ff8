"""Werkzeug's reloader: a child process serves, and another after a change."""

from __future__ import annotations

import signal
from pathlib import Path

import requests

from tests.support.protocol_servers import Place, answer_of
from tests.support.raw import Raw
from tests.support.servers import launch, unused_port
from tests.support.waiting import DEADLINE, until

APP = Path(__file__).parents[2] / "support" / "reloaded_app.py"


def connected(place: Place) -> Raw:
    raw = place.websocket()
    assert answer_of(str(raw.read()))
    raw.text("40")
    assert str(raw.read()).startswith("40")
    raw.text('42["message",1]')
    assert raw.read() == '42["message-back",1]'
    return raw


def test_clients_come_back_after_a_reload(tmp_path: Path) -> None:
    watched = tmp_path / "watched.py"
    watched.write_text("")
    program = launch(APP, unused_port(), watched)
    try:
        program.port = int(program.wait_for(r"^LISTENING (\d+)")[1])
        place = Place(program)
        until(lambda: answers(program.url))
        with connected(place) as raw:
            first = place.state()["pid"]
            assert first != program.pid
            mark = program.mark()
            watched.write_text("# changed")
            program.wait_for(r"^LISTENING", after=mark)
            assert raw.ended()
        until(lambda: answers(program.url))
        with connected(place):
            assert place.state()["pid"] not in (first, program.pid)
        assert "Traceback" not in program.log
    finally:
        program.stop(ask=signal.SIGINT, patience=3)


def answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/state", timeout=DEADLINE).ok
    except requests.ConnectionError:
        return False
