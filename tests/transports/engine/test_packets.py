"""Engine.IO packets in WebSocket messages and in payloads."""

from __future__ import annotations

import engineio
import pytest

from flask_livepush.transports.engine import frames, packets
from flask_livepush.transports.engine.packets import Frame, PacketError


def test_a_frame_is_the_same_for_a_websocket_and_for_a_poll() -> None:
    text, binary = packets.message("häl"), packets.message(b"\1\2\3\4")
    assert text.wire == frames.encode(frames.TEXT, "4häl".encode())
    assert binary.wire == frames.encode(frames.BINARY, b"\1\2\3\4")
    assert text.wire is text.wire
    assert packets.join([text, binary, Frame("2")]) == "4häl\x1ebAQIDBA==\x1e2"


def test_a_payload_comes_back_as_it_went() -> None:
    sent = [packets.message("a"), packets.message(b"\0\xff"), Frame("3")]
    assert packets.split(packets.join(sent), limit=3) == [
        ("4", "a"),
        ("4", b"\0\xff"),
        ("3", ""),
    ]


@pytest.mark.parametrize(
    "body", ["", "\x1e", "4\x1e", "0{}", "6", "x", "b*", "bAQI", "4a\x1e4b\x1e4c\x1e4d"]
)
def test_what_is_no_payload_is_refused(body: str) -> None:
    with pytest.raises(PacketError):
        packets.split(body, limit=3)


@pytest.mark.parametrize("text", ["", "0", "6", "7", "bAQID", "hello", "\u0664"])
def test_what_clients_do_not_send_is_refused(text: str) -> None:
    with pytest.raises(PacketError):
        packets.of_text(text)


def test_one_of_the_stock_servers_packets_is_encoded_once() -> None:
    packet = engineio.packet.Packet(engineio.packet.MESSAGE, "a")
    assert packets.encoded(packet).text == "4a"
    assert packets.encoded(packet) is packets.encoded(packet)
    binary = engineio.packet.Packet(engineio.packet.MESSAGE, b"\1")
    assert packets.encoded(binary).text == "bAQ=="


def test_a_pong_is_of_the_websocket_itself() -> None:
    assert packets.control(frames.PONG, b"x").wire == frames.encode(frames.PONG, b"x")
