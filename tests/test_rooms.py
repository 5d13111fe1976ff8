"""Patterns: which names are rooms, and what a mistake in one is told."""

from __future__ import annotations

import time
from typing import Any

import pytest
from flask import Flask
from werkzeug.exceptions import NotFound
from werkzeug.routing import BaseConverter, ValidationError

from flask_livepush import ConfigError, LivePush, UsageError
from flask_livepush.rooms import Pattern, Room, Rooms

UUID = "5bb2fd07-ba2a-4bd3-8f4d-3f5bca4c0eb0"


@pytest.mark.parametrize(
    ("pattern", "name", "values"),
    [
        ("lobby", "lobby", {}),
        ("chat:<int:id>", "chat:42", {"id": 42}),
        ("chat:<int:id>", "chat:0", {"id": 0}),
        ("chat:<int:id>", f"chat:{2**63 - 1}", {"id": 2**63 - 1}),
        ("chat:<int(signed=True):id>", "chat:-5", {"id": -5}),
        ("chat:<int(fixed_digits=3):id>", "chat:005", {"id": 5}),
        ("x:<float:a>", "x:1.5", {"a": 1.5}),
        ("x:<a>", "x:é 💬", {"a": "é 💬"}),
        ("x:<a>", "x:50%25 + 1?#", {"a": "50%25 + 1?#"}),
        ("x:<string(length=2):a>", "x:de", {"a": "de"}),
        ("user:<path:user_id>", "user:a/b c", {"user_id": "a/b c"}),
        ("x:<any(red,blue):a>", "x:red", {"a": "red"}),
        ('x:<any("a,b",c):a>', "x:a,b", {"a": "a,b"}),
        ("<a>:<int:b>:end", "x:y:7:end", {"a": "x:y", "b": 7}),
        ("a.b*<int:c>(", "a.b*1(", {"c": 1}),
    ],
)
def test_a_name_is_matched_and_rebuilt(
    pattern: str, name: str, values: dict[str, Any]
) -> None:
    compiled = Pattern(pattern)
    assert compiled.match(name) == values
    assert compiled.name(values) == name


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        ("lobby", "Lobby"),
        ("lobby", "lobby\n"),
        ("chat:<int:id>", "chat:05"),
        ("chat:<int:id>", "chat:٥"),
        ("chat:<int:id>", "chat:४२"),
        ("chat:<int:id>", "chat:4_2"),
        ("chat:<int:id>", "chat:+5"),
        ("chat:<int:id>", "chat:-5"),
        ("chat:<int:id>", "chat: 5"),
        ("chat:<int:id>", "chat:5\n"),
        ("chat:<int:id>", "chat:"),
        ("chat:<int:id>", "xchat:5"),
        ("chat:<int:id>", "chat:5x"),
        ("chat:<int:id>", f"chat:{2**63}"),
        ("chat:<int:id>", "chat:" + "9" * 190),
        ("chat:<int(max=9):id>", "chat:10"),
        ("chat:<int(signed=True):id>", "chat:-0"),
        ("chat:<int(signed=True):id>", f"chat:-{2**63 + 1}"),
        ("x:<float:a>", "x:1.50"),
        ("x:<float:a>", "x:01.5"),
        ("x:<a>", "x:"),
        ("x:<a>", "x:a/b"),
        ("x:<string(length=2):a>", "x:deu"),
        ("user:<path:user_id>", "user:/etc"),
        ("x:<any(red,blue):a>", "x:green"),
        ("x:<any(red,blue):a>", "x:redblue"),
        ("x:<uuid:a>", f"x:{UUID.upper()}"),
        ("x:<uuid:a>", "x:{UUID}"),
        ("a.b", "axb"),
    ],
)
def test_what_is_not_written_as_it_would_be_rebuilt_is_no_name(
    pattern: str, name: str
) -> None:
    assert Pattern(pattern).match(name) is None


@pytest.mark.parametrize(
    ("pattern", "values"),
    [
        ("chat:<int:id>", {}),
        ("chat:<int:id>", {"id": 1, "more": 2}),
        ("chat:<int:id>", {"ID": 1}),
        ("chat:<int:id>", {"id": "x"}),
        ("chat:<int:id>", {"id": None}),
        ("chat:<int:id>", {"id": -1}),
        ("chat:<int:id>", {"id": 2**63}),
        ("x:<a>", {"a": ""}),
        ("x:<a>", {"a": "b/c"}),
        ("x:<a>", {"a": "y" * 200}),
        ("x:<a>", {"a": "\x00"}),
        ("x:<a>", {"a": "\ud800"}),
        ("x:<any(red,blue):a>", {"a": "green"}),
        ("lobby", {"id": 1}),
    ],
)
def test_says_which_values_make_no_name(pattern: str, values: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="room '" + pattern[:4]):
        Pattern(pattern).name(values)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("", "must be a text"),
        (None, "must be a text"),
        ("chat:<int:id", "part of no variable"),
        ("chat:int:id>", "part of no variable"),
        ("chat:<>", "part of no variable"),
        ("chat:<int:>", "part of no variable"),
        ("chat:<1a>", "part of no variable"),
        ("chat:<int:id>:<int:id>", "twice"),
        ("chat:<integer:id>", "'integer'"),
        ("chat:<int(nonsense=1):id>", "arguments"),
        ("chat:<string(nonsense=1):id>", "arguments"),
        ("<a>:<b>:<c>:<d>", "too long to match"),
    ],
)
def test_refuses_a_bad_pattern(pattern: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        Pattern(pattern)


def test_a_hostile_name_is_refused_fast() -> None:
    """Bug: four variables of text took seconds, with every other thread waiting."""
    compiled = Pattern("<a>:<b>:<c>:x")
    start = time.process_time()
    assert compiled.match(":" * 199) is None
    assert time.process_time() - start < 1


class Slug(BaseConverter):
    regex = "[a-z-]+"

    def to_python(self, value: str) -> Any:
        if value == "validation":
            raise ValidationError
        if value == "missing":
            raise NotFound
        return {"known": 1, "more": 2}[value]

    def to_url(self, value: Any) -> str:
        return {1: "known", 2: "more"}[value]


@pytest.mark.parametrize(
    ("whisper", "says"),
    [
        ("typing", r"whisper='typing' of the room 'a' .* whisper=\('typing',\)"),
        (None, "must be True, False or"),
        (1, "must be True, False or"),
        (("typing", ""), "'a' can't have that whispered: .*''"),
        (("livepush.reset",), "reserved"),
        ((7,), "7 must be a name"),
        (("note.invalidated",), "'note.invalidated' whispered"),
    ],
)
def test_refuses_what_is_no_list_of_whispers(whisper: Any, says: str) -> None:
    room = LivePush().room("a", whisper=whisper)
    with pytest.raises(ConfigError, match=says):
        room(lambda user: True)


def test_takes_the_applications_converters() -> None:
    app = Flask(__name__)
    app.url_map.converters["slug"] = Slug
    livepush = LivePush(app)
    room = livepush.room("x:<slug:page>")(lambda user, page: True)
    assert room.name(page=2) == "x:more"
    assert room.pattern.match("x:known") == {"page": 1}
    for name in ("x:validation", "x:missing", "x:other"):
        assert room.pattern.match(name) is None
        assert not room.has_name(name)
    with pytest.raises(UsageError):
        room.name(page=3)
    with pytest.raises(ConfigError, match=r"converters=\{name: class\}"):
        livepush.room("x:<slugs:page>")


def make(rooms: Rooms, pattern: str) -> Room:
    names = Pattern(pattern).variables
    code = f"lambda user, {', '.join(names)}: True"
    room = Room(Pattern(pattern), eval(code), lambda *a, **k: None)
    rooms.add(room)
    return room


@pytest.mark.parametrize(
    "again", ["chat:<int:id>", "chat:<int:other>", "chat:<int(min=5):id>"]
)
def test_refuses_two_rules_for_the_same_names(again: str) -> None:
    rooms = Rooms()
    make(rooms, "chat:<int:id>")
    with pytest.raises(ConfigError, match=r"a rule already.*'chat:<int:id>'"):
        make(rooms, again)
    make(rooms, "chat:<id>")


def test_the_more_special_pattern_is_asked_first() -> None:
    rooms = Rooms()
    declared = ["<path:any>", "chat:<name>", "chat:<int:id>", "chat:lobby", "c:<x>"]
    for pattern in declared:
        make(rooms, pattern)

    def found(name: str) -> str:
        match = rooms.find(name)
        assert match is not None
        return match[0].pattern.text

    assert found("chat:lobby") == "chat:lobby"
    assert found("chat:42") == "chat:<int:id>"
    assert found("chat:042") == "chat:<name>"
    assert found("chat:a/b") == "<path:any>"
    assert found("c:1") == "c:<x>"
    assert rooms.find("/etc") is None
    assert rooms.find("") is None


@pytest.mark.parametrize(
    "rule",
    [
        lambda: True,
        lambda user: True,
        lambda user, id: True,
        lambda user, room_id, more: True,
        lambda room_id: True,
    ],
)
def test_refuses_a_rule_with_other_parameters(rule: Any) -> None:
    livepush = LivePush()
    with pytest.raises(ConfigError, match=r"must take \(user, room_id\)"):
        livepush.room("chat:<int:room_id>")(rule)
    room = livepush.room("chat:<int:room_id>")(lambda user, room_id, more=1: True)
    with pytest.raises(ConfigError, match=r"must take \(user, room_id\)"):
        room.snapshot(rule)
    room.snapshot(lambda user, **values: None)
    with pytest.raises(ConfigError, match="has a snapshot already"):
        room.snapshot(lambda user, **values: None)


async def coroutine(user: Any, room_id: int) -> bool:
    return False


def generator(user: Any, room_id: int) -> Any:
    yield False


async def both(user: Any, room_id: int) -> Any:
    yield False


class Callable:
    async def __call__(self, user: Any, room_id: int) -> bool:
        return False


def test_a_name_is_looked_for_anew_once_there_is_another_rule() -> None:
    livepush = LivePush()
    wide = livepush.room("chat:<name>")(lambda user, name: True)
    rooms = livepush._rooms
    assert rooms.find("chat:all") == (wide, {"name": "all"})
    narrow = livepush.room("chat:all")(lambda user: True)
    assert rooms.find("chat:all") == (narrow, {})
    assert rooms.find("chat:1") == (wide, {"name": "1"})


def test_what_is_done_with_a_names_values_is_forgotten() -> None:
    livepush = LivePush()
    livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    for _ in range(2):
        found = livepush._rooms.find("chat:1")
        assert found is not None
        assert found[1].pop("room_id") == 1


@pytest.mark.parametrize("rule", [coroutine, generator, both, Callable()])
def test_refuses_a_rule_whose_call_is_always_true(rule: Any) -> None:
    """Bug: a coroutine is true: everybody was let in."""
    livepush = LivePush()
    with pytest.raises(ConfigError, match="plain function"):
        livepush.room("chat:<int:room_id>")(rule)
    room = livepush.room("chat:<int:room_id>")(lambda user, room_id: True)
    with pytest.raises(ConfigError, match="plain function"):
        room.snapshot(rule)
