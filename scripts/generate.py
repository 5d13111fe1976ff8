"""Write the files that are made from others: ``make generate``.

* ``docs/configuration.md``, from the table in ``flask_livepush/config.py``;
* the table in ``docs/metrics.md``, from the one in ``flask_livepush/metrics.py``;
* ``flask_livepush/static/livepush.js``, from ``client/`` (``npm run build``).

They are checked in, so that a reader and an installation need no tools. With
``--check`` nothing is written; the exit status says whether all are current.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from flask_livepush import config, metrics

ROOT = Path(__file__).parents[1]

CONFIGURATION = ROOT / "docs" / "configuration.md"
CONFIGURATION_HEAD = """\
<!-- Made from flask_livepush/config.py by `make generate`; edit that instead. -->
# Configuration

Every setting is a key of `app.config`, read once, when the extension is initialised
with the application. An unknown key that starts with `LIVEPUSH_` or a value that can't
be right stops the start with a `ConfigError` that has the remedy.

| key | default | unit | |
|---|---|---|---|
"""

METRICS = ROOT / "docs" / "metrics.md"
METRICS_HEAD = """\
<!-- Made from flask_livepush/metrics.py by `make generate`; edit that instead. -->

| metric | type | label | |
|---|---|---|---|
"""
METRICS_TAIL = "\n<!-- End of what is made. -->\n"


def main() -> int:
    """Write or check every generated file; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only compare")
    check = parser.parse_args().check
    current = [
        page(CONFIGURATION, configuration(), check=check),
        page(METRICS, metrics_page(), check=check),
        client(check=check),
    ]
    return 0 if all(current) else 1


def configuration() -> str:
    """Return the page that documents every setting."""
    rows = (
        f"| `{row.key}` | `{row.default!r}` | {cell(row.unit)} | {cell(row.doc)} |\n"
        for row in config.TABLE
    )
    return CONFIGURATION_HEAD + "".join(rows)


def metrics_page() -> str:
    """Return the page about metrics, with its table as it is now."""
    before, rest = METRICS.read_text(encoding="utf-8").split(METRICS_HEAD)
    after = rest.split(METRICS_TAIL)[1]
    rows = (
        f"| `{metrics.PREFIX}{row.name}` | {row.kind} | {labels(row)} "
        f"| {cell(row.doc)} |\n"
        for row in metrics.TABLE
    )
    return before + METRICS_HEAD + "".join(rows) + METRICS_TAIL + after


def labels(row: metrics.Metric) -> str:
    """Return a metric's label and its values, for a table."""
    values = ", ".join(f"`{value}`" for value in row.values)
    return f"`{row.label}`: {values}" if row.label else ""


def cell(text: str) -> str:
    """Return a text as it has to stand in a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def page(path: Path, text: str, *, check: bool) -> bool:
    """Write a file unless it holds the text already, or only say whether it does."""
    old = path.read_text(encoding="utf-8") if path.exists() else None
    if old == text:
        return True
    name = path.relative_to(ROOT)
    if check:
        print(f"{name} is not current; run `make generate`.")
        return False
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {name}")
    return True


def client(*, check: bool) -> bool:
    """Build the JavaScript client, or have it checked against its sources."""
    script = "check" if check else "build"
    command = ["sh", "scripts/npm.sh", "run", "--silent", script]
    return subprocess.run(command, cwd=ROOT, check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
