"""What clients send, junk included, and the acks and metas they are given."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flask_livepush.errors import (
    BadMessage,
    ClientError,
    InvalidRoom,
    NotAuthorised,
    TooManyRooms,
    Unavailable,
)
from flask_livepush.protocol import messages
from flask_livepush.protocol.publication import Position, Publication
from tests.support.vectors import vectors

HERE = Position("k3Jd9", 7)


@pytest.mark.parametrize("case", vectors("messages"), ids=lambda case: str(case)[:60])
def test_parses_or_refuses(case: dict[str, Any]) -> None:
    args = tuple(case["args"])
    if "code" in case:
        with pytest.raises(ClientError) as caught:
            messages.parse_subscribe(args)
        assert caught.value.code == case["code"]
        assert not caught.value.temporary
        if args and isinstance(args[0], dict) and "since" in args[0]:
            return  # which an unsubscribe does not have
        with pytest.raises(ClientError) as caught:
            messages.parse_unsubscribe(args)
        assert caught.value.code == case["code"]
        return
    expected = case["subscribe"]
    found = messages.parse_subscribe(args)
    assert found.room == expected["room"]
    since = expected["since"]
    assert found.presence is expected.get("presence", False)
    assert found.since == (since and Position(since["epoch"], since["offset"]))
    assert messages.parse_unsubscribe(args).room == expected["room"]


@pytest.mark.parametrize(
    "case", vectors("whisper_messages"), ids=lambda case: str(case)[:60]
)
def test_parses_or_refuses_whispers(case: dict[str, Any]) -> None:
    args = tuple(case["args"])
    if "code" in case:
        with pytest.raises(ClientError) as caught:
            messages.parse_whisper(args)
        assert caught.value.code == case["code"]
        return
    assert messages.parse_whisper(args) == messages.Whisper(**case["whisper"])


@pytest.mark.parametrize("data", [b"bytes", "é" * 2045, float("nan")])
def test_refuses_whispers_that_are_too_large_or_no_json(data: Any) -> None:
    with pytest.raises(BadMessage):
        messages.parse_whisper(({"room": "a", "event": "typing", "data": data},))
    fits = {"room": "a", "event": "typing", "data": "x" * 4088}
    assert len(messages.parse_whisper((fits,)).data) == 4090


@pytest.mark.parametrize("case", vectors("presence"), ids=lambda case: case["about"])
def test_writes_who_comes_and_goes(case: dict[str, Any]) -> None:
    def users(found: list[Any]) -> dict[str, str]:
        return {
            user["id"]: json.dumps(user["info"]) if "info" in user else ""
            for user in found
        }

    text = messages.presence("chat:1", users(case["joined"]), users(case["left"]))
    assert json.loads(text) == {
        "room": "chat:1",
        "joined": case["joined"],
        "left": case["left"],
    }
    for ack in (
        messages.recovered("chat:1", HERE, [], users(case["list"])),
        messages.unrecovered("chat:1", HERE, "{}", users(case["list"])),
    ):
        assert json.loads(ack)["presence"] == case["list"]


def test_writes_where_a_whisper_is_from() -> None:
    assert json.loads(messages.whispered('chat:"é', "7")) == {
        "room": 'chat:"é',
        "whisper": True,
        "from": "7",
    }
    assert json.loads(messages.whispered("a", None)) == {"room": "a", "whisper": True}


def test_says_what_is_wrong_without_the_message_itself() -> None:
    secret = "s3cret" * 1000
    for args in (
        ({"v": 1, "room": secret},),
        ({"v": secret, "room": "a"},),
        ({"v": 1, "room": "a", "since": secret},),
    ):
        with pytest.raises(ClientError) as caught:
            messages.parse_subscribe(args)
        assert "s3cret" not in caught.value.message
        assert len(caught.value.message) < 120


def test_never_decodes_what_an_emitter_encoded() -> None:
    publication = Publication(8, "message.created", '{"id": 1,  "x":1e2}', 5, True)
    text = messages.recovered("chat:42", HERE, [publication])
    assert '"data":{"id": 1,  "x":1e2},' in text


def test_writes_the_ack_of_a_recovered_position() -> None:
    publications = [
        Publication(8, "message.created", '{"id":1}', 5, more=True),
        Publication(9, 'say "é"', "null"),
    ]
    ack = messages.recovered('chat:"é💬', Position("e", 9), publications)
    assert json.loads(ack) == {
        "ok": True,
        "room": 'chat:"é💬',
        "epoch": "e",
        "offset": 9,
        "recovered": True,
        "publications": [
            {
                "event": "message.created",
                "data": {"id": 1},
                "offset": 8,
                "stamp": 5,
                "more": True,
            },
            {"event": 'say "é"', "data": None, "offset": 9},
        ],
    }
    assert "é" in ack


def test_writes_the_ack_of_a_new_start() -> None:
    snapshot = '{"kinds":{},"state":[1]}'
    assert json.loads(messages.unrecovered("chat:42", HERE, snapshot)) == {
        "ok": True,
        "room": "chat:42",
        "epoch": "k3Jd9",
        "offset": 7,
        "recovered": False,
        "publications": [],
        "snapshot": {"kinds": {}, "state": [1]},
    }


@pytest.mark.parametrize(
    ("error", "code", "temporary"),
    [
        (BadMessage, 100, False),
        (InvalidRoom, 101, False),
        (NotAuthorised, 103, False),
        (TooManyRooms, 106, False),
        (Unavailable, 120, True),
    ],
)
def test_writes_the_ack_of_a_failure(
    error: type[ClientError], code: int, temporary: bool
) -> None:
    assert json.loads(messages.failed(error('no "é"'))) == {
        "ok": False,
        "error": {"code": code, "message": 'no "é"', "temporary": temporary},
    }


@pytest.mark.parametrize(
    ("publication", "extras"),
    [
        (Publication(8, "x", "1"), {}),
        (Publication(8, "x", "1", stamp=0), {"stamp": 0}),
        (Publication(8, "x", "1", stamp=5, more=True), {"stamp": 5, "more": True}),
        (Publication(8, "x", "1", more=True), {"more": True}),
    ],
)
def test_writes_where_a_publication_stands(
    publication: Publication, extras: dict[str, Any]
) -> None:
    assert json.loads(messages.meta("chat:42", "e", publication)) == {
        "room": "chat:42",
        "epoch": "e",
        "offset": 8,
        **extras,
    }


def test_writes_a_reset() -> None:
    assert json.loads(messages.reset("a", 2.5)) == {"room": "a", "within": 2.5}
    assert json.loads(messages.DONE) == {"ok": True}


def test_writes_that_a_room_is_lost() -> None:
    assert json.loads(messages.revoked('chat:"é', 103)) == {
        "room": 'chat:"é',
        "code": 103,
    }
