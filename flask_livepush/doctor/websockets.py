"""By WebSocket: one that is opened at once, and one that a session changes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, suppress

from .client import ECHO, Client, by, is_unknown, reason
from .findings import HOLDS_BACK, PROXY, QUEUE, STICKY, Finding
from .wire import Answer, Silent, Wire, WireError

# Seconds to wait for what was held back, once the connection is ended.
_REST = 2.0


def connect(client: Client) -> Iterator[Finding]:
    """Open one, and ask something over it."""
    began = client.now()
    with ExitStack() as stack:
        try:
            wire = stack.enter_context(client.connect())
            answer = wire.upgrade(client.target("websocket"), client.headers())
        except Silent:
            yield Finding(
                "websocket",
                "problem",
                "Nobody answers the request for a WebSocket: something in between "
                "swallows it.",
                f"Look for what does not know WebSocket on the way. {PROXY}",
                client.now() - began,
            )
            return
        except (WireError, OSError) as error:
            yield client.broken(
                "websocket", "The request for a WebSocket", error, began, PROXY
            )
            return
        taken = client.now() - began
        if answer.status != 101:
            yield _no_websocket(answer, taken)
            return
        try:
            first = wire.text()
        except Silent:
            yield _silent_websocket(client, wire, began)
            return
        except (WireError, OSError) as error:
            yield client.broken(
                "websocket", "A WebSocket is accepted and", error, began
            )
            return
        opened = client.now() - began
        if not first.startswith("0{"):
            yield Finding(
                "websocket",
                "problem",
                "The WebSocket is accepted by something that is not Engine.IO.",
                "Route the path to the application for upgrades too.",
                opened,
            )
            return
        yield from _echo(client, "websocket", wire, "A WebSocket opens", opened)
    client.has_websockets = True


def _echo(
    client: Client, name: str, wire: Wire, sentence: str, opened: float
) -> Iterator[Finding]:
    """Ask something over a WebSocket that is open."""
    began = client.now()
    try:
        wire.send_text("40" + ECHO)
        while not (text := wire.text()).startswith(("40/", "44/")):
            if text == "2":
                wire.send_text("3")
    except (WireError, OSError) as error:
        yield client.broken(
            name, f"{sentence}, and what is sent over it", error, began, HOLDS_BACK
        )
    else:
        answered = (client.now() - began) * 1000
        yield Finding(
            name,
            "ok",
            f"{sentence}; a question is answered in {answered:.0f} ms.",
            seconds=opened,
        )


def _no_websocket(answer: Answer, taken: float) -> Finding:
    said = reason(answer)
    sentence = (
        f"The request for a WebSocket is answered {answer.status}"
        f"{f' ({said})' if said else ''}{by(answer)}"
    )
    if "'Upgrade'" in said or "'Connection'" in said or "upgrade" in said.lower():
        return Finding(
            "websocket",
            "problem",
            f"{sentence}: the front does not pass the headers Upgrade and "
            "Connection on.",
            PROXY,
            taken,
        )
    if "has no WebSockets" in said:
        return Finding(
            "websocket",
            "problem",
            f"{sentence}: the server does not let go of its sockets.",
            "gunicorn with gthread or gevent does; see the application's log.",
            taken,
        )
    if answer.status == 503 and said:
        return Finding(
            "websocket",
            "problem",
            f"{sentence}.",
            "Raise LIVEPUSH_MAX_CONNECTIONS, or ulimit -n.",
            taken,
        )
    return Finding(
        "websocket",
        "problem",
        f"{sentence}: the front refuses WebSockets.",
        f"Allow them there (proxy, load balancer, WAF). {PROXY}",
        taken,
    )


def _silent_websocket(client: Client, wire: Wire, began: float) -> Finding:
    waited = client.now() - began
    with suppress(WireError):
        wire.part()
        wire.text(_REST)
        return Finding(
            "websocket",
            "problem",
            "A WebSocket is accepted, but what it carries comes only when it "
            "ends: something in between holds it back.",
            HOLDS_BACK,
            waited,
        )
    return Finding(
        "websocket",
        "problem",
        f"A WebSocket is accepted, and then nothing comes (within {waited:.0f} s): "
        "something in between does not carry it.",
        "Look for a proxy, firewall or antivirus that answers upgrades itself. "
        "Clients fall back to polling after some seconds.",
        waited,
    )


def upgrade(client: Client) -> Iterator[Finding]:
    """Let a session that polls change to one."""
    if not client.has_websockets:
        return
    began = client.now()
    with ExitStack() as stack:
        try:
            _, opened = client.open()
            if opened is None:
                raise WireError("is not opened a second time")
            sid = str(opened["sid"])
            wire = stack.enter_context(client.connect())
            target = client.target("websocket", sid)
            answer = wire.upgrade(target, client.headers())
            if is_unknown(answer):
                # Polling goes on, which works where it is forwarded.
                yield Finding(
                    "upgrade",
                    "hint" if client.forwarded else "problem",
                    "A session that polls can't change to WebSocket: the front "
                    f"leads its upgrade to another process ({reason(answer)}).",
                    STICKY if client.forwarded else QUEUE,
                    client.now() - began,
                )
                return
            if answer.status != 101:
                raise WireError(f"is answered {answer.status} ({reason(answer)})")
            wire.send_text("2probe")
            if (text := wire.text()) != "3probe":
                raise WireError(f"is answered {text[:20]!r}")
            wire.send_text("5")
            client.forget(sid)
        except (WireError, OSError) as error:
            yield client.broken(
                "upgrade", "The change from polling to WebSocket", error, began
            )
            return
        taken = client.now() - began
        yield from _echo(
            client, "upgrade", wire, "A session that polls changes to WebSocket", taken
        )
