"""Tickets: signed, young, and of one application."""

from __future__ import annotations

from flask import Flask

from flask_livepush.login.ids import LoginIds, is_id
from flask_livepush.login.tickets import LIFETIME, Ticket, Tickets


def tickets(now: float = 1_000, **config: object) -> Tickets:
    app = Flask("app")
    app.config.update({"SECRET_KEY": "a", **config})
    return Tickets(app, LoginIds(app), now=lambda: now)


def test_a_ticket_says_which_login_it_is_of() -> None:
    logins = frozenset({"x" * 22, "y" * 22})
    text = tickets().issue("ada|é", logins)
    found = tickets().read(text)
    assert found is not None
    assert found == Ticket(found.number, 1_000, "ada|é", logins)
    assert is_id(found.number)
    assert "ada" not in repr(found)
    assert text.isascii()
    assert tickets().issue("ada|é", logins) != text


def test_it_is_young_for_a_minute_by_any_clock() -> None:
    found = tickets().read(tickets().issue("ada", frozenset()))
    assert found is not None
    assert tickets(1_000 + LIFETIME).is_young(found)
    assert tickets(990).is_young(found)
    assert not tickets(1_001 + LIFETIME).is_young(found)


def test_it_outlives_a_rotation_and_is_no_other_applications() -> None:
    text = tickets().issue("ada", frozenset())
    assert tickets(SECRET_KEY="b", SECRET_KEY_FALLBACKS=["a"]).read(text) is not None
    assert tickets(SECRET_KEY="b").read(text) is None
    assert tickets(SECRET_KEY=None).read(text) is None
    for forged in ("", ".", text[:-1], text + "x", f"x{text}", "\ud800", "é"):
        assert tickets().read(forged) is None


def test_what_the_application_signs_itself_is_none() -> None:
    app = Flask("app")
    app.secret_key = "a"
    signer = app.session_interface.get_signing_serializer(app)  # type: ignore[attr-defined]
    content = ["x" * 22, 1_000, "ada", []]
    assert tickets().read(signer.dumps(content)) is None
