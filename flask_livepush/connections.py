"""The connections of this process: whose they are, how many, and how they end.

It asks who somebody is, keeps the answer, and acts when a login has ended. How a
connection is told so and closed is a :class:`Line`'s business.

Between asking and keeping there is no gap. A connect, as a timeline:

1. What is told from here on that concerns somebody's rights is noticed.
2. Whose it is, is asked; the user may be loaded for a while.
3. It is registered. If something was told meanwhile, it is asked once more.
4. The mirror of ended logins is looked into. What ends before that is seen in it; what
   ends after it finds the connection registered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from .brokers.logins import Ended, Logins, Recheck
from .errors import (
    BrokerError,
    ClientError,
    NotAuthorised,
    RefreshLogin,
    TooManyConnections,
    Unavailable,
)
from .login.caller import Caller, Claim, Handshake
from .logs import logger
from .metrics import OFF, Metrics

log = logger(__name__)

#: Who has said nothing of himself.
NOBODY = Caller(None, Claim(None, frozenset(), "nobody"))

_SIGNED_OUT = "The login has ended."
# How often a connect is asked about again since rights were said to have changed.
_JUDGEMENTS = 3
# After how many ends in a row others get their turn.
_ENDS_AT_ONCE = 50


@dataclass(frozen=True, slots=True, eq=False)
class Connection:
    """One that is open.

    Args:
        sid: Its id.
        eio_sid: The id of the session below it.
        handshake: What it has said of itself.
        caller: Whose it is.
        since: When it came, in seconds of the clock that was handed in.
        is_guest: Whether it is in a namespace of the application's own, which is open
            to whom the application lets in. It ends with its login, and counts for no
            limit.
    """

    sid: str
    eio_sid: str
    handshake: Handshake
    caller: Caller
    since: float
    is_guest: bool = False


class Line(Protocol):
    """What connections are told by; no method waits for a client."""

    def silence(self, connection: Connection) -> None:
        """Write nothing more to it, and handle nothing that it has sent."""

    def end(self, connection: Connection, error: ClientError) -> None:
        """Tell one that is silent why, and end it for good."""

    def send_away(self, connection: Connection) -> None:
        """Close one that is silent, so that its client comes back."""


@dataclass(frozen=True, slots=True)
class _Due:
    """A connection that is to end; without an error its client comes back."""

    connection: Connection
    error: ClientError | None


class Connections:
    """The registry; the listener of what is told of logins.

    Args:
        judge: Says whose a handshake is; raises a ClientError for who may not connect.
            It may wait.
        judge_guest: The same where the application decides who may connect: it raises
            for those alone whose login has ended.
        may_be_somebody: Says without waiting whether a handshake may be anybody's;
            where not, the judge is not asked. None: he always is.
        logins: Knows which have ended; None: none ever does.
        recheck: Called with orders to ask again; it must hand over.
        came: Called when a connection was registered; it must hand over.
        max_per_user: Connections that one user may have in this process.
        spawn: Runs a function in the background.
        sleep: Waits for seconds; 0 lets others run.
        now: Seconds of a clock that never falls.
        metrics: Counts ends.
    """

    def __init__(
        self,
        judge: Callable[[Handshake], Caller],
        logins: Logins | None,
        *,
        judge_guest: Callable[[Handshake], Caller] | None = None,
        may_be_somebody: Callable[[Handshake], bool] | None = None,
        recheck: Callable[[Sequence[Recheck]], object] | None = None,
        came: Callable[[], object] = lambda: None,
        max_per_user: int,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        metrics: Metrics = OFF,
    ) -> None:
        self._judge = judge
        self._judge_guest = judge_guest or judge
        self._logins = logins
        self._may_be_somebody = may_be_somebody
        self._recheck = recheck
        self._came = came
        self._max_per_user = max_per_user
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._metrics = metrics
        self._line: Line | None = None
        # Guards all that follows; a leaf, under which nothing is called.
        self._lock = threading.Lock()
        self._by_sid: dict[str, Connection] = {}
        self._by_user: dict[str, dict[str, Connection]] = {}
        self._by_login: dict[str, dict[str, Connection]] = {}
        # How often it was said that rights may have changed.
        self._rechecks = 0
        # Those that are to end, and whether somebody is at it; those of them that are
        # silent already are that one's.
        self._due: dict[str, _Due] = {}
        self._silent: deque[_Due] = deque()
        self._ending = False

    def carried_by(self, line: Line) -> None:
        """Learn by what connections are told; to be called before the first comes."""
        self._line = line

    # -- coming and going --------------------------------------------------------------
    def asks_nobody(self, handshake: Handshake) -> bool:
        """Say whether :meth:`enter` would wait for nobody."""
        asked = self._may_be_somebody
        return asked is not None and not asked(handshake)

    def enter(
        self, sid: str, eio_sid: str, handshake: Handshake, *, is_guest: bool = False
    ) -> Caller:
        """Register a connection, and say whose it is; of guests, those with a login.

        Raises:
            ClientError: It may not connect; then it is not registered.
        """
        if self.asks_nobody(handshake):
            if not is_guest:
                self._register(sid, eio_sid, handshake, NOBODY)
                self._came()
            return NOBODY
        judge = self._judge_guest if is_guest else self._judge
        for _ in range(_JUDGEMENTS):
            said = self._rechecks
            caller = judge(handshake)
            if is_guest and not caller.claim.logins:
                return caller
            self._register(sid, eio_sid, handshake, caller, is_guest=is_guest)
            if said == self._rechecks:
                break
            self.left(sid)
        else:
            raise Unavailable("The server is busy; try again later.")
        if self._has_ended(caller):
            self.left(sid)
            # Whether the user has logged in again, only a request can tell.
            raise RefreshLogin(_SIGNED_OUT)
        self._came()
        return caller

    def left(self, sid: str) -> Connection | None:
        """Forget a connection, and return it; None: it was none."""
        with self._lock:
            return self._pop(sid)

    def _register(
        self,
        sid: str,
        eio_sid: str,
        handshake: Handshake,
        caller: Caller,
        *,
        is_guest: bool = False,
    ) -> None:
        connection = Connection(
            sid, eio_sid, handshake, caller, self._now(), is_guest=is_guest
        )
        user, logins = caller.identity, caller.claim.logins
        with self._lock:
            if is_guest:
                full = False
            elif user is not None:
                full = self._is_full(self._by_user.get(user, {}), sid)
            else:  # a user without such an id, or nobody
                full = any(
                    self._is_full(self._by_login.get(a, {}), sid) for a in logins
                )
            if not full:
                self._by_sid[sid] = connection
                if user is not None:
                    self._by_user.setdefault(user, {})[sid] = connection
                for login in logins:
                    self._by_login.setdefault(login, {})[sid] = connection
        if full:
            raise TooManyConnections(
                f"The user has {self._max_per_user} connections to this process "
                "already, the most one may have."
            )

    def _is_full(self, present: dict[str, Connection], sid: str) -> bool:
        if sid in present or len(present) < self._max_per_user:
            return False
        return sum(not c.is_guest for c in present.values()) >= self._max_per_user

    def _pop(self, sid: str) -> Connection | None:
        connection = self._by_sid.pop(sid, None)
        if connection is None:
            return None
        user = connection.caller.identity
        if user is not None:
            _discard(self._by_user, user, sid)
        for login in connection.caller.claim.logins:
            _discard(self._by_login, login, sid)
        return connection

    # -- who is there ------------------------------------------------------------------
    def find(self, sid: str) -> Connection | None:
        """Return a connection that is open and not about to end."""
        return self._by_sid.get(sid)

    def all(self) -> list[Connection]:
        """Return all, the oldest first."""
        with self._lock:
            return list(self._by_sid.values())

    def of_user(self, identity: str) -> list[Connection]:
        """Return the connections of a user."""
        with self._lock:
            return list(self._by_user.get(identity, {}).values())

    def of_login(self, login: str) -> list[Connection]:
        """Return the connections of a login."""
        with self._lock:
            return list(self._by_login.get(login, {}).values())

    def vouch(self, sid: str) -> Connection:
        """Return a connection whose login holds at this moment.

        It waits a moment where the mirror of ended logins is not current, unless the
        connection is nobody's.

        Raises:
            NotAuthorised: It has ended, or is about to.
            Unavailable: Nobody can say.
        """
        connection = self._by_sid.get(sid)
        if connection is None:
            raise NotAuthorised(_SIGNED_OUT)
        logins = self._logins
        if logins is None or not connection.caller.claim.logins:
            return connection
        if not logins.is_current():
            try:
                logins.confirm()
            except BrokerError as error:
                raise Unavailable(
                    "The server can't tell whether the login still holds."
                ) from error
        if self._has_ended(connection.caller):
            raise NotAuthorised(_SIGNED_OUT)
        return connection

    def _has_ended(self, caller: Caller) -> bool:
        logins = self._logins
        return logins is not None and any(map(logins.has_ended, caller.claim.logins))

    # -- ends --------------------------------------------------------------------------
    def ended(self, logins: Sequence[Ended]) -> None:
        """Let the connections of ended logins end, soon; the listener does not wait."""
        with self._lock:
            for one in logins:
                error = None if one.again else NotAuthorised(_SIGNED_OUT)
                found = self._by_login.get(one.login, {})
                self._put(list(found.values()), error)
        self._begin()

    def recheck(self, orders: Sequence[Recheck]) -> None:
        """Let connections end that are to, soon; hand on what else is ordered."""
        with self._lock:
            self._rechecks += 1
            for order in orders:
                if not order.close:
                    continue
                found = (
                    self._by_sid
                    if order.user is None
                    else self._by_user.get(order.user, {})
                )
                self._put(
                    list(found.values()), NotAuthorised("The user was disconnected.")
                )
        self._begin()
        others = [order for order in orders if not order.close]
        if others and self._recheck is not None:
            self._recheck(others)

    def end(self, sid: str, error: ClientError) -> None:
        """Tell a connection why, and end it for good; never waits for its client."""
        with self._lock:
            connection = self._pop(sid)
        if connection is not None:
            self._silence(connection)
            self._end(_Due(connection, error))

    def send_away(self, sid: str) -> None:
        """Close a connection so that its client comes back; never waits for it."""
        with self._lock:
            connection = self._pop(sid)
        if connection is not None:
            self._silence(connection)
            self._end(_Due(connection, None))

    def _put(
        self, connections: Iterable[Connection], error: ClientError | None
    ) -> None:
        """Let connections end by somebody else; the caller holds the lock.

        They are found no more: nothing that is asked of them meanwhile is granted.
        """
        for connection in connections:
            if self._pop(connection.sid) is not None:
                self._due[connection.sid] = _Due(connection, error)

    def _begin(self) -> None:
        with self._lock:
            if self._ending or not (self._due or self._silent):
                return
            self._ending = True
        try:
            self._spawn(self._end_those)
        except Exception:
            log.exception("Ending connections can't begin in the background")
            self._end_those()

    def _end_those(self) -> None:
        try:
            self._end_all()
        except BaseException:
            # It is killed; another one goes on where it was.
            with self._lock:
                self._ending = False
            self._begin()
            raise

    def _end_all(self) -> None:
        """End those that are due, the first first, while there are such.

        All fall silent before the first is told: the last of many need not receive for
        longer because of that.
        """
        silent = self._silent
        while True:
            with self._lock:
                new = list(self._due.values())
                self._due.clear()
                if not (new or silent):
                    self._ending = False
                    return
            for due in new:
                self._silence(due.connection)
            silent += new
            for _ in range(min(_ENDS_AT_ONCE, len(silent))):
                self._end(silent.popleft())
            self._sleep(0)

    def _silence(self, connection: Connection) -> None:
        try:
            if self._line is not None:
                self._line.silence(connection)
        except Exception:
            log.exception("A connection could not be silenced")

    def _end(self, due: _Due) -> None:
        line = self._line
        if line is None:
            return
        self._metrics.count("ends_total", "sent_away" if due.error is None else "told")
        try:
            if due.error is None:
                line.send_away(due.connection)
            else:
                line.end(due.connection, due.error)
        except Exception:
            log.exception("A connection could not be ended")


def _discard(index: dict[str, dict[str, Connection]], key: str, sid: str) -> None:
    found = index.get(key)
    if found is not None:
        found.pop(sid, None)
        if not found:
            del index[key]
