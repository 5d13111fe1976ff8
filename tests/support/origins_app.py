"""A server program that lets visitors in, of its own origin and of a listed one."""

from __future__ import annotations

from flask import Flask

from flask_livepush import LivePush

app = Flask("origins")
app.config.update(
    SECRET_KEY="secret",
    LIVEPUSH_ALLOW_ANONYMOUS=True,
    LIVEPUSH_CORS_ORIGINS=["https://pages.example"],
)
app.config.from_prefixed_env()
livepush = LivePush(app)

if __name__ == "__main__":
    from tests.support.servers import serve

    serve(app)
