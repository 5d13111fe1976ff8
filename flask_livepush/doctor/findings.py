"""A finding, and how texts of others get into one: without their passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "hint", "problem"]

# A password between a user's name and a host, as in redis://user:password@host.
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s]*@")

# Remedies that several findings have.
PROXY = (
    "nginx: proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; "
    'proxy_set_header Connection "upgrade". Until then clients stay on polling.'
)
HOLDS_BACK = (
    "Turn buffering and body inspection off for this path in what is in front (nginx: "
    "proxy_buffering off; a WAF or antivirus: an exception)."
)
STICKY = (
    "Let the front be sticky (nginx: hash on a cookie or ip_hash, HAProxy: cookie … "
    "insert, App Engine: session_affinity, gunicorn: one worker a port); "
    "docs/deploying.md."
)
# Of a session that another process does not know: nothing forwards what is for it.
QUEUE = (
    "Set LIVEPUSH_MESSAGE_QUEUE = 'redis://…' and LIVEPUSH_PREFIX, the same in all "
    "processes: they then forward such requests to each other (LIVEPUSH_ENGINE "
    "'loop'), and show what others commit. After that, so that fewer are forwarded: "
    f"{STICKY[0].lower()}{STICKY[1:]}"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: Which, in a word; several findings may have the same.
        level: ``"ok"``; ``"hint"`` for what may be meant so, or could not be known;
            ``"problem"`` for what breaks something.
        sentence: What was found, for people.
        remedy: What to do about it.
        seconds: How long it took, where that says something.
    """

    name: str
    level: Level
    sentence: str
    remedy: str | None = None
    seconds: float | None = None


def concealed(text: str) -> str:
    """Return a text of others with *** where a URL in it has a password."""
    return _PASSWORD.sub(r"\1:***@", text)
