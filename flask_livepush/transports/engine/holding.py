"""WebSockets that their HTTP server keeps, served by the request's thread and another.

That is how it is where the process itself encrypts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...logs import logger
from . import frames, packets
from .held import HeldWebSocket
from .loop import LINGER
from .packets import NOTHING
from .polls import EventPoll
from .probes import PROBE, PROBED
from .session import Session
from .sessions import Reason, Sessions

log = logger(__name__)


class Holding:
    """Serves WebSockets until they end.

    Args:
        spawn: Runs the thread that writes.
        create_event: Makes an event of the async mode.
        max_bytes: The longest message that a client may send.
    """

    def __init__(
        self,
        sessions: Sessions,
        *,
        spawn: Callable[..., object],
        create_event: Callable[[], Any],
        max_bytes: int,
    ) -> None:
        self._sessions = sessions
        self._spawn = spawn
        self._create_event = create_event
        self._max_bytes = max_bytes
        # Whether it was said what they cost.
        self._said = False

    def serve(
        self,
        held: Any,
        hello: bytes,
        opened: Session | None,
        session: Session | None,
    ) -> None:
        """Serve one; in the request's thread.

        Args:
            held: The server's socket.
            hello: What is sent first.
            opened: The session that was opened with it.
            session: Else the one that it is to take over.
        """
        if not self._said:
            self._said = True
            log.warning(
                "This process encrypts WebSockets itself, so each takes two threads; "
                "let a proxy in front do that, and they take none."
            )
        sock = HeldWebSocket(
            held,
            frames.Decoder(self._max_bytes),
            stall=self._sessions.ping_timeout,
            now=self._sessions.now,
        )
        try:
            sock.send(hello)
            if opened is not None:
                opened.held = sock
            elif session is not None and self._try_out(session, sock):
                opened = session
            if opened is not None:
                self._serve(opened, sock)
            else:
                self._part(sock)
                sock.drain(LINGER)
        except OSError as error:
            log.debug("A WebSocket broke: %s", error)
        finally:
            if opened is not None:
                self._sessions.close(opened, Reason.TRANSPORT_CLOSE)
            sock.abort()

    def _try_out(self, session: Session, sock: HeldWebSocket) -> bool:
        """Let a WebSocket take a session over; say whether it did."""
        sessions = self._sessions
        with sessions.lock:
            if session.probe is not None or session.upgraded or session.closed:
                return False
            session.probe = sock
        wanted = [PROBE, packets.UPGRADE]
        try:
            for _, payload in sock.messages(within=sessions.limits.upgrade):
                if payload != wanted.pop(0):
                    sock.code = frames.PROTOCOL_ERROR
                    return False
                if not wanted:
                    break
                sock.send(PROBED.wire)
                sessions.write_waiting(session, [NOTHING])
        except frames.FrameError as error:
            sock.code = error.code
            return False
        finally:
            with sessions.lock:
                session.probe = None
                over = bool(wanted) or session.closed
                if not over:
                    session.held = sock
                    poll, session.poll = session.poll, None
                    waiting = session.waiting
                    session.waiting = [i for i in waiting if i[0] is not NOTHING]
        if not over and poll is not None:
            poll.ready()
        return not over

    def _serve(self, session: Session, sock: HeldWebSocket) -> None:
        read, written = self._create_event(), self._create_event()
        self._spawn(self._write, session, sock, read, written)
        try:
            for opcode, payload in sock.messages():
                self._sessions.frame(session, opcode, payload)
                if session.closed:
                    break
        except frames.FrameError as error:
            log.debug("A client broke the WebSocket protocol: %s", error)
            sock.code = error.code
            sock.ended = True
        finally:
            self._sessions.close(session, Reason.TRANSPORT_CLOSE)
            read.set()
            sock.drain(LINGER)
            sock.abort()
            # The server may close the socket afterwards.
            written.wait(self._sessions.ping_timeout)

    def _write(
        self, session: Session, sock: HeldWebSocket, read: Any, written: Any
    ) -> None:
        """Write what waits until the session is closed; a thread of its own."""
        sessions = self._sessions
        try:
            while True:
                with sessions.lock:
                    batch, poll = session.take(), None
                    if not batch and not session.closed:
                        poll = session.poll = EventPoll(self._create_event())
                if poll is not None:
                    poll.wait(sessions.ping_interval + sessions.ping_timeout)
                elif batch and not sock.ended:
                    sock.send(b"".join(frame.wire for frame in batch))
                else:
                    break
            self._part(sock)
            read.wait(LINGER)  # until the client has ended it too
        except OSError as error:
            log.debug("A WebSocket broke: %s", error)
        finally:
            if not read.is_set():
                sock.abort()
            written.set()

    def _part(self, sock: HeldWebSocket) -> None:
        sock.send(frames.encode(frames.CLOSE, frames.close_payload(sock.code)))
        sock.finish()
