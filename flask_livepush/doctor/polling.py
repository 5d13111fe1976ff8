"""By polling: a session, whether requests reach it, and whether polls are answered."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

from .client import ECHO, Client, Lost, by, is_unknown, reason, without_query
from .findings import HOLDS_BACK, QUEUE, STICKY, Finding
from .wire import Answer, Silent, WireError

# Connections on which the same session is asked for; with two processes, and no
# affinity, 8 reach its own alone once in 256 times.
_CONNECTIONS = 8
# Seconds by which an answer may be late.
_LATE = 1.0
# Seconds of silence after which many proxies cut.
_IDLE = 55


def open_session(client: Client) -> Iterator[Finding]:
    """Open the session that the following steps use."""
    began = client.now()
    try:
        answer, opened = client.open()
    except (WireError, OSError) as error:
        client.over = True
        broken = client.broken("open", "A request to open a session", error, began)
        # Who speaks TLS is not silent: it ends the connection, or says so.
        encrypted = None if isinstance(error, Silent) else _encrypted(client)
        yield encrypted or broken
        return
    taken = client.now() - began
    if opened is None:
        client.over = True
        encrypted = _encrypted(client) if answer.status == 400 else None
        yield encrypted or _not_opened(client, answer, taken)
        return
    client.sid = str(opened["sid"])
    client.given = [
        client.keep(value.partition(";")[0])
        for name, value in answer.headers
        if name == "set-cookie"
    ]
    interval = float(opened.get("pingInterval", 0)) / 1000
    yield Finding(
        "open",
        "ok",
        f"{client.engine} opens a session by polling; pings each {interval:g} s"
        f"{by(answer)}.",
        seconds=taken,
    )
    if interval >= _IDLE:
        yield Finding(
            "open",
            "problem",
            f"Pings come each {interval:g} s; many proxies cut what is idle for 60 s.",
            "Let LIVEPUSH_PING_INTERVAL be 25.",
        )
    if "websocket" not in opened.get("upgrades", ()):
        yield Finding(
            "open",
            "hint",
            "The server offers no WebSocket to clients that poll.",
            "Leave allow_upgrades and transports of its SocketIO alone.",
        )


def _encrypted(client: Client) -> Finding | None:
    """Return the finding that a port is for https:// and was asked without it."""
    if not client.should_encrypt():
        return None
    return Finding(
        "open",
        "problem",
        f"The port {client.address.port} is for https://, and the address says "
        "http://.",
        "Give the address with https://.",
    )


def _not_opened(client: Client, answer: Answer, taken: float) -> Finding:
    status = answer.status
    said = f" ({reason(answer)})" if reason(answer) else ""
    sentence = f"{client.engine} is answered {status}{said}{by(answer)}"
    if 300 <= status < 400:
        to = without_query(answer.header("location"))
        return Finding(
            "open",
            "problem",
            f"{sentence}, a redirection to {to}.",
            "Give the address it leads to; if that is a login, the front must let "
            f"{client.engine} through.",
            taken,
        )
    remedies = {
        401: "The front asks for a login of its own: https://user:password@host.",
        403: "The front refuses it: let the path through.",
        404: "Route this path to the application, or correct the address "
        "(--path where Socket.IO is not at /socket.io/).",
        503: "The application is not ready, or LIVEPUSH_MAX_CONNECTIONS is "
        "reached: see its log.",
    }
    remedy = remedies.get(status, "Something else answers at this path.")
    if status in (500, 502, 504):
        remedy = "The front does not get an answer of the application: see its log."
    return Finding("open", "problem", f"{sentence}.", remedy, taken)


def check_affinity(client: Client) -> Iterator[Finding]:
    """See whether all that the session sends reaches its process."""
    began = client.now()
    try:
        answers = _from_everywhere(client)
    except (WireError, OSError) as error:
        yield client.broken("affinity", "A request of the session", error, began)
        return
    taken = client.now() - began
    lost = [a for a in answers if is_unknown(a)]
    odd = [a for a in answers if a.status != 200 and not is_unknown(a)]
    forwarded = [a for a in answers if a.header("livepush-forwarded")]
    many = f"{len(answers)} requests over as many connections"
    if odd:
        client.sticks = False
        said = f" ({reason(odd[0])})" if reason(odd[0]) else ""
        yield Finding(
            "affinity",
            "problem",
            f"Of {many} {_were(odd)} answered {odd[0].status}{said}{by(odd[0])}.",
            "A client that polls is thrown out by that; see the logs of the front "
            "and the application.",
            taken,
        )
    elif lost:
        begins = f"Of {many} {_were(lost)}"
        yield _lost(client, begins, reason(lost[0]), taken)
    elif forwarded:
        client.forwarded = True
        yield Finding(
            "affinity",
            "hint",
            f"Of {many} {_were(forwarded)} forwarded to the session's process by "
            "another one: the front does not keep a client with one.",
            f"It works, and costs a way through Redis each. {STICKY}",
            taken,
        )
    else:
        how = (
            f"the front knows a client by the cookie {client.given[0]!r}"
            if client.given
            else "no cookie was set for it, so there is one process, or the front "
            "goes by the address"
        )
        yield Finding(
            "affinity",
            "ok",
            f"{many} reached the session; {how}.",
            seconds=taken,
        )


def _were(answers: list[Answer]) -> str:
    return f"{len(answers)} {'was' if len(answers) == 1 else 'were'}"


def _lost(client: Client, begins: str, said: str, taken: float) -> Finding:
    client.sticks = False
    how = (
        f"although it set the cookie {client.given[0]!r}"
        if client.given
        else "and sets no cookie to know a client by"
    )
    return Finding(
        "affinity",
        "problem",
        f"{begins} answered {said!r}: there are several processes, and the front does "
        f"not keep a client with one, {how}. Whoever has to poll is not connected.",
        QUEUE,
        taken,
    )


def _lost_later(client: Client, taken: float) -> Finding:
    # The requests before may all have reached the one, by chance.
    return _lost(client, "A later request was", "Session ID unknown", taken)


def _from_everywhere(client: Client) -> list[Answer]:
    """Send the session something on connections that are all open at once."""
    with ExitStack() as stack:
        wires = [stack.enter_context(client.connect()) for _ in range(_CONNECTIONS)]
        # A pong that nobody asked for does nothing.
        return [
            client.ask("POST", sid=client.sid, body="3", wire=wire) for wire in wires
        ]


def poll(client: Client) -> Iterator[Finding]:
    """Send something, and fetch the answer; see whether it is a login."""
    if not client.sticks:
        return
    began = client.now()
    try:
        with client.connect() as wire:
            began = client.now()
            client.post("40", wire)
            login = client.await_packet(wire, "40{", "44{", "40", "44")
            client.post("40" + ECHO, wire)
            sent = client.now()
            client.await_packet(wire, "40/", "44/")
    except Lost:
        yield _lost_later(client, client.now() - began)
        return
    except (WireError, OSError) as error:
        client.sticks = False
        yield client.broken("polling", "A poll", error, began)
        return
    yield Finding(
        "polling",
        "ok",
        "What is sent by POST is answered by the next poll.",
        seconds=client.now() - sent,
    )
    client.entered = login.startswith("40")
    yield _login(client, login)


def _login(client: Client, packet: str) -> Finding:
    if packet.startswith("40"):
        return Finding("login", "ok", "Socket.IO has let this client in.")
    said = _message(packet[2:])
    if client.brings_cookies:
        return Finding(
            "login",
            "hint",
            f"The cookie that was given is no login, or none any more ({said}); all "
            "else can be examined.",
            "Log in with a browser, and copy the cookie of the session as it is, name "
            "and value. A login ends when it expires, with a logout, and with another "
            "SECRET_KEY.",
        )
    return Finding(
        "login",
        "hint",
        f"Socket.IO lets nobody in without a login ({said}); all else can be examined.",
        "Give a logged-in browser's session with --cookie to try it too.",
    )


def wait(client: Client) -> Iterator[Finding]:
    """See whether a poll that waits is answered in time, and lets others through."""
    if not client.sticks:
        return
    began = client.now()
    with ExitStack() as stack:
        try:
            waiting = stack.enter_context(client.connect())
            client.request(waiting, "GET", sid=client.sid)
            other = stack.enter_context(client.connect())
            began = client.now()
            client.post("40" + ECHO, other)
        except Silent:
            yield Finding(
                "waiting poll",
                "problem",
                "While a poll waits nothing else is answered: the server has one "
                "thread, or the front opens one connection to it.",
                "gunicorn: --worker-class gthread --threads 16.",
                client.now() - began,
            )
            return
        except Lost:
            yield _lost_later(client, client.now() - began)
            return
        except (WireError, OSError) as error:
            yield client.broken("waiting poll", "A request", error, began)
            return
        posted = client.now()
        try:
            client.await_packet(waiting, "40/", "44/", sent=True)
        except Silent:
            yield Finding(
                "waiting poll",
                "problem",
                "The answer of a poll that waited does not come: something in "
                "between holds it back.",
                HOLDS_BACK,
                client.now() - posted,
            )
            return
        except Lost:
            yield _lost_later(client, client.now() - began)
            return
        except (WireError, OSError) as error:
            yield client.broken("waiting poll", "A poll that waited", error, posted)
            return
        late = client.now() - posted
    if late > _LATE:
        yield Finding(
            "waiting poll",
            "problem",
            f"The answer of a poll that waited came {late:.1f} s late: something "
            "in between holds it back.",
            HOLDS_BACK,
            late,
        )
    else:
        yield Finding(
            "waiting poll",
            "ok",
            "A poll that waits is answered when something happens.",
            seconds=late,
        )


def _message(data: str) -> str:
    try:
        found = json.loads(data)
    except ValueError:
        return "refused"
    said = found.get("message") if isinstance(found, dict) else found
    return str(said)[:120]
