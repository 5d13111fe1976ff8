"""Push what a Flask view commits to every screen that shows it."""

from __future__ import annotations

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
