"""A server program under Werkzeug's reloader; the tests write a file it watches."""

from __future__ import annotations

import os
import sys

from tests.support.protocol_app import app
from tests.support.servers import announce

if __name__ == "__main__":
    port, watched = int(sys.argv[1]), sys.argv[2]
    if os.environ.get("WERKZEUG_RUN_MAIN") == "true":
        announce(port)
    app.run("127.0.0.1", port, use_reloader=True, extra_files=[watched])
