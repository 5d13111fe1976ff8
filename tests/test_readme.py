"""The README is a promise: its file runs as printed, and does what it says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.servers import ROOT, Program, running

if TYPE_CHECKING:
    from playwright.sync_api import Page

README = (ROOT / "README.md").read_text()
# Runs the file but for its last block, which takes port 5000.
RUNNER = """
import notes
from tests.support.servers import serve
with notes.app.app_context():
    notes.db.create_all()
serve(notes.app)
"""


def printed_file() -> str:
    """Return the one Python file that the README prints."""
    (source,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return str(source)


def test_prints_a_file_of_at_most_sixty_lines() -> None:
    assert len(printed_file().splitlines()) <= 60


def test_links_only_to_what_exists() -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert targets
    assert [t for t in targets if not (ROOT / t).exists()] == []


def test_shows_the_make_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in set(re.findall(r"\bmake (\w+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_printed_file_pushes_a_note_to_the_other_window(
    new_user: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.py").write_text(printed_file())
    runner = tmp_path / "runner.py"
    runner.write_text(RUNNER)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    with running(runner) as server:
        one, other = (new_user(base_url=server.url) for _ in range(2))
        for page in (one, other):
            page.goto("/boards/1")
        one.get_by_label("Note").fill("<b>milk & bread</b>")
        one.get_by_role("button", name="Add").click()
        for page in (one, other):
            page.locator("li", has_text="<b>milk & bread</b>").wait_for()
            assert page.locator("li").count() == 1


def test_printed_file_starts_as_printed(
    tmp_path: Path,
) -> None:
    """It is run by itself, without a terminal, but on a free port."""
    source = printed_file().replace("livepush.run(app)", "livepush.run(app, port=0)")
    assert "port=0" in source
    (tmp_path / "notes.py").write_text(source)
    program = Program(
        [sys.executable, tmp_path / "notes.py"], name="notes", cwd=tmp_path
    )
    try:
        program.wait_for(r"Running on http://127\.0\.0\.1:\d+")
    finally:
        program.stop()
