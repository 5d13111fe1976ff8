"""What is counted, and how: one table, a recorder that counts, and one that does not.

The only module that knows prometheus_client, which is loaded when something is to be
counted. No user, room or event may be in a label, and nothing in here may know what a
figure means.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from .errors import ConfigError
from .logs import logger

if TYPE_CHECKING:
    from prometheus_client import Metric as Family
    from prometheus_client.registry import Collector

log = logger(__name__)

PREFIX = "livepush_"
# Set for the whole process before it starts, as prometheus_client wants it.
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"
# Seconds between two times that a process writes its gauges for the others to read.
_WRITE_EVERY = 5.0
_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
            5.0, 10.0)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table.

    Args:
        name: Without the prefix; ends with its unit, and with ``_total`` if it counts.
        kind: What Prometheus calls its type.
        doc: One sentence (or a few) for the documentation.
        label: The name of its label, if it has one.
        values: All values of that label.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    doc: str
    label: str = ""
    values: tuple[str, ...] = ("",)


TABLE: tuple[Metric, ...] = (
    Metric(
        "connections",
        "gauge",
        "Connections that are open.",
        "transport",
        ("websocket", "polling"),
    ),
    Metric(
        "connects_total",
        "counter",
        "Connections that were asked for; refused: the visitor may not have one, or "
        "loading the user failed.",
        "outcome",
        ("accepted", "refused"),
    ),
    Metric(
        "forwarded_total",
        "counter",
        "Requests of polling clients that came to another process than their "
        "session's. answered: through that one; unknown: the id is nobody's (any "
        "more); refused: too large, or too many at once; failed: the message "
        "queue did not answer, or nothing came back in time; left: the client went "
        "before.",
        "outcome",
        ("answered", "unknown", "refused", "failed", "left"),
    ),
    Metric(
        "subscriptions", "gauge", "Connections in rooms, each in each of its rooms."
    ),
    Metric(
        "publications_total",
        "counter",
        "What was handed to the broker, stale versions too, by what became of it at "
        "once. queued: it waits, see queue_sent_total; failed: the broker did not take "
        "it. What all rooms are told is stored when it is, room by room.",
        "outcome",
        ("stored", "queued", "dropped", "failed"),
    ),
    Metric(
        "publish_seconds",
        "histogram",
        "How long the broker took to accept the publications of one commit, in all the "
        "rooms it names, or to fail.",
    ),
    Metric(
        "stale_publications_dropped_total",
        "counter",
        "Versions of rows that came after a newer one, and were not published.",
    ),
    Metric(
        "broker_lag_seconds",
        "histogram",
        "From a publication to its arrival in this process, for what arrives live. "
        "With Redis by two clocks, the server's and this machine's; never below 0.",
    ),
    Metric(
        "deliveries_total",
        "counter",
        "Publications handed to subscriptions, each to each: written, or held back "
        "for one that is still joining.",
    ),
    Metric(
        "delivery_seconds",
        "histogram",
        "How long one fan-out took: the publications of one commit to all "
        "subscriptions of one room in this process.",
    ),
    Metric(
        "recoveries_total",
        "counter",
        "Joins of rooms. recovered: with everything since their position; snapshot: "
        "newcomers, and those whose position is gone; refused: they may not; failed: "
        "they are to try again.",
        "outcome",
        ("recovered", "snapshot", "refused", "failed"),
    ),
    Metric(
        "resets_total",
        "counter",
        "Subscriptions that were told to come back, since nobody could vouch for "
        "their position.",
    ),
    Metric(
        "holes_total",
        "counter",
        "What went wrong between Redis and this process. corrupt: foreign or broken "
        "entries; reread: publications that were not received and read from the "
        "history; mended: rooms whose history was gone; interrupted: connections that "
        "failed.",
        "kind",
        ("corrupt", "reread", "mended", "interrupted"),
    ),
    Metric(
        "broker_outage_seconds_total",
        "counter",
        "Time without a working connection that listens to Redis, summed over "
        "connections.",
    ),
    Metric(
        "queue_depth",
        "gauge",
        "Commits and events that wait for the broker, a commit once for each of its "
        "rooms; and what all rooms are still to be told.",
    ),
    Metric("queue_bytes", "gauge", "Their size."),
    Metric(
        "queue_sent_total",
        "counter",
        "Publications that had waited for the broker, and that it has taken since. "
        "With those that were refused, those that still wait and those that were lost "
        'with a process, they are publications_total{outcome="queued"}.',
    ),
    Metric(
        "refusals_total",
        "counter",
        "What clients were refused, by the code that they were told: connects, joins, "
        "whispers.",
        "code",
        ("100", "101", "103", "106", "107", "109", "111", "120"),
    ),
    Metric(
        "ends_total",
        "counter",
        "Connections that were ended since their login did or their user was "
        "disconnected. told: for good; sent_away: their clients come back.",
        "outcome",
        ("told", "sent_away"),
    ),
    Metric(
        "unborne_total",
        "counter",
        "Requests of polling clients, and WebSockets that were to take one over, that "
        "did not bear what the session was opened with, such as the login's cookie. "
        "They are answered as if there were no such session.",
    ),
    Metric(
        "drops_total",
        "counter",
        "What was given up. too_large: publications above the limit (a change is told "
        "as its kind being stale); queue_full: publications that found the queue to "
        "the broker full; refused: publications that waited in it, and that the broker "
        "then did not want; listener_full: publications for the listener of a single "
        "process (their rooms are mended); too_fast: messages of clients that send "
        "faster than they may or than they are served, and are disconnected; too_many: "
        "connections above LIVEPUSH_MAX_CONNECTIONS.",
        "reason",
        ("too_large", "queue_full", "refused", "listener_full", "too_fast", "too_many"),
    ),
    Metric(
        "logins_ended_total",
        "counter",
        "Logins that ended, as this process learned of it. here: by itself; elsewhere: "
        "from another process, or from a table at its start.",
        "where",
        ("here", "elsewhere"),
    ),
    Metric(
        "logins_behind_seconds_total",
        "counter",
        "Time in which this process did not know whether all ended logins were known "
        "to it, and told joins to try again.",
    ),
    Metric(
        "logins_restored_total",
        "counter",
        "Ended logins that this process wrote back to Redis, which had lost them.",
    ),
    Metric(
        "logins_dropped_total",
        "counter",
        "mirror_full: ended logins that were forgotten, as there are more than a "
        "process remembers; corrupt: entries in Redis that are none of ours; "
        "queue_full: ended logins above what may wait for Redis, which are written "
        "back later; orders_full: ends of connections, by user, that were lost as too "
        "many waited; table: ended logins that the table will not have, as too many "
        "waited for it.",
        "reason",
        ("mirror_full", "corrupt", "queue_full", "orders_full", "table"),
    ),
    Metric(
        "revalidations_total",
        "counter",
        "Connections whose login was asked about again. kept: it holds; ended: it does "
        "not; sent_away: their clients come back with their cookies of the moment; "
        "failed: nobody could say, they stay and are asked about again.",
        "outcome",
        ("kept", "ended", "sent_away", "failed"),
    ),
    Metric(
        "revoked_total",
        "counter",
        "Subscriptions that ended, since a rule that was asked again said no.",
    ),
    Metric(
        "rechecks_waiting",
        "gauge",
        "Orders to ask again, of livepush.recheck and of watched tables, and users "
        "whom they concern here, that wait.",
    ),
    Metric(
        "failures_total",
        "counter",
        "What did not reach screens as it was meant, each as livepush.signals.failed "
        "tells it. field: values that can't be sent, their rows went without them; "
        "row: rows that were not sent; state: what a room or a user tells of itself "
        "and could not be sent; broker: pages and joins while it did not answer; "
        "other: anything else, such as rooms that had to read anew.",
        "what",
        ("field", "row", "state", "broker", "other"),
    ),
)


class Metrics:
    """Counts nothing: the default everywhere, and the interface of what does count.

    Names are those of the table, without the prefix.
    """

    #: Whether anything is counted, for callers whose figure costs something to find.
    on = False

    def count(self, name: str, label: str = "", amount: float = 1) -> None:
        """Add to a counter. Never raises for what happens at run time."""

    def start(self) -> float:
        """Return when something begins, for :meth:`took`."""
        return 0.0

    def took(self, name: str, started: float) -> None:
        """Observe how long something took, by what :meth:`start` returned."""

    def observe(self, name: str, seconds: float) -> None:
        """Observe a duration."""

    def gauge(self, name: str, read: Callable[[], float], label: str = "") -> None:
        """Have a gauge read when somebody wants to know; ``read`` must not block."""


OFF = Metrics()


class Meters(Metrics):
    """Counts for one application, once it is switched on.

    With ``PROMETHEUS_MULTIPROC_DIR`` in the environment all processes that have it are
    counted together, by files there; each writes its gauges every 5 seconds.

    Args:
        app: The application's name; the label ``app`` of every figure, which keeps
            several applications of one process apart.
        spawn: Runs a function in the background.
        sleep: Waits for seconds.
        now: Seconds of a clock that never falls.
    """

    def __init__(
        self,
        app: str,
        *,
        spawn: Callable[[Callable[[], None]], object],
        sleep: Callable[[float], object],
        now: Callable[[], float],
    ) -> None:
        self.start = now  # type: ignore[method-assign]
        self._app = app
        self._spawn = spawn
        self._sleep = sleep
        self._now = now
        self._gauges: dict[tuple[str, str], Callable[[], float]] = {}
        self._series: dict[tuple[str, str], Any] = {}
        self._shared = False
        self._writer: int | None = None

    def switch_on(self) -> None:
        """Count from now on; may be repeated.

        Raises:
            ConfigError: prometheus_client is missing, or its directory is.
        """
        if self.on:
            return
        try:
            import prometheus_client
        except ImportError as error:
            raise ConfigError(
                "Metrics need prometheus_client; install flask-livepush[metrics]."
            ) from error
        directory = os.environ.get(_DIRECTORY)
        if directory is not None and not os.path.isdir(directory):
            raise ConfigError(
                f"{_DIRECTORY} is {directory!r}, which is no directory; make it, "
                "empty, before the server starts."
            )
        self._shared = directory is not None
        self._registry = prometheus_client.CollectorRegistry()
        options: dict[str, dict[str, Any]] = {
            "counter": {},
            "gauge": {"multiprocess_mode": "livesum"},
            "histogram": {"buckets": _BUCKETS},
        }
        makers: dict[str, Any] = {
            "counter": prometheus_client.Counter,
            "gauge": prometheus_client.Gauge,
            "histogram": prometheus_client.Histogram,
        }
        for row in TABLE:
            labels = ("app", row.label) if row.label else ("app",)
            metric = makers[row.kind](
                PREFIX + row.name,
                row.doc,
                labels,
                registry=self._registry,
                **options[row.kind],
            )
            for value in row.values:
                given = (self._app, value) if row.label else (self._app,)
                self._series[row.name, value] = metric.labels(*given)
        self.on = True

    def count(self, name: str, label: str = "", amount: float = 1) -> None:
        if self.on:
            self._series[name, label].inc(amount)
            if self._shared and self._writer != os.getpid():
                self._begin_writing()

    def took(self, name: str, started: float) -> None:
        if self.on:
            self._series[name, ""].observe(self._now() - started)

    def observe(self, name: str, seconds: float) -> None:
        if self.on:
            self._series[name, ""].observe(seconds)

    def gauge(self, name: str, read: Callable[[], float], label: str = "") -> None:
        self._gauges[name, label] = read

    def page(self) -> tuple[bytes, str]:
        """Return all figures as Prometheus reads them, and their content type."""
        from prometheus_client import CollectorRegistry, exposition, multiprocess

        self._write_gauges()
        source = self._registry
        if self._shared:
            source = CollectorRegistry()
            multiprocess.MultiProcessCollector(source)  # type: ignore[no-untyped-call]
        ours = CollectorRegistry()
        ours.register(_Ours(source, self._app))
        return exposition.generate_latest(ours), exposition.CONTENT_TYPE_LATEST

    def _begin_writing(self) -> None:
        # Here and not before: a server may fork after the application was set up.
        self._writer = os.getpid()
        self._spawn(self._keep_writing)

    def _keep_writing(self) -> None:
        while self._writer == os.getpid():
            self._write_gauges()
            self._sleep(_WRITE_EVERY)

    def _write_gauges(self) -> None:
        for key, read in list(self._gauges.items()):
            try:
                self._series[key].set(read())
            except Exception:
                log.exception("Reading the gauge %s failed", key[0])


class _Ours:
    """The figures of one application, without when each was made.

    The directory of several processes has the application's own metrics too, and those
    of other applications.
    """

    def __init__(self, source: Collector, app: str) -> None:
        self._source = source
        self._app = app

    def collect(self) -> Iterator[Family]:
        from prometheus_client import Metric as Family

        for family in self._source.collect():
            if not family.name.startswith(PREFIX):
                continue
            kept = Family(family.name, family.documentation, family.type)
            kept.samples = [
                sample
                for sample in family.samples
                if sample.labels.get("app") == self._app
                and not sample.name.endswith("_created")
            ]
            yield kept
