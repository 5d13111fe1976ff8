"""Everything a user can set: one table, checked and read once in ``init_app``.

``docs/configuration.md`` is generated from :data:`TABLE`. No default may live anywhere
else, and nothing in here may know what a setting is used for.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .errors import ConfigError

PREFIX = "LIVEPUSH_"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table.

    Args:
        key: The key in ``app.config``.
        default: The value when the key is absent.
        unit: What the number counts, or the type for a reader.
        doc: One sentence (or a few) for the documentation.
        check: Says what the value must be, or ``None`` when it is right.
        secret: Whether the value may hold a password, so that no error shows it.
    """

    key: str
    default: Any
    unit: str
    doc: str
    check: Callable[[Any], str | None]
    secret: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """The settings of one application, after the checks."""

    push: str
    async_mode: str | None
    allow_anonymous: bool
    history_size: int
    history_ttl: float
    max_rooms: int
    max_connections_per_user: int
    max_joins_per_second: int
    max_whispers_per_second: int
    max_pending_messages: int
    reset_within: float
    snapshot_timeout: float
    url_prefix: str
    cors_origins: str | list[str] | None
    ping_interval: float
    ping_timeout: float
    message_queue: str | None
    prefix: str | None
    require_queue: bool
    max_publication_bytes: int
    check_interval: float
    max_queued_bytes: int
    metrics_token: str | None
    presence_damping: float
    engine: str
    max_connections: int
    send_buffer_bytes: int
    max_message_bytes: int
    max_messages_per_second: int
    handler_threads: int
    upgrade_timeout: float
    connect_timeout: float
    switch_interval: float | None
    drain_seconds: float
    max_connection_age: float | None
    log_error_texts: bool | None
    logins: str
    logins_prefix: str | None
    revalidate_interval: float
    revalidate_rate: float


def _one_of(*allowed: Any) -> Callable[[Any], str | None]:
    names = ", ".join(repr(a) for a in allowed)
    return lambda value: None if value in allowed else f"it must be one of {names}"


def _boolean(value: Any) -> str | None:
    return None if isinstance(value, bool) else "it must be True or False"


def _boolean_or_none(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    return "it must be True, False or None"


def _whole(least: int, remedy: str = "") -> Callable[[Any], str | None]:
    def check(value: Any) -> str | None:
        if isinstance(value, int) and not isinstance(value, bool) and value >= least:
            return None
        return f"it must be a whole number, {least} or more{remedy}"

    return check


def _seconds(value: Any) -> str | None:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if number and math.isfinite(value) and value > 0:
        return None
    return "it must be a number of seconds above 0"


def _number_above_zero(value: Any) -> str | None:
    return None if _seconds(value) is None else "it must be a number above 0"


def _seconds_or_zero(value: Any) -> str | None:
    if _seconds(value) is None or (value == 0 and not isinstance(value, bool)):
        return None
    return "it must be a number of seconds, 0 or more"


def _seconds_or_none(value: Any) -> str | None:
    if value is None or _seconds(value) is None:
        return None
    return "it must be None or a number of seconds above 0"


def _switch_interval(value: Any) -> str | None:
    if value is None or (_seconds(value) is None and 0.0001 <= value <= 1):
        return None
    return "it must be None or a number of seconds from 0.0001 to 1"


def _queue(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and "://" in value):
        return None
    if isinstance(value, str) and value:  # which may have a password in it
        return "it has no scheme: write it as in 'redis://localhost:6379'"
    return "it must be None or a URL such as 'redis://localhost:6379/0'"


def _name(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str) and value.isprintable() and 0 < len(value) <= 100:
        return None
    return "it must be None or a name of 1 to 100 printable characters"


def _token(value: Any) -> str | None:
    if value is None:
        return None
    # What a header can carry as it is (RFC 6750).
    if isinstance(value, str) and re.fullmatch(r"[!-~]{16,}", value):
        return None
    return (
        "it must be None or a text of 16 or more printable ASCII characters without "
        "spaces, such as secrets.token_urlsafe() makes"
    )


def _path(value: Any) -> str | None:
    if isinstance(value, str) and value.startswith("/") and not value.endswith("/"):
        return None
    return "it must be a path such as '/livepush', without a slash at its end"


def _origins(value: Any) -> str | None:
    if value is None:
        return None
    origins = [value] if isinstance(value, str) else value
    if not isinstance(origins, (list, tuple)) or not origins:
        return "it must be None (same origin) or a list such as ['https://example.org']"
    for origin in origins:
        if origin == "*":
            return (
                "'*' would let every site use your visitors' sessions; "
                "list the origins of your own front ends"
            )
        if isinstance(origin, str) and "*" in origin:
            return (
                f"{origin!r} has a '*', and origins are compared letter by letter; "
                "list each origin of your own front ends"
            )
        if not isinstance(origin, str) or "://" not in origin or origin.endswith("/"):
            return (
                f"{origin!r} is no origin; write scheme://host or scheme://host:port "
                "without a slash at its end"
            )
    return None


TABLE: tuple[Setting, ...] = (
    Setting(
        "LIVEPUSH_PUSH",
        "commits",
        "'commits' or 'decorated'",
        "Which commits of tracked models are pushed: all of them, or only those made "
        "inside `push_changes`. With `'decorated'` a commit outside warns once per "
        "endpoint.",
        _one_of("commits", "decorated"),
    ),
    Setting(
        "LIVEPUSH_ASYNC_MODE",
        None,
        "'threading', 'eventlet', 'gevent' or None",
        "How the server waits. None: eventlet or gevent when the process is "
        "monkey-patched by it, else threading. What merely is installed never matters.",
        _one_of(None, "threading", "eventlet", "gevent"),
    ),
    Setting(
        "LIVEPUSH_ALLOW_ANONYMOUS",
        False,
        "boolean",
        "Whether visitors who are not logged in may connect. Each room's rule still "
        "decides; it is given Flask-Login's anonymous user.",
        _boolean,
    ),
    Setting(
        "LIVEPUSH_HISTORY_SIZE",
        100,
        "publications per room",
        "How many publications a room keeps for those who return. 0 keeps none: "
        "everyone who returns gets a snapshot.",
        _whole(0, ". Use 0 to keep no history"),
    ),
    Setting(
        "LIVEPUSH_HISTORY_TTL",
        300,
        "seconds",
        "How long a room keeps its publications, and how long it can tell a late "
        "version of a row from a new one.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_MAX_ROOMS",
        100,
        "rooms per connection",
        "How many rooms one connection may be in; one more is refused with code 106.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_MAX_CONNECTIONS_PER_USER",
        50,
        "connections per user and process",
        "How many connections one user may have; one more is refused with code 107. "
        "Each tab has one, or all of a browser's share one.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_MAX_JOINS_PER_SECOND",
        50,
        "joins per connection and second",
        "How many rooms a connection may join in the long run; five times as many may "
        "come at once, such as those of a page. One more is refused with code 111: the "
        "client tries again later.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_MAX_WHISPERS_PER_SECOND",
        20,
        "whispers per connection and second",
        "How many whispers a connection may send in the long run; twice as many may "
        "come at once. One more is refused with code 111.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_MAX_PENDING_MESSAGES",
        256,
        "messages per connection",
        "How many messages of one connection may wait for their turn; a client that "
        "sends more, faster than they are handled, is disconnected.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_RESET_WITHIN",
        5,
        "seconds",
        "The time over which subscribers spread their return when a server can't "
        "vouch for their position.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_SNAPSHOT_TIMEOUT",
        10,
        "seconds",
        "How long a join waits for a snapshot that another join is reading; after it "
        "the client is told to try again.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_URL_PREFIX",
        "/livepush",
        "URL path",
        "Where the JavaScript client is served.",
        _path,
    ),
    Setting(
        "LIVEPUSH_CORS_ORIGINS",
        None,
        "list of origins or None",
        "Other origins whose pages may connect. None allows the application's own "
        "origin alone.",
        _origins,
    ),
    Setting(
        "LIVEPUSH_PING_INTERVAL",
        25,
        "seconds",
        "How often the server asks a connection whether it is still there. Keep it "
        "below every idle limit of the proxies in front.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_PING_TIMEOUT",
        20,
        "seconds",
        "How long it waits for the answer before it gives the connection up.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_MESSAGE_QUEUE",
        None,
        "URL or None",
        "The Redis or Valkey server that joins several processes: `redis://`, "
        "`rediss://`, `unix://`, `redis+sentinel://host,host/service`, "
        "`redis+cluster://host,host`, or the same with `valkey`. None: rooms live in "
        "this process alone.",
        _queue,
        secret=True,
    ),
    Setting(
        "LIVEPUSH_PREFIX",
        None,
        "name or None",
        "What stands before every key and channel. None: the application's name. "
        "Applications that share a server must not share it.",
        _name,
    ),
    Setting(
        "LIVEPUSH_REQUIRE_QUEUE",
        True,
        "boolean",
        "Whether a message queue that can't be used stops the start. False: the "
        "application starts without it and keeps trying.",
        _boolean,
    ),
    Setting(
        "LIVEPUSH_MAX_PUBLICATION_BYTES",
        256 * 1024,
        "bytes",
        "How large an event and its data may be together. `emit` refuses more; of a "
        "commit, the kind becomes `<kind>.invalidated`.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_CHECK_INTERVAL",
        30,
        "seconds",
        "How often a process compares the rooms it serves with the message queue, to "
        "find what was lost without a sign.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_MAX_QUEUED_BYTES",
        32 * 1024 * 1024,
        "bytes per process",
        "How much may wait while the message queue does not answer. What does not fit "
        "is dropped: of rows, the kind becomes `<kind>.invalidated` afterwards; an "
        "application's own events are lost.",
        _whole(0, ". Use 0 to let nothing wait"),
    ),
    Setting(
        "LIVEPUSH_METRICS_TOKEN",
        None,
        "text or None",
        "Opens `<LIVEPUSH_URL_PREFIX>/metrics` to whoever sends it as "
        "`Authorization: Bearer …` ([metrics.md](metrics.md)). None: only "
        "`@livepush.metrics_rule` does, and without both nothing is counted.",
        _token,
        secret=True,
    ),
    Setting(
        "LIVEPUSH_PRESENCE_DAMPING",
        3,
        "seconds",
        "How long a user may be without a connection before the others are told that "
        "the user has left: a reload is no leaving. 0 tells at once.",
        _seconds_or_zero,
    ),
    Setting(
        "LIVEPUSH_ENGINE",
        "loop",
        "'loop' or 'stock'",
        "What serves connections: one I/O loop for all WebSockets of the process, or "
        "python-engineio's own drivers, with a thread or greenlet or more for each. "
        "What is set by `LIVEPUSH_MAX_CONNECTIONS`, `LIVEPUSH_SEND_BUFFER_BYTES`, "
        "`LIVEPUSH_MAX_MESSAGES_PER_SECOND`, `LIVEPUSH_HANDLER_THREADS`, "
        "`LIVEPUSH_UPGRADE_TIMEOUT`, `LIVEPUSH_CONNECT_TIMEOUT` and "
        "`LIVEPUSH_SWITCH_INTERVAL` is the loop's alone.",
        _one_of("loop", "stock"),
    ),
    Setting(
        "LIVEPUSH_MAX_CONNECTIONS",
        20_000,
        "connections per process",
        "One more is refused with 503. Each takes a file descriptor (`ulimit -n`).",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_SEND_BUFFER_BYTES",
        1024 * 1024,
        "bytes per connection",
        "How much may wait for a client that reads slowly. Past it, publications are "
        "dropped and the client recovers them from the history. Of what can't be "
        "dropped, such as snapshots, 16 times as much may wait; more ends the "
        "connection. The rows of a snapshot take 12 times as much at most: large "
        "values are left out first, then the oldest rows.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_MAX_MESSAGE_BYTES",
        1_000_000,
        "bytes",
        "How large a message of a client, or the body of its request, may be.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_MAX_MESSAGES_PER_SECOND",
        200,
        "messages per connection and second",
        "How many messages a client may send in the long run; five times as many may "
        "come at once. A client that sends more is disconnected.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_HANDLER_THREADS",
        8,
        "threads per process",
        "How many threads run rules, snapshots and handlers of events, in threading "
        "mode. One connection's run one after another. As many that wait at once keep "
        "everybody else's waiting: what takes long belongs into "
        "`socketio.start_background_task`.",
        _whole(1),
    ),
    Setting(
        "LIVEPUSH_UPGRADE_TIMEOUT",
        10,
        "seconds",
        "How long a client may take to change from polling to a WebSocket it has "
        "opened.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_CONNECT_TIMEOUT",
        45,
        "seconds",
        "How long a new connection may stay outside of every namespace, which a client "
        "of Socket.IO enters at once, before it is closed.",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_SWITCH_INTERVAL",
        0.001,
        "seconds or None",
        "What `sys.setswitchinterval` is given in threading mode when the first client "
        "connects, so that views that compute do not hold up deliveries. None leaves "
        "Python's own alone, which is 0.005.",
        _switch_interval,
    ),
    Setting(
        "LIVEPUSH_DRAIN_SECONDS",
        10,
        "seconds",
        "How long a process that ends takes at most to let its clients go elsewhere, "
        "one after the other, and to send what waits. It ends sooner when all are "
        "gone. 0 closes all at once. See [deploying.md](deploying.md#leaving).",
        _seconds_or_zero,
    ),
    Setting(
        "LIVEPUSH_MAX_CONNECTION_AGE",
        3300,
        "seconds or None",
        "No connection grows older: its client is asked to come back, at its own "
        "moment in the last tenth of that time, and closed if it does not. Keep it "
        "below the age at which a platform cuts connections. None lets them grow old.",
        _seconds_or_none,
    ),
    Setting(
        "LIVEPUSH_LOG_ERROR_TEXTS",
        None,
        "boolean or None",
        "Whether tracebacks in the log have what each error says, which may be values, "
        "users and rooms: drivers quote parameters, a dict the missing key. None: what "
        "a `raise` in the application's own files says, and in debug mode all. False: "
        "none but ours. Files, lines and types are always there. It holds for the "
        "process.",
        _boolean_or_none,
    ),
    Setting(
        "LIVEPUSH_LOGINS",
        "broker",
        "'broker' or 'database'",
        "What keeps which logins have ended, for as long as "
        "`PERMANENT_SESSION_LIFETIME`: the message queue (this process, where there is "
        "none), or the table `livepush_ended_logins` of Flask-SQLAlchemy's database "
        "as well, which a logout waits for: "
        "[deploying.md](deploying.md#ended-logins).",
        _one_of("broker", "database"),
    ),
    Setting(
        "LIVEPUSH_LOGINS_PREFIX",
        None,
        "name or None",
        "What stands before the keys of ended logins. None: `LIVEPUSH_PREFIX`. Several "
        "applications that share a session cookie need the same one, so that a logout "
        "of one is a logout of all.",
        _name,
    ),
    Setting(
        "LIVEPUSH_REVALIDATE_INTERVAL",
        60,
        "seconds",
        "How often it is asked again, for each connection, whether its login still "
        "holds and whether it may be in its rooms. Spread evenly over that time. See "
        "[guide.md](guide.md#rights-that-end).",
        _seconds,
    ),
    Setting(
        "LIVEPUSH_REVALIDATE_RATE",
        50,
        "users per process and second",
        "How many users are loaded for that at most; with more of them the interval "
        "grows, and the log says so. `livepush.recheck` and watched tables wait for "
        "nothing.",
        _number_above_zero,
    ),
)


def read(settings: Mapping[str, Any]) -> Config:
    """Check an application's settings and freeze them.

    Args:
        settings: ``app.config``; keys that don't start with ``LIVEPUSH_`` are ignored.

    Raises:
        ConfigError: A key is unknown or a value wrong; the message has the remedy.
    """
    known = {row.key: row for row in TABLE}
    for key in settings:
        if isinstance(key, str) and key.startswith(PREFIX) and key not in known:
            raise ConfigError(_unknown(key, list(known)))
    values = {}
    for row in TABLE:
        value = settings.get(row.key, row.default)
        problem = row.check(value)
        if problem is not None:
            shown = f"of type {type(value).__name__}" if row.secret else repr(value)
            raise ConfigError(f"{row.key} is {shown}; {problem}.")
        values[row.key.removeprefix(PREFIX).lower()] = value
    return Config(**values)


def _unknown(key: str, known: list[str]) -> str:
    # Whatever else is spelled like it, such a name is most often meant for the queue.
    is_queue = any(word in key for word in ("REDIS", "URL", "QUEUE", "BROKER"))
    cutoff = 0.9 if is_queue else 0.6
    # A name that is part of one setting's is meant for it, whatever is spelled like it.
    part = key.removeprefix(PREFIX)
    near = [name for name in known if name.endswith(f"_{part}")]
    if len(near) != 1:
        near = difflib.get_close_matches(key, known, n=1, cutoff=cutoff)
    if is_queue and not near:
        near = ["LIVEPUSH_MESSAGE_QUEUE"]
    hint = f"did you mean {near[0]}?" if near else "see docs/configuration.md."
    return f"{key} is not a setting of flask_livepush; {hint}"
