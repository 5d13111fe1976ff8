"""What a browser's client sends: requests with its cookies, sessions that poll.

Knows Engine.IO's transport; what answers mean for a site is for others.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlsplit

from .findings import Finding
from .place import Place
from .wire import Answer, Ended, Silent, Wire, WireError

# A namespace that no application has: who asks to enter it is answered, logged in or
# not, without a handler being called.
ECHO = "/livepush-doctor,"
SEPARATOR = "\x1e"


class Lost(WireError):
    """A process has answered that does not have the session."""


class Client:
    """One client, and what has been found out with it.

    Args:
        place: Where the application is.
        path: Of Engine.IO there, with slashes at both ends.
        prefix: ``LIVEPUSH_URL_PREFIX`` there.
        origin: Of the pages that connect; None: the place's own.
        cookie: What a browser would send, as in a ``Cookie`` header.
        within: Seconds that each step may take.
        now: Seconds of a clock that never falls.

    Attributes:
        over: Whether nothing more can be examined.
        sid: The session that polls.
        given: The names of the cookies that opening it has set.
        sends_origin: Whether requests say where they come from.
        sticks: Whether the session can be polled.
        forwarded: Whether processes forward its requests to each other.
        has_websockets: Whether a WebSocket works.
        entered: Whether Socket.IO has let this client in.
        brings_cookies: Whether it was given any.
    """

    def __init__(
        self,
        place: Place,
        *,
        path: str,
        prefix: str,
        origin: str | None,
        cookie: str | None,
        within: float,
        now: Callable[[], float],
    ) -> None:
        self._place = place
        self.address = place.address
        self.engine = place.path + path
        self.prefix = place.path + prefix
        self.own_origin = place.origin
        self.origin = origin or place.origin
        self.within = within
        self.now = now
        self._cookies: dict[str, str] = {}
        for part in (cookie or "").split(";"):
            self.keep(part)
        self.brings_cookies = bool(self._cookies)
        self._to_end: list[str] = []
        self.over = False
        self.sid = ""
        self.given: list[str] = []
        self.sends_origin = True
        self.sticks = True
        self.forwarded = False
        self.has_websockets = False
        self.entered = False

    # -- connections -------------------------------------------------------------------
    def connect(self) -> Wire:
        """Open a connection.

        Raises:
            OSError: It can't be had.
        """
        return Wire(self.address, within=self.within, now=self.now)

    def should_encrypt(self) -> bool:
        """Say whether a port that is asked without TLS speaks it."""
        if self.address.tls is not None:
            return False
        # Nothing is sent through it, so whose certificate it is does not matter.
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        address = replace(self.address, tls=context)
        with suppress(OSError), Wire(address, within=self.within, now=self.now):
            return True
        return False

    def open(self, **options: Any) -> tuple[Answer, Mapping[str, Any] | None]:
        """Ask for a session that polls; return the answer, and what it says of one.

        Raises:
            WireError: There is no answer.
            OSError: No connection can be had.
        """
        answer = self.ask(**options)
        opened = _opening(answer)
        if opened is not None:
            self._to_end.append(str(opened["sid"]))
        return answer, opened

    def forget(self, sid: str) -> None:
        """Take notice that a session does not poll any more."""
        self._to_end.remove(sid)

    def leave(self) -> None:
        """End all sessions that poll."""
        for sid in self._to_end:
            with suppress(WireError, OSError):
                self.ask("POST", sid=sid, body="1")

    def target(self, transport: str, sid: str | None = None, more: str = "") -> str:
        """Return what is asked for: Engine.IO's path and query."""
        session = "" if sid is None else f"&sid={quote(sid)}"
        return f"{self.engine}?EIO=4&transport={transport}{session}{more}"

    def headers(self, origin: str | None = None) -> dict[str, str]:
        """Return a request's headers; its origin is the pages' unless told."""
        headers = {"User-Agent": "flask-livepush-doctor", "Accept": "*/*"}
        if origin is None and self.sends_origin:
            origin = self.origin
        if origin is not None:
            headers["Origin"] = origin
        if self._cookies:
            pairs = (f"{name}={value}" for name, value in self._cookies.items())
            headers["Cookie"] = "; ".join(pairs)
        if self._place.authorization is not None:
            headers["Authorization"] = self._place.authorization
        return headers

    def request(
        self,
        wire: Wire,
        method: str = "GET",
        *,
        sid: str | None = None,
        body: str | None = None,
        origin: str | None = None,
        path: str | None = None,
        more: str = "",
    ) -> None:
        """Send a request and don't wait for its answer.

        Args:
            sid: The session it belongs to.
            origin: Where it says it comes from.
            path: What is asked for instead of Engine.IO.
            more: More of the query.

        Raises:
            WireError: It can't be sent.
        """
        headers = self.headers(origin)
        if method == "GET" and origin is None:
            headers.pop("Origin", None)  # no browser sends it to its own origin
        wire.send_request(
            method,
            path or self.target("polling", sid, more),
            headers,
            None if body is None else body.encode(),
        )

    def ask(
        self, method: str = "GET", *, wire: Wire | None = None, **options: Any
    ) -> Answer:
        """Send a request and return its answer; on a connection of its own or a given.

        Raises:
            WireError: There is none.
            OSError: No connection can be had.
        """
        if wire is not None:
            self.request(wire, method, **options)
            return wire.answer()
        with self.connect() as own:
            self.request(own, method, **options)
            return own.answer()

    def keep(self, pair: str) -> str:
        """Keep a cookie, ``name=value``; return its name."""
        name, equals, value = pair.strip().partition("=")
        if equals:
            self._cookies[name] = value
        return name

    def broken(
        self,
        name: str,
        what: str,
        error: Exception,
        began: float,
        remedy: str = "See the logs of the front and of the application.",
    ) -> Finding:
        """Return the finding that something came to nothing.

        Args:
            what: The sentence's beginning.
            began: When.
        """
        if isinstance(error, Silent):
            how = f"has no answer within {self.within:g} s"
        elif isinstance(error, Ended):
            how = "finds the connection ended"
        elif isinstance(error, OSError):
            how = f"finds no connection ({error.strerror or type(error).__name__})"
        else:
            how = str(error)
        return Finding(name, "problem", f"{what} {how}.", remedy, self.now() - began)

    def post(self, packet: str, wire: Wire) -> None:
        """Send the session a packet.

        Raises:
            WireError: It is not taken.
        """
        _check(self.ask("POST", sid=self.sid, body=packet, wire=wire))

    def await_packet(self, wire: Wire, *begins: str, sent: bool = False) -> str:
        """Poll until a packet begins so; return it.

        Args:
            sent: Whether a poll was sent already.

        Raises:
            WireError: None comes.
        """
        until = self.now() + self.within
        while True:
            if not sent:
                self.request(wire, "GET", sid=self.sid)
            sent = False
            answer = wire.answer(max(until - self.now(), 0))
            _check(answer)
            for packet in answer.text.split(SEPARATOR):
                if packet.startswith(begins):
                    return packet
                if packet == "2":
                    self.ask("POST", sid=self.sid, body="3")


def _check(answer: Answer) -> None:
    if answer.status != 200:
        kind = Lost if is_unknown(answer) else WireError
        raise kind(f"is answered {answer.status} ({reason(answer)})")


def _opening(answer: Answer) -> Mapping[str, Any] | None:
    """Return what an answer that opens a session says."""
    text = answer.text
    if answer.status != 200 or not text.startswith("0"):
        return None
    try:
        opened = json.loads(text[1:].partition(SEPARATOR)[0])
    except ValueError:
        return None
    return opened if isinstance(opened, dict) and "sid" in opened else None


def is_unknown(answer: Answer) -> bool:
    """Say whether an answer comes from a process that does not have the session."""
    # As Engine.IO's own server says it, and as python-engineio does.
    begins = ("Session ID unknown", "Invalid session")
    return answer.status == 400 and answer.message.startswith(begins)


def reason(answer: Answer) -> str:
    """Return what an Engine.IO server says of an error; empty: it is none's."""
    return answer.message.partition("\n")[0][:120]


def by(answer: Answer) -> str:
    """Return what answered, as the end of a sentence."""
    server = answer.header("server")
    return f", by {server[:60]}" if server else ""


def without_query(url: str) -> str:
    """Return a URL without what may be secret in it."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" if host else parts.path or "nowhere"
