"""What fails at run time is logged once a place, told each time, and stops nobody."""

from __future__ import annotations

import logging
import threading

import pytest

from flask_livepush.failures import Failure, Failures

FAILURE = Failure("The field 'n' can't be sent.", kind="message", room="chat:<int:id>")


def levels(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.levelname for r in caplog.records]


def test_logs_the_first_of_a_place_and_tells_each(
    caplog: pytest.LogCaptureFixture,
) -> None:
    told: list[Failure] = []
    failures = Failures(told.append)
    caplog.set_level(logging.DEBUG)
    for place in ("a", "a", "b"):
        failures.note(place, FAILURE, error=ValueError("cause"))
    assert told == [FAILURE] * 3
    assert levels(caplog) == ["ERROR", "DEBUG", "ERROR"]
    assert caplog.records[0].getMessage() == (
        "The field 'n' can't be sent. [message in chat:<int:id>]"
    )
    assert caplog.records[0].exc_info is not None


def test_logs_again_what_has_worked_meanwhile(caplog: pytest.LogCaptureFixture) -> None:
    failures = Failures()
    assert not failures.over("a")
    failures.note("a", FAILURE, level=logging.WARNING)
    assert failures.over("a")
    assert not failures.over("a")
    failures.note("a", FAILURE, level=logging.WARNING)
    assert levels(caplog) == ["WARNING", "WARNING"]


def test_goes_on_when_telling_raises(caplog: pytest.LogCaptureFixture) -> None:
    def tell(failure: Failure) -> None:
        raise ZeroDivisionError

    Failures(tell).note("a", FAILURE)
    assert "Telling a failure failed" in caplog.text


def test_remembers_so_many_places_at_most() -> None:
    failures = Failures()
    for place in range(3_000):
        failures.note(place, FAILURE, level=logging.DEBUG)
    assert len(failures._places) == 1_000


def test_takes_notes_of_several_threads() -> None:
    """Bug: the dict of places changed while its oldest was looked for."""
    failures = Failures()
    raised: list[RuntimeError] = []

    def note(of: int) -> None:
        try:
            for place in range(3_000):
                failures.note((of, place), FAILURE, level=logging.DEBUG)
        except RuntimeError as error:
            raised.append(error)

    threads = [threading.Thread(target=note, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not raised
