"""One I/O loop a process: it owns all WebSockets' sockets, and they hold no thread.

Whoever has something to say puts bytes into outboxes; the loop joins what has gathered
for each socket and sends it at once. While it sends, more gathers: a burst costs one
send a socket, and a lone event waits for nothing.

The loop's thread (a greenlet in eventlet and gevent) reads, sends and keeps time. What
it calls must not block, and no user's code runs in it.
"""

from __future__ import annotations

import _socket
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from . import frames
from .poller import Poller
from .timeline import Timeline

log = logging.getLogger(__name__)

T = TypeVar("T")

# Bytes read from one socket before the next has its turn.
_READ = 16_384
# Bytes of one send; more would only be copied without need.
_SEND = 262_144
# Sockets that are sent to between two looks at what has come meanwhile.
_AT_ONCE = 32
# Seconds for the other side to end what was closed here.
LINGER = 5.0
# Bytes the kernel takes that it can't send yet: what a client does not read waits in
# its outbox, where it is bounded, shared with the others' and can be given up.
_UNSENT = 131_072
# How many times as much may wait where it is not the client that is slow: for a socket
# that has refused nothing yet, since then the loop had no turn; and of what can't be
# given up, such as the snapshots of all rooms of a page.
PATIENCE = 16


class Kept(bytes):
    """Bytes that are never given up while their connection lives."""

    __slots__ = ()


class WebSocket:
    """A socket of the loop's, after the upgrade.

    Args:
        sock: It never waits.
        decoder: What is read goes through it.
        owner: For whoever handles what is read.
    """

    __slots__ = (
        "blocked",
        "decoder",
        "dirty",
        "dropped",
        "ending",
        "fd",
        "lossy",
        "outbox",
        "owner",
        "sending",
        "sent",
        "sock",
        "stalled",
        "written",
    )

    def __init__(
        self, sock: _socket.socket, decoder: frames.Decoder, owner: Any
    ) -> None:
        self.sock = sock
        self.fd = sock.fileno()
        self.decoder = decoder
        self.owner = owner
        # Guarded by the loop's lock: what waits, whether the loop knows of it, the
        # bytes that ever came in, whether it ends when all is sent, and whether what
        # may be dropped is (nothing is taken any more where it ends).
        self.outbox: list[Any] = []
        self.dirty = False
        self.written = 0
        self.lossy = False
        self.ending = False
        # Whether it is the loop's no more.
        self.dropped = False
        # Whether somebody sends, who alone changes the rest; under the lock. At first
        # it is who has accepted it: what is said before its hello waits.
        self.sending = True
        # Bytes that went out, whether the kernel takes no more, and until when it has
        # to catch up since it lost something or was closed; None: it has.
        self.sent = 0
        self.blocked = False
        self.stalled: float | None = None


class Loop:
    """Owns WebSockets.

    Args:
        poller: Made in the process that runs the loop.
        now: Seconds of a clock that never falls.
        limit: Bytes that may wait for one socket.
        stall: Seconds for a socket that has lost something to catch up, and for one
            that was closed to take what waits for it.
        received: Called with a socket and each message or control frame it read.
        full: Called with a socket whose publications were dropped, once until
            :meth:`accept_again`; by whoever wrote, or the loop, without a lock.
        gone: Called once with the owner of a socket that is no more, and why.
    """

    def __init__(
        self,
        poller: Poller,
        *,
        now: Callable[[], float],
        limit: int,
        stall: float,
        received: Callable[[WebSocket, int, str | bytes], None],
        full: Callable[[WebSocket], None],
        gone: Callable[[Any, str], None],
    ) -> None:
        self._poller = poller
        self._now = now
        self._limit = limit
        self._patience = stall
        self._received = received
        self._full = full
        self._gone = gone
        self._sockets: dict[int, WebSocket] = {}
        self._timelines: list[Timeline[Any]] = []
        # Guards the outboxes and what is told of them, and the two below.
        self._lock = threading.Lock()
        self._dirty: list[WebSocket] = []
        self._sleeping = False
        self._stopping = False
        self._stalls = self.timeline(stall, self._stall)
        self._closings = self.timeline(LINGER, self._lingers)

    def timeline(self, seconds: float, due: Callable[[T], None]) -> Timeline[T]:
        """Return a queue of what is due after these seconds, in the loop's thread."""
        made = Timeline(seconds, due, now=self._now, wake=self._poller.wake)
        self._timelines.append(made)
        return made

    @property
    def sockets(self) -> int:
        """How many there are."""
        return len(self._sockets)

    def own(self, websocket: WebSocket, hello: bytes) -> None:
        """Take a socket over; called by any thread.

        Args:
            hello: What is sent first; the kernel has room for it.
        """
        with suppress(OSError):  # it has gone already: reading will tell
            websocket.sock.send(hello)
        with suppress(OSError, AttributeError):
            websocket.sock.setsockopt(
                _socket.IPPROTO_TCP, _socket.TCP_NOTSENT_LOWAT, _UNSENT
            )
        self._sockets[websocket.fd] = websocket
        self._poller.watch(websocket.fd)
        with self._lock:
            wakes = self._release((websocket,))
        if wakes:
            self._poller.wake()

    def send(self, websocket: WebSocket, data: bytes) -> None:
        """Send bytes at once if nothing is in their way; else let them go out in turn.

        For answers to one client: they need not wait until the loop is awake. Called by
        any thread, and never blocks. What finds no room ends the connection.
        """
        with self._lock:
            free = not (
                websocket.sending
                or websocket.blocked
                or websocket.ending
                or websocket.outbox
            )
            if free:
                websocket.sending = True
                websocket.written += len(data)
        if not free:
            self.write((websocket,), data)
            return
        rest = self._push(websocket, [Kept(data)])
        if rest:
            self._refused(websocket, rest)
            return
        with self._lock:
            wakes = self._release((websocket,))
        if wakes:
            self._poller.wake()

    def write(
        self, websockets: Iterable[WebSocket], data: bytes, *, droppable: bool = False
    ) -> None:
        """Let bytes go out on each socket; called by any thread, and never blocks.

        Args:
            data: One or several whole frames.
            droppable: Whether they may be given up where the client does not keep up,
                with others that may, until :meth:`accept_again`. What may not and finds
                no room ends the connection.
        """
        if not droppable:
            data = Kept(data)
        size = len(data)
        limit = max(0, self._limit - size)
        full: list[WebSocket] = []
        with self._lock:
            dirty = self._dirty
            for websocket in websockets:
                waits = websocket.written - websocket.sent
                if (waits > limit or websocket.lossy) and self._is_refused(
                    websocket, size, droppable, full
                ):
                    continue
                websocket.outbox.append(data)
                websocket.written += size
                if not websocket.dirty:
                    websocket.dirty = True
                    dirty.append(websocket)
            wakes = self._sleeping and bool(dirty)
            if wakes:
                self._sleeping = False
        if wakes:
            self._poller.wake()
        for websocket in full:
            if websocket.ending:
                self._stalls.add(websocket)
            else:
                self._tell(self._full, websocket)

    def _is_refused(
        self, websocket: WebSocket, size: int, droppable: bool, full: list[WebSocket]
    ) -> bool:
        """Make room; say whether there is none for this.

        Args:
            full: Gets those that have just lost something, or been ended.
        """
        if websocket.ending or (websocket.lossy and droppable):
            return True
        limit = self._limit
        if not (websocket.blocked and droppable):
            limit *= PATIENCE
        room = max(0, limit - size)  # one that is alone always fits
        if websocket.written - websocket.sent <= room:
            return False
        loses = not websocket.lossy
        if loses:
            self._lose(websocket)
        if not droppable and websocket.written - websocket.sent > room:
            # The rest can't be given up, so the connection is.
            websocket.outbox = []
            self._end(websocket)
        if loses or websocket.ending:
            full.append(websocket)
        return droppable or websocket.ending

    def _lose(self, websocket: WebSocket) -> None:
        """Drop what may be dropped, from now on too; under the lock."""
        kept = [data for data in websocket.outbox if not _is_droppable(data)]
        websocket.written -= sum(map(len, websocket.outbox)) - sum(map(len, kept))
        websocket.outbox = kept
        websocket.lossy = True

    def accept_again(self, websocket: WebSocket) -> None:
        """Drop no more of what is written to a socket that was full."""
        with self._lock:
            websocket.lossy = websocket.ending
            waits = websocket.sending or websocket.blocked or bool(websocket.outbox)
            if waits:
                self._begin_stall(websocket)
        if waits:
            self._stalls.add(websocket)

    def close(self, websocket: WebSocket, code: int = 1000) -> None:
        """End a socket once what waits for it has gone out; called by any thread.

        Args:
            code: Of the close frame (RFC 6455, section 7.4.1).
        """
        goodbye = frames.encode(frames.CLOSE, frames.close_payload(code))
        with self._lock:
            if websocket.ending:
                return
            websocket.outbox.append(Kept(goodbye))
            websocket.written += len(goodbye)
            self._end(websocket)
            wakes = self._sleeping
            self._sleeping = False
        self._stalls.add(websocket)
        if wakes:
            self._poller.wake()

    def _end(self, websocket: WebSocket) -> None:
        """Let it end when its outbox is empty, or after a time; under the lock."""
        websocket.ending = websocket.lossy = True
        self._begin_stall(websocket)
        if not websocket.dirty:
            websocket.dirty = True
            self._dirty.append(websocket)

    def _begin_stall(self, websocket: WebSocket) -> None:
        """Give it so long to catch up, unless its time runs already; under the lock."""
        if websocket.stalled is None:
            websocket.stalled = self._now() + self._patience

    def stop(self) -> None:
        """End the loop, and what it owns with it; called by any thread."""
        self._stopping = True
        self._poller.wake()

    # -- the loop's thread or greenlet -------------------------------------------------
    def run(self) -> None:
        """Serve until :meth:`stop`; then nothing is open any more."""
        while not self._stopping:
            try:
                self._tick()
            except Exception:
                log.exception("A turn of the I/O loop failed; it goes on")
        for websocket in list(self._sockets.values()):
            self._drop(websocket, "the server stops")
        self._poller.close()

    def _tick(self) -> None:
        for fd, reads, writes in self._poller.wait(self._timeout()):
            websocket = self._sockets.get(fd)
            if websocket is not None:
                if writes:
                    self._writable(websocket)
                if reads:
                    self._read(websocket)
        now = self._now()
        for timeline in self._timelines:
            timeline.run(now)
        self._flush()

    def _timeout(self) -> float | None:
        dues = [due for line in self._timelines if (due := line.next()) is not None]
        until = max(0.0, min(dues) - self._now()) if dues else None
        with self._lock:
            if self._dirty:
                return 0
            self._sleeping = True
        return until

    def _flush(self) -> None:
        with self._lock:
            self._sleeping = False
            dirty, self._dirty = self._dirty, []
        sent: list[WebSocket] = []
        for start in range(0, len(dirty), _AT_ONCE):
            # A few at a time: what comes while others are sent to goes with it.
            with self._lock:
                self._release(sent)
                work = self._take(dirty[start : start + _AT_ONCE])
            sent = []
            for websocket, batch in work:
                rest = self._push(websocket, batch)
                if rest:
                    self._refused(websocket, rest)
                elif batch:
                    sent.append(websocket)
                elif websocket.dropped:
                    websocket.sock.close()
                else:
                    self._finish(websocket)
        with self._lock:
            self._release(sent)

    def _take(self, dirty: list[WebSocket]) -> list[tuple[WebSocket, list[Any]]]:
        """Return what is to be sent, nothing where one ends; under the lock."""
        work = []
        for websocket in dirty:
            websocket.dirty = False
            # Whoever sends, or the kernel, lets the others come again.
            if not websocket.sending and (not websocket.blocked or websocket.dropped):
                batch = websocket.outbox
                if batch:
                    websocket.sending = True
                    websocket.outbox = []
                    work.append((websocket, batch))
                elif websocket.ending:
                    work.append((websocket, batch))
        return work

    def _push(self, websocket: WebSocket, batch: list[Any]) -> list[Any]:
        """Send what was taken out of an outbox; return what the kernel did not take.

        Called by whoever has set ``sending``, and without the lock.
        """
        send = websocket.sock.send
        while batch:
            data, count = batch[0], 1
            if len(batch) > 1:
                count = _how_many(batch)
                data = b"".join(batch[:count])
            try:
                sent = send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # Reading tells who has gone; of what else can fail it would not, and
                # a part of the stream is lost.
                with suppress(OSError):
                    websocket.sock.shutdown(_socket.SHUT_RDWR)
                return []
            websocket.sent += sent
            if sent < len(data):
                return _rest(batch, sent)
            if count == len(batch):
                return []
            batch = batch[count:]
        return []

    def _release(self, sent: Iterable[WebSocket]) -> bool:
        """Let others send to sockets; say whether to wake the loop. Under the lock."""
        wakes = False
        for websocket in sent:
            websocket.sending = False
            # What ends may have got its goodbye meanwhile.
            if not (websocket.ending and websocket.outbox):
                websocket.stalled = None
            if websocket.outbox or websocket.ending:
                wakes |= self._mark(websocket)
        return wakes

    def _refused(self, websocket: WebSocket, rest: list[Any]) -> None:
        """Wait with what the kernel did not take until it can be written."""
        with self._lock:
            websocket.sending = False
            websocket.blocked = True
            # The loop has only to close what it has dropped meanwhile.
            websocket.outbox[:0] = [] if websocket.dropped else rest
            # From now on it is the client that is slow.
            loses = (
                websocket.written - websocket.sent > self._limit
                and not websocket.lossy
                and any(map(_is_droppable, websocket.outbox))
            )
            if loses:
                self._lose(websocket)
            wakes = websocket.dropped and self._mark(websocket)
        self._poller.watch_writes(websocket.fd, True)
        if loses:
            self._tell(self._full, websocket)
        if wakes:
            self._poller.wake()

    def _mark(self, websocket: WebSocket) -> bool:
        """Let the loop come to it; say whether it must be woken. Under the lock."""
        if not websocket.dirty:
            websocket.dirty = True
            self._dirty.append(websocket)
        wakes, self._sleeping = self._sleeping, False
        return wakes

    def _writable(self, websocket: WebSocket) -> None:
        self._poller.watch_writes(websocket.fd, False)
        with self._lock:
            websocket.blocked = False
            self._mark(websocket)

    def _read(self, websocket: WebSocket) -> None:
        try:
            data = websocket.sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._drop(websocket, str(error))
            return
        if not data:
            self._drop(websocket, "the client ended it")
            return
        try:
            for opcode, payload in websocket.decoder.feed(data):
                if opcode == frames.CLOSE:
                    self.close(websocket, _answer(payload))
                elif not websocket.ending:
                    self._received(websocket, opcode, payload)
        except frames.FrameError as error:
            log.debug("A client broke the WebSocket protocol: %s", error)
            self.close(websocket, error.code)

    def _finish(self, websocket: WebSocket) -> None:
        # Closed at once, what was just sent could be lost: the kernel answers data that
        # still comes with a reset.
        try:
            websocket.sock.shutdown(_socket.SHUT_WR)
        except OSError as error:
            self._drop(websocket, str(error))
        else:
            self._let_go(websocket, "closed")
            self._closings.add(websocket)

    def _stall(self, websocket: WebSocket) -> None:
        # It may have caught up, and lost something again.
        until = websocket.stalled
        if until is not None and until <= self._now():
            self._drop(websocket, "the client does not keep up")

    def _lingers(self, websocket: WebSocket) -> None:
        self._drop(websocket, "closed")

    def _drop(self, websocket: WebSocket, why: str) -> None:
        if websocket.dropped:
            return
        self._poller.forget(websocket.fd)
        del self._sockets[websocket.fd]
        with self._lock:
            websocket.ending = websocket.lossy = websocket.dropped = True
            websocket.outbox = []
            # Closed while another thread sends, its descriptor could be another
            # connection's before it has sent: then the loop comes to it afterwards.
            closes = not websocket.sending
        if closes:
            websocket.sock.close()
        self._let_go(websocket, why)

    def _tell(self, function: Callable[..., None], *args: Any) -> None:
        """Call what is handed in; the other sockets go on if it fails."""
        try:
            function(*args)
        except Exception:
            log.exception("Telling of a WebSocket failed")

    def _let_go(self, websocket: WebSocket, why: str) -> None:
        owner, websocket.owner = websocket.owner, None
        if owner is not None:
            self._tell(self._gone, owner, why)


def _is_droppable(data: Any) -> bool:
    # The rest of a frame that has begun to go out is a memoryview.
    return type(data) is bytes


def _how_many(batch: list[Any]) -> int:
    size = 0
    for count, data in enumerate(batch, 1):
        size += len(data)
        if size >= _SEND:
            return count
    return len(batch)


def _rest(batch: list[Any], sent: int) -> list[Any]:
    """Return what has not gone out; it is shared with other sockets, so not copied."""
    index = 0
    while sent >= len(batch[index]):
        sent -= len(batch[index])
        index += 1
    rest = batch[index:]
    if sent:
        rest[0] = memoryview(rest[0])[sent:]
    return rest


def _answer(payload: str | bytes) -> int:
    """Return the code with which a close frame is answered: its own."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1000  # type: ignore[arg-type]
