"""What the requests of one session must bear, and how other processes prove it."""

from __future__ import annotations

from typing import Any

import pytest

from flask_livepush.errors import NotAuthorised
from flask_livepush.login.bearer import Bearer, Bond
from flask_livepush.login.caller import Claim, Handshake

ABOUT = b"GET\nsid\nt1\n\n"


class Application:
    """Sessions are ``user.login.anything``; ``Bearer`` tokens and ``X-Key`` log in."""

    def __init__(self) -> None:
        self.keys: list[str | bytes] = ["secret"]
        self.opened: list[str] = []
        self.fails = False
        self.bearer = Bearer(self.claim, lambda: self.keys)

    def claim(self, handshake: Handshake) -> Claim:
        environ = handshake.environ
        if self.fails:
            raise NotAuthorised("ended")
        token = environ.get("HTTP_AUTHORIZATION") or environ.get("HTTP_X_KEY")
        if token:
            return Claim(None, frozenset({f"hash of {token}"}), "request")
        for part in environ.get("HTTP_COOKIE", "").split("; "):
            name, _, value = part.partition("=")
            if name == "session" and value.count(".") == 2:
                self.opened.append(value)
                user, login, _ = value.split(".")
                logins = frozenset({login} if login else ())
                return Claim(user or None, logins, "session" if user else "nobody")
        return Claim(None, frozenset(), "nobody")

    def bond(self, **environ: str) -> Bond:
        found = self.bearer.bond(environ)
        assert found is not None
        return found


def cookie(text: str) -> dict[str, str]:
    return {"HTTP_COOKIE": text}


ADA = cookie("session=1.x.0")


@pytest.fixture
def site() -> Application:
    return Application()


def test_who_bears_nothing_is_bound_to_nothing(site: Application) -> None:
    for text in ("", "a=b", "session=..flash", "session=forged"):
        assert site.bearer.bond(cookie(text)) is None
    assert site.bearer.bond({}) is None


def test_the_same_cookies_are_not_opened_again(site: Application) -> None:
    bond = site.bond(**ADA)
    site.opened.clear()
    assert bond.is_borne({**ADA, "HTTP_USER_AGENT": "another"})
    assert site.opened == []


@pytest.mark.parametrize(
    ("text", "borne"),
    [
        ("session=1.x.0; seen=yes", True),
        ("remember_token=1; session=1.x.0", True),
        ("session=1.x.rotated", True),
        ("", False),
        ("seen=yes", False),
        ("session=1.y.0", False),  # the same user, logged in elsewhere
        ("session=2.z.0", False),
        ("session=..", False),
        ("session=1.x.0".upper(), False),
        ("session=1.x", False),
    ],
)
def test_any_request_must_bear_the_login(
    site: Application, text: str, borne: bool
) -> None:
    bond = site.bond(**ADA)
    assert bond.is_borne(cookie(text)) is borne
    assert bond.is_borne(ADA)
    proofs = site.bearer.proofs(cookie(text), ABOUT)
    assert bond.is_proved(proofs, ABOUT) is borne


def test_a_cookie_that_was_accepted_is_the_one_to_compare_with(
    site: Application,
) -> None:
    bond = site.bond(**ADA)
    assert bond.is_borne(cookie("session=1.x.1"))
    site.opened.clear()
    assert bond.is_borne(cookie("session=1.x.1"))
    assert site.opened == []


def test_a_session_from_before_logins_had_ids_is_known_by_its_user(
    site: Application,
) -> None:
    bond = site.bond(**cookie("session=1..0"))
    with_id = cookie("session=1.x.0")  # its next request over HTTP has put it in
    assert bond.is_borne(with_id)
    assert bond.is_proved(site.bearer.proofs(with_id, ABOUT), ABOUT)
    other = cookie("session=2.y.0")
    assert not bond.is_borne(other)
    assert not bond.is_proved(site.bearer.proofs(other, ABOUT), ABOUT)


@pytest.mark.parametrize("name", ["HTTP_AUTHORIZATION", "HTTP_LIVEPUSH_KEY"])
def test_a_header_that_was_there_must_be_there(site: Application, name: str) -> None:
    bond = site.bond(**{name: "Bearer a"})
    for given, borne in (
        ({name: "Bearer a"}, True),
        ({name: "Bearer a", **cookie("seen=yes")}, True),
        ({name: "Bearer b"}, False),
        ({name: "Bearer \u00e9"}, False),
        ({name: ""}, False),
        ({}, False),
        (ADA, False),
    ):
        assert bond.is_borne(given) is borne, given
        assert bond.is_proved(site.bearer.proofs(given, ABOUT), ABOUT) is borne, given


def test_all_that_was_there_must_be_there(site: Application) -> None:
    key = {"HTTP_LIVEPUSH_KEY": "drawn"}
    bond = site.bond(**ADA, **key)
    assert bond.is_borne({**ADA, **key})
    assert not bond.is_borne(ADA)
    assert not bond.is_borne(key)
    assert bond.is_proved(site.bearer.proofs({**ADA, **key}, ABOUT), ABOUT)
    assert not bond.is_proved(site.bearer.proofs(ADA, ABOUT), ABOUT)
    assert not bond.is_proved(site.bearer.proofs(key, ABOUT), ABOUT)


def test_a_credential_that_only_the_request_loader_knows_must_be_there(
    site: Application,
) -> None:
    """Bug: it came with no cookie, and so did the thief."""
    bond = site.bond(HTTP_X_KEY="k")
    assert bond.is_borne({"HTTP_X_KEY": "k"})
    for given in ({}, {"HTTP_X_KEY": "other"}, ADA):
        assert not bond.is_borne(given)
        assert not bond.is_proved(site.bearer.proofs(given, ABOUT), ABOUT)


def test_where_nobody_can_say_the_cookies_must_be_the_same(site: Application) -> None:
    site.fails = True
    bond = site.bond(**ADA)
    assert bond.is_borne(ADA)
    assert bond.is_proved(site.bearer.proofs(ADA, ABOUT), ABOUT)
    for given in (cookie("session=1.x.1"), {}):
        assert not bond.is_borne(given)
        assert not bond.is_proved(site.bearer.proofs(given, ABOUT), ABOUT)
    site.fails = False
    assert not bond.is_borne(cookie("session=1.x.1"))
    bare = site.bond(**cookie("session=1.x.0"))
    site.fails = True
    assert not bare.is_borne(cookie("session=1.x.1"))
    nothing = site.bond()
    assert not nothing.is_borne({})


def test_needs_to_know_where_a_websocket_is_from_for_cookies_alone(
    site: Application,
) -> None:
    assert site.bond(**ADA).needs_origin
    assert not site.bond(HTTP_AUTHORIZATION="Bearer a").needs_origin
    assert not site.bond(HTTP_LIVEPUSH_KEY="drawn").needs_origin


# -- proofs ------------------------------------------------------------------------


def test_proofs_are_of_one_request_and_say_nothing(site: Application) -> None:
    everything = {**ADA, "HTTP_AUTHORIZATION": "Bearer a", "HTTP_LIVEPUSH_KEY": "k"}
    proofs = site.bearer.proofs(everything, ABOUT)
    assert not any(text in proofs for text in ("1.x", "Bearer", "hash"))
    assert "~" not in proofs
    bond = site.bond(**ADA)
    assert not bond.is_proved(proofs, ABOUT.replace(b"t1", b"t2"))
    assert site.bearer.proofs(ADA, b"1") != site.bearer.proofs(ADA, b"2")
    assert site.bearer.proofs({}, ABOUT) == ""


@pytest.mark.parametrize("proofs", ["", ",", "x", "x" * 22, "\u00e9", "~"])
def test_what_is_no_proof_proves_nothing(site: Application, proofs: str) -> None:
    assert not site.bond(**ADA).is_proved(proofs, ABOUT)


def test_a_login_proves_nothing_of_a_header_of_that_text(site: Application) -> None:
    header: dict[str, Any] = {"HTTP_LIVEPUSH_KEY": "x"}
    bond = site.bond(**header)
    proofs = site.bearer.proofs(cookie("session=1.x.0"), ABOUT)
    assert not bond.is_proved(proofs, ABOUT)


def test_keys_that_are_on_their_way_out_prove_too(site: Application) -> None:
    bond = site.bond(**ADA)
    old = site.bearer.proofs(ADA, ABOUT)
    site.keys = [b"new", "secret"]
    assert bond.is_proved(old, ABOUT)
    assert bond.is_proved(site.bearer.proofs(ADA, ABOUT), ABOUT)
    site.keys = ["new"]
    assert not bond.is_proved(old, ABOUT)
    site.keys = []
    assert bond.is_proved(site.bearer.proofs(ADA, ABOUT), ABOUT)


def test_who_can_be_nobody_costs_nothing(site: Application) -> None:
    bearer = Bearer(
        site.claim,
        lambda: site.keys,
        may_be_somebody=lambda handshake: "HTTP_COOKIE" in handshake.environ,
    )
    site.fails = True
    assert bearer.bond({}) is None
    assert bearer.proofs({}, ABOUT) == ""
    assert bearer.bond(ADA) is not None
