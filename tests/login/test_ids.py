"""The ids of logins."""

from __future__ import annotations

import pytest
from flask import Flask

from flask_livepush.login.ids import LoginIds, is_id, without_scheme


def ids(**config: object) -> LoginIds:
    app = Flask("app")
    app.config.update(config)
    return LoginIds(app)


def test_random_ones_are_of_sixteen_bytes() -> None:
    app = Flask("app")
    assert is_id(LoginIds(app).new())
    assert LoginIds(app).new() != LoginIds(app).new()
    assert LoginIds(app, random=bytes).new() == "A" * 22


@pytest.mark.parametrize(
    "text", [None, 7, "", "A" * 21, "A" * 23, "é" * 22, "A" * 22 + "\n"]
)
def test_other_texts_are_none(text: object) -> None:
    assert not is_id(text)


def test_derived_ones_are_the_same_for_whoever_has_the_key() -> None:
    (one,) = ids(SECRET_KEY="a").derived("p", "x", "y")
    assert is_id(one)
    assert ids(SECRET_KEY=b"a").derived("p", "x", "y") == (one,)
    others = [
        ids(SECRET_KEY="b").derived("p", "x", "y"),
        ids(SECRET_KEY="a").derived("q", "x", "y"),
        ids(SECRET_KEY="a").derived("p", "xy", ""),
        ids(SECRET_KEY="a").derived("p", "x"),
        ids(SECRET_KEY="a").derived("p", "x", "\ud800"),
    ]
    assert len({one, *(found for (found,) in others)}) == 6
    rotated = ids(SECRET_KEY="b", SECRET_KEY_FALLBACKS=["c", "a"])
    assert rotated.derived("p", "x", "y")[0] == others[0][0]
    assert rotated.derived("p", "x", "y")[2] == one
    assert ids().derived("p", "x") == ()


@pytest.mark.parametrize(
    ("text", "bare"),
    [
        ("Bearer abc", "abc"),
        ("  bearer   abc ", "abc"),
        ("Token token", "token"),
        ("abc", "abc"),
        ("Bearer", "Bearer"),
        ("Basic dXNlcjpwYXNz", "dXNlcjpwYXNz"),
    ],
)
def test_a_credential_is_the_same_with_its_scheme_and_without(
    text: str, bare: str
) -> None:
    assert without_scheme(text) == bare
    found = ids(SECRET_KEY="a")
    assert found.of_credential(text) == found.of_credential(bare)
