"""Ended logins on Redis: each process has a mirror of them, which a loop keeps true.

**The mirror.** The loop reads what is new whenever it is woken by the channel, and half
a second after it last did: a wake-up may be lost, a reading is not. Whoever asks looks
into the mirror, and whether the loop's last reading is young enough to be vouched for.

**What Redis forgets.** All that Redis holds has an epoch, which ends when anything may
have been forgotten (``lua/logins.lua``). Told as a timeline:

1. P, Q and R know that X has ended. Redis loses its data.
2. P reads, and finds another epoch: from now on it vouches for nobody.
3. P reads all that Redis has now, takes a short lock, and writes what is missing: X. It
   vouches again.
4. Q, which had waited for the lock, finds that nothing is missing any more.
5. S starts. It knows nothing, so it vouches for nobody before the epoch is two seconds
   old: by then P and Q have written.

What can't be sent waits in this process, and is sent by the loop.
"""

from __future__ import annotations

import os
import random
import secrets
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ..errors import BrokerError, BrokerUnavailable
from ..failures import Failure, Failures
from ..logs import logger
from ..metrics import OFF, Metrics
from .ended_keeper import EndedKeeper
from .ended_mirror import MOST, EndedMirror, is_login
from .logins import Ended, LoginListener, Logins, LoginTable, Recheck
from .redis_ended import Place, Reading, RedisEnded
from .redis_reader import Reader
from .redis_servers import Servers
from .redis_topologies import servers_of

log = logger(__name__)

#: Seconds for which a reading is vouched for. Whatever ended before it began is known,
#: so nobody whose login ended a second ago is let in. It has room for the half second
#: until the next, for an answer as slow as is waited for, and for a busy process.
CURRENT = 1.0
# Seconds of silence after which it reads all the same; between attempts; between two
# readings that wake-ups ask for; for an answer.
_SILENCE = 0.5
_AGAIN = 0.2
_GAP = 0.01
_ANSWER = 0.5
# Seconds between attempts to listen, at most: a wake-up must not be missed for long.
_LISTEN_AGAIN = 0.25
# Seconds somebody waits until the mirror is current, and where Redis answers and this
# process only gives others their time; between two looks for the lock.
_CONFIRM, _CONFIRM_NEW = 1.0, 4.0
_LOCK_AGAIN = 0.05
# Ids, and orders, that may wait to be sent; how many are sent at once.
_MOST_WAITING = 10_000
_BATCH = 1000

_AWAY = (
    "Nobody vouches for logins, and joins are told to try again, as long as the "
    "message queue does not answer; flask livepush doctor examines it."
)


class RedisLogins(Logins):
    """Ended logins of all processes that share a prefix.

    It begins to listen when somebody first asks it about a login, in each process for
    itself, also after a fork.

    Args:
        servers: Where Redis is; what a view waits for is sent by these.
        prefix: What stands before all names.
        lifetime: Seconds for which an end must be known.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
        table: Keeps them as well.
        failures: Takes note of what fails at run time.
        most: How many are remembered.
        dice: A random number from 0 to 1; by default of a generator of its own.
        metrics: Counts.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        prefix: str,
        lifetime: float,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
        table: LoginTable | None = None,
        failures: Failures | None = None,
        most: int = MOST,
        dice: Callable[[], float] | None = None,
        metrics: Metrics = OFF,
    ) -> None:
        self._servers = servers
        # Connections of its own: views that wait for theirs must not keep it waiting.
        self._own = servers_of(servers.target, quick=_ANSWER)
        self._own.guard = servers.guard
        self._prefix = prefix
        self._lifetime = lifetime
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._failures = failures or Failures()
        self._most = most
        self._dice = dice or random.Random().random
        self._metrics = metrics
        self._listener: LoginListener | None = None
        self._mirror = EndedMirror(
            lifetime=lifetime, now=now, most=most, metrics=metrics
        )
        self._keeper = EndedKeeper(
            table,
            failures=self._failures,
            spawn=spawn,
            sleep=sleep,
            now=now,
            metrics=metrics,
        )
        # The loop's alone, as all that follows: up to where it has read; what Redis
        # has, where it must be compared; what of the table is to be read.
        self._place = Place()
        self._found: set[str] | None = None
        self._is_table_read = not self._keeper.exists
        # Whether it has ever vouched, and has waited for others before it did.
        self._has_vouched = self._has_waited = self._has_noted = False
        self._begin()
        _all.add(self)

    def _begin(self) -> None:
        """Begin, also in a child, which knows what its parent knew."""
        self._redis = RedisEnded(
            self._servers,
            prefix=self._prefix,
            node=secrets.token_urlsafe(9),
            lifetime=self._lifetime,
            most=self._most,
        )
        self._channel = self._redis.keys.channel
        self._lock = threading.Lock()  # guards what waits, the bell, and who runs
        self._changed = threading.Condition(self._lock)
        self._waiting: dict[str, tuple[Ended, float]] = {}
        self._orders: list[Recheck] = []
        self._overflown = False
        self._rung = False
        self._runs = False
        self._closed = False
        self._reader: Reader | None = None
        self._listens = False
        # Whether the loop's last attempt failed: no view waits for another one then.
        self._is_away = False
        # When the last reading began that left nothing to be done, and the last of all.
        self._vouched = self._last_began = float("-inf")
        self._read_at = float("-inf")
        self._behind_until = self._now()

    def _after_fork(self) -> None:
        self._mirror.after_fork()
        self._keeper.after_fork()
        self._begin()

    # -- the contract ------------------------------------------------------------------

    def listen(self, listener: LoginListener) -> None:
        self._listener = listener

    def end(self, logins: Iterable[Ended]) -> None:
        new = self._mirror.add(logins)
        if not new:
            return
        self._tell(new, "here")
        self._hand_over(new, [])
        self._keeper.add(new)

    def recheck(self, orders: Iterable[Recheck]) -> None:
        found = list(orders)
        if found:
            self._order(found)
            self._hand_over([], found)

    def has_ended(self, login: str) -> bool:
        self._start()
        return login in self._mirror

    def is_current(self) -> bool:
        self._start()
        return self._is_current()

    def confirm(self) -> None:
        if self.is_current():
            return
        began = self._now()
        with self._changed:
            self._ring()
            while not self._is_current():
                patience = _CONFIRM_NEW if self._has_waited else _CONFIRM
                left = began + patience - self._now()
                if left <= 0 or self._closed:
                    raise BrokerUnavailable(
                        f"{self._servers.target.url} does not say which logins have "
                        "ended; try again later."
                    )
                self._changed.wait(left)

    def spend(self, ticket: str, seconds: float) -> bool:
        return self._redis.spend(ticket, seconds)

    def finish(self, seconds: float) -> bool:
        end = self._now() + seconds
        while not (done := self._is_done()) and self._now() < end:
            self._start()
            self._sleep(_GAP)
        return done

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._rung = True
            self._changed.notify_all()
            if self._reader is not None:
                self._reader.close()
        self._own.close()

    def _is_current(self) -> bool:
        return self._now() - self._vouched < CURRENT

    def _is_done(self) -> bool:
        waits = self._waiting or self._orders or self._overflown
        return not waits and self._found is None and self._keeper.is_done

    # -- what goes out -----------------------------------------------------------------

    def _hand_over(self, ended: Sequence[Ended], orders: Sequence[Recheck]) -> None:
        """Send at once; where that fails, or others wait, leave it to the loop."""
        away = self._runs and self._is_away
        behind = away or self._waiting or self._orders or self._overflown
        few = len(ended) <= _BATCH and len(orders) <= _BATCH
        if not behind and few and (ended or not self._runs):
            try:
                self._redis.write(
                    [(each, 0.0) for each in ended if is_login(each.login)],
                    orders,
                    place=self._place,
                    listens=self._listens,
                )
                return
            except BrokerError as error:
                log.debug("It is not told yet which logins have ended: %s", error)
            except Exception:
                log.exception("Telling which logins have ended failed; trying again")
        at = self._now()
        with self._changed:
            self._waiting.update(
                (each.login, (each, at)) for each in ended if is_login(each.login)
            )
            # Of their own: one that is equal may be on its way, and is taken out then.
            self._orders += [replace(order) for order in orders]
            self._bound()
            self._ring()
        self._start()

    def _bound(self) -> None:
        """Let no more wait than may; what is in the mirror is not lost."""
        if len(self._waiting) > _MOST_WAITING:
            self._metrics.count("logins_dropped_total", "queue_full", _MOST_WAITING)
            if not self._overflown and self._found is None:
                log.error(
                    "More than %d ended logins wait for the message queue; all that "
                    "this process knows is compared when it answers again.",
                    _MOST_WAITING,
                )
            self._overflown = True
            self._waiting.clear()
        if len(self._orders) > _MOST_WAITING:
            # To ask everything again is in place of any question, but ends nobody.
            ends = [order for order in self._orders if order.close]
            lost = len(ends) - _MOST_WAITING // 2
            if lost > 0:
                self._metrics.count("logins_dropped_total", "orders_full", lost)
                log.error("Orders to end users' connections are lost: %d", lost)
            self._orders = [*ends[-_MOST_WAITING // 2 :], Recheck()]

    def _send(self) -> None:
        while self._waiting or self._orders:
            now = self._now()
            with self._lock:
                ended = list(self._waiting.values())[:_BATCH]
                orders = self._orders[:_BATCH]
            self._redis.write(
                [(each, now - at) for each, at in ended],
                orders,
                place=self._place,
                listens=self._listens,
                servers=self._own,
            )
            with self._lock:
                for each, _ in ended:
                    self._waiting.pop(each.login, None)
                sent = set(map(id, orders))
                self._orders = [each for each in self._orders if id(each) not in sent]

    # -- the loop ----------------------------------------------------------------------

    def _start(self) -> None:
        if self._runs or self._closed:
            return
        with self._lock:
            begins = not self._runs and not self._closed
            self._runs = True
        if begins:
            try:
                self._spawn(self._run)
            except BaseException:
                self._runs = False
                raise

    def _run(self) -> None:
        try:
            while not self._closed:
                self._wait(self._round())
        finally:
            self._runs = False  # killed, whoever asks next begins another one

    def _ring(self) -> None:
        """Have the loop read now; the lock is held."""
        self._rung = True
        self._changed.notify_all()

    def _wait(self, seconds: float) -> None:
        end = self._now() + seconds
        with self._changed:
            while not self._rung and (left := end - self._now()) > 0:
                self._changed.wait(left)
            self._rung = False
        early = self._read_at + _GAP - self._now()
        if early > 0:
            self._sleep(early)  # one reading does for many wake-ups

    def _round(self) -> float:
        """Send and read once; return after how many seconds to do it again."""
        self._count_behind()
        self._read_at = self._now()
        pause = _SILENCE
        try:
            self._send()
        except BrokerError as error:
            log.debug("It is not told yet which logins have ended: %s", error)
            pause = _AGAIN
        except Exception:
            log.exception("Telling which logins have ended failed; trying again")
            pause = _AGAIN
        try:
            pause = min(pause, self._read())
            self._is_away = False
        except Exception as error:
            self._is_away = True
            if not isinstance(error, BrokerError):
                log.exception("Reading which logins have ended failed; going on")
            if not self._is_current() and not self._has_noted:
                self._has_noted = True
                failure = Failure(_AWAY, what="broker")
                self._failures.note("logins: mirror", failure, error=error)
            return _AGAIN
        return pause

    def _read(self) -> float:
        """Bring the mirror to where Redis is, and Redis to where the mirror is.

        Raises:
            BrokerError: Redis does not answer.
        """
        if self._overflown and self._found is None:
            self._overflown = False
            self._found = set()
            self._place = Place(self._place.epoch, "0-0", self._place.order)
        reading = self._catch_up()
        if self._reader is None:
            # Not before: whoever reads first, where nobody listens, has a new Redis.
            with self._lock:
                if not self._closed:
                    self._reader = self._listening()
        self._look_in_table()
        if self._found is not None and not self._restore(self._found):
            return _LOCK_AGAIN * (1 + self._dice())
        if reading.wait > 0 and not self._has_vouched:
            self._has_waited = True
            return min(reading.wait, _AGAIN)
        self._vouch()
        return _SILENCE

    def _vouch(self) -> None:
        if self._has_waited and not self._mirror and not self._keeper.exists:
            log.warning(
                "The message queue has just begun and knows no ended login: if all "
                "that knew some were restarted at once, cookies of those work again "
                "until they expire, as in Flask itself. LIVEPUSH_LOGINS = 'database' "
                "keeps them."
            )
        self._has_waited = False
        self._has_vouched = True
        with self._changed:
            self._vouched = self._last_began
            self._changed.notify_all()
        if self._has_noted:
            self._has_noted = False
            self._failures.over("logins: mirror")

    def _catch_up(self) -> Reading:
        """Read until there is no more."""
        while True:
            self._last_began = self._now()
            reading = self._redis.read(
                self._place, listens=self._listens, servers=self._own
            )
            if reading.begun:
                log.warning(
                    "The message queue may have lost data; what this process knows of "
                    "ended logins is compared with it."
                )
                with self._lock:
                    self._vouched = float("-inf")
                self._place = Place(reading.place.epoch, "0-0", "")
                self._found = set()
                self._is_table_read = not self._keeper.exists
                self._order([Recheck()])
                continue
            self._take(reading)
            if not reading.more:
                return reading

    def _take(self, reading: Reading) -> None:
        if self._found is not None:
            self._found.update(ended.login for ended, _ in reading.ended)
        if reading.corrupt:
            self._metrics.count("logins_dropped_total", "corrupt", reading.corrupt)
            reason = (
                f"Under the prefix {self._prefix!r} somebody else writes into the "
                "streams of logins; it is passed over."
            )
            self._failures.note("logins: corrupt", Failure(reason))
        self._tell(self._mirror.add_each(reading.ended), "elsewhere")
        if reading.missed:
            self._order([Recheck()])
        elif reading.orders:
            self._order(reading.orders)
        self._place = reading.place

    def _look_in_table(self) -> None:
        if not self._is_table_read:
            for part in self._keeper.read():
                self._tell(self._mirror.add_each(part), "elsewhere")
            self._is_table_read = True
        elif self._keeper.is_due:
            self._keeper.look(
                lambda part: self._tell(self._mirror.add_each(part), "elsewhere")
            )

    def _restore(self, found: set[str]) -> bool:
        """Write what Redis does not have; say whether nothing is missing any more."""
        if self._mirror.missing_in(found):
            if not self._redis.lock(self._own):
                return False
            epoch = self._place.epoch
            self._catch_up()  # what the last one with the lock has written
            if self._place.epoch != epoch:
                return False
            missing = self._mirror.missing_in(found)
            missing.reverse()  # others may not have heard of the last
            for start in range(0, len(missing), _BATCH):
                self._redis.keep_lock(self._own)
                if not self._redis.write(
                    self._mirror.dated(missing[start : start + _BATCH]),
                    place=self._place,
                    listens=self._listens,
                    servers=self._own,
                    strict=True,
                ):
                    return False
                self._catch_up()  # what ends meanwhile is not to wait for this
                if self._place.epoch != epoch:
                    return False
            self._redis.unlock(self._own)
            if missing:
                self._metrics.count("logins_restored_total", amount=len(missing))
                log.warning("%d ended logins were written back.", len(missing))
        self._found = None
        return True

    def _count_behind(self) -> None:
        """Count how long nobody could vouch."""
        now = self._now()
        since = max(self._behind_until, self._vouched + CURRENT)
        if now > since:
            self._metrics.count("logins_behind_seconds_total", amount=now - since)
        self._behind_until = max(now, since)

    def _tell(self, new: Sequence[Ended], where: str) -> None:
        if not new:
            return
        self._metrics.count("logins_ended_total", where, len(new))
        if self._listener is not None and not self._closed:
            try:
                self._listener.ended(new)
            except Exception:
                log.exception("Ending a login failed; going on")

    def _order(self, orders: Sequence[Recheck]) -> None:
        if self._listener is not None and not self._closed:
            try:
                self._listener.recheck(orders)
            except Exception:
                log.exception("Asking again failed; going on")

    # -- the wake-up; by the reader's own thread or greenlet ---------------------------

    def _listening(self) -> Reader:
        reader = Reader(
            self._own.address(self._channel),
            self,
            connect=self._own.connect,
            sharded=self._own.sharded,
            now=self._now,
            sleep=self._sleep,
            longest_pause=_LISTEN_AGAIN,
        )
        reader.look_at([self._channel])
        self._spawn(reader.run)
        return reader

    def wants(self, reader: Reader, channel: str) -> bool:
        """Say whether it is the channel of wake-ups."""
        return channel == self._channel

    def subscribed(self, reader: Reader, channels: list[str]) -> None:
        """Read what came before."""
        self._listens = True
        self._wake()

    def received(self, reader: Reader, channel: str, message: bytes) -> None:
        """Read what has come."""
        self._wake()

    def interrupted(self, reader: Reader) -> None:
        """Subscribe again; until then it is read by the clock."""
        self._listens = False
        reader.look_at([self._channel])
        self._wake()

    def killed(self, reader: Reader) -> None:
        """Have another reader."""
        self._listens = False
        with self._lock:
            if self._reader is reader and not self._closed:
                self._reader = self._listening()

    def may_end(self, reader: Reader) -> bool:
        """Find out where the channel is now."""
        try:
            self._own.refresh()
        except BrokerError as error:
            log.debug("Nobody says where the channel of logins is: %s", error)
        reader.address = self._own.address(self._channel)
        return False

    def tick(self, reader: Reader) -> float:
        """Give a sign of life; go where the channel is."""
        address = self._own.address(self._channel)
        if address is not None and address != reader.address:
            raise BrokerError("the channel of logins has another server now")
        return self._own.renew()

    def _wake(self) -> None:
        with self._changed:
            self._ring()


def _begin_again() -> None:
    for logins in _all:
        logins._after_fork()


_all: weakref.WeakSet[RedisLogins] = weakref.WeakSet()
if hasattr(os, "register_at_fork"):
    # Before a thread of the child can ask.
    os.register_at_fork(after_in_child=_begin_again)
