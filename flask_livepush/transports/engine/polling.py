"""Polling: requests of sessions that are, or are to be, without a WebSocket.

Those of another process's sessions are answered through it, those that come from
another process for this one's sessions are answered here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ...metrics import OFF, Metrics
from ..bearing import NOTHING, Bearing, may_use
from . import packets, taking
from .forwarding import Asked, Forwarding
from .loop import Loop
from .packets import PacketError
from .polls import HandingPoll, Request, TakenRequest, WaitingRequest
from .replies import BAD_REQUEST, Headers, Refusal, Reply, too_large, unknown_sid
from .requests import mark_of
from .session import Session
from .sessions import Reason, Sessions

# Packets of one request.
_MAX_PACKETS = 1024
# Bytes of an answer that goes through another process, if it is more than one frame.
_MAX_FORWARDED = 1024 * 1024

StartResponse = Callable[..., Any]


class Polling:
    """Answers polls, and what polling clients send.

    Args:
        started: Returns the process's loop.
        take: Takes a request's socket, or refuses.
        headers: Returns what answers to a request of this environment have.
        create_event: Makes an event of the async mode.
        patience: Seconds for a poll's answer.
        bearing: Tells other processes what a request bears.
        metrics: Counts requests that do not bear what their session's first did.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        started: Callable[[], Loop],
        take: Callable[[taking.Held], Any],
        headers: Callable[[dict[str, Any]], Headers],
        create_event: Callable[[], Any],
        patience: float,
        bearing: Bearing = NOTHING,
        metrics: Metrics = OFF,
    ) -> None:
        self._sessions = sessions
        self._started = started
        self._take = take
        self._headers = headers
        self._create_event = create_event
        self._patience = patience
        self._bearing = bearing
        self._metrics = metrics
        #: Asks other processes; None: there are none.
        self.forwarding: Forwarding | None = None

    def answer(
        self,
        environ: dict[str, Any],
        start_response: StartResponse,
        sid: str,
        body: bytes | None,
    ) -> Reply | Iterable[bytes]:
        """Answer a GET or a POST; in the HTTP server's thread.

        Args:
            body: What it sends; None: it was too large.

        Raises:
            Refusal: It is answered by an error.
        """
        method = environ["REQUEST_METHOD"]
        session = self._sessions.find(sid)
        if session is None:
            if self.forwarding is None:
                raise unknown_sid()
            return self._ask_owner(environ, start_response, method, sid, body)
        if not may_use(session.bond, environ):
            self._metrics.count("unborne_total")
            raise unknown_sid()
        if session.upgraded:
            raise _is_upgraded()
        if method == "POST":
            return self._take_body(session, body)
        return self._poll(environ, start_response, session)

    def _poll(
        self, environ: dict[str, Any], start_response: StartResponse, session: Session
    ) -> Reply | Iterable[bytes]:
        def begin(request: Request) -> Reply | None:
            poll = HandingPoll(
                self._sessions,
                session,
                self._started(),
                request.answer,
                mark=mark_of(environ),
            )
            request.left = poll.leave
            return poll.now()

        return self._answer_later(environ, start_response, begin)

    def _answer_later(
        self,
        environ: dict[str, Any],
        start_response: StartResponse,
        begin: Callable[[Request], Reply | None],
    ) -> Reply | Iterable[bytes]:
        """Let a request wait without a thread, where its server shows its socket.

        Args:
            begin: Returns the answer if there is one at once; else it is given later.
        """
        held = taking.find(environ)
        if held is None or held.encrypted:
            waiting = WaitingRequest(self._create_event())
            reply = begin(waiting) or waiting.wait(self._patience)
            if reply is None:
                raise Refusal(BAD_REQUEST, "The session has ended")
            return reply
        request = TakenRequest(self._started(), self._headers(environ))
        reply = begin(request)
        if reply is not None:
            return reply
        try:
            sock = self._take(held)
        except Refusal:
            request.gone()
            raise
        request.take(sock)
        return held.end(start_response, taking.ANSWERED)

    def _ask_owner(
        self,
        environ: dict[str, Any],
        start_response: StartResponse,
        method: str,
        sid: str,
        body: bytes | None,
    ) -> Reply | Iterable[bytes]:
        """Let another process answer, whose session it is."""
        forwarding = self.forwarding
        assert forwarding is not None
        if body is None:
            raise forwarding.refuse(too_large())
        mark = mark_of(environ) if method == "GET" else ""
        # Two polls must not look like one to a process of the last release.
        nonce = "" if mark or method != "GET" else secrets.token_urlsafe(8)
        asked = Asked(method, sid, b"" if method == "GET" else body, mark, nonce)
        proofs = self._bearing.proofs(environ, asked.about())
        asked = replace(asked, proofs=proofs)
        return self._answer_later(
            environ, start_response, lambda request: forwarding.ask(asked, request)
        )

    def serve(
        self, asked: Asked, answer: Callable[[Reply], object]
    ) -> HandingPoll | None:
        """Answer what another process was asked; in the thread of its messages."""
        try:
            session = self._sessions.find(asked.sid)
            if session is None:
                raise unknown_sid()
            self._check_proofs(session, asked)
            if session.upgraded:
                raise _is_upgraded()
            if asked.method == "POST":
                answer(self._take_body(session, asked.body))
                return None
            poll = HandingPoll(
                self._sessions,
                session,
                self._started(),
                answer,
                limit=_MAX_FORWARDED,
                mark=asked.mark,
            )
            reply = poll.now()
        except Refusal as refusal:
            reply = refusal.reply()
        if reply is None:
            return poll
        answer(reply)
        return None

    def _check_proofs(self, session: Session, asked: Asked) -> None:
        bond = session.bond
        # A process of the last release says nothing of what the request bears.
        if bond is None or asked.proofs is None:
            return
        if not bond.is_proved(asked.proofs, asked.about()):
            self._metrics.count("unborne_total")
            raise unknown_sid()

    def _take_body(self, session: Session, body: bytes | None) -> Reply:
        if session.closed:
            raise unknown_sid()
        try:
            if body is None:
                raise PacketError("The request is too large.")
            found = packets.split(body.decode(), limit=_MAX_PACKETS)
            self._sessions.take(session, found)
        except (PacketError, UnicodeDecodeError) as error:
            self._sessions.close(session, Reason.TRANSPORT_ERROR)
            if body is None:
                raise too_large() from error
            raise Refusal(BAD_REQUEST, "Bad request") from error
        return Reply("ok")


def _is_upgraded() -> Refusal:
    return Refusal(BAD_REQUEST, "The session is connected by WebSocket")
