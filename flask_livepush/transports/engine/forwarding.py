"""Requests with a session of another process, answered through its owner.

Where nothing keeps a client with one process, its polls come to any. A session's id
begins with its owner's name; the request goes to the owner, and comes back as answer,
by :class:`~flask_livepush.brokers.peers.Peers`. Neither waits in a thread.
"""

from __future__ import annotations

import itertools
import json
import logging
import re
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from ...brokers.peers import NAME_LENGTH, Peers
from ...errors import BrokerError
from ...metrics import OFF, Metrics
from .polls import HandingPoll, Request
from .replies import BAD_REQUEST, Refusal, Reply, too_many, unavailable, unknown_sid

log = logging.getLogger(__name__)

# A session's id: its owner's name, and what the engine has drawn.
_SID = re.compile(r"[A-Za-z0-9_-]{28}\Z")
# Requests of one session that may be on their way: a poll, what it sends, and a second
# poll, about which the owner decides.
_AT_ONCE = 3
# Seconds between two looks whether owners live, and for them to answer what is no poll.
_LOOK = 1.0
_ANSWERED = 10.0
# Seconds for which nobody is asked after the queue did not answer.
_AWAY = 1.0

_STATUSES = {
    200: "200 OK",
    400: "400 BAD REQUEST",
    413: "413 TOO LARGE",
    503: "503 SERVICE UNAVAILABLE",
}
# Of answers that were forwarded: for whoever looks for the cause of slowness.
_MARK = (("Livepush-Forwarded", "1"),)


class Serve(Protocol):
    """Answers a request of a session of this process.

    It never blocks, and calls ``answer`` once, at once or later.
    """

    def __call__(
        self, method: str, sid: str, body: bytes, answer: Callable[[Reply], object]
    ) -> HandingPoll | None:
        """Return the poll that waits, if one does."""


@dataclass(frozen=True, slots=True)
class _Asked:
    owner: str
    sid: str
    request: Request
    until: float


class Forwarding:
    """Asks other processes, and answers them.

    What others send is handled by the peers' thread or greenlet, which never waits.

    Args:
        serve: Answers what others ask.
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
        self._limit = limit
        self._patience = patience
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._metrics = metrics
        self._numbers = itertools.count(1)
        self._away_until = float("-inf")
        # Guards what is on its way, by its number, how much by session, the polls of
        # others that wait here, by who asked and their number, and whether it is
        # watched.
        self._lock = threading.Lock()
        self._asked: dict[int, _Asked] = {}
        self._of_sid: Counter[str] = Counter()
        self._polls: dict[tuple[str, int], HandingPoll | None] = {}
        self._watched = False
        peers.listen(self._received, self._interrupted)

    @property
    def name(self) -> str:
        """What ids of this process's sessions begin with."""
        return self._peers.name

    def enter(self) -> None:
        """Let others find this process, whose sessions they may be asked for."""
        if not self._peers.enter():
            log.debug("The message queue does not know this process yet")

    # -- asking ------------------------------------------------------------------------
    def ask(self, method: str, sid: str, body: bytes, request: Request) -> None:
        """Let a request be answered by the owner of its session.

        Args:
            request: It is answered later, unless this raises.

        Raises:
            Refusal: The id is nobody's, or nobody can be asked.
        """
        owner = sid[:NAME_LENGTH]
        if not _SID.match(sid) or owner == self.name:
            raise unknown_sid()
        if self._now() < self._away_until:
            raise self._refused("failed", unavailable())
        self.enter()
        number = next(self._numbers)
        wait = self._patience if method == "GET" else _ANSWERED
        asked = _Asked(owner, sid, request, self._now() + wait)
        with self._lock:
            if len(self._asked) >= self._limit:
                raise self._refused("refused", too_many())
            if self._of_sid[sid] >= _AT_ONCE:
                refusal = Refusal(BAD_REQUEST, "Too many requests at once")
                raise self._refused("refused", refusal)
            self._asked[number] = asked
            self._of_sid[sid] += 1
        request.left = partial(self._left, number)
        try:
            taken = self._peers.send(
                owner, _written([method, number, self.name, sid], body)
            )
        except BrokerError as error:
            log.debug("A request can't be forwarded: %s", error)
            self._away_until = self._now() + _AWAY
            self._pop(number)
            raise self._refused("failed", unavailable()) from error
        if not taken:
            self._pop(number)
            raise self._refused("unknown", unknown_sid())
        self._watch()

    def _refused(self, outcome: str, refusal: Refusal) -> Refusal:
        self._metrics.count("forwarded_total", outcome)
        return refusal

    def _pop(self, number: int) -> _Asked | None:
        with self._lock:
            asked = self._asked.pop(number, None)
            if asked is not None:
                self._of_sid[asked.sid] -= 1
                if not self._of_sid[asked.sid]:
                    del self._of_sid[asked.sid]
        return asked

    def _settle(self, number: int, reply: Reply, outcome: str) -> None:
        asked = self._pop(number)
        if asked is not None:
            self._metrics.count("forwarded_total", outcome)
            asked.request.answer(reply)

    def _left(self, number: int) -> None:
        """Tell the owner that a client has gone; in the loop's thread."""
        asked = self._pop(number)
        if asked is not None:
            self._peers.post(asked.owner, _written(["LEFT", number, self.name]))

    # -- watching ----------------------------------------------------------------------
    def _watch(self) -> None:
        with self._lock:
            begins = not self._watched and bool(self._asked)
            self._watched = self._watched or begins
        if begins:
            self._spawn(self._look)

    def _look(self) -> None:
        """Look after what is on its way, while there is such; a thread of its own."""
        while True:
            self._sleep(_LOOK)
            with self._lock:
                asked = dict(self._asked)
                self._watched = bool(asked)
            if not asked:
                return
            now = self._now()
            late = [number for number, one in asked.items() if one.until <= now]
            for number in late:
                del asked[number]
                self._settle(number, unavailable().reply(), "failed")
            for owner in {one.owner for one in asked.values()}:
                refusal = self._sign_of(owner)
                if refusal is not None:
                    for number, one in asked.items():
                        if one.owner == owner:
                            self._settle(number, refusal.reply(), "unknown")

    def _sign_of(self, owner: str) -> Refusal | None:
        """Ask whether a process lives; return what its clients are told if not."""
        try:
            return (
                None if self._peers.send(owner, _written(["ALIVE"])) else unknown_sid()
            )
        except BrokerError as error:
            log.debug("The message queue does not answer: %s", error)
            return unavailable()

    def _interrupted(self) -> None:
        """Refuse what may have been answered meanwhile."""
        with self._lock:
            numbers = list(self._asked)
        for number in numbers:
            self._settle(number, unavailable().reply(), "failed")

    # -- being asked, and answered -----------------------------------------------------
    def _received(self, message: bytes) -> None:
        try:
            head, body = _read(message)
            verb = head[0]
            if verb in ("GET", "POST"):
                _, number, node, sid = head
                self._serve_other(verb, int(number), str(node), str(sid), body)
            elif verb == "LEFT":
                _, number, node = head
                self._forget(int(number), str(node))
            elif verb == "ANSWER":
                _, number, code = head
                kind = (
                    "text/plain; charset=UTF-8" if code == 200 else "application/json"
                )
                status = _STATUSES.get(code, _STATUSES[400])
                reply = Reply(body.decode(), _MARK, status, kind)
                self._settle(int(number), reply, "answered")
        except (ValueError, TypeError, LookupError) as error:
            log.debug("Another process sent what is no message: %s", error)

    def _serve_other(
        self, method: str, number: int, node: str, sid: str, body: bytes
    ) -> None:
        key = (node, number)

        def answer(reply: Reply) -> None:
            with self._lock:
                self._polls.pop(key, None)
            code = int(reply.status.partition(" ")[0])
            message = _written(["ANSWER", number, code], reply.body.encode())
            self._peers.post(node, message)

        with self._lock:
            self._polls[key] = None
        poll = self._serve(method, sid, body, answer)
        with self._lock:
            if key in self._polls:
                self._polls[key] = poll

    def _forget(self, number: int, node: str) -> None:
        with self._lock:
            poll = self._polls.pop((node, number), None)
        if poll is not None:
            poll.leave()


def _written(head: list[Any], body: bytes = b"") -> bytes:
    return json.dumps(head).encode() + b"\n" + body


def _read(message: bytes) -> tuple[list[Any], bytes]:
    head, _, body = message.partition(b"\n")
    found = json.loads(head)
    if not isinstance(found, list):
        raise ValueError("its head is no list")
    return found, body
