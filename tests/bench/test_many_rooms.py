from __future__ import annotations

import json
from functools import partial

from . import running

run = partial(running.run, "many_rooms", "--rooms", "5", "--commits", "3")


def test_prints_what_each_commit_costs() -> None:
    header, *lines = run("--several", "2").splitlines()
    assert "5 rooms" in header
    assert [line.split()[0] for line in lines] == ["one", "many", "statement", "told"]


def test_gives_the_figures_as_json() -> None:
    found = json.loads(run("--several", "2", "--json"))
    assert set(found) == {"redis", "memory"}
    for figures in found.values():
        assert min(figures.values()) >= 0
