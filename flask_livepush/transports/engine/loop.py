"""One I/O loop a process: it owns the sockets of its clients, and they hold no thread.

Whoever has something to say puts bytes into outboxes; the loop joins what has gathered
for each socket and sends it at once. While it sends, more gathers: a burst costs one
send a socket, and a lone event waits for nothing.

The loop's thread (a greenlet in eventlet and gevent) reads, sends and keeps time. What
it calls must not block, and no user's code runs in it.
"""

from __future__ import annotations

import _socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, TypeVar

from ...logs import logger
from . import frames
from .connection import Connection, Kept, how_many, is_droppable, rest_of
from .poller import Poller
from .timeline import Timeline

log = logger(__name__)

T = TypeVar("T")

# Bytes read from one socket before the next has its turn.
_READ = 16_384
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


class Loop:
    """Owns connections.

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
        received: Callable[[Connection, int, str | bytes], None],
        full: Callable[[Connection], None],
        gone: Callable[[Any, str], None],
    ) -> None:
        self._poller = poller
        self._now = now
        self._limit = limit
        self._patience = stall
        self._received = received
        self._full = full
        self._gone = gone
        self._sockets: dict[int, Connection] = {}
        self._timelines: list[Timeline[Any]] = []
        # Guards the outboxes and what is told of them, and the three below.
        self._lock = threading.Lock()
        self._dirty: list[Connection] = []
        self._tasks: list[Callable[[], object]] = []
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

    def own(self, connection: Connection, hello: bytes) -> None:
        """Take a socket over; called by any thread.

        Args:
            hello: What is sent first, if anything; the kernel has room for it.
        """
        with suppress(OSError):  # it has gone already: reading will tell
            if hello:
                connection.sock.send(hello)
        with suppress(OSError, AttributeError):
            connection.sock.setsockopt(
                _socket.IPPROTO_TCP, _socket.TCP_NOTSENT_LOWAT, _UNSENT
            )
        self._sockets[connection.fd] = connection
        self._poller.watch(connection.fd)
        with self._lock:
            wakes = self._release((connection,))
        if wakes:
            self._poller.wake()

    def send(self, connection: Connection, data: bytes) -> None:
        """Send bytes at once if nothing is in their way; else let them go out in turn.

        For answers to one client: they need not wait until the loop is awake. Called by
        any thread, and never blocks. What finds no room ends the connection.
        """
        with self._lock:
            free = not (
                connection.sending
                or connection.blocked
                or connection.ending
                or connection.outbox
            )
            if free:
                connection.sending = True
                connection.written += len(data)
        if not free:
            self.write((connection,), data)
            return
        rest = self._push(connection, [Kept(data)])
        if rest:
            self._refused(connection, rest)
            return
        with self._lock:
            wakes = self._release((connection,))
        if wakes:
            self._poller.wake()

    def write(
        self, connections: Iterable[Connection], data: bytes, *, droppable: bool = False
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
        full: list[Connection] = []
        with self._lock:
            dirty = self._dirty
            for connection in connections:
                waits = connection.written - connection.sent
                if (waits > limit or connection.lossy) and self._is_refused(
                    connection, size, droppable, full
                ):
                    continue
                connection.outbox.append(data)
                connection.written += size
                if not connection.dirty:
                    connection.dirty = True
                    dirty.append(connection)
            wakes = self._sleeping and bool(dirty)
            if wakes:
                self._sleeping = False
        if wakes:
            self._poller.wake()
        for connection in full:
            if connection.ending:
                self._stalls.add(connection)
            else:
                self._tell(self._full, connection)

    def _is_refused(
        self, connection: Connection, size: int, droppable: bool, full: list[Connection]
    ) -> bool:
        """Make room; say whether there is none for this.

        Args:
            full: Gets those that have just lost something, or been ended.
        """
        if connection.ending or (connection.lossy and droppable):
            return True
        limit = self._limit
        if not (connection.blocked and droppable):
            limit *= PATIENCE
        room = max(0, limit - size)  # one that is alone always fits
        if connection.written - connection.sent <= room:
            return False
        loses = not connection.lossy
        if loses:
            self._lose(connection)
        if not droppable and connection.written - connection.sent > room:
            # The rest can't be given up, so the connection is.
            connection.outbox = []
            self._end(connection)
        if loses or connection.ending:
            full.append(connection)
        return droppable or connection.ending

    def _lose(self, connection: Connection) -> None:
        """Drop what may be dropped, from now on too; under the lock."""
        kept = [data for data in connection.outbox if not is_droppable(data)]
        connection.written -= sum(map(len, connection.outbox)) - sum(map(len, kept))
        connection.outbox = kept
        connection.lossy = True

    def accept_again(self, connection: Connection) -> None:
        """Drop no more of what is written to a socket that was full."""
        with self._lock:
            connection.lossy = connection.ending
            waits = connection.sending or connection.blocked or bool(connection.outbox)
            if waits:
                self._begin_stall(connection)
        if waits:
            self._stalls.add(connection)

    def close(self, connection: Connection, code: int = 1000) -> None:
        """End a socket with a goodbye; called by any thread.

        Args:
            code: Of the close frame (RFC 6455, section 7.4.1).
        """
        self.finish(connection, connection.decoder.goodbye(code))

    def finish(self, connection: Connection, last: bytes) -> None:
        """End a socket once what waits for it has gone out, and this; by any thread."""
        with self._lock:
            if connection.ending:
                return
            if last:
                connection.outbox.append(Kept(last))
                connection.written += len(last)
            self._end(connection)
            waits = connection.blocked
            wakes = self._sleeping
            self._sleeping = False
        if waits:
            self._stalls.add(connection)
        if wakes:
            self._poller.wake()

    def soon(self, task: Callable[[], object]) -> None:
        """Call a function in the loop's thread, in this turn or the next."""
        with self._lock:
            self._tasks.append(task)
            wakes = self._sleeping
            self._sleeping = False
        if wakes:
            self._poller.wake()

    def _end(self, connection: Connection) -> None:
        """Let it end when its outbox is empty, or after a time; under the lock."""
        connection.ending = connection.lossy = True
        self._begin_stall(connection)
        if not connection.dirty:
            connection.dirty = True
            self._dirty.append(connection)

    def _begin_stall(self, connection: Connection) -> None:
        """Give it so long to catch up, unless its time runs already; under the lock."""
        if connection.stalled is None:
            connection.stalled = self._now() + self._patience

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
        for connection in list(self._sockets.values()):
            self._drop(connection, "the server stops")
        self._poller.close()

    def _tick(self) -> None:
        for fd, reads, writes in self._poller.wait(self._timeout()):
            connection = self._sockets.get(fd)
            if connection is not None:
                if writes:
                    self._writable(connection)
                if reads:
                    self._read(connection)
        now = self._now()
        for timeline in self._timelines:
            timeline.run(now)
        self._run_tasks()
        self._flush()

    def _run_tasks(self) -> None:
        with self._lock:
            tasks, self._tasks = self._tasks, []
        for task in tasks:
            self._tell(task)

    def _timeout(self) -> float | None:
        dues = [due for line in self._timelines if (due := line.next()) is not None]
        until = max(0.0, min(dues) - self._now()) if dues else None
        with self._lock:
            if self._dirty or self._tasks:
                return 0
            self._sleeping = True
        return until

    def _flush(self) -> None:
        with self._lock:
            self._sleeping = False
            dirty, self._dirty = self._dirty, []
        sent: list[Connection] = []
        for start in range(0, len(dirty), _AT_ONCE):
            # A few at a time: what comes while others are sent to goes with it.
            with self._lock:
                self._release(sent)
                work = self._take(dirty[start : start + _AT_ONCE])
            sent = []
            for connection, batch in work:
                rest = self._push(connection, batch)
                if rest:
                    self._refused(connection, rest)
                elif batch:
                    sent.append(connection)
                elif connection.dropped:
                    connection.sock.close()
                else:
                    self._finish(connection)
        with self._lock:
            self._release(sent)

    def _take(self, dirty: list[Connection]) -> list[tuple[Connection, list[Any]]]:
        """Return what is to be sent, nothing where one ends; under the lock."""
        work = []
        for connection in dirty:
            connection.dirty = False
            # Whoever sends, or the kernel, lets the others come again.
            if not connection.sending and (
                not connection.blocked or connection.dropped
            ):
                batch = connection.outbox
                if batch:
                    connection.sending = True
                    connection.outbox = []
                    work.append((connection, batch))
                elif connection.ending:
                    work.append((connection, batch))
        return work

    def _push(self, connection: Connection, batch: list[Any]) -> list[Any]:
        """Send what was taken out of an outbox; return what the kernel did not take.

        Called by whoever has set ``sending``, and without the lock.
        """
        send = connection.sock.send
        while batch:
            data, count = batch[0], 1
            if len(batch) > 1:
                count = how_many(batch)
                data = b"".join(batch[:count])
            try:
                sent = send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError:
                # Reading tells who has gone; of what else can fail it would not, and
                # a part of the stream is lost.
                with suppress(OSError):
                    connection.sock.shutdown(_socket.SHUT_RDWR)
                return []
            connection.sent += sent
            if sent < len(data):
                return rest_of(batch, sent)
            if count == len(batch):
                return []
            batch = batch[count:]
        return []

    def _release(self, sent: Iterable[Connection]) -> bool:
        """Let others send to sockets; say whether to wake the loop. Under the lock."""
        wakes = False
        for connection in sent:
            connection.sending = False
            # What ends may have got its goodbye meanwhile.
            if not (connection.ending and connection.outbox):
                connection.stalled = None
            if connection.outbox or connection.ending:
                wakes |= self._mark(connection)
        return wakes

    def _refused(self, connection: Connection, rest: list[Any]) -> None:
        """Wait with what the kernel did not take until it can be written."""
        with self._lock:
            connection.sending = False
            connection.blocked = True
            # The loop has only to close what it has dropped meanwhile.
            connection.outbox[:0] = [] if connection.dropped else rest
            # From now on it is the client that is slow.
            loses = (
                connection.written - connection.sent > self._limit
                and not connection.lossy
                and any(map(is_droppable, connection.outbox))
            )
            if loses:
                self._lose(connection)
            wakes = connection.dropped and self._mark(connection)
            ends = connection.ending
        self._poller.watch_writes(connection.fd, True)
        if ends:
            self._stalls.add(connection)
        if loses:
            self._tell(self._full, connection)
        if wakes:
            self._poller.wake()

    def _mark(self, connection: Connection) -> bool:
        """Let the loop come to it; say whether it must be woken. Under the lock."""
        if not connection.dirty:
            connection.dirty = True
            self._dirty.append(connection)
        wakes, self._sleeping = self._sleeping, False
        return wakes

    def _writable(self, connection: Connection) -> None:
        self._poller.watch_writes(connection.fd, False)
        with self._lock:
            connection.blocked = False
            self._mark(connection)

    def _read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._drop(connection, str(error))
            return
        if not data:
            self._drop(connection, "the client ended it")
            return
        try:
            for opcode, payload in connection.decoder.feed(data):
                if opcode == frames.CLOSE:
                    self.close(connection, _answer(payload))
                elif not connection.ending:
                    self._received(connection, opcode, payload)
        except frames.FrameError as error:
            log.debug("A client broke the protocol of its connection: %s", error)
            self.close(connection, error.code)

    def _finish(self, connection: Connection) -> None:
        # Closed at once, what was just sent could be lost: the kernel answers data that
        # still comes with a reset.
        try:
            connection.sock.shutdown(_socket.SHUT_WR)
        except OSError as error:
            self._drop(connection, str(error))
        else:
            self._let_go(connection, "closed")
            self._closings.add(connection)

    def _stall(self, connection: Connection) -> None:
        # It may have caught up, and lost something again.
        until = connection.stalled
        if until is not None and until <= self._now():
            self._drop(connection, "the client does not keep up")

    def _lingers(self, connection: Connection) -> None:
        self._drop(connection, "closed")

    def _drop(self, connection: Connection, why: str) -> None:
        if connection.dropped:
            return
        self._poller.forget(connection.fd)
        del self._sockets[connection.fd]
        with self._lock:
            connection.ending = connection.lossy = connection.dropped = True
            connection.outbox = []
            # Closed while another thread sends, its descriptor could be another
            # connection's before it has sent: then the loop comes to it afterwards.
            closes = not connection.sending
        if closes:
            connection.sock.close()
        self._let_go(connection, why)

    def _tell(self, function: Callable[..., object], *args: Any) -> None:
        """Call what is handed in; the other sockets go on if it fails."""
        try:
            function(*args)
        except Exception:
            log.exception("Telling of a connection failed")

    def _let_go(self, connection: Connection, why: str) -> None:
        owner, connection.owner = connection.owner, None
        if owner is not None:
            self._tell(self._gone, owner, why)


def _answer(payload: str | bytes) -> int:
    """Return the code with which a close frame is answered: its own."""
    return int.from_bytes(payload[:2], "big") if len(payload) >= 2 else 1000  # type: ignore[arg-type]
