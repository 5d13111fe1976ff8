"""The way to a running application, through whatever is in front of it, step by step.

Does what a browser's client does (polls, WebSocket, the change from one to the other)
and measures each step. Nobody need be logged in: Engine.IO opens before Socket.IO asks
who it is.

Source: Engine.IO protocol, version 4 (github.com/socketio/engine.io-protocol).
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import suppress

from . import patience, polling, websockets
from .client import Client, by
from .findings import Finding
from .wire import WireError

_FOREIGN = "https://flask-livepush-doctor.invalid"


def check(client: Client, *, hold: float) -> Iterator[Finding]:
    """Examine the way, step by step.

    Args:
        client: One that has asked nothing yet.
        hold: For how many seconds to hold connections; 0: none is held.
    """
    steps = (
        _reach,
        polling.open_session,
        _check_origin,
        polling.check_affinity,
        polling.poll,
        polling.wait,
        websockets.connect,
        websockets.upgrade,
        _check_jsonp,
        _check_health,
    )
    try:
        for step in steps:
            yield from step(client)
            if client.over:
                return
        yield from patience.hold(client, hold)
    finally:
        client.leave()


def _reach(client: Client) -> Iterator[Finding]:
    address = client.address
    began = client.now()
    problem, remedy = "", ""
    try:
        with client.connect() as wire:
            tls = f", {wire.encryption}" if wire.encryption else ""
            yield Finding(
                "address",
                "ok",
                f"{address.authority} is {wire.peer}{tls}.",
                seconds=client.now() - began,
            )
            return
    except socket.gaierror:
        problem = "its name is not known"
        remedy = "Correct the name, or its entry in the DNS."
    except ssl.SSLCertVerificationError as error:
        problem = f"its certificate is not believed ({error.verify_message})"
        remedy = (
            "Browsers refuse it too: renew it, with the whole chain. One that you have "
            "signed yourself: SSL_CERT_FILE=its-authority.pem before this command."
        )
    except ssl.SSLError as error:
        problem = f"it does not speak TLS ({error.reason})"
        remedy = "Try http://, or look at the front's certificate and port."
    except ConnectionRefusedError:
        problem = f"nothing listens at port {address.port}"
        remedy = "Start the front, or correct the port."
    except TimeoutError:
        problem = f"it has not answered within {client.within:g} s"
        remedy = "A firewall may be between; or the address is wrong."
    except OSError as error:
        problem = f"it can't be reached ({error.strerror or error})"
        remedy = "Look at the network from here to there."
    client.over = True
    yield Finding(
        "address",
        "problem",
        f"{address.authority}: {problem}.",
        remedy,
        client.now() - began,
    )


def _check_origin(client: Client) -> Iterator[Finding]:
    began = client.now()
    try:
        refused = _refuses(client, client.origin)
        taken = client.now() - began
        if refused:
            client.sends_origin = False
            yield _origin_refused(client, taken)
        else:
            yield Finding(
                "origin", "ok", f"Pages of {client.origin} may connect.", None, taken
            )
        if not _refuses(client, _FOREIGN):
            yield Finding(
                "origin",
                "problem",
                f"Pages of any site may connect (tried with {_FOREIGN}), with the "
                "cookies of your visitors.",
                "Leave LIVEPUSH_CORS_ORIGINS out, or list your own origins; of an "
                "own SocketIO, cors_allowed_origins.",
            )
    except (WireError, OSError) as error:
        yield client.broken("origin", "A request with an origin", error, began)


def _refuses(client: Client, origin: str) -> bool:
    _, opened = client.open(origin=origin)
    return opened is None


def _origin_refused(client: Client, taken: float) -> Finding:
    own = client.own_origin
    if client.origin != own:
        return Finding(
            "origin",
            "problem",
            f"Pages of {client.origin} may not connect.",
            f"LIVEPUSH_CORS_ORIGINS = [{client.origin!r}, …]",
            taken,
        )
    if client.address.tls is not None:
        plain = "http" + own.removeprefix("https")
        if not _refuses(client, plain):
            return Finding(
                "origin",
                "problem",
                f"The site's own pages ({own}) may not connect: the server takes "
                f"its address for {plain}, as the header X-Forwarded-Proto is "
                "missing.",
                "nginx: proxy_set_header X-Forwarded-Proto $scheme; HAProxy: "
                "http-request set-header X-Forwarded-Proto https.",
                taken,
            )
    port_less = _without_port(own)
    if port_less != own and any(
        not _refuses(client, taken_for)
        for taken_for in (port_less, "http" + port_less.removeprefix("https"))
    ):
        return Finding(
            "origin",
            "problem",
            f"The site's own pages ({own}) may not connect: the server takes its "
            "address for one without the port, which the front drops.",
            "nginx: proxy_set_header Host $http_host, since $host has no port.",
            taken,
        )
    return Finding(
        "origin",
        "problem",
        f"The site's own pages ({own}) may not connect: the server takes its "
        "address for another one.",
        "Let the front pass the host on with its port (nginx: proxy_set_header Host "
        "$http_host), or "
        f"set LIVEPUSH_CORS_ORIGINS = [{own!r}].",
        taken,
    )


def _without_port(origin: str) -> str:
    scheme, _, host = origin.partition("://")
    name, colon, port = host.rpartition(":")
    return f"{scheme}://{name}" if colon and port.isdigit() else origin


def _check_jsonp(client: Client) -> Iterator[Finding]:
    with suppress(WireError, OSError):
        answer, _ = client.open(more="&j=0")
        if answer.status == 200 and answer.text.startswith("___eio["):
            yield Finding(
                "jsonp",
                "hint",
                "JSONP is served: pages of any site can open sessions.",
                "Let LIVEPUSH_ENGINE be 'loop'; no browser of today needs it.",
            )


def _check_health(client: Client) -> Iterator[Finding]:
    for name in ("live", "ready"):
        path = f"{client.prefix}/{name}"
        began = client.now()
        try:
            answer = client.ask(path=path)
        except (WireError, OSError) as error:
            yield client.broken(name, path, error, began)
            continue
        taken = client.now() - began
        if answer.status == 200 and '"broker": "away"' in answer.text:
            yield Finding(
                name,
                "problem",
                f"{path} is answered 200, and its process can't reach the message "
                "queue.",
                "Run flask livepush doctor there, without a URL.",
                taken,
            )
        elif answer.status == 200 and '"broker": "none"' in answer.text:
            yield Finding(
                name,
                "hint",
                f"{path} is answered 200; there is no LIVEPUSH_MESSAGE_QUEUE: right "
                "for one process only; with several, what one commits is not shown by "
                "the others.",
                "LIVEPUSH_MESSAGE_QUEUE = 'redis://…' unless there is only one process "
                "for good.",
                taken,
            )
        elif answer.status == 200:
            yield Finding(name, "ok", f"{path} is answered 200.", None, taken)
        elif answer.status in (401, 403, 404):
            yield Finding(
                name,
                "hint",
                f"{path} is answered {answer.status}: it is not shown to the "
                "outside, or this version has none.",
                None,
                taken,
            )
        else:
            yield Finding(
                name,
                "problem",
                f"{path} is answered {answer.status}{by(answer)}.",
                "See the application's log: it is starting, or leaving."
                if name == "ready"
                else "See the application's log.",
                taken,
            )
