"""Every error that flask_livepush raises.

::

    LivePushError
    ├── ConfigError (ValueError)       a setting or a declaration is wrong: at start-up
    ├── UsageError (RuntimeError)      an API is called where or how it can't work
    ├── EncodingError (ValueError)     data that JSON in a browser can't hold
    ├── BrokerError
    │   ├── BrokerUnavailable          the broker does not answer: temporary
    │   └── PublicationTooLarge        more bytes than LIVEPUSH_MAX_PUBLICATION_BYTES
    └── ClientError                    what a subscriber is told, by code
        ├── BadMessage                 100
        ├── InvalidRoom                101
        ├── NotAuthorised              103
        ├── TooManyRooms               106
        ├── TooManyConnections         107, temporary
        ├── RefreshLogin               109, temporary
        ├── TooFast                    111, temporary
        └── Unavailable                120, temporary

No logic and no import of a library may ever be in here.
"""

from __future__ import annotations

from typing import ClassVar


class LivePushError(Exception):
    """The base of all errors of this package."""


class ConfigError(LivePushError, ValueError):
    """A setting or a declaration is wrong; raised at start-up, with the remedy."""


class UsageError(LivePushError, RuntimeError):
    """A verb was called where or how it can't work; the message has the remedy."""


class EncodingError(LivePushError, ValueError):
    """Data holds a value that can't be sent to a browser as JSON.

    Args:
        message: A sentence with the value's place, the cause and the remedy.
        problem: The cause and the remedy alone, without anything of the data.
    """

    def __init__(self, message: str, problem: str = "") -> None:
        super().__init__(message)
        self.problem = problem


class BrokerError(LivePushError):
    """The broker failed."""


class BrokerUnavailable(BrokerError):
    """The broker does not answer; trying again later may help."""


class PublicationTooLarge(BrokerError):
    """An event and its data are larger than a publication may be."""


class ClientError(LivePushError):
    """What a subscriber is told when its message can't be served.

    Args:
        message: A sentence for the developer of the client, without secrets.
    """

    code: ClassVar[int]
    temporary: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadMessage(ClientError):
    """The message is not of the form the protocol gives it."""

    code = 100


class InvalidRoom(ClientError):
    """The room's name matches no rule, or is not written as its rule writes it."""

    code = 101


class NotAuthorised(ClientError):
    """The room's rule said no."""

    code = 103


class TooManyRooms(ClientError):
    """The connection is in as many rooms as it may be."""

    code = 106


class TooManyConnections(ClientError):
    """The user has as many connections as one may have."""

    code = 107
    temporary = True


class RefreshLogin(ClientError):
    """The login must be renewed over HTTP before the connection can be made."""

    code = 109
    temporary = True


class TooFast(ClientError):
    """The connection asks for more than it may in so short a time."""

    code = 111
    temporary = True


class Unavailable(ClientError):
    """Something failed on the server; the client should try again later."""

    code = 120
    temporary = True
