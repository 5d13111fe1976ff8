"""Push what a Flask view commits to every screen that shows it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .errors import (
        BrokerError,
        BrokerUnavailable,
        ClientError,
        ConfigError,
        EncodingError,
        LivePushError,
        UsageError,
    )
    from .extension import LivePush
    from .rooms import Room

__all__ = [
    "BrokerError",
    "BrokerUnavailable",
    "ClientError",
    "ConfigError",
    "EncodingError",
    "LivePush",
    "LivePushError",
    "Room",
    "UsageError",
]

_ELSEWHERE = {"LivePush": ".extension", "Room": ".rooms"}


# Nothing is imported with the package itself: gunicorn.conf.py imports our gunicorn
# from it, in a process whose workers are monkey-patched later.
def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_ELSEWHERE.get(name, ".errors"), __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
