"""How gunicorn serves the chat; what is not said here is gunicorn's default.

    gunicorn -c example_app/gunicorn.conf.py "example_app:create_app()"

It listens on ``$PORT``, or on 127.0.0.1:8000. ``WORKER_CLASS`` is ``gthread``,
``gevent`` or ``flask_livepush.gunicorn.EventletWorker``.
"""

from __future__ import annotations

import os

# Gunicorn takes it by its name: workers drain before they end.
from flask_livepush.gunicorn import post_worker_init  # noqa: F401

worker_class = os.environ.get("WORKER_CLASS", "gthread")
# More need LIVEPUSH_MESSAGE_QUEUE, as their screens would not follow each other.
workers = 1
# For views: a WebSocket holds none.
threads = 16
# More than LIVEPUSH_DRAIN_SECONDS, and less than the platform waits before it kills.
graceful_timeout = 20
# Longer than a proxy in front keeps a connection for its next request (App Engine's:
# 650 s); otherwise it sends that into one which is being closed.
keepalive = 700
# Several on one machine would have one between them.
control_socket_disable = True
