from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.support.servers import ROOT, Mode, Program, Timeout, running, start
from tests.support.waiting import DEADLINE

HELLO = Path(__file__).with_name("hello.py")
PATCHED_BY = {
    "threading": "socket ",
    "eventlet": "eventlet.greenio",
    "gevent": "gevent._socket",
}

ON_LINUX = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="only Linux tells when a stranger has ended"
)


@pytest.mark.parametrize("mode", PATCHED_BY)
def test_serves_in_the_mode_asked_for(mode: Mode) -> None:
    with running(HELLO, "one", 2, mode=mode) as server:
        with urlopen(server.url, timeout=DEADLINE) as answer:
            text = answer.read().decode()
        assert text.startswith(PATCHED_BY[mode])
        assert text.endswith("['one', '2']")
        assert "about to serve\n" in server.log
    assert not server.alive


def test_runs_a_module_by_its_name() -> None:
    with running("tests.support_tests.hello") as server:
        assert server.port > 0


def test_shows_what_was_printed_when_a_program_ends_early(tmp_path: Path) -> None:
    program = tmp_path / "broken.py"
    program.write_text("print('so far so good')\nraise RuntimeError('no more')\n")
    with pytest.raises(Timeout, match=r"ended without(?s:.*)so far(?s:.*)no more"):
        start(program)


def test_gives_up_at_the_deadline_and_leaves_nothing_behind(tmp_path: Path) -> None:
    program = tmp_path / "silent.py"
    program.write_text("import time\nprint('here', flush=True)\ntime.sleep(600)\n")
    with pytest.raises(Timeout, match=r"ran for 1 s without(?s:.*)here"):
        start(program, deadline=1)
    assert not Program.recent[-1].alive


def test_stop_ends_what_ignores_it(tmp_path: Path) -> None:
    program = tmp_path / "stubborn.py"
    program.write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('LISTENING 1', flush=True)\n"
        "time.sleep(600)\n"
    )
    assert start(program).stop(patience=0.2) == -signal.SIGKILL


@ON_LINUX
def test_stop_ends_what_the_program_started(tmp_path: Path) -> None:
    program = tmp_path / "parent.py"
    program.write_text(
        "import subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        "print('child', child.pid, flush=True)\n"
        "print('LISTENING 1', flush=True)\n"
        "time.sleep(600)\n"
    )
    with running(program) as server:
        child = int(server.wait_for(r"child (\d+)")[1])
        os.kill(child, 0)
    assert_ends(child)


def test_wait_for_can_leave_out_what_is_past(tmp_path: Path) -> None:
    program = tmp_path / "twice.py"
    program.write_text(
        "import signal, time\n"
        "signal.signal(signal.SIGUSR1, lambda *_: print('again 2', flush=True))\n"
        "print('again 1', flush=True)\n"
        "print('LISTENING 1', flush=True)\n"
        "while True: time.sleep(600)\n"
    )
    with running(program) as server:
        assert server.wait_for(r"again (\d)")[1] == "1"
        mark = server.mark()
        server.send(signal.SIGUSR1)
        assert server.wait_for(r"again (\d)", after=mark)[1] == "2"


@ON_LINUX
@pytest.mark.parametrize("mode", PATCHED_BY)
def test_a_program_ends_when_the_tests_are_killed(mode: Mode) -> None:
    tests = textwrap.dedent(
        f"""
        import os
        from pathlib import Path
        from tests.support.servers import start
        server = start(Path({str(HELLO)!r}), mode={mode!r})
        print(server.pid, flush=True)
        os.kill(os.getpid(), 9)
        """
    )
    finished = subprocess.run(
        [sys.executable, "-c", tests],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=False,
        timeout=DEADLINE,
    )
    assert finished.returncode == -signal.SIGKILL
    assert_ends(int(finished.stdout))


def assert_ends(pid: int) -> None:
    """Wait for the end of a process that is no child of ours."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 10)[0], "still running after 10 s"
    finally:
        os.close(descriptor)
