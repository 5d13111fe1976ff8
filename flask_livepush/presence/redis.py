"""The presence store on Redis: a hash a room, and one sorted set of living nodes.

It asks Redis and keeps nothing itself; ``lua/presence.lua`` says what is in a hash.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from collections.abc import Sequence
from typing import Any

from ..brokers.redis_format import Names
from ..brokers.redis_servers import Command, Script, Servers, WrongType
from ..errors import BrokerError
from ..logs import logger
from ..protocol.relayed import Moved
from .base import KEPT, SILENT, Change, Listing, PresenceStore

log = logger(__name__)

_KEPT_MS = math.ceil(KEPT * 1000)
_VERSION = re.compile(r"[A-Za-z0-9_-]{1,48}:[0-9]{1,15}")


class RedisPresence(PresenceStore):
    """A store whose lists live in Redis.

    Args:
        servers: Where Redis is.
        prefix: The application's name, before all keys.
        silent: Seconds without a sign of life after which a node counts as gone.
    """

    def __init__(
        self, servers: Servers, *, prefix: str, silent: float = SILENT
    ) -> None:
        self._servers = servers
        self._names = Names(prefix)
        self._silent_ms = math.ceil(silent * 1000)
        self._change = Script("presence.lua", head=None)
        self._nodes = Script("nodes.lua", head=None)

    def beat(self, node: str | None, *, lasts: float | None = None) -> set[str]:
        key = self._names.nodes
        counts = self._silent_ms if lasts is None else math.ceil(lasts * 1000)
        args = (key, node or "", self._silent_ms, counts)
        found = self._run([Command(key, args, self._nodes, 1)], b"zset")[0]
        if isinstance(found, BrokerError):
            raise found
        return {name.decode(errors="replace") for name in found}

    def change(self, changes: Sequence[Change]) -> list[Moved | BrokerError]:
        replies = self._run([self._changing(change) for change in changes], b"hash")
        moved: list[Moved | BrokerError] = []
        for change, reply in zip(changes, replies, strict=True):
            if isinstance(reply, BrokerError):
                moved.append(reply)
                continue
            was, version, joined, left = reply
            users = [user.decode() for user in joined]
            moved.append(
                Moved(
                    change.node,
                    was.decode(),
                    version.decode(),
                    {user: change.joined[user] for user in users},
                    tuple(user.decode() for user in left),
                )
            )
        return moved

    def read(self, rooms: Sequence[str]) -> list[Listing | BrokerError]:
        keys = [self._names.room(room).here for room in rooms]
        replies = self._ask([("HGETALL", key) for key in keys], keys)
        return [r if isinstance(r, BrokerError) else _listing(r) for r in replies]

    def versions(self, rooms: Sequence[str]) -> list[str | BrokerError]:
        keys = [self._names.room(room).here for room in rooms]
        replies = self._ask([("HGET", key, "version") for key in keys], keys)
        return [r if isinstance(r, BrokerError) else _version(r) for r in replies]

    def _changing(self, change: Change) -> Command:
        key = self._names.room(change.room).here
        args: list[str | int] = [
            key,
            secrets.token_urlsafe(9),
            _KEPT_MS,
            change.node,
            len(change.joined),
        ]
        for user, info in change.joined.items():
            args += (user, info)
        return Command(key, (*args, *change.left), self._change, 1)

    def _ask(self, words: Sequence[tuple[str, ...]], keys: Sequence[str]) -> list[Any]:
        commands = [
            command
            for key, asked in zip(keys, words, strict=True)
            for command in (
                Command(key, asked),
                Command(key, ("PEXPIRE", key, _KEPT_MS)),
            )
        ]
        return self._run(commands, b"hash")[::2]

    def _run(self, commands: Sequence[Command], kind: bytes) -> list[Any]:
        """Run commands; a key that others have put there is removed first.

        What fails is in its place among the answers: one room's list, or one of several
        servers, is no other room's business.
        """
        replies = self._servers.run_each(commands, patient=True, apart=True)
        wrong = [n for n, r in enumerate(replies) if isinstance(r, WrongType)]
        if not wrong:
            return replies
        log.error("Keys of presence are of another type; they are removed")
        keys = list(dict.fromkeys(commands[number].key for number in wrong))
        types = self._servers.run_each([Command(key, ("TYPE", key)) for key in keys])
        foreign = [k for k, t in zip(keys, types, strict=True) if t != kind]
        self._servers.run_each([Command(key, ("DEL", key)) for key in foreign])
        again = [commands[number] for number in wrong]
        found = self._servers.run_each(again, patient=True, apart=True)
        for number, reply in zip(wrong, found, strict=True):
            replies[number] = reply
        return replies


def _version(reply: Any) -> str:
    """Read a version; one that is none of ours is none."""
    text = "" if reply is None else reply.decode(errors="replace")
    return text if _VERSION.fullmatch(text) else ""


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _listing(reply: Any) -> Listing:
    """Read a hash; what is none of ours in it is passed over."""
    version = ""
    entries: dict[str, dict[str, str]] = {}
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        node, middle, user = name.decode(errors="replace").partition("\0")
        text = value.decode(errors="replace")
        if node == "version" and not middle:
            version = _version(value)
        elif node and middle and (not text or _is_json(text)):
            # It goes to clients as it is.
            entries.setdefault(node, {})[user] = text
    return Listing(version, entries)
