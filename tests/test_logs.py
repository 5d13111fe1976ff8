"""What is logged of an error: place and type, and its text where somebody wrote it."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

import flask_livepush
from flask_livepush import BrokerUnavailable, LivePush, UsageError, logs

PACKAGE = Path(flask_livepush.__file__).parent
VALUE = "VALUEMARK"


class Refused(Exception):
    """Somebody else's error."""


def missing_key() -> None:
    {}[VALUE]


def no_number() -> None:
    int(VALUE)


def no_attribute() -> None:
    getattr(object(), VALUE)


def no_insert() -> None:
    engine = sa.create_engine("sqlite://")
    try:
        with engine.begin() as connection:
            connection.execute(sa.text("CREATE TABLE a (b TEXT UNIQUE)"))
            for _ in range(2):
                connection.execute(sa.text("INSERT INTO a VALUES (:b)"), {"b": VALUE})
    finally:
        engine.dispose()


def no_utf8() -> None:
    f"{VALUE}\udc80".encode()


def in_a_library() -> None:
    import json

    json.JSONEncoder().default(type(VALUE, (), {})())


def by_a_cause() -> None:
    try:
        missing_key()
    except KeyError as error:
        raise Refused("the door is shut") from error


@pytest.fixture(autouse=True)
def texts() -> Any:
    yield
    logs.show_texts("own")


def logged(caplog: pytest.LogCaptureFixture, fail: Callable[[], None]) -> str:
    caplog.clear()
    try:
        fail()
    except Exception:  # noqa: BLE001
        logs.logger("flask_livepush.test").exception("Something failed")
    return caplog.text


@pytest.mark.parametrize(
    "fail",
    [
        missing_key,
        no_number,
        no_attribute,
        no_insert,
        no_utf8,
        in_a_library,
        by_a_cause,
    ],
)
def test_values_in_errors_that_nobody_wrote_are_left_out(
    caplog: pytest.LogCaptureFixture, fail: Callable[[], None]
) -> None:
    text = logged(caplog, fail)
    assert VALUE not in text
    # Where it was, and of which type, is there.
    assert f'{Path(__file__).name}", line' in text
    assert re.search(r"^\S*(Error|Refused): ", text, re.MULTILINE)
    assert "LIVEPUSH_LOG_ERROR_TEXTS" in text


def test_what_a_raise_of_the_application_says_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert "Refused: the door is shut" in logged(caplog, by_a_cause)
    logs.show_texts("none")
    text = logged(caplog, by_a_cause)
    assert "Refused: the door is shut" not in text
    assert "Refused: (what it says is left out" in text


def test_our_own_sentences_are_told_always(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise BrokerUnavailable("redis://localhost does not answer")

    logs.show_texts("none")
    assert "redis://localhost does not answer" in logged(caplog, fail)

    def misuse() -> None:
        raise UsageError(f"No rule knows the room {VALUE!r}")

    assert VALUE not in logged(caplog, misuse)


@pytest.mark.parametrize(
    ("debug", "setting", "shown"),
    [
        (False, None, False),
        (True, None, True),
        (True, False, False),
        (False, True, True),
    ],
)
def test_all_is_told_in_debug_mode_and_where_it_is_set(
    caplog: pytest.LogCaptureFixture, debug: bool, setting: bool | None, shown: bool
) -> None:
    app = Flask("app")
    app.debug = debug
    app.config["LIVEPUSH_LOG_ERROR_TEXTS"] = setting
    LivePush(app)
    assert (VALUE in logged(caplog, missing_key)) is shown


def test_a_record_has_a_traceback_for_collectors_of_errors(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logged(caplog, missing_key)
    (record,) = caplog.records
    assert record.exc_info is not None
    kind, error, traceback = record.exc_info
    assert kind is not None
    assert (kind.__name__, kind.__module__) == ("KeyError", "builtins")
    assert VALUE not in str(error)
    assert traceback is not None


def test_every_module_has_its_logger_from_here() -> None:
    """One that has it from elsewhere would log what errors say."""
    others = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if re.search(r"getLogger\(", path.read_text())
    }
    # The command line quietens Werkzeug's.
    assert others == {"logs.py", "cli.py"}
    assert logging.getLogger("flask_livepush.node").filters
