"""Each scenario of the engine's benchmark runs, and finds what holds at any speed."""

from __future__ import annotations

import json
import sys
from functools import partial
from typing import Any

import pytest

from bench.engine import Row, lines, ratios
from bench.plots import HEADINGS, panels
from bench.scenarios import SCENARIOS
from bench.subjects import SUBJECTS, missing
from tests.support.system import require

from . import running

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the benchmark's clients need epoll"
)
OURS = "livepush-threading"
# One server of each kind that needs nothing but Python.
KINDS = ("livepush-eventlet", "flask-socketio-gevent")
run = partial(running.run, "engine")


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what is found of one server in all scenarios."""
    require("cc")
    file = tmp_path_factory.mktemp("bench") / "found.json"
    run("--quick", "--clients", "10", "--only", OURS, "--json", str(file))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def figures(found: dict[str, Any], scenario: str) -> dict[str, float]:
    """Return the figures of the only server."""
    (row,) = found["scenarios"][scenario]["rows"]
    measured: dict[str, float] = row["figures"]
    return measured


@pytest.mark.parametrize("scenario", ["burst", "paced", "busy", "slow"])
def test_delivers_everything(ours: dict[str, Any], scenario: str) -> None:
    found = figures(ours, scenario)
    assert found["lost"] == 0
    assert found["p99_ms"] > 0


def test_counts_memory_threads_and_clients_when_idle(ours: dict[str, Any]) -> None:
    found = figures(ours, "idle")
    assert found["clients"] == 10
    assert found["threads"] >= 1
    assert found["kib_per_client"] > 0


def test_connects_with_and_without_a_login(ours: dict[str, Any]) -> None:
    found = figures(ours, "connects")
    assert found["anonymous_per_s"] > 0
    assert found["login_per_s"] > 0


def test_slow_clients_are_live_again_once_they_read(ours: dict[str, Any]) -> None:
    assert figures(ours, "slow")["back_share"] == 1


def test_says_what_it_was_measured_with(ours: dict[str, Any]) -> None:
    assert ours["environment"]["versions"]["python-engineio"]
    assert list(ours["scenarios"]) == list(SCENARIOS)


def test_prints_a_line_for_each_server_and_ratio() -> None:
    require("cc")
    text = run("burst", "--quick", "--clients", "3", "--only", ",".join(KINDS))
    rows = [line for line in text.splitlines() if line.startswith(KINDS)]
    for name in KINDS:
        assert any(line.startswith(f"{name} ") and line.endswith(" 0") for line in rows)
        assert any(line.startswith(f"{name} (") for line in rows)


def test_names_what_there_is_when_asked_for_something_else() -> None:
    assert "no scenario 'nap'; there are burst, " in run("nap", status=2)
    assert "no server 'apache'; there are livepush-" in run(
        "--only", "apache", status=2
    )


def row(subject: str, *rounds: dict[str, float] | None) -> Row:
    """Return a server's row, with its last round as its figures."""
    return Row(subject, rounds[-1] or {}, list(rounds))


def test_compares_each_round_with_its_own_and_only_with_its_peers() -> None:
    rows = [
        row(OURS, {"anonymous_per_s": 30, "login_per_s": 20}, None),
        row("livepush-gevent", {"anonymous_per_s": 1, "login_per_s": 1}, None),
        row("flask-socketio-threading", {"anonymous_per_s": 10, "login_per_s": 5}, {}),
        row("node", {"anonymous_per_s": 40}, {"anonymous_per_s": 1}),
    ]
    found = {
        (ratio.peer, ratio.key): ratio.ratio
        for ratio in ratios(SCENARIOS["connects"], rows)
        if ratio.subject == OURS
    }
    assert found == {
        ("flask-socketio-threading", "anonymous_per_s"): 3,
        ("flask-socketio-threading", "login_per_s"): 4,
        ("node", "anonymous_per_s"): 0.75,
        # Node.js has no login: ours has to be compared with what it does have.
        ("node", "login_per_s"): 0.5,
    }


def test_shows_what_failed_and_what_there_is_not() -> None:
    rows = [row(OURS, None), row("node", {"anonymous_per_s": 1234.5})]
    header, failed, node = lines(SCENARIOS["connects"], rows)
    assert header.split() == ["anonymous/s", "login/s"]
    assert failed.split() == [OURS, "failed", "failed"]
    assert node.split() == ["node", "1,234", "-"]


def test_draws_the_first_figure_of_each_scenario(ours: dict[str, Any]) -> None:
    shown = panels(ours)
    assert [panel.heading for panel in shown] == list(HEADINGS.values())
    assert {bar.subject for panel in shown for bar in panel.bars} == {OURS}
    assert all(bar.ours for panel in shown for bar in panel.bars)


def test_leaves_out_of_a_picture_what_failed() -> None:
    rows = [{"subject": "node", "figures": {}}]
    (panel,) = panels({"scenarios": {"burst": {"rows": rows}}})
    assert panel.bars == ()


def test_every_server_has_its_peer_and_a_name_of_its_own() -> None:
    assert len({subject.name for subject in SUBJECTS}) == len(SUBJECTS)
    peers = {subject.mode for subject in SUBJECTS if subject.kind == "peer"}
    assert all(subject.mode in peers for subject in SUBJECTS)


def test_only_node_can_be_missing() -> None:
    assert [each.name for each in SUBJECTS if missing(each)] in ([], ["node"])
