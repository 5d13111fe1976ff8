"""Requests with a session of another process, answered through its owner.

Where nothing keeps a client with one process, its polls come to any. A session's id
begins with its owner's name; the request goes to the owner, and comes back as answer,
by :class:`~flask_livepush.brokers.peers.Peers`. Neither waits in a thread.
"""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ...brokers.peers import NAME_LENGTH, Peers
from ...errors import BrokerError
from ...logs import logger
from ...metrics import OFF, Metrics
from .polls import HandingPoll, Request
from .replies import BAD_REQUEST, Refusal, Reply, too_many, unavailable, unknown_sid

log = logger(__name__)

# A session's id: its owner's name, and what the engine has drawn.
_SID = re.compile(r"[A-Za-z0-9_-]{28}\Z")
# Requests of one session that may be on their way: a poll, what it sends, and a second
# poll, about which the owner decides.
_AT_ONCE = 3
# Bytes of all of them: Redis gives up a process for which 32 MB wait.
_MAX_BYTES = 8 * 1024 * 1024
# Seconds between two looks whether owners live, looks at one that is there and gives no
# sign of life, and seconds for the answer to what is no poll.
_LOOK = 0.25
_SILENT = 20
_ANSWERED = 10.0

_STATUSES = {
    200: "200 OK",
    400: "400 BAD REQUEST",
    413: "413 TOO LARGE",
    503: "503 SERVICE UNAVAILABLE",
}
# Of answers that were forwarded: for whoever looks for the cause of slowness.
_MARK = (("Livepush-Forwarded", "1"),)
# Between a poll's mark, which has none of it, and what else is sent in its place.
_SEPARATOR = "~"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request of a session of another process.

    Args:
        method: ``GET`` or ``POST``.
        body: What it sends.
        mark: What tells a poll from the one before, if anything does.
        nonce: Else what makes its proofs its own.
        proofs: What proves what the request bears; None: it comes from a process of a
            release that did not say.
    """

    method: str
    sid: str
    body: bytes = b""
    mark: str = ""
    nonce: str = ""
    proofs: str | None = None

    def about(self) -> bytes:
        """Return what its proofs are made for: this request and no other."""
        head = (self.method, self.sid, self.mark, self.nonce)
        return "\n".join(head).encode() + b"\n" + self.body

    def written(self) -> str:
        """Return its mark and proofs as they are sent.

        In one text, as the last release reads no more: there it is the whole mark,
        which differs where the mark does.
        """
        if self.proofs is None:
            return self.mark
        return _SEPARATOR.join((self.mark, self.nonce, self.proofs))

    @classmethod
    def read(cls, method: str, sid: str, body: bytes, text: str) -> Asked:
        """Read what :meth:`written` has made, or the last release."""
        mark, separator, rest = text.partition(_SEPARATOR)
        if not separator:
            return cls(method, sid, body, mark)
        nonce, _, proofs = rest.partition(_SEPARATOR)
        return cls(method, sid, body, mark, nonce, proofs)


class Serve(Protocol):
    """Answers a request of a session of this process.

    It never blocks, and calls ``answer`` once, at once or later.
    """

    def __call__(
        self, asked: Asked, answer: Callable[[Reply], object]
    ) -> HandingPoll | None:
        """Return the poll that waits, if one does."""


@dataclass(slots=True)
class _Waiting:
    owner: str
    sid: str
    size: int
    request: Request
    until: float
    # The owner is not asked about what it may not have yet.
    posted: bool = False


class Forwarding:
    """Asks other processes, and answers them.

    What others send is handled by the peers' thread or greenlet, which never waits.

    Args:
        serve: Answers what others ask.
        end: Ends a session by its id: nobody got what it had to say.
        limit: Requests that may be on their way.
        patience: Seconds for the answer to a poll.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
    """

    def __init__(
        self,
        peers: Peers,
        serve: Serve,
        end: Callable[[str], object],
        *,
        limit: int,
        patience: float,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        metrics: Metrics = OFF,
    ) -> None:
        self._peers = peers
        self._serve = serve
        self._end = end
        self._limit = limit
        self._patience = patience
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._metrics = metrics
        self._numbers = itertools.count(1)
        # Guards what is on its way, by its number, how much by session and in bytes,
        # how often its owners were looked at since they were heard of, the polls of
        # others that wait here, by who asked and their number, and whether there is a
        # watch.
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}
        self._of_sid: Counter[str] = Counter()
        self._size = 0
        self._silence: Counter[str] = Counter()
        self._polls: dict[tuple[str, int], HandingPoll | None] = {}
        self._watched = False
        peers.listen(self._received, self._interrupted)

    @property
    def name(self) -> str:
        """What ids of this process's sessions begin with."""
        return self._peers.name

    def enter(self) -> bool:
        """Let others find this process; say whether they do."""
        return self._peers.enter()

    # -- asking ------------------------------------------------------------------------
    def ask(self, asked: Asked, request: Request) -> None:
        """Let a request be answered by the owner of its session. Never blocks.

        Args:
            request: It is answered later, unless this raises.

        Raises:
            Refusal: The id is nobody's, or nobody can be asked.
        """
        sid, owner = asked.sid, asked.sid[:NAME_LENGTH]
        if owner == self.name:
            raise unknown_sid()
        if not _SID.match(sid):
            raise self._refused("unknown", unknown_sid())
        if not self.enter():  # the answer would not arrive
            raise self._refused("failed", unavailable())
        number = next(self._numbers)
        wait = self._patience if asked.method == "GET" else _ANSWERED
        waiting = _Waiting(owner, sid, len(asked.body), request, self._now() + wait)
        with self._lock:
            full = len(self._waiting) >= self._limit
            full = full or self._size + waiting.size > max(_MAX_BYTES, waiting.size)
            crowded = self._of_sid[sid] >= _AT_ONCE
            if not (full or crowded):
                self._waiting[number] = waiting
                self._of_sid[sid] += 1
                self._size += waiting.size
                begins = not self._watched
                self._watched = True
        if full:
            raise self._refused("refused", too_many())
        if crowded:
            raise self._refused(
                "refused", Refusal(BAD_REQUEST, "Too many requests at once")
            )
        request.left = partial(self._left, number)
        head = [asked.method, number, self.name, sid, asked.written()]
        self._peers.post(
            owner, _written(head, asked.body), partial(self._not_sent, number)
        )
        waiting.posted = True
        if begins:
            self._spawn(self._watch)

    def hand_back(self) -> None:
        """Have all polls on their way answered soon: this process ends."""
        with self._lock:
            owners = {waiting.owner for waiting in self._waiting.values()}
        for owner in owners:
            self._peers.post(owner, _written(["ENDS", self.name]))

    def refuse(self, refusal: Refusal) -> Refusal:
        """Count a request that is refused; return what it is told."""
        return self._refused("refused", refusal)

    def _refused(self, outcome: str, refusal: Refusal) -> Refusal:
        self._metrics.count("forwarded_total", outcome)
        return refusal

    def _pop(self, number: int) -> _Waiting | None:
        with self._lock:
            waiting = self._waiting.pop(number, None)
            if waiting is not None:
                self._size -= waiting.size
                self._of_sid[waiting.sid] -= 1
                if not self._of_sid[waiting.sid]:
                    del self._of_sid[waiting.sid]
        return waiting

    def _settle(self, number: int, reply: Reply, outcome: str) -> None:
        waiting = self._pop(number)
        if waiting is not None:
            self._metrics.count("forwarded_total", outcome)
            waiting.request.answer(reply)

    def _not_sent(self, number: int, error: BrokerError | None) -> None:
        if error is None:
            self._settle(number, unknown_sid().reply(), "unknown")
        else:
            self._settle(number, unavailable().reply(), "failed")

    def _left(self, number: int) -> None:
        """Tell the owner that a client has gone; in the loop's thread."""
        waiting = self._pop(number)
        if waiting is not None:
            self._metrics.count("forwarded_total", "left")
            self._peers.post(waiting.owner, _written(["LEFT", number, self.name]))

    def _interrupted(self) -> None:
        """Refuse what may have been answered meanwhile."""
        with self._lock:
            numbers = list(self._waiting)
        for number in numbers:
            self._settle(number, unavailable().reply(), "failed")

    # -- watching ----------------------------------------------------------------------
    def _watch(self) -> None:
        """Look after what is on its way, while there is such; a thread of its own."""
        while True:
            self._sleep(_LOOK)
            with self._lock:
                if not self._waiting:
                    self._watched = False
                    self._silence.clear()
                    return
            self.look()

    def look(self) -> None:
        """Ask owners what they still know of; refuse what waits for too long."""
        now = self._now()
        late: list[int] = []
        by_owner: dict[str, list[int]] = {}
        with self._lock:
            for number, waiting in self._waiting.items():
                if waiting.until <= now:
                    late.append(number)
                elif waiting.posted:
                    by_owner.setdefault(waiting.owner, []).append(number)
            silence = {owner: self._silence[owner] + 1 for owner in by_owner}
            self._silence = Counter(silence)
        for number in late:
            self._settle(number, unavailable().reply(), "failed")
        for owner, numbers in by_owner.items():
            if silence[owner] > _SILENT:
                self._lost_owner(owner)
            else:
                head = ["WAITING", self.name, numbers]
                self._peers.post(owner, _written(head), partial(self._not_asked, owner))

    def _not_asked(self, owner: str, error: BrokerError | None) -> None:
        if error is None:
            self._lost_owner(owner)
        else:
            self._hear(owner)  # its silence is not its own

    def _lost_owner(self, owner: str) -> None:
        with self._lock:
            lost = [n for n, one in self._waiting.items() if one.owner == owner]
        for number in lost:
            self._settle(number, unknown_sid().reply(), "unknown")

    def _hear(self, owner: str) -> None:
        with self._lock:
            if owner in self._silence:
                self._silence[owner] = 0

    # -- being asked, and answered -----------------------------------------------------
    def _received(self, message: bytes) -> None:
        try:
            head, body = _read(message)
            self._take(head[0], head[1:], body)
        except (ValueError, TypeError, LookupError) as error:
            log.debug("Another process sent what is no message", exc_info=error)

    def _take(self, verb: Any, args: list[Any], body: bytes) -> None:
        """Do what another process says.

        - ``GET`` or ``POST``, number, node, session, mark, and a body: answer that;
          behind the mark and ``~`` is what proves what the request bears;
        - ``ANSWER``, number, status, and a body: it was answered;
        - ``LEFT``, number, node: nobody waits for the answer any more;
        - ``ENDS``, node: answer all that it waits for, by nothing;
        - ``WAITING``, node, numbers: answer by ``HERE``, node, and those of them of
          which nothing is known: they were answered, and the answer was lost.
        """
        if verb in ("GET", "POST"):
            number, node, sid, mark = args
            asked = Asked.read(verb, str(sid), body, str(mark))
            self._serve_other(int(number), str(node), asked)
        elif verb == "ANSWER":
            number, code = args
            kind = "text/plain; charset=UTF-8" if code == 200 else "application/json"
            status = _STATUSES.get(code, _STATUSES[400])
            reply = Reply(body.decode(), _MARK, status, kind)
            self._settle(int(number), reply, "answered")
        elif verb == "LEFT":
            number, node = args
            self._forget(int(number), str(node))
        elif verb == "ENDS":
            (node,) = args
            self._release(str(node))
        elif verb == "WAITING":
            node, numbers = args
            self._tell_unknown(str(node), numbers)
        elif verb == "HERE":
            node, numbers = args
            self._hear(str(node))
            for number in numbers:
                self._settle(int(number), unknown_sid().reply(), "unknown")

    def _serve_other(self, number: int, node: str, asked: Asked) -> None:
        key = (node, number)

        def answer(reply: Reply) -> None:
            code = int(reply.status.partition(" ")[0])
            message = _written(["ANSWER", number, code], reply.body.encode())
            # What it said is lost then, so nothing may come after it.
            lost = partial(self._not_answered, asked.sid) if code == 200 else None
            self._peers.post(node, message, lost)
            # Not before: HERE would overtake it and say that nothing is known of it.
            with self._lock:
                self._polls.pop(key, None)

        with self._lock:
            self._polls[key] = None
        poll = self._serve(asked, answer)
        with self._lock:
            if key in self._polls:
                self._polls[key] = poll

    def _not_answered(self, sid: str, error: BrokerError | None) -> None:
        self._end(sid)

    def _forget(self, number: int, node: str) -> None:
        with self._lock:
            poll = self._polls.pop((node, number), None)
        if poll is not None:
            poll.leave()

    def _release(self, node: str) -> None:
        with self._lock:
            polls = [poll for (by, _), poll in self._polls.items() if by == node]
        for poll in polls:
            if poll is not None:
                poll.release()

    def _tell_unknown(self, node: str, numbers: Iterable[Any]) -> None:
        with self._lock:
            unknown = [n for n in numbers if (node, n) not in self._polls]
        self._peers.post(node, _written(["HERE", self.name, unknown]))


def _written(head: list[Any], body: bytes = b"") -> bytes:
    return json.dumps(head).encode() + b"\n" + body


def _read(message: bytes) -> tuple[list[Any], bytes]:
    head, _, body = message.partition(b"\n")
    found = json.loads(head)
    if not isinstance(found, list):
        raise ValueError("its head is no list")
    return found, body
