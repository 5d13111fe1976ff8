"""What falls due after one and the same time."""

from __future__ import annotations

from flask_livepush.transports.engine.timeline import Timeline


def test_items_are_due_in_their_order_and_not_before() -> None:
    now = 0.0
    due: list[str] = []
    wakes: list[float] = []
    line: Timeline[str] = Timeline(
        10, due.append, now=lambda: now, wake=lambda: wakes.append(now)
    )
    assert line.next() is None
    line.add("a")
    now = 3.0
    line.add("b")
    line.add("c")
    # Only the first can change how long the loop waits.
    assert wakes == [0.0]
    assert line.next() == 10.0
    line.run(9.9)
    assert due == []
    line.run(10.0)
    assert due == ["a"]
    assert line.next() == 13.0
    line.run(20.0)
    assert due == ["a", "b", "c"]
    assert line.next() is None
    line.add("d")
    assert wakes == [0.0, 3.0]


def test_an_item_may_be_added_when_one_is_due() -> None:
    now = 0.0
    due: list[int] = []

    def again(number: int) -> None:
        due.append(number)
        line.add(number + 1)

    line: Timeline[int] = Timeline(5, again, now=lambda: now, wake=lambda: None)
    line.add(1)
    for now in (5.0, 10.0, 15.0):
        line.run(now)
    assert due == [1, 2, 3]


def test_what_comes_when_the_last_has_just_been_due_wakes_the_loop() -> None:
    """Bug: nobody was asked for a sign of life until something else woke the loop.

    1. A thread adds an item; there is another one, for which the loop would wake.
    2. That one is due: the loop takes it out, and waits for whatever comes.
    3. The thread puts its item in.
    """
    loops: list[str] = []
    wakes: list[str] = []

    def now() -> float:
        if loops:
            loops.clear()
            line.run(100.0)
            assert line.next() is None
        return 0.0

    line: Timeline[str] = Timeline(
        10, lambda item: None, now=now, wake=lambda: wakes.append("wake")
    )
    line.add("first")
    wakes.clear()
    loops.append("a turn")
    line.add("second")
    assert wakes == ["wake"]
