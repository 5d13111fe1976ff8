"""The benchmark of clients that poll runs, and counts each delivery."""

from __future__ import annotations

from . import running


def test_measures_each_server_and_forwarded_polls() -> None:
    found = running.run("polling", "--quick")
    for name in ("threading", "gevent", "eventlet"):
        assert f"livepush-{name} has" in found
        assert f"flask-socketio-{name} " in found
    assert "A poll with something to fetch:" in found
