from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import system


@pytest.fixture(autouse=True)
def _forget() -> None:
    system.find.cache_clear()


def test_require_skips_with_the_reason_when_a_program_is_missing() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"^no-such-program is not inst"):
        system.require("no-such-program")


def test_find_takes_the_browser_that_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "my-browser"
    program.touch(mode=0o755)
    monkeypatch.setenv("CHROMIUM", str(program))
    assert system.find("chromium") == program
