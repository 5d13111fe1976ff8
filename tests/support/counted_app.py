"""An application that is counted, and another, for gunicorn with several workers."""

from __future__ import annotations

import os

from flask import Flask

from flask_livepush import LivePush

TOKEN = "sixteen-or-more-letters"

app = Flask("counted")
app.config.update(
    SECRET_KEY="secret", LIVEPUSH_ALLOW_ANONYMOUS=True, LIVEPUSH_METRICS_TOKEN=TOKEN
)
livepush = LivePush(app)
other = Flask("other")
other.config["LIVEPUSH_METRICS_TOKEN"] = TOKEN
beside = LivePush(other)


@livepush.room("lobby")
def lobby(user: object) -> bool:
    """Let everybody in."""
    return True


@app.post("/emit")
def emit() -> str:
    """Emit once in each application; return which process did."""
    livepush.emit("lobby", "ding")
    beside.notify(1, "ding")
    return str(os.getpid())
