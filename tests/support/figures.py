"""What a page of metrics says, for tests of what is counted."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client.parser import text_string_to_metric_families

from flask_livepush.metrics import PREFIX, Meters

Read = Callable[..., float]


def figure(text: str, name: str, label: str = "", app: str | None = None) -> float:
    """Return one figure of a page.

    Args:
        name: Without the prefix.
        label: The value of its own label.
        app: Whose; None: there is one application.
    """
    found = [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == PREFIX + name
        and (not label or label in sample.labels.values())
        and app in (None, sample.labels["app"])
    ]
    assert len(found) == 1, (name, label, text)
    return found[0]


def meters(now: Callable[[], float] = lambda: 0.0) -> tuple[Meters, Read]:
    """Return what counts, switched on, and what reads its figures."""
    made = Meters("test", spawn=_never, sleep=_never, now=now)
    made.switch_on()
    return made, lambda name, label="": figure(made.page()[0].decode(), name, label)


def _never(what: object) -> None:
    raise AssertionError("one process alone needs no writer")
