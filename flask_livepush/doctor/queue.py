"""The message queue: whether it answers, and whether its settings keep the promise.

The figures are those of ``docs/deploying.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ..errors import BrokerError, ConfigError
from .findings import Finding

if TYPE_CHECKING:
    from ..brokers.redis_setup import QueueSetup, ServerSetup

_NAME = "redis"
_VERSION = 7
_MIB = 1024 * 1024
# A large commit's messages have up to 1 MiB.
_LEAST_BUFFER = 2 * _MIB
_BUFFER = 32 * _MIB
# Below this a few full rooms fill it.
_LEAST_MEMORY = 32 * _MIB
_FULL = 0.8
# Seconds that a view waits for a publication at most; a tenth of it is already much.
_SLOW = 0.025


def check(
    url: str,
    prefix: str,
    secrets: Mapping[str, Any],
    *,
    now: Callable[[], float],
    knows: Callable[[str], bool] | None,
    logins: str = "broker",
    logins_prefix: str | None = None,
) -> Iterator[Finding]:
    """Examine a message queue.

    Args:
        url: Where it is.
        prefix: What stands before the application's keys.
        secrets: The application's own settings, for its ``SECRET_KEY``.
        now: Seconds of a clock that never falls.
        knows: Says whether a rule of the application knows a room; None: its rules are
            not known.
        logins: What keeps ended logins, as LIVEPUSH_LOGINS says.
        logins_prefix: What stands before their keys; None: the same.
    """
    from ..brokers.redis_setup import ask  # Redis's client is loaded only for this

    try:
        found = ask(url, prefix, secrets, now=now, logins_prefix=logins_prefix)
    except ConfigError as error:
        remedy = "Correct it; the user and the password may be wrong."
        yield Finding(_NAME, "problem", str(error), remedy)
        return
    except BrokerError as error:
        yield Finding(_NAME, "problem", str(error), _remedy(str(error)))
        return
    for server in found.servers:
        yield from _server(server)
    if found.failure is not None:
        yield Finding(
            _NAME,
            "problem",
            f"Nothing can be written: {found.failure}",
            "A replica, a full memory or rules (docs/deploying.md) refuse it.",
        )
    elif found.refusal is not None:
        sentence, _, remedy = found.refusal.partition(". ")
        yield Finding("prefix", "problem", f"{sentence}.", remedy)
    elif secrets.get("SECRET_KEY"):
        yield Finding(
            "prefix",
            "ok",
            f"No application with another SECRET_KEY uses the prefix {prefix!r} on "
            f"{found.url}.",
        )
    yield from _logins(found, logins)
    if knows is not None and found.refusal is None:
        strange = [room for room in found.rooms if not knows(room)]
        if strange:
            yield Finding(
                "prefix",
                "hint",
                f"Under the prefix {prefix!r} there is the room {strange[0]!r}, which "
                f"no rule of this application knows (of {len(found.rooms)} looked at "
                f"there are {len(strange)}).",
                "Either an older version had such rooms, a day ago at most, or "
                "another application with the same SECRET_KEY uses this prefix: give "
                "each a LIVEPUSH_PREFIX of its own.",
            )


def _logins(found: QueueSetup, kept_by: str) -> Iterator[Finding]:
    forgetful = [each.where for each in found.servers if each.on_disk is False]
    if found.logins is not None:
        yield Finding(
            "logins",
            "problem",
            f"Which logins have ended can't be read, so nobody can join: "
            f"{found.logins}",
            "Its rules must allow what docs/deploying.md lists.",
        )
    elif kept_by == "broker" and forgetful:
        yield Finding(
            "logins",
            "hint",
            f"LIVEPUSH_LOGINS is 'broker', and {', '.join(forgetful)} keeps nothing on "
            "a disk: where it and all processes restart at once, sessions that were "
            "signed out work again until they expire, as in Flask itself.",
            "LIVEPUSH_LOGINS = 'database', or appendonly yes.",
        )
    elif kept_by == "broker":
        yield Finding(
            "logins",
            "ok",
            "LIVEPUSH_LOGINS is 'broker': Redis and all processes keep which logins "
            "have ended.",
        )


def _remedy(error: str) -> str:
    said = error.lower()
    if "certificate" in said:
        return (
            "Name its authority with ?ssl_ca_certs=… in LIVEPUSH_MESSAGE_QUEUE, or "
            "correct the host's name."
        )
    if "refused" in said:
        return (
            "Nothing listens at that host and port: start the server, or correct "
            "LIVEPUSH_MESSAGE_QUEUE."
        )
    if "name or service" in said or "resolution" in said or "nodename" in said:
        return "The host's name is not known here: correct it, or the network's DNS."
    return (
        "Let this machine reach it: firewall, private network, bind and protected-mode "
        "of the server; rediss:// where it wants TLS."
    )


def _server(server: ServerSetup) -> Iterator[Finding]:
    if server.info is None:
        yield Finding(
            _NAME,
            "problem",
            f"{server.where} answers, but its user may not ask INFO: failovers go "
            "unnoticed, and pages may miss what a dead primary alone had.",
            "ACL SETUSER … +info",
            server.seconds,
        )
    else:
        yield from _judge(server, server.info)
    yield from _buffer(server)
    if server.timeout is not None and 0 < server.timeout < 60:
        yield Finding(
            _NAME,
            "hint",
            f"{server.where} closes connections that are idle for {server.timeout} s.",
            "CONFIG SET timeout 0, or 60 and more.",
        )


def _judge(server: ServerSetup, info: Mapping[str, str]) -> Iterator[Finding]:
    software = "Valkey" if "valkey_version" in info else "Redis"
    version = info.get("valkey_version") or info.get("redis_version", "")
    text = f"{server.where} is {software} {version}"
    if not version.partition(".")[0].isdigit():
        yield Finding(_NAME, "hint", f"{text}of no known version.", None)
    elif int(version.partition(".")[0]) < _VERSION:
        yield Finding(
            _NAME,
            "problem",
            f"{text}; flask_livepush needs {_VERSION}.0 or newer.",
            "Upgrade it.",
            server.seconds,
        )
    elif server.seconds > _SLOW:
        yield Finding(
            _NAME,
            "hint",
            f"{text}, and takes {server.seconds * 1000:.0f} ms to answer; each view "
            "that commits waits for it once.",
            "Take one in the same region and network as the processes.",
            server.seconds,
        )
    else:
        yield Finding(_NAME, "ok", f"{text}.", None, server.seconds)
    if info.get("role") == "slave":
        yield Finding(
            _NAME,
            "problem",
            f"{server.where} is a replica, which takes no publications.",
            "Name the primary in LIVEPUSH_MESSAGE_QUEUE, or the sentinels with "
            "redis+sentinel://.",
        )
    yield from _memory(server, info)


def _memory(server: ServerSetup, info: Mapping[str, str]) -> Iterator[Finding]:
    policy = info.get("maxmemory_policy", "")
    most, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    evicted = int(info.get("evicted_keys", 0))
    kept = policy in ("noeviction", "volatile-ttl", "")
    if policy.startswith("allkeys"):
        yield Finding(
            "eviction",
            "problem" if most else "hint",
            f"maxmemory-policy of {server.where} is {policy}: when its memory is full "
            "it evicts the index of rooms too, and screens then miss changes.",
            "CONFIG SET maxmemory-policy noeviction (volatile-ttl is possible), and in "
            "the configuration. A cache needs a server of its own.",
        )
    elif not kept:
        yield Finding(
            "eviction",
            "hint",
            f"maxmemory-policy of {server.where} is {policy}: which rooms lose their "
            "history first is left to chance.",
            "CONFIG SET maxmemory-policy noeviction, or volatile-ttl.",
        )
    if evicted:
        yield Finding(
            "eviction",
            "hint",
            f"{server.where} has evicted {evicted:,} keys since it started.",
            "Raise maxmemory (docs/scaling.md), or find who fills it.",
        )
    if not most:
        yield Finding(
            "memory",
            "hint",
            f"maxmemory of {server.where} is 0: it grows until the system kills it.",
            "Set maxmemory to twice what docs/scaling.md comes to, with noeviction.",
        )
    elif most < _LEAST_MEMORY or used > _FULL * most:
        yield Finding(
            "memory",
            "problem" if used > _FULL * most else "hint",
            f"maxmemory of {server.where} is {most / _MIB:.0f} MiB, of which "
            f"{used / _MIB:.0f} MiB are used; when it is full, publications wait and "
            "nobody can join.",
            "Raise maxmemory: twice what docs/scaling.md comes to.",
        )
    elif kept:
        yield Finding(
            "memory",
            "ok",
            f"{server.where} uses {used / _MIB:.0f} of {most / _MIB:.0f} MiB, "
            f"{policy}.",
        )


def _buffer(server: ServerSetup) -> Iterator[Finding]:
    if server.pubsub_limit is None:
        yield Finding(
            "buffer",
            "hint",
            f"{server.where} does not say its client-output-buffer-limit (CONFIG is "
            "not allowed).",
            "Let it be the default, pubsub 32mb 8mb 60, or more.",
        )
        return
    hard, soft, seconds = server.pubsub_limit
    least = min((size for size in (hard, soft) if size), default=_BUFFER)
    if least >= _BUFFER // 4 and (not hard or hard >= _BUFFER):
        return
    yield Finding(
        "buffer",
        "problem" if least < _LEAST_BUFFER else "hint",
        f"client-output-buffer-limit pubsub of {server.where} is {hard:,} bytes, or "
        f"{soft:,} for {seconds} s: "
        + (
            "one large commit cuts the processes off."
            if least < _LEAST_BUFFER
            else "less than the default; busy moments cut processes off."
        ),
        "CONFIG SET client-output-buffer-limit 'pubsub 32mb 8mb 60'",
    )
