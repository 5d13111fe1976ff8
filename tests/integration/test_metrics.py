"""Several gunicorn workers are counted together, whichever of them is asked."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support.counted_app import TOKEN
from tests.support.figures import figure
from tests.support.live_client import LiveClient
from tests.support.redis import until
from tests.support.servers import Program
from tests.support.waiting import DEADLINE

CONFIGURATION = """\
from prometheus_client import multiprocess

def child_exit(server, worker):
    multiprocess.mark_process_dead(worker.pid)
"""


def read(url: str, name: str, label: str) -> float:
    """Return a figure, as whichever process answers has it."""
    answer = requests.get(
        f"{url}/livepush/metrics",
        headers={"Authorization": f"Bearer {TOKEN}"},
        timeout=DEADLINE,
    )
    assert answer.ok, answer.text
    return figure(answer.text, name, label)


@pytest.mark.parametrize(
    ("worker", "more"),
    [("gthread", ()), ("gthread", ("--preload",)), ("gevent", ())],
)
def test_two_workers_are_counted_together(
    worker: str, more: tuple[str, ...], tmp_path: Path
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONFIGURATION)
    (tmp_path / "figures").mkdir()
    server = Program(
        [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"),
            *("--config", tmp_path / "gunicorn.conf.py", "--workers", "2"),
            *("--worker-class", worker, "--threads", "16", *more),
            "tests.support.counted_app:app",
        ],
        name=f"gunicorn, 2 workers ({worker})",
        env={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "figures")},
    )
    try:
        port = server.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        url = f"http://127.0.0.1:{port}"
        workers: list[int] = []

        def both_have_emitted() -> bool:
            answer = requests.post(f"{url}/emit", timeout=DEADLINE)
            assert answer.ok, server.log
            workers.append(int(answer.text))
            return len(set(workers)) == 2

        until(both_have_emitted)
        for _ in range(10):
            assert read(url, "publications_total", "stored") == len(workers)
        with ExitStack() as stack:
            for _ in range(6):
                client = LiveClient(url)
                stack.callback(client.close)
            until(lambda: read(url, "connections", "websocket") == 6)
            assert read(url, "connects_total", "accepted") == 6
        until(lambda: read(url, "connections", "websocket") == 0)
        os.kill(workers[-1], signal.SIGKILL)
        until(
            lambda: not list((tmp_path / "figures").glob(f"gauge_live*_{workers[-1]}*"))
        )
        assert read(url, "publications_total", "stored") == len(workers)
    finally:
        server.stop()
