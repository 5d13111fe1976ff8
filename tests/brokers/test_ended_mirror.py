"""What one process knows of ended logins, by a clock that the test sets."""

from __future__ import annotations

import pytest

from flask_livepush.brokers.ended_mirror import EndedMirror, is_login
from flask_livepush.brokers.logins import Ended
from tests.support.brokers import Clock
from tests.support.ended import new_ends, new_login


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def mirror(clock: Clock) -> EndedMirror:
    return EndedMirror(lifetime=100, now=clock, most=10)


def test_returns_what_is_new(mirror: EndedMirror) -> None:
    ends = new_ends(3)
    assert mirror.add(ends) == ends
    assert mirror.add([*ends, *(more := new_ends(1))]) == more
    assert all(end.login in mirror for end in ends)
    assert new_login() not in mirror


def test_what_is_over_is_forgotten_and_may_end_again(
    mirror: EndedMirror, clock: Clock
) -> None:
    first, second = new_ends(2)
    mirror.add([first], age=60)
    mirror.add([second])
    clock.now += 39
    assert first.login in mirror
    clock.now += 1
    assert first.login not in mirror
    assert mirror.add([first]) == [first]
    assert len(mirror) == 2
    clock.now += 60
    assert first.login in mirror
    assert second.login not in mirror
    assert mirror.add(new_ends(1), age=100) == []
    assert len(mirror) == 1


def test_a_clock_that_is_ahead_keeps_nothing_for_longer(
    mirror: EndedMirror, clock: Clock
) -> None:
    (end,) = new_ends(1)
    mirror.add([end], age=-50)
    clock.now += 100
    assert end.login not in mirror


def test_the_oldest_go_first(mirror: EndedMirror) -> None:
    ends = new_ends(25)
    mirror.add(ends)
    assert [end for end in ends if end.login in mirror] == ends[-10:]
    assert len(mirror) == 10


def test_says_what_others_do_not_have_with_its_age(
    mirror: EndedMirror, clock: Clock
) -> None:
    final, moved = Ended(new_login()), Ended(new_login(), again=True)
    mirror.add([final])
    clock.now += 10
    mirror.add([moved], age=5)
    assert mirror.missing_in({final.login}) == [moved.login]
    assert mirror.dated(mirror.missing_in(set())) == [(final, 10), (moved, 5)]
    clock.now += 90
    assert mirror.dated([final.login, moved.login, "unknown"]) == [(moved, 95)]


@pytest.mark.parametrize(
    "text", ["", "a" * 21, "a" * 23, "a" * 21 + "é", "a" * 22 + "\n"]
)
def test_knows_the_form_of_an_id(text: str) -> None:
    assert is_login(new_login())
    assert not is_login(text)
