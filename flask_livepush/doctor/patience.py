"""Connections that are held, as an open page holds them: whether they are cut."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

from .client import SEPARATOR, Client, by
from .findings import Finding
from .wire import Ended, Wire, WireError, first_ready


class _Parted(Ended):
    """The application itself has ended the connection."""


class _Held:
    """A connection that is held.

    Attributes:
        began: When.
        heard: When something came last.
        pings: How many were answered.
    """

    def __init__(self, wire: Wire, name: str) -> None:
        self.wire = wire
        self.name = name
        self.began = self.heard = 0.0
        self.pings = 0

    def read(self, client: Client) -> None:
        """Read what has come.

        Raises:
            WireError: It is the end.
        """
        raise NotImplementedError


class _HeldWebSocket(_Held):
    def read(self, client: Client) -> None:
        text = self.wire.text()
        self.heard = client.now()
        if text == "1":
            raise _Parted("was ended")
        if text == "2":
            self.pings += 1
            self.wire.send_text("3")


class _HeldPoll(_Held):
    def read(self, client: Client) -> None:
        answer = self.wire.answer()
        if answer.status != 200:
            raise WireError(f"was answered {answer.status}{by(answer)}")
        self.heard = client.now()
        packets = answer.text.split(SEPARATOR)
        if "1" in packets:
            raise _Parted("was ended")
        if "2" in packets:
            self.pings += 1
            client.ask("POST", sid=client.sid, body="3")
        client.request(self.wire, sid=client.sid)


def hold(client: Client, patience: float) -> Iterator[Finding]:
    """Hold a WebSocket and a poll for so many seconds, as far as there are any."""
    if not patience:
        return
    began = client.now()
    with ExitStack() as stack:
        held: list[_Held] = []
        try:
            if client.has_websockets:
                held.append(_held_websocket(client, stack))
            if client.sticks:
                held.append(_held_poll(client, stack))
        except (WireError, OSError) as error:
            yield client.broken("patience", "A connection", error, began)
        # Openings may take their time; holding begins now.
        end = client.now() + patience
        for one in held:
            one.began = one.heard = client.now()
        while held:
            left = end - client.now()
            wires = {one.wire: one for one in held}
            ready = first_ready(list(wires), left) if left > 0 else None
            if ready is None:
                break
            try:
                wires[ready].read(client)
            except (WireError, OSError) as error:
                one = wires[ready]
                held.remove(one)
                yield _cut(client, one, error)
        for one in held:
            yield Finding(
                "patience",
                "ok",
                f"{one.name} was held for {client.now() - one.began:.0f} s and was not "
                f"cut{_pings(one.pings)}.",
            )


def _pings(count: int) -> str:
    # That none came is no fault: the first is due after LIVEPUSH_PING_INTERVAL.
    if not count:
        return ""
    return f", with {count} {'ping' if count == 1 else 'pings'}"


def _held_websocket(client: Client, stack: ExitStack) -> _Held:
    wire = stack.enter_context(client.connect())
    answer = wire.upgrade(client.target("websocket"), client.headers())
    if answer.status != 101:
        raise WireError(f"is answered {answer.status}")
    wire.text()
    wire.send_text("40")
    return _HeldWebSocket(wire, "A WebSocket")


def _held_poll(client: Client, stack: ExitStack) -> _Held:
    _, opened = client.open()
    if opened is None:
        raise WireError("is not opened again")
    client.sid = str(opened["sid"])
    wire = stack.enter_context(client.connect())
    client.post("40", wire)
    client.await_packet(wire, "40", "44")
    client.request(wire, "GET", sid=client.sid)
    return _HeldPoll(wire, "A poll")


def _cut(client: Client, held: _Held, error: Exception) -> Finding:
    lasted = client.now() - held.began
    quiet = client.now() - held.heard
    if isinstance(error, _Parted):
        by_login = not client.entered
        return Finding(
            "patience",
            "hint" if by_login else "problem",
            f"{held.name} was ended by the application after {lasted:.1f} s"
            + (
                ", as nobody is logged in (LIVEPUSH_CONNECT_TIMEOUT)."
                if by_login
                else "."
            ),
            "Give a logged-in session with --cookie to hold one for longer."
            if by_login
            else "See its log.",
            lasted,
        )
    how = "was cut" if isinstance(error, Ended) else str(error)
    return Finding(
        "patience",
        "problem",
        f"{held.name} {how} after {lasted:.1f} s, {quiet:.1f} s after it last "
        "carried something: something in between cuts it.",
        "Raise the limit there above 60 s (nginx: proxy_read_timeout, HAProxy: "
        "timeout tunnel and timeout server, AWS: idle timeout)"
        + (
            "."
            if held.pings
            else ", or let LIVEPUSH_PING_INTERVAL be less than what it was cut after."
        ),
        lasted,
    )
