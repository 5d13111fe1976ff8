"""Runs a benchmark as its readers do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.waiting import DEADLINE

ROOT = Path(__file__).resolve().parents[2]


def run(module: str, *arguments: str, status: int = 0) -> str:
    """Run a module of ``bench``; return what it prints, or says of its failure.

    Args:
        status: With which it must end.
    """
    result = subprocess.run(
        [sys.executable, "-m", f"bench.{module}", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=DEADLINE,
    )
    assert result.returncode == status, result.stdout + result.stderr
    return result.stdout if status == 0 else result.stderr
