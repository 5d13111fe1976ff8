"""Who may see the metrics: nobody but the token's holder and whom the rule lets in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import request
from werkzeug.exceptions import NotFound

from flask_livepush import ConfigError
from flask_livepush.metrics import Meters
from tests.support.connections import Site

TOKEN = "sixteen-or-more-letters"


def get(site: Site, token: str | None = None, *, user: str | None = None) -> Any:
    client = site.app.test_client()
    if user is not None:
        client.get(f"/login/{user}")
    headers = {} if token is None else {"Authorization": token}
    return client.get("/livepush/metrics", headers=headers)


def test_there_is_no_page_without_a_token_or_a_rule() -> None:
    site = Site()
    for token in (None, "Bearer ", "Bearer None", f"Bearer {TOKEN}"):
        assert get(site, token, user="1").status_code == 404
    assert not site.livepush._state_of(site.app).meters.on


@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
def test_the_token_opens_it(scheme: str) -> None:
    answer = get(Site(LIVEPUSH_METRICS_TOKEN=TOKEN), f"{scheme} {TOKEN}")
    assert answer.status_code == 200
    assert answer.content_type.startswith("text/plain; version=")
    assert answer.headers["Cache-Control"] == "no-store"
    assert "livepush_subscriptions{" in answer.text
    assert "_created" not in answer.text
    assert TOKEN not in answer.text


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Bearer {TOKEN[:-1]}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN.upper()}",
        f"Bearer {TOKEN} {TOKEN}",
        "Bearer \u00e9\u00e9",
        f"Basic {TOKEN}",
        TOKEN,
    ],
)
def test_nothing_else_does(header: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(LIVEPUSH_METRICS_TOKEN=TOKEN)
    monkeypatch.setattr(Meters, "page", None)  # nothing is computed
    answer = get(site, header, user="1")
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert "livepush_" not in answer.text


def test_the_rule_is_asked_with_the_user_of_the_request() -> None:
    site = Site()
    asked: list[tuple[Any, str]] = []

    @site.livepush.metrics_rule
    def rule(user: Any) -> bool:
        asked.append((user.get_id(), request.path))
        return bool(user.get_id() == "1")

    assert get(site, user="1").status_code == 200
    assert get(site, user="2").status_code == 403
    assert get(site).status_code == 403
    assert asked == [(user, "/livepush/metrics") for user in ("1", "2", None)]
    assert rule.__name__ == "rule"


def test_either_opens_it_where_there_are_both() -> None:
    site = Site(LIVEPUSH_METRICS_TOKEN=TOKEN)
    site.livepush.metrics_rule(lambda user: user.get_id() == "1")
    assert get(site, f"Bearer {TOKEN}").status_code == 200
    assert get(site, "Bearer wrong", user="1").status_code == 200
    assert get(site, user="2").status_code == 401


async def _coroutine(user: Any) -> bool:
    return True


def _raises(user: Any) -> bool:
    raise NotFound


@pytest.mark.parametrize(
    "rule", [_coroutine, _raises, lambda user: 1 / 0, lambda user: None]
)
def test_a_rule_that_does_not_answer_lets_nobody_in(
    rule: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site()
    site.livepush.metrics_rule(rule)
    monkeypatch.setattr(Meters, "page", None)
    assert get(site, user="1").status_code == 403


def test_refuses_a_second_rule() -> None:
    site = Site()
    site.livepush.metrics_rule(lambda user: True)
    with pytest.raises(ConfigError, match="have a rule already"):
        site.livepush.metrics_rule(lambda user: False)


@pytest.mark.parametrize(
    "token", ["", "short", "with spaces in its text", b"x" * 20, 7]
)
def test_refuses_a_token_that_is_none_without_showing_it(token: Any) -> None:
    with pytest.raises(ConfigError, match="16 or more") as caught:
        Site(LIVEPUSH_METRICS_TOKEN=token)
    assert not token or repr(token) not in str(caught.value)


def test_stands_under_the_prefix() -> None:
    site = Site(LIVEPUSH_METRICS_TOKEN=TOKEN, LIVEPUSH_URL_PREFIX="/live/push")
    headers = {"Authorization": f"Bearer {TOKEN}"}
    client = site.app.test_client()
    assert client.get("/live/push/metrics", headers=headers).status_code == 200
    assert client.get("/livepush/metrics", headers=headers).status_code == 404
