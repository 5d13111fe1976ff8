"""When a database's clock is believed."""

from __future__ import annotations

import random

from flask_livepush.protocol.stamps import RisingClock

START = 1_763_000_000_000_000


def ask(clock: RisingClock, at: float, offset: float = 0.0, took: float = 0.0) -> bool:
    """Read a clock that is ``offset`` seconds off, in the middle of ``took``."""
    stamp = START + int((at + took / 2 + offset) * 1_000_000)
    return clock.believes(stamp, asked=at, answered=at + took)


def test_believes_a_clock_that_rises() -> None:
    clock = RisingClock()
    assert all(ask(clock, number / 10) for number in range(1000))


def test_believes_slow_answers() -> None:
    clock, dice = RisingClock(), random.Random(1)
    at = 0.0
    for _ in range(1000):
        took = dice.random() * 3
        assert ask(clock, at, took=took)
        at += took + dice.random()


def test_believes_a_clock_that_runs_a_little_slower_or_faster() -> None:
    for rate in (-0.0005, 0.0005):
        clock = RisingClock()
        assert all(ask(clock, at, offset=at * rate) for at in range(0, 100_000, 7))


def test_believes_a_clock_that_is_set_forward() -> None:
    clock = RisingClock()
    assert ask(clock, 0)
    assert ask(clock, 1, offset=100)
    assert ask(clock, 2, offset=100)


def test_believes_no_clock_that_has_fallen_until_it_has_caught_up() -> None:
    clock = RisingClock()
    for at in (0.0, 1.0, 2.0):
        assert ask(clock, at, took=0.1)
    believed = [at for at in range(3, 20) if ask(clock, at, offset=-5, took=0.1)]
    # At 3 the old clock said 3 and a little more; the new one says so past 8.
    assert believed[0] == 9
    assert believed == list(range(9, 20))


def test_notices_a_small_step_between_quick_answers() -> None:
    clock = RisingClock()
    assert ask(clock, 10, took=0.001)
    assert not ask(clock, 10.5, offset=-0.01, took=0.001)
    assert ask(clock, 10.6, offset=-0.01, took=0.001)


def test_a_second_fall_begins_anew() -> None:
    clock = RisingClock()
    assert ask(clock, 0)
    assert not ask(clock, 1, offset=-10)
    assert not ask(clock, 2, offset=-20)
    assert not ask(clock, 20, offset=-20)
    assert ask(clock, 22, offset=-20)
