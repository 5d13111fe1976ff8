"""The cases that Python and JavaScript share: ``tests/vectors/*.json``."""

from __future__ import annotations

import json
from typing import Any

from .servers import ROOT


def vectors(name: str) -> list[dict[str, Any]]:
    """Return the cases of one file, in its order."""
    path = ROOT / "tests" / "vectors" / f"{name}.json"
    cases: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return cases
