"""Whether logins and rights still hold: asked again in turn, and at once on order.

One worker a process asks for all its connections, and only reads: no session is
written. It knows no transport, no Flask and no database; what follows from an answer,
the registry of connections and the node do.

A login that holds no more ends its connections. One that only has to be renewed sends
them away, to come back with the cookies of the moment. Who may not be in a room any
more loses that room. Where nobody can say, as the database does not answer, everything
stays as it was, and is asked again soon: no outage ends anything.

In turn, each user is asked about once an interval, however many connections there are,
spread evenly over it. Orders come first, and are not slowed down, but for the one to
ask about everything: many processes that have lost sight of Redis at once would load
all their users at once.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from .brokers.logins import Recheck
from .errors import ClientError, NotAuthorised, RefreshLogin, Unavailable
from .failures import Failure, Failures
from .login.caller import Caller, Claim, Handshake
from .logs import logger
from .metrics import OFF, Metrics
from .protocol.subscription import Subscription

log = logger(__name__)

# Seconds between two looks at who is there.
_LOOK = 1.0
# Seconds before what could not be asked is asked again.
_AGAIN = 5.0
# Users that are loaded together.
_TOGETHER = 50
# Orders that wait; with more, everything is asked about.
_MAX_ORDERS = 1_000
# Where failures are noted.
_ASKING = "revalidation"

_EVERYTHING = Recheck()
_SIGNED_OUT = "The login does not hold any more."

# What must be equal for two handshakes to have one session, judged alike.
_SAME_SESSION = (
    "HTTP_COOKIE",
    "HTTP_USER_AGENT",
    "HTTP_X_FORWARDED_FOR",
    "REMOTE_ADDR",
    "HTTP_ORIGIN",
)

_Key = tuple[str, ...]


class Registered(Protocol):
    """A connection, as the registry has it."""

    @property
    def sid(self) -> str:
        """Its id."""

    @property
    def handshake(self) -> Handshake:
        """What it has said of itself."""

    @property
    def caller(self) -> Caller:
        """Whose it is."""


class Registry(Protocol):
    """The connections of this process, and how they end."""

    def find(self, sid: str) -> Registered | None:
        """Return a connection; None: it is gone."""

    def all(self) -> Sequence[Registered]:
        """Return all connections."""

    def of_user(self, identity: str) -> Sequence[Registered]:
        """Return a user's."""

    def end(self, sid: str, error: ClientError) -> None:
        """Tell a connection why, and end it for good."""

    def send_away(self, sid: str) -> None:
        """Close a connection so that its client comes back."""


class Judge(Protocol):
    """Says whose a handshake is now. All may raise a ClientError, or whatever fails."""

    def claim(self, handshake: Handshake) -> Claim:
        """Return what it claims, without loading a user."""

    def caller(self, handshake: Handshake) -> Caller:
        """Return whose it is; the user is loaded."""

    def load(self, keys: Iterable[str]) -> Mapping[str, Any]:
        """Load users at once; those that are not there are missing."""

    def entered(
        self, handshake: Handshake, user: Any = None
    ) -> AbstractContextManager[Any]:
        """Enter a request of the handshake; yields its user, loaded if not given."""


class Rules(Protocol):
    """The rules of the rooms."""

    def check(self, room: str, user: Any) -> None:
        """Ask in the request that was entered; a ClientError says no, or nobody can."""

    def covers(self, given: str, room: str) -> bool:
        """Say whether a room is the one of a name, or of the kind of a pattern."""

    def identity(self, user: Any) -> str | None:
        """Return the id that a user has everywhere; None: nobody's."""


class Rooms(Protocol):
    """The subscriptions of this process."""

    def find(self, sid: str, room: str) -> Subscription | None:
        """Return a connection's subscription."""

    def rooms_of(self, sid: str) -> Sequence[str]:
        """Return the rooms that a connection is in."""

    def subscribers_of(self, room: str) -> Sequence[str]:
        """Return the connections that are in a room."""


class Revoker(Protocol):
    """Ends subscriptions."""

    def rechecking(self) -> None:
        """Let joins that are under way ask once more."""

    def revoke(
        self, sid: str, room: str, code: int, *, only: Subscription | None = None
    ) -> bool:
        """End one, if it is still the one that is meant."""


@dataclass(slots=True, eq=False)
class _Case:
    """Connections of one user, who is asked about once for them all.

    Args:
        rooms: Names, or texts of patterns, of those to be asked about; None: all.
    """

    connections: dict[str, Registered]
    rooms: set[str] | None


class Revalidation:
    """Asks again for the connections of one process.

    Args:
        connections: The registry.
        judge: Says whose a handshake is now.
        rules: The rules of the rooms.
        rooms: Knows who is in which.
        node: Ends subscriptions.
        context: Enters what loaded users live in.
        spawn: Runs a function in the background.
        sleep: Waits for seconds; 0 lets others run.
        now: Seconds of a clock that never falls.
        dice: Returns a number from 0 to 1.
        interval: Seconds in which every connection is asked about.
        rate: Users that are loaded a second, in turn.
        metrics: Counts what was found.
        failures: Takes note of what could not be found out.
    """

    def __init__(
        self,
        connections: Registry,
        judge: Judge,
        *,
        rules: Rules,
        rooms: Rooms,
        node: Revoker,
        context: Callable[[], AbstractContextManager[Any]],
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        dice: Callable[[], float],
        interval: float,
        rate: float,
        metrics: Metrics = OFF,
        failures: Failures | None = None,
    ) -> None:
        self._connections = connections
        self._judge = judge
        self._rules = rules
        self._rooms = rooms
        self._node = node
        self._context = context
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._dice = dice
        self._interval = interval
        self._rate = rate
        self._metrics = metrics
        self._failures = Failures() if failures is None else failures
        self._look = min(_LOOK, interval / 4)
        # Guards the orders and whether there is a worker, and wakes it. Of others'
        # locks only the registry's, a leaf, is taken under it.
        self._changed = threading.Condition(threading.Lock())
        self._orders: dict[Recheck, None] = {}
        self._working = False
        # The worker's own: what orders have come to, first those for one user; when
        # each user is due; how many may be loaded now.
        self._narrow: dict[_Key, _Case] = {}
        self._wide: dict[_Key, _Case] = {}
        self._due: dict[_Key, float] = {}
        self._allowance = 0.0
        self._counted = now()
        self._slow = False
        metrics.gauge("rechecks_waiting", self._waiting)

    def begin(self) -> None:
        """Have a worker; to be called whenever a connection was registered."""
        if self._working:
            return
        with self._changed:
            self._ensure()

    def recheck(self, orders: Iterable[Recheck]) -> None:
        """Let subscriptions be asked about again; it hands over and returns."""
        # Before anybody looks at the subscriptions (see ``node``), and where there is
        # no worker too, as somebody may be joining.
        self._node.rechecking()
        with self._changed:
            for order in orders:
                if order.close or _EVERYTHING in self._orders:
                    continue
                self._orders[order] = None
                if order == _EVERYTHING or len(self._orders) > _MAX_ORDERS:
                    self._orders = {_EVERYTHING: None}
            # Without connections there is nobody to ask about.
            if self._working or self._connections.all():
                self._ensure()
            else:
                self._orders.clear()

    def _ensure(self) -> None:
        """Have a worker that is awake; the lock is held."""
        if self._working:
            self._changed.notify()
            return
        self._working = True
        try:
            self._spawn(self._work)
        except BaseException:
            self._working = False
            raise

    def _waiting(self) -> float:
        return len(self._orders) + len(self._narrow) + len(self._wide)

    # -- the worker --------------------------------------------------------------------

    def _work(self) -> None:
        try:
            self._see_to_it()
        except BaseException:
            # It is killed; another one goes on where connections are left.
            with self._changed:
                self._working = False
                if self._connections.all():
                    self._ensure()
            raise

    def _see_to_it(self) -> None:
        while True:
            try:
                wait = self.step()
            except Exception:
                log.exception("Asking again for logins and rights failed; going on")
                wait = self._look
            with self._changed:
                if not (self._orders or self._connections.all()):
                    self._narrow.clear()
                    self._wide.clear()
                    self._due.clear()
                    self._working = False
                    return
                if wait > 0 and not self._orders:
                    self._changed.wait(wait)

    def step(self) -> float:
        """Do what is to be done next.

        Returns:
            Seconds until there may be something more.
        """
        with self._changed:
            orders, self._orders = self._orders, {}
        if orders:
            self._take(orders)
        for waiting in (self._narrow, self._wide):
            if waiting:
                keys = list(waiting)[:_TOGETHER]
                self._ask({key: waiting.pop(key) for key in keys})
                return 0.0
        return self._in_turn()

    def _take(self, orders: Iterable[Recheck]) -> None:
        """Find out whom orders concern."""
        for order in orders:
            user, room = order.user, order.room
            if user is None and room is None:
                self._all_are_due()
                continue
            if user is not None:
                found: Iterable[Registered] = self._connections.of_user(user)
            elif room is None or "<" in room:  # a pattern's, whichever it is
                found = self._connections.all()
            else:
                sids = self._rooms.subscribers_of(room)
                there = (self._connections.find(sid) for sid in sids)
                found = [one for one in there if one is not None]
            waiting = self._wide if user is None else self._narrow
            for connection in found:
                if room is None or self._is_in(connection, room):
                    _add(waiting, connection, room)

    def _is_in(self, connection: Registered, given: str) -> bool:
        covers = self._rules.covers
        return any(covers(given, r) for r in self._rooms.rooms_of(connection.sid))

    def _all_are_due(self) -> None:
        now = self._now()
        for connection in self._connections.all():
            self._due[_key(connection)] = now

    def _in_turn(self) -> float:
        """Ask about those who are due; returns seconds until the next look."""
        now = self._now()
        cases: dict[_Key, _Case] = {}
        for connection in self._connections.all():
            _add(cases, connection, None)
        due = self._due
        for key in [key for key in due if key not in cases]:
            del due[key]
        for key in cases:
            if key not in due:  # the first time anywhere in the interval
                due[key] = now + self._interval * self._dice()
        self._say_whether_slow(len(cases))
        passed, self._counted = now - self._counted, now
        most = max(1.0, self._rate)
        self._allowance = min(most, self._allowance + self._rate * passed)
        late = sorted((key for key in cases if due[key] <= now), key=due.__getitem__)
        late = late[: int(self._allowance)]
        while late:
            several, late = late[:_TOGETHER], late[_TOGETHER:]
            self._allowance -= len(several)
            for key in several:
                # In its place of the interval, unless it is far behind.
                due[key] = max(due[key], now - self._interval / 2) + self._interval
            self._ask({key: cases[key] for key in several})
            if self._orders:
                return 0.0
        return self._look

    def _say_whether_slow(self, users: int) -> None:
        """Say once that the interval can't be kept, until it can be again."""
        needed = users / self._rate
        slow, self._slow = self._slow, needed > self._interval
        if self._slow and not slow:
            log.warning(
                "At %g users a second it takes %.0f s to ask again for all logins of "
                "this process, longer than LIVEPUSH_REVALIDATE_INTERVAL, which is %g. "
                "Set LIVEPUSH_REVALIDATE_RATE higher; @livepush.users_loader loads "
                "many users at once.",
                self._rate,
                needed,
                self._interval,
            )

    # -- asking ------------------------------------------------------------------------

    def _ask(self, cases: Mapping[_Key, _Case]) -> None:
        """Ask about some users at once."""
        try:
            with self._context():
                self._ask_each(cases)
        except Exception as error:  # noqa: BLE001 - nothing ends by an outage
            self._put_off(cases, error)

    def _ask_each(self, cases: Mapping[_Key, _Case]) -> None:
        for key, case in cases.items():
            self._drop_gone(case)
            if key[0] == "user":
                self._check_sessions(key, case)
        wanted = [k for k, case in cases.items() if case.connections and k[0] == "user"]
        users, failed = self._load([key[1] for key in wanted])
        for name, error in failed.items():
            self._put_off({("user", name): cases["user", name]}, error)
        for key, case in cases.items():
            if key[0] == "user" and key[1] in failed:
                continue
            try:
                self._ask_one(case, users.get(key[1]), loaded=key[0] == "user")
            except Exception as error:  # noqa: BLE001
                self._put_off({key: case}, error)
            else:
                self._failures.over(_ASKING)
            self._sleep(0)

    def _load(
        self, keys: Sequence[str]
    ) -> tuple[Mapping[str, Any], Mapping[str, Exception]]:
        """Load users; return those that there are, and why others can't be loaded.

        One user that can't be is nobody else's business: then each is loaded alone,
        unless the first of them fails too, as all do without a database.
        """
        if not keys:
            return {}, {}
        try:
            return self._judge.load(keys), {}
        except Exception:
            if len(keys) == 1:
                raise
        users = dict(self._judge.load(keys[:1]))
        failed: dict[str, Exception] = {}
        for key in keys[1:]:
            try:
                users.update(self._judge.load([key]))
            except Exception as error:  # noqa: BLE001 - it is put off
                failed[key] = error
        return users, failed

    def _drop_gone(self, case: _Case) -> None:
        for sid in list(case.connections):
            if self._connections.find(sid) is not case.connections[sid]:
                del case.connections[sid]

    def _check_sessions(self, key: _Key, case: _Case) -> None:
        """Judge the sessions of a user's connections, each once; end what ends."""
        found: dict[tuple[Any, ...], ClientError | None] = {}
        for connection in list(case.connections.values()):
            session = _session(connection)
            if session not in found:
                found[session] = self._claim_error(connection)
            error = found[session]
            if error is not None:
                self._over(case, connection, error)

    def _claim_error(self, connection: Registered) -> ClientError | None:
        """Return why a connection's session is no login any more; None: it is."""
        try:
            claim = self._judge.claim(connection.handshake)
        except ClientError as error:
            _raise_unless_final(error)
            return error
        if claim.key != connection.caller.claim.key:
            return NotAuthorised(_SIGNED_OUT)
        return None

    def _ask_one(self, case: _Case, user: Any, *, loaded: bool) -> None:
        """Ask about one user, and then the rules of all the rooms."""
        while case.connections:
            first = next(iter(case.connections.values()))
            if loaded and not self._is_same(first, user):
                # Mostly deleted or deactivated. Who else it may be, such as the user of
                # a request loader, is for whoever lets connections in to say.
                if not self._is_let_in(case, first):
                    continue
                self._kept({first.sid: first})
                del case.connections[first.sid]
                continue
            subscriptions = self._subscriptions(case)
            refused: dict[str, ClientError] = {}
            if subscriptions or not loaded:
                try:
                    refused = self._refusals(first, user, subscriptions)
                except ClientError as error:
                    _raise_unless_final(error)
                    # Of this one alone: its login may have ended a moment ago.
                    self._over(case, first, error)
                    continue
            for room, why in refused.items():
                for sid, subscription in subscriptions[room]:
                    self._revoke(case.connections[sid], room, why, subscription)
            self._kept(case.connections)
            return

    def _refusals(
        self, connection: Registered, user: Any, rooms: Iterable[str]
    ) -> dict[str, ClientError]:
        """Return those of the rooms that a connection's user may not be in."""
        refused: dict[str, ClientError] = {}
        with self._judge.entered(connection.handshake, user) as found:
            if not self._is_same(connection, found):
                # Somebody's login, but not the one the connection is known by.
                is_known = bool(getattr(found, "is_authenticated", False))
                raise (RefreshLogin if is_known else NotAuthorised)(_SIGNED_OUT)
            for room in rooms:
                try:
                    self._rules.check(room, found)
                except ClientError as error:
                    _raise_unless_final(error)
                    refused[room] = error
        return refused

    def _is_let_in(self, case: _Case, connection: Registered) -> bool:
        """Say whether a connection would be let in again; it is over if not."""
        try:
            caller = self._judge.caller(connection.handshake)
        except ClientError as error:
            _raise_unless_final(error)
            self._over(case, connection, error)
            return False
        if caller.identity == connection.caller.identity is not None:
            return True
        if caller.identity is None and caller.claim.key is not None:
            raise Unavailable("The user does not say who it is.")
        other = NotAuthorised if caller.identity is None else RefreshLogin
        self._over(case, connection, other(_SIGNED_OUT))
        return False

    def _is_same(self, connection: Registered, user: Any) -> bool:
        known = bool(getattr(user, "is_authenticated", False))
        identity = self._rules.identity(user) if known else None
        caller = connection.caller
        if caller.identity is None and caller.claim.key is None:
            return identity is None  # a visitor, or a user that no id is known of
        if known and identity is None is not caller.identity:
            raise Unavailable("The user does not say who it is.")
        return known and identity == caller.identity

    def _subscriptions(self, case: _Case) -> dict[str, list[tuple[str, Subscription]]]:
        """Return the subscriptions that are to be asked about, as they are now.

        One that is made anew meanwhile has asked its rule itself, and is left alone.
        """
        found: dict[str, list[tuple[str, Subscription]]] = {}
        for sid in case.connections:
            for room in self._rooms.rooms_of(sid):
                if case.rooms is None or any(
                    self._rules.covers(given, room) for given in case.rooms
                ):
                    subscription = self._rooms.find(sid, room)
                    if subscription is not None:
                        found.setdefault(room, []).append((sid, subscription))
        return found

    # -- what follows ------------------------------------------------------------------

    def _over(self, case: _Case, connection: Registered, error: ClientError) -> None:
        """Let a connection go: for good, or to come back with what it has now."""
        del case.connections[connection.sid]
        # Who gives a token may have a newer one; without, it is refused when it comes.
        if isinstance(error, RefreshLogin) or (
            connection.caller.claim.source == "payload"
        ):
            self._metrics.count("revalidations_total", "sent_away")
            self._connections.send_away(connection.sid)
        else:
            self._metrics.count("revalidations_total", "ended")
            self._connections.end(connection.sid, error)

    def _revoke(
        self,
        connection: Registered,
        room: str,
        error: ClientError,
        subscription: Subscription,
    ) -> None:
        sid = connection.sid
        if self._node.revoke(sid, room, error.code, only=subscription):
            self._metrics.count("revoked_total")
        elif self._rooms.find(sid, room) is not None:
            # It has joined anew, and may have asked its rule before the right was lost.
            self._due[_key(connection)] = self._now()

    def _kept(self, connections: Mapping[str, Registered]) -> None:
        self._metrics.count("revalidations_total", "kept", len(connections))

    def _put_off(self, cases: Mapping[_Key, _Case], error: Exception) -> None:
        """Keep everything as it is, and ask again soon."""
        # Not again together: the first of them decides, see _load.
        for key, case in cases.items():
            self._due[key] = self._now() + _AGAIN * (0.8 + 0.2 * self._dice())
            self._metrics.count("revalidations_total", "failed", len(case.connections))
        self._failures.note(
            _ASKING,
            Failure(
                "Whether logins and rights still hold can't be found out "
                f"({type(error).__name__}); connections stay as they are, and it is "
                f"tried again each {_AGAIN:g} s."
            ),
            error=error,
        )


def _raise_unless_final(error: ClientError) -> None:
    """Raise what says nothing of a login or a right, but of the server."""
    if error.temporary and not isinstance(error, RefreshLogin):
        raise error


def _key(connection: Registered) -> _Key:
    """Return what the connections have in common that are asked about at once."""
    claim, handshake = connection.caller.claim, connection.handshake
    if claim.key is not None and claim.source in ("session", "ticket"):
        return ("user", claim.key)
    if claim.source == "nobody" and not handshake.payload:
        return ("nobody", handshake.environ.get("HTTP_COOKIE", ""))
    return ("own", connection.sid)


def _session(connection: Registered) -> tuple[Any, ...]:
    """Return what the connections have in common that have one session."""
    handshake = connection.handshake
    if handshake.payload or connection.caller.claim.source != "session":
        return (connection.sid,)
    return tuple(handshake.environ.get(name) for name in _SAME_SESSION)


def _add(cases: dict[_Key, _Case], connection: Registered, room: str | None) -> None:
    case = cases.setdefault(_key(connection), _Case({}, set()))
    case.connections[connection.sid] = connection
    if room is None:
        case.rooms = None
    elif case.rooms is not None:
        case.rooms.add(room)
