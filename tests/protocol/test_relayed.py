"""What nodes tell each other: written, read back, and junk."""

from __future__ import annotations

import pytest

from flask_livepush.protocol.relayed import Moved, Whispered, read, write


@pytest.mark.parametrize(
    "message",
    [
        Whispered("sid", "7", "typing", '{"a":1}'),
        Whispered("sid", None, 'say "é"\n', '"\\n\u2028💬"'),
        Moved("n", "", "e:1", {"7": '{"name":"Ada"}', "é": ""}, ()),
        Moved("n", "e:1", "e:2", {}, ("7", "é")),
    ],
)
def test_reads_what_it_wrote(message: Whispered | Moved) -> None:
    assert read(write(message)) == message


def test_carries_the_data_of_a_whisper_as_it_is() -> None:
    assert write(Whispered("s", "7", "x", '{"id":  1e2}')).endswith('\n{"id":  1e2}')


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "{}",
        "[]",
        '["whisper"]',
        '["whisper","s","7","typing"]',
        '["whisper","s",7,"typing"]\n1',
        '["whisper",null,"7","typing"]\n1',
        '["presence","n","","e:1",[],[]]',
        '["presence","n","","e:1",{"7":1},[]]',
        '["presence","n","","e:1",{},[7]]',
        '["presence","n",null,"e:1",{},[]]',
        '["presence","n","","nothing",{},[]]',
        '["presence","n","x:y","e:1",{},[]]',
    ],
)
def test_refuses_what_is_none_of_ours(text: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        read(text)
