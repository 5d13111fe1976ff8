"""A chat to learn flask_livepush from.

Read in this order: ``models.py`` (what is live, and for whom), ``views.py`` (ordinary
Flask views), ``static/chat.js`` (the browser's side). ``app.py`` has the settings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask


def create_app(*, local: bool = False) -> Flask:
    """Make the application, as ``gunicorn "example_app:create_app()"`` does."""
    # Imported only now, so that __main__ can monkey-patch before Flask is imported.
    from .app import create_app

    return create_app(local=local)
