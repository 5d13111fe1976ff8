"""Frames: what a client of Socket.IO decodes is what was published."""

from __future__ import annotations

import json
from typing import Any

import pytest
import socketio

from flask_livepush.protocol.publication import Publication
from flask_livepush.transports.fanout import Fanout, StockOutlet

PUBLICATION = Publication(8, 'say "é" 💬', '{"id":1,"text":"\u2028é"}', 5, more=True)
META = {"room": 'chat:"é', "epoch": "e", "offset": 8, "stamp": 5, "more": True}


class Bytes(socketio.packet.Packet):  # type: ignore[misc]
    """Packets of another serializer, which sends bytes."""

    uses_binary_events = False

    def encode(self) -> bytes:
        return json.dumps([self.packet_type, self.id, self.data]).encode()


def make(**options: Any) -> tuple[Fanout, list[tuple[str, Any]], Any]:
    """Return a fan-out, what its server writes, and the server."""
    server = socketio.Server(async_mode="threading", **options)
    written: list[tuple[str, Any]] = []
    server._send_eio_packet = lambda eio_sid, frame: written.append((eio_sid, frame))
    return Fanout(server, StockOutlet(server), reset_within=2.5), written, server


def connected(server: Any, eio_sid: str) -> str:
    """Let the server know a connection; return its sid."""
    sid = server.manager.pre_connect(eio_sid, "/")
    server.manager.connect(sid, "/")
    return str(sid)


def decode(frame: Any) -> Any:
    assert frame.encode()[:1] == "4"  # an Engine.IO message
    return socketio.packet.Packet(encoded_packet=frame.data)


def test_an_event_has_its_data_and_where_it_stands() -> None:
    fanout, _, _ = make()
    packet = decode(fanout.frame('chat:"é', "e", PUBLICATION))
    assert packet.packet_type == socketio.packet.EVENT
    assert packet.namespace in (None, "/")
    assert packet.id is None
    assert packet.data == ['say "é" 💬', {"id": 1, "text": "\u2028é"}, META]


def test_a_name_that_looks_like_a_packet_is_a_name() -> None:
    fanout, _, _ = make()
    for event in ("1-[", "/chat,", "3", '"],[', "\\", "{}"):
        frame = fanout.frame("a", "e", Publication(1, event, "[]"))
        assert decode(frame).data[:2] == [event, []]


def test_an_ack_has_its_number() -> None:
    fanout, _, _ = make()
    packet = decode(fanout.ack(17, '{"ok":true}'))
    assert (packet.packet_type, packet.id) == (socketio.packet.ACK, 17)
    assert packet.data == [{"ok": True}]
    assert decode(fanout.ack(0, "{}")).id == 0
    assert fanout.ack(None, "{}") is None


def test_a_reset_says_within_which_time_to_return() -> None:
    fanout, _, _ = make()
    packet = decode(fanout.reset_frame("a"))
    assert packet.data == ["livepush.reset", {"room": "a", "within": 2.5}]


def test_a_lost_room_has_the_code_that_says_why() -> None:
    fanout, _, _ = make()
    packet = decode(fanout.revoked_frame("a", 103))
    assert packet.data == ["livepush.revoked", {"room": "a", "code": 103}]


def test_speaks_another_serializer() -> None:
    fanout, _, _ = make(serializer=Bytes)
    frame = fanout.frame('chat:"é', "e", PUBLICATION)
    assert isinstance(frame.data, bytes)
    values = ['say "é" 💬', {"id": 1, "text": "\u2028é"}, META]
    assert json.loads(frame.data) == [2, None, values]
    answer = fanout.ack(3, '{"ok":true}')
    assert answer is not None
    assert json.loads(answer.data) == [3, 3, [{"ok": True}]]


def test_writes_in_order_to_the_connection_of_the_sid() -> None:
    fanout, written, server = make()
    sid, other = connected(server, "eio1"), connected(server, "eio2")
    fanout.write([sid], ["a", "b"])
    fanout.write([other], ["c"])
    fanout.write([sid], [])
    assert written == [("eio1", "a"), ("eio1", "b"), ("eio2", "c")]


@pytest.mark.parametrize("gone", ["never", "disconnected", "last", "closed"])
def test_writes_nothing_and_raises_nothing_when_the_connection_is_gone(
    gone: str,
) -> None:
    fanout, written, server = make()
    sid = connected(server, "eio1")
    if gone == "never":
        sid = "nobody"
    elif gone == "disconnected":
        connected(server, "eio2")
        server.manager.disconnect(sid, "/")
    elif gone == "last":
        # What another thread sees while the last client is leaving.
        server.manager.basic_enter_room(sid, "/", "room")
        server.manager.basic_leave_room(sid, "/", None)
    else:

        def fail(eio_sid: str, frame: Any) -> None:
            raise KeyError("Session not found")

        server._send_eio_packet = fail
    fanout.write([sid], ["a", "b"])
    assert written == []
