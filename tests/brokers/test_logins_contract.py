"""Ended logins in one process and on each kind of Redis, by one body of tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from flask_livepush.brokers.logins import Ended, Logins, Recheck
from tests.support.brokers import Clock, new_prefix
from tests.support.ended import (
    LIFETIME,
    LoginRecorder,
    in_memory,
    new_ends,
    new_login,
    on_redis,
)
from tests.support.waiting import until


class Process(NamedTuple):
    """One process's logins, and what they tell."""

    logins: Logins
    told: LoginRecorder


Make = Callable[[], Process]


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def make(request: pytest.FixtureRequest) -> Iterator[Make]:
    """Return a function that starts a process; of one kind there can be only one."""
    made: list[Process] = []
    prefix = new_prefix()

    def build() -> Process:
        if request.param == "memory":
            if made:
                return made[0]
            logins: Logins = in_memory()
        else:
            url = request.getfixturevalue(f"{request.param}_url")
            logins = on_redis(url, prefix=prefix)
        process = Process(logins, LoginRecorder())
        logins.listen(process.told)
        until(logins.is_current)
        made.append(process)
        return process

    yield build
    for process in made:
        process.logins.close()


def test_an_end_is_known_here_at_once_and_elsewhere_soon(make: Make) -> None:
    one, other = make(), make()
    final, moved = Ended(new_login()), Ended(new_login(), again=True)
    stranger = new_login()
    one.logins.end([final, moved])
    assert one.logins.has_ended(final.login)
    assert one.logins.has_ended(moved.login)
    assert one.told.ends == [final, moved]
    other.told.wait(lambda: other.told.ends == [final, moved])
    assert other.logins.has_ended(final.login)
    for process in (one, other):
        assert not process.logins.has_ended(stranger)
        assert process.logins.is_current()


def test_an_end_is_told_once_however_often_it_is_said(make: Make) -> None:
    one, other = make(), make()
    first, last = new_ends(2)
    one.logins.end([first, first])
    other.told.wait(lambda: other.told.ends)
    other.logins.end([first])
    one.logins.end([first, Ended(first.login, again=True)])
    other.logins.end([last])
    one.told.wait(lambda: last in one.told.ends)
    assert one.told.ends == [first, last]
    assert other.told.ends == [first, last]


def test_orders_are_told_here_at_once_and_elsewhere_in_order(make: Make) -> None:
    one, other = make(), make()
    orders = [
        Recheck(),
        Recheck(user="7"),
        Recheck(user="ü\ud800", room="chat:1"),
        Recheck(room="chat:2"),
        Recheck(user="8", close=True),
    ]
    one.logins.recheck(orders)
    assert one.told.orders == orders
    other.told.wait(lambda: other.told.orders == orders)
    many = [Recheck(user=str(number)) for number in range(250)]
    other.logins.recheck(many)
    one.told.wait(lambda: one.told.orders == orders + many)
    one.logins.end(ends := new_ends(1))
    other.told.wait(lambda: other.told.ends == ends)
    assert other.told.orders == orders + many


def test_who_starts_later_knows_what_has_ended_and_is_asked_nothing(make: Make) -> None:
    one = make()
    ends = new_ends(2500)
    one.logins.end(ends)
    one.logins.recheck([Recheck(user="7")])
    until(lambda: one.logins.finish(1))
    later = make()
    later.logins.confirm()
    assert all(later.logins.has_ended(end.login) for end in ends)
    if later is not one:
        assert later.told.orders == []


def test_an_error_of_the_listener_costs_nobody_an_end(make: Make) -> None:
    one, other = make(), make()

    def fail() -> None:
        raise RuntimeError("not mine")

    one.told.problem = other.told.problem = fail
    ends = new_ends(2)
    for end in ends:
        one.logins.end([end])
        one.logins.recheck([Recheck(user="7")])
    other.told.wait(lambda: other.told.ends == ends)
    other.told.wait(lambda: len(other.told.orders) == 2)
    assert all(other.logins.has_ended(end.login) for end in ends)


@pytest.mark.parametrize(
    "strange", ["", "short", "é" * 22, "a b\nc~1@2+", "x" * 10_000]
)
def test_an_id_of_another_form_ends_here_and_costs_no_other(
    make: Make, strange: str
) -> None:
    one, other = make(), make()
    (end,) = new_ends(1)
    one.logins.end([Ended(strange), end])
    assert one.logins.has_ended(strange)
    other.told.wait(lambda: end in other.told.ends)
    assert one.logins.finish(1)


def test_a_ticket_is_spent_once_by_all(make: Make) -> None:
    one, other = make(), make()
    ticket = "{7}: é"
    assert one.logins.spend(ticket, 60)
    assert not other.logins.spend(ticket, 60)
    assert not one.logins.spend(ticket, 60)
    assert other.logins.spend("another", 60)


def test_nothing_is_left_to_tell_when_it_is_told(make: Make) -> None:
    one = make()
    one.logins.end(new_ends(1))
    one.logins.recheck([Recheck()])
    until(lambda: one.logins.finish(1))
    one.logins.end([])
    one.logins.recheck([])
    assert one.logins.finish(0)


def test_whoever_has_closed_is_told_nothing_any_more(make: Make) -> None:
    one, other = make(), make()
    one.logins.close()
    other.logins.end(new_ends(1))
    other.logins.recheck([Recheck()])
    assert one.told.ends == []
    assert one.told.orders == []


def test_what_nobody_has_to_know_any_more_is_forgotten() -> None:
    clock = Clock()
    logins = in_memory(now=clock)
    first, second = new_ends(2)
    logins.end([first])
    clock.now += LIFETIME - 1
    logins.end([second])
    assert logins.has_ended(first.login)
    clock.now += 1
    assert not logins.has_ended(first.login)
    assert logins.has_ended(second.login)
    assert logins.spend("1", 60)
    clock.now += 59
    assert not logins.spend("1", 60)
    clock.now += 2
    assert logins.spend("1", 60)
