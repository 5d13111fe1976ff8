"""Run the server's tests on the lowest and the newest versions that are claimed.

    python scripts/versions.py                     every interpreter, both ends
    python scripts/versions.py --lowest            the oldest interpreter found, what
                                                   depends on other packages' versions
    python scripts/versions.py --constraints 3.10  the lowest versions, for pip
    python scripts/versions.py -- tests/capture -x
                                                   arguments for pytest

What is the lowest is said in one place: the lower bounds in ``pyproject.toml``. The
environments are in ``.venv/versions``, made anew when that file has changed.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / ".venv" / "versions"
VERSIONS = ("3.10", "3.11", "3.12", "3.13", "3.14")
ENDS = ("lowest", "newest")
# What users of the package never install: its own tools may be new.
TOOLS = ("dev", "bench")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """A Python that can make environments.

    Args:
        version: As in ``3.12``.
        path: Where it is.
        full: As in ``3.12.1``.
    """

    version: str
    path: str
    full: str


def main(arguments: Sequence[str]) -> int:
    """Do as the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--constraints", metavar="VERSION", help="print them, for pip")
    parser.add_argument("--lowest", action="store_true", help="a part, at one end")
    parser.add_argument("pytest", nargs="*", help="arguments for pytest")
    chosen = parser.parse_args(arguments)
    if chosen.constraints:
        print("\n".join(constraints(project(), chosen.constraints)))
        return 0
    found = [each for version in VERSIONS if (each := find(version)) is not None]
    if not found:
        print(f"no Python of {', '.join(VERSIONS)} can make an environment here")
        return 1
    missing = [v for v in VERSIONS if v not in [each.version for each in found]]
    if chosen.lowest:
        pairs = [(found[0], ENDS[0])]
    else:
        pairs = [(each, end) for each in found for end in ENDS]
    arguments = [*(["--part"] if chosen.lowest else []), *chosen.pytest]
    told = [run(*pair, arguments) for pair in pairs]
    print()
    for line, _ in told:
        print(line)
    if missing and not chosen.lowest:
        print(f"not found: Python {', '.join(missing)}")
    return max(status for _, status in told)


def project() -> dict[str, Any]:
    """Return what ``pyproject.toml`` says of the project."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return dict(found["project"])


def constraints(project: dict[str, Any], version: str) -> Iterator[str]:
    """Return the lower bounds of what users install, as exact versions.

    Args:
        project: The table of that name.
        version: Of Python: a bound may hold for some alone.
    """
    extras = project.get("optional-dependencies", {})
    lists = [extras[name] for name in extras if name not in TOOLS]
    for text in sorted(
        {*project["dependencies"], *(t for each in lists for t in each)}
    ):
        requirement = Requirement(text)
        if requirement.name == project["name"]:
            continue
        if requirement.marker and not requirement.marker.evaluate(
            {"python_version": version}
        ):
            continue
        bounds = [each for each in requirement.specifier if each.operator == ">="]
        if len(bounds) != 1:
            raise SystemExit(f"{text!r} in pyproject.toml has no lower bound; say >=")
        yield f"{requirement.name}=={bounds[0].version}"


def find(version: str) -> Interpreter | None:
    """Return an interpreter of a version; None if there is none that will do."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [shutil.which(f"python{version}")]
    candidates += map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))
    ask = "import ensurepip, venv, sys; print('.'.join(map(str, sys.version_info[:3])))"
    for path in filter(None, candidates):
        # pyenv's stand-ins are there for versions that are not chosen too.
        done = subprocess.run(
            [path, "-c", ask], check=False, capture_output=True, text=True
        )
        if done.returncode == 0 and done.stdout.startswith(f"{version}."):
            return Interpreter(version, path, done.stdout.strip())
    return None


def run(
    interpreter: Interpreter, end: str, arguments: Sequence[str]
) -> tuple[str, int]:
    """Run tests on one end; return a line that says how they did, and a status."""
    name = f"Python {interpreter.full}, {end} versions"
    print(f"\n{name}", flush=True)
    started = time.monotonic()
    try:
        python = environment(interpreter, end)
    except subprocess.CalledProcessError as error:
        return f"{name}: FAILED, its packages can't be installed", error.returncode
    made = time.monotonic() - started
    command = [python, ROOT / "scripts" / "test.py", "--server", *arguments]
    status = subprocess.run(command, check=False, cwd=ROOT).returncode
    verdict = "ok" if status == 0 else "FAILED"
    took = time.monotonic() - started - made
    return f"{name}: {verdict} in {took:.0f} s, and {made:.0f} s to install", status


def environment(interpreter: Interpreter, end: str) -> Path:
    """Make an environment, or take the one there is; return its Python."""
    place = ENVIRONMENTS / f"{interpreter.version}-{end}"
    python, stamp = place / "bin" / "python", place / "made-of"
    pinned = "\n".join(constraints(project(), interpreter.version)) + "\n"
    content = (ROOT / "pyproject.toml").read_bytes() + interpreter.full.encode()
    digest = hashlib.sha256(content).hexdigest()
    if end == "lowest" and stamp.exists() and stamp.read_text() == digest:
        return python
    if not stamp.exists() or stamp.read_text() != digest:
        subprocess.run(
            [interpreter.path, "-m", "venv", "--clear", place], check=True, cwd=ROOT
        )
    pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
    if end == "lowest":
        file = place / "constraints.txt"
        file.write_text(pinned)
        pip += ["--constraint", file]
    else:
        pip += ["--upgrade", "--upgrade-strategy", "eager"]
    subprocess.run([*pip, "--editable", f"{ROOT}[dev]"], check=True, cwd=ROOT)
    stamp.write_text(digest)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
