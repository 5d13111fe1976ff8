"""What a message queue's URL says, checked; nothing is connected to in here."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import parse_qsl, unquote, urlsplit

from ..errors import ConfigError

Address = tuple[str, int]

_SETTING = "LIVEPUSH_MESSAGE_QUEUE"
_SCHEMES = (
    "redis://, rediss://, unix://, redis+sentinel://, rediss+sentinel://, "
    "redis+cluster://, rediss+cluster://, or the same with valkey"
)
_PORTS = {"server": 6379, "sentinel": 26379, "cluster": 6379}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a message queue is.

    Args:
        url: Its URL without its passwords, for messages.
        kind: One server, a primary that Sentinel knows, or a cluster.
        addresses: The server, the sentinels, or some nodes of the cluster; for a Unix
            socket its path and 0.
        service: The primary's name at the sentinels.
        tls: Whether connections are encrypted.
        options: For every connection to a server, as redis-py names them.
        sentinel_options: For every connection to a sentinel.
    """

    url: str
    kind: Literal["server", "sentinel", "cluster"]
    addresses: tuple[Address, ...]
    service: str = ""
    tls: bool = False
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    sentinel_options: dict[str, Any] = field(default_factory=dict, repr=False)


def parse(url: str) -> Target:
    """Return what a URL says.

    Raises:
        ConfigError: It says nothing that can be connected to; the message has the URL
            without its password, and the remedy.
    """
    try:
        return _parse(url)
    except ValueError as error:
        raise ConfigError(f"{_SETTING} is {without_password(url)!r}; {error}") from None


def without_password(url: str) -> str:
    """Return a URL with *** where it has a password, however malformed it is."""
    head, mark, tail = url.partition("://")
    authority, *rest = tail.split("/", 1)
    if "@" in authority:
        user, _, hosts = authority.rpartition("@")
        name, colon, _ = user.partition(":")
        authority = f"{name}{colon and ':***'}@{hosts}"
    text = "/".join((authority, *rest))
    path, question, query = text.partition("?")
    parts = [
        f"{name}=***"
        if "password" in name.lower() and equals
        else name + equals + value
        for name, equals, value in (part.partition("=") for part in query.split("&"))
    ]
    return head + mark + path + question + "&".join(parts)


def _parse(url: str) -> Target:
    parts = urlsplit(url)
    family, _, way = parts.scheme.partition("+")
    family = {"valkey": "redis", "valkeys": "rediss"}.get(family, family)
    kinds: dict[str, Literal["server", "sentinel", "cluster"]] = {
        "": "server",
        "sentinel": "sentinel",
        "cluster": "cluster",
    }
    if (
        family not in ("redis", "rediss") or way not in kinds
    ) and parts.scheme != "unix":
        raise ValueError(f"it must begin with {_SCHEMES}.")
    kind = kinds[way]
    credentials, _, hosts = parts.netloc.rpartition("@")
    user, _, password = credentials.partition(":")
    options, sentinel_options = _options(parts.query)
    if user:
        options["username"] = unquote(user)
    if password:
        options["password"] = unquote(password)
    service = ""
    path = unquote(parts.path)
    if family == "unix":
        if not path or hosts:
            raise ValueError("write the socket's path, as in unix:///run/redis.sock.")
        addresses: tuple[Address, ...] = ((path, 0),)
        path = ""
    else:
        addresses = tuple(_address(host, _PORTS[kind]) for host in hosts.split(","))
    if kind == "server" and len(addresses) > 1:
        raise ValueError(
            "several hosts need redis+sentinel:// or redis+cluster:// before them."
        )
    names = [part for part in path.split("/") if part]
    if kind == "sentinel":
        # host,host/service, or host,host/db/service, as python-socketio has it.
        if not names or len(names) > 2:
            raise ValueError(
                "name the service, as in redis+sentinel://host:26379/main."
            )
        service = names.pop()
    if names:
        _set_database(options, names)
    if kind == "cluster" and options.get("db"):
        raise ValueError("a cluster has database 0 alone; leave it out.")
    return Target(
        without_password(url),
        kind,
        addresses,
        service,
        family == "rediss",
        options,
        sentinel_options,
    )


def _address(text: str, port: int) -> Address:
    parts = urlsplit(f"//{text}")
    try:
        found = parts.port
    except ValueError:
        raise ValueError(f"{text!r} has no port from 0 to 65535.") from None
    host = parts.hostname
    if not host and text:
        raise ValueError(f"{text!r} has no host.")
    return (host or "localhost", port if found is None else found)


def _set_database(options: dict[str, Any], names: list[str]) -> None:
    if len(names) > 1 or not names[0].isdecimal():
        raise ValueError(f"{'/'.join(names)!r} is no number of a database.")
    options.setdefault("db", int(names[0]))


def _whole(text: str) -> int:
    if not text.isdecimal():
        raise ValueError
    return int(text)


def _boolean(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _verification(text: str) -> str:
    if text not in ("none", "optional", "required"):
        raise ValueError
    return text


_QUERY: dict[str, Callable[[str], Any]] = {
    "db": _whole,
    "client_name": str,
    "username": str,
    "password": str,
    "sentinel_username": str,
    "sentinel_password": str,
    "ssl_ca_certs": str,
    "ssl_certfile": str,
    "ssl_keyfile": str,
    "ssl_cert_reqs": _verification,
    "ssl_check_hostname": _boolean,
}


def _options(query: str) -> tuple[dict[str, Any], dict[str, Any]]:
    options: dict[str, Any] = {}
    sentinel: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        convert = _QUERY.get(name)
        if convert is None:
            near = difflib.get_close_matches(name, _QUERY, n=1, cutoff=0)[0]
            raise ValueError(f"{name!r} is no option of it; did you mean {near!r}?")
        try:
            value = convert(text)
        except (ValueError, KeyError):
            shown = "***" if "password" in name else repr(text)
            raise ValueError(f"its option {name} can't be {shown}.") from None
        if name.startswith("sentinel_"):
            sentinel[name.removeprefix("sentinel_")] = value
        else:
            options[name] = value
            if name.startswith("ssl_"):
                sentinel[name] = value
    return options, sentinel
