"""How a snapshot that is too large for a connection is made to fit.

Large values go first, as what can't be sent of a row does; then the rows that a
newcomer misses least, the oldest.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .encoding import encode

# A value may take this part of the whole; smaller ones are nobody's fault alone.
_PART = 64


def fit(
    kinds: Mapping[str, dict[str, Any]], limit: int
) -> tuple[str, list[tuple[str, str]]]:
    """Return the rows of a snapshot as JSON text of so many bytes, if they can be.

    Args:
        kinds: By kind ``{"key": str, "rows": [...], "partial": bool}``; rows ascend.

    Returns:
        The text, and what was left out to get there: kinds with the names of fields, or
        with "" for whole rows, their oldest.
    """
    text = encode(kinds)
    if _size(text) <= limit:
        return text, []
    lost: dict[tuple[str, str], None] = {}
    smaller: dict[str, dict[str, Any]] = {}
    sizes: dict[str, list[int]] = {}
    for kind, found in kinds.items():
        rows = []
        for row in found["rows"]:
            kept = {
                name: value
                for name, value in row.items()
                if name == found["key"] or _size(encode(value)) <= limit // _PART
            }
            lost |= dict.fromkeys((kind, name) for name in row if name not in kept)
            rows.append(kept)
        smaller[kind] = {**found, "rows": rows}
        sizes[kind] = [_size(encode(row)) + 1 for row in rows]
    total = sum(map(sum, sizes.values())) + _size(
        encode({kind: {**found, "rows": []} for kind, found in smaller.items()})
    )
    while total > limit and any(sizes.values()):
        kind = max(sizes, key=lambda kind: sum(sizes[kind]))
        total -= sizes[kind].pop(0)
        del smaller[kind]["rows"][0]
        smaller[kind]["partial"] = True
        lost[kind, ""] = None
    return encode(smaller), list(lost)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
