"""Events in: whose they are, in which order, and that nobody gets past the door."""

from __future__ import annotations

import inspect
import json
import logging
import threading
from contextlib import suppress
from typing import Any

import engineio
import pytest
import socketio
from flask_socketio import SocketIO

from flask_livepush import ConfigError, LivePush
from tests.support.brokers import spawn
from tests.support.connections import Connection, Site
from tests.support.waiting import DEADLINE, until
from tests.transports.test_fanout import Bytes

SUBSCRIBE = "livepush.subscribe"
ROOM = {"v": 1, "room": "chat:42"}


@pytest.fixture(params=["loop", "stock"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve connections by both."""
    monkeypatch.setattr(Site, "engine", request.param)


# -- what is not python-socketio's public API --------------------------------------


@pytest.mark.parametrize(
    ("owner", "name", "parameters"),
    [
        (socketio.Server, "_handle_connect", "eio_sid namespace data"),
        (socketio.Server, "_handle_event", "eio_sid namespace id data"),
        (socketio.Server, "_handle_disconnect", "eio_sid namespace reason"),
        (socketio.Server, "_trigger_event", "event namespace args"),
        (socketio.Server, "_send_eio_packet", "eio_sid eio_pkt"),
        (socketio.Manager, "eio_sid_from_sid", "sid namespace"),
        (socketio.Manager, "sid_from_eio_sid", "eio_sid namespace"),
        (socketio.Manager, "is_connected", "sid namespace"),
        (socketio.Server, "_handle_ack", "eio_sid namespace id data"),
        (socketio.Manager, "basic_enter_room", "sid namespace room eio_sid"),
        (socketio.Manager, "basic_leave_room", "sid namespace room"),
        (socketio.Manager, "basic_disconnect", "sid namespace kwargs"),
        (socketio.Manager, "get_rooms", "sid namespace"),
        (engineio.Server, "on", "event handler"),
        (engineio.Server, "_trigger_event", "event args kwargs"),
        (engineio.Server, "_cors_allowed_origins", "environ"),
        (engineio.Server, "_cors_headers", "environ"),
        (engineio.Server, "_log_error_once", "message message_key"),
        (engineio.Server, "_generate_sid_cookie", "sid attributes"),
        (engineio.Server, "_gzip", "response"),
        (engineio.Server, "_deflate", "response"),
        (engineio.socket.Socket, "close", "wait abort reason"),
        (engineio.packet.Packet, "__init__", "packet_type data encoded_packet"),
    ],
)
def test_private_points_are_there(owner: Any, name: str, parameters: str) -> None:
    found = list(inspect.signature(getattr(owner, name)).parameters)
    assert found == ["self", *parameters.split()]


def test_private_attributes_of_a_server_are_there() -> None:
    server = socketio.Server(async_mode="threading")
    assert server.environ == {}
    assert server.eio.sockets == {}
    assert {"connect", "message", "disconnect"} <= set(server.eio.handlers)
    assert server.packet_class is socketio.packet.Packet
    assert server.namespaces == ["/"]
    assert (socketio.packet.EVENT, socketio.packet.ACK) == (2, 3)
    refused = socketio.exceptions.ConnectionRefusedError("no", {"code": 1})
    assert refused.error_args == {"message": "no", "data": {"code": 1}}


def test_handlers_of_packets_are_looked_up_on_the_instance() -> None:
    """A packet reaches what the instance was changed to ask, and nothing else."""
    server = socketio.Server(async_mode="threading")
    asked: list[tuple[Any, ...]] = []
    server._handle_connect = lambda *args: asked.append(("connect", *args))
    server._handle_event = lambda *args: asked.append(("event", *args))
    server._handle_disconnect = lambda *args: asked.append(("disconnect", *args))
    for packet in ("0", '2["a",1]', "1", "0"):
        server._handle_eio_message("e", packet)
    assert [name for name, *_ in asked] == ["connect", "event", "disconnect", "connect"]
    assert asked[1][1] == "e"
    assert asked[1][-1] == ["a", 1]


# -- connecting --------------------------------------------------------------------


def test_refuses_visitors_who_are_not_logged_in() -> None:
    site = Site()
    refused = site.connection().connect()
    assert refused["data"] == {
        "code": 103,
        "message": "Not logged in.",
        "temporary": False,
    }
    assert site.connection("1").connect() is None


def test_what_asks_somebody_does_not_hold_up_the_reader() -> None:
    site = Site()
    asked: list[int] = []
    site.app.login_manager.user_loader(
        lambda name: asked.append(threading.get_ident()) or site.users[name]
    )
    assert site.connection("1").connect() is None
    own = Site(LIVEPUSH_ALLOW_ANONYMOUS=True)
    own.livepush.socketio.on("connect")(lambda: asked.append(threading.get_ident()))
    assert own.connection().connect() is None
    assert len(asked) == 2
    assert threading.get_ident() not in asked


def test_what_asks_nobody_is_answered_by_the_reader() -> None:
    """Not with the stock drivers, which have a thread for each message anyway."""
    site = Site(LIVEPUSH_ALLOW_ANONYMOUS=True, LIVEPUSH_ENGINE="loop")
    connection = site.connection()
    connection.send("0")
    assert not connection.silent()


def test_lets_visitors_in_where_that_is_allowed() -> None:
    site = Site(LIVEPUSH_ALLOW_ANONYMOUS=True)
    connection = site.connection()
    assert connection.connect() is None
    assert connection.call(SUBSCRIBE, ROOM)["error"]["code"] == 103


def test_refuses_for_now_when_the_user_can_not_be_loaded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    site = Site()
    connection = site.connection("1")

    def fail(name: str) -> None:
        raise TypeError("a bug")

    site.app.login_manager.user_loader(fail)
    with caplog.at_level(logging.ERROR):
        refused = connection.connect()
    assert refused["data"]["code"] == 120
    assert refused["data"]["temporary"] is True
    assert "a bug" not in json.dumps(refused)
    assert "a bug" in caplog.text


def test_an_applications_connect_handler_does_not_open_the_door() -> None:
    site = Site()
    asked: list[Any] = []

    @site.livepush.socketio.on("connect")
    def connect(auth: Any = None) -> None:
        asked.append(auth)

    assert site.connection().connect()["data"]["code"] == 103
    assert asked == []
    connection = site.connection("1")
    assert connection.connect({"token": "x"}) is None
    assert asked == [{"token": "x"}]
    assert connection.call(SUBSCRIBE, ROOM)["ok"]


def test_an_applications_connect_handler_may_refuse() -> None:
    site = Site()
    site.livepush.socketio.on("connect")(lambda auth=None: False)
    assert site.connection("1").connect() is not None


# -- messages ----------------------------------------------------------------------


def test_publications_follow_the_ack_and_end_with_unsubscribe() -> None:
    site = Site()
    connection = site.connection("1")
    connection.connect()
    ack = connection.call(SUBSCRIBE, ROOM)
    assert ack["recovered"] is False
    assert ack["snapshot"] == {"kinds": {}}
    site.livepush.emit("chat:42", "ding", {"n": 1})
    packet = json.loads(connection.read()[1:])
    position = {"room": "chat:42", "epoch": ack["epoch"], "offset": 1}
    assert packet == ["ding", {"n": 1}, position]
    assert connection.call("livepush.unsubscribe", ROOM) == {"ok": True}
    assert connection.call("livepush.unsubscribe", ROOM) == {"ok": True}
    site.livepush.emit("chat:42", "ding", {"n": 2})
    since = {"epoch": ack["epoch"], "offset": 1}
    ack = connection.call(SUBSCRIBE, {**ROOM, "since": since})
    assert ack["recovered"] is True
    assert ack["publications"] == [{"event": "ding", "data": {"n": 2}, "offset": 2}]


@pytest.mark.parametrize(
    ("event", "args", "code"),
    [
        (SUBSCRIBE, [], 100),
        (SUBSCRIBE, ["chat:42"], 100),
        (SUBSCRIBE, [{**ROOM, "v": 2}], 100),
        (SUBSCRIBE, [{"room": "chat:05"}], 101),
        (SUBSCRIBE, [{"room": "x" * 300}], 101),
        (SUBSCRIBE, [{"room": "chat:7"}], 103),
        (SUBSCRIBE, [{"room": "user:2"}], 103),
        ("livepush.unsubscribe", [], 100),
        ("livepush.unsubscribe", [{"room": ""}], 101),
        ("livepush.", [], 100),
        ("livepush.whatever", [1, 2], 100),
        ("livepush.reset", [ROOM], 100),
    ],
)
def test_answers_what_it_can_not_serve(event: str, args: list[Any], code: int) -> None:
    site = Site()
    connection = site.connection("1")
    connection.connect()
    answer = connection.call(event, *args)
    assert answer["ok"] is False
    assert answer["error"]["code"] == code
    assert connection.call(SUBSCRIBE, ROOM)["ok"]


def test_a_message_without_an_ack_is_served_in_silence() -> None:
    site = Site()
    connection = site.connection("1")
    connection.connect()
    connection.event(SUBSCRIBE, ROOM)
    connection.event(SUBSCRIBE, {"room": "chat:7"})
    connection.event("livepush.nonsense")
    assert connection.call("livepush.unsubscribe", {"room": "chat:8"})["ok"]
    site.livepush.emit("chat:42", "ding")
    assert json.loads(connection.read()[1:])[0] == "ding"


def test_a_client_can_not_play_the_servers_own_events() -> None:
    site = Site()
    called: list[str] = []
    site.livepush.socketio.on("connect")(lambda auth=None: called.append("connect"))
    site.livepush.socketio.on("disconnect")(lambda *_: called.append("disconnect"))
    site.livepush.socketio.on("mine")(lambda *_: "served")
    connection = site.connection("1")
    connection.connect()
    connection.event("connect", {})
    connection.event("disconnect", "transport close")
    assert connection.call("mine") == "served"
    assert called == ["connect"]
    assert connection.call(SUBSCRIBE, ROOM)["ok"]


def test_our_names_in_another_namespace_are_the_applications() -> None:
    site = Site()
    site.livepush.socketio.on(SUBSCRIBE, namespace="/own")(lambda *_: "own")
    connection = site.connection("1")
    connection.send("0/own,")
    assert connection.read().startswith("0/own,")
    connection.send(f'2/own,1["{SUBSCRIBE}",{{}}]')
    assert connection.read() == '3/own,1["own"]'


@pytest.mark.parametrize(
    "junk",
    [
        "",
        "2",
        "2[]",
        "2{}",
        "2[1]",
        '2[["a"]]',
        "2[null]",
        "3",
        '31["unknown"]',
        "3999[]",
        '51-["a",{"_placeholder":true,"num":0}]',
        '2/nowhere,["a"]',
        "1/nowhere,",
        "0/nowhere,",
        "00",
        "2" + "9" * 99 + '["a"]',
        '2["' + "a" * 100_000 + '"]',
    ],
)
def test_junk_leaves_the_connection_alive(junk: str | bytes) -> None:
    site = Site()
    connection = site.joined("1")
    connection.send(junk)
    if isinstance(junk, str) and junk.startswith("5"):
        connection.send(b"its attachment")
    ours = [SUBSCRIBE, {"room": "chat:42"}]
    connection.send(f"2777{json.dumps(ours)}")
    answer = connection.read()
    while not answer.startswith("3777"):
        assert answer.startswith("4"), answer  # refused
        answer = connection.read()
    assert json.loads(answer[4:])[0]["ok"]


@pytest.mark.parametrize(
    "junk",
    [
        "2nonsense",
        "29[",
        '2["a"',
        "7",
        "9[]",
        "4{}",
        "\x00",
        b"\x00\xff",
        "2" + "[" * 3000,
    ],
)
def test_what_is_no_packet_ends_that_connection_alone(junk: str | bytes) -> None:
    """As Socket.IO on Node.js does; the stock driver lets it pass."""
    site = Site()
    connection, other = site.joined("1"), site.joined("2")
    connection.send(junk)
    if Site.engine == "loop":
        assert connection.read() is None
        until(lambda: site.hub.find(connection.sid, "chat:42") is None)
    else:
        assert connection.call(SUBSCRIBE, ROOM)["ok"]
    assert other.call(SUBSCRIBE, ROOM)["ok"]


def test_a_second_connect_changes_nothing() -> None:
    site = Site()
    connection = site.joined("1")
    connection.send("0")
    connection.send("0")
    site.livepush.emit("chat:42", "ding")
    assert connection.read().startswith("2")
    connection.close()
    until(site.emptied)


def test_leaves_nothing_behind_when_connections_end() -> None:
    site = Site()
    closed, left = site.joined("1"), site.joined("2")
    server = site.livepush.socketio.server
    left.send("1")  # leaves the namespace, keeps the connection
    until(lambda: len(site.hub._joined) == 1)
    closed.close()
    until(site.emptied)
    left.close()
    until(lambda: server.environ == {} and server.manager.rooms == {})
    until(lambda: site.events._mailboxes._queues == {})


def test_leaves_nothing_behind_when_a_connection_ends_in_a_join() -> None:
    site = Site()
    connection = site.connection("1")
    connection.connect()
    asked, go_on = threading.Event(), threading.Event()

    def rule(user: Any, room_id: int) -> bool:
        asked.set()
        return go_on.wait(DEADLINE)

    site.chat.rule = rule
    connection.event(SUBSCRIBE, ROOM)
    connection.event(SUBSCRIBE, {"room": "user:1"})
    assert asked.wait(DEADLINE)
    connection.close()
    go_on.set()
    server = site.livepush.socketio.server
    until(lambda: server.environ == {} and server.manager.rooms == {})
    assert site.emptied()


def test_leaks_nothing_when_the_server_disconnects_during_a_join() -> None:
    """Bug: a kick from another thread came before the join it should have ended."""
    site = Site()
    connection = site.connection("1")
    connection.connect()
    asked, go_on = threading.Event(), threading.Event()

    def rule(user: Any, room_id: int) -> bool:
        asked.set()
        return go_on.wait(DEADLINE)

    site.chat.rule = rule
    connection.event(SUBSCRIBE, ROOM)
    assert asked.wait(DEADLINE)
    server = site.livepush.socketio.server
    server.disconnect(connection.sid)
    go_on.set()
    until(lambda: site.events._mailboxes._queues == {})
    assert site.emptied()


def test_leaves_nothing_of_whom_a_connect_handler_fails() -> None:
    """Bug: python-socketio keeps for ever who has neither come nor been refused."""
    site = Site()
    server = site.livepush.socketio.server

    @site.livepush.socketio.on("connect")
    def connect() -> None:
        raise LookupError("the application's")

    connection = site.connection("1")
    connection.send("0")
    until(lambda: site.events._mailboxes._queues == {})
    connection.close()
    until(lambda: server.environ == {})
    assert server.manager.rooms == {}
    assert server.manager.pending_connect == {}


def test_leaves_nothing_of_whom_a_disconnect_handler_fails(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Bug: python-socketio then keeps the connection's rooms and environment."""
    site = Site()
    server = site.livepush.socketio.server

    @site.livepush.socketio.on("disconnect")
    def disconnect(reason: str) -> None:
        raise LookupError("the application's")

    connection = site.joined("1")
    connection.close()
    until(lambda: site.events._known == set())
    assert server.environ == {}
    assert server.manager.rooms == {}
    assert server.manager.pending_disconnect == {}
    assert site.emptied()
    assert "the application's" in caplog.text


def test_leaves_nothing_of_who_ends_while_it_connects() -> None:
    """Bug: two threads, of a poll and of what was posted, and the end came first."""
    site = Site(LIVEPUSH_ALLOW_ANONYMOUS=True)
    server = site.livepush.socketio.server
    connection = site.connection()
    pre_connect = server.manager.pre_connect

    def end_meanwhile(*args: Any) -> Any:
        ends = threading.Thread(target=connection.close)
        ends.start()
        ends.join(DEADLINE)
        return pre_connect(*args)

    server.manager.pre_connect = end_meanwhile
    connection.send("0")
    until(lambda: site.events._mailboxes._queues == {})
    until(lambda: server.environ == {})
    assert server.manager.rooms == {}
    assert site.events._known == set()


def test_leaves_nothing_of_who_is_disconnected_while_it_whispers() -> None:
    site = Site()
    connection = site.joined("1")
    server, node = site.livepush.socketio.server, site.events._node
    whisper = node.whisper

    def disconnect_meanwhile(sid: str, request: Any) -> None:
        server.disconnect(sid)
        whisper(sid, request)

    node.whisper = disconnect_meanwhile
    connection.event(
        "livepush.whisper", {"v": 1, "room": "chat:42", "event": "typing", "data": 1}
    )
    until(lambda: site.events._mailboxes._queues == {})
    until(lambda: not server.manager.is_connected(connection.sid, "/"))
    until(lambda: node._paces == {})
    assert site.emptied()


def test_forgets_a_binary_packet_that_begins_when_its_connection_ends() -> None:
    """Bug: it was kept for ever."""
    site = Site()
    connection = site.joined("1")
    server = site.livepush.socketio.server
    handle = site.events._handle_message

    def end_meanwhile(*args: Any) -> None:
        connection.close()
        handle(*args)

    site.events._handle_message = end_meanwhile
    connection.send('51-["a",{"_placeholder":true,"num":0}]')
    assert server._binary_packet == {}


def test_disconnects_who_sends_more_than_is_served() -> None:
    site = Site(LIVEPUSH_MAX_PENDING_MESSAGES=4)
    connection = site.connection("1")
    connection.connect()
    asked, go_on = threading.Event(), threading.Event()

    def rule(user: Any, room_id: int) -> bool:
        asked.set()
        return go_on.wait(DEADLINE)

    site.chat.rule = rule
    connection.event(SUBSCRIBE, ROOM)
    assert asked.wait(DEADLINE)
    for _ in range(4):
        connection.event(SUBSCRIBE, ROOM)
    assert not connection.socket.closed
    connection.event(SUBSCRIBE, ROOM)
    assert connection.socket.closed
    go_on.set()
    server = site.livepush.socketio.server
    until(lambda: server.environ == {} and server.manager.rooms == {})
    assert site.emptied()


def test_does_not_wait_for_a_client_that_floods_without_polling() -> None:
    """Bug: the reader waited for a poll that never came, in a thread of the server."""
    site = Site(LIVEPUSH_MAX_PENDING_MESSAGES=1)
    connection = site.connection("1")
    go_on, finished = threading.Event(), threading.Event()
    site.chat.rule = lambda user, room_id: go_on.wait(DEADLINE)
    connection.connect()

    def flood() -> None:
        for number in range(10):
            connection.send(f'2{number}["livepush.subscribe",{{"room":"chat:42"}}]')
        finished.set()

    spawn(flood)
    assert finished.wait(DEADLINE)
    go_on.set()
    until(site.emptied)


def test_messages_after_the_end_are_dropped() -> None:
    site = Site()
    connection = site.joined("1")
    server = site.livepush.socketio.server
    connection.close()
    until(lambda: server.manager.rooms == {})
    for packet in ("0", f'21["{SUBSCRIBE}",{{"room":"chat:42"}}]', "1"):
        connection.send(packet)
    until(lambda: site.events._mailboxes._queues == {})
    assert server.manager.rooms == {}
    assert site.emptied()


def test_a_handler_may_wait_for_the_clients_answer() -> None:
    site = Site()
    server = site.livepush.socketio.server

    @site.livepush.socketio.on("ask")
    def ask() -> Any:
        answers: list[Any] = []
        answered = threading.Event()

        def take(answer: Any) -> None:
            answers.append(answer)
            answered.set()

        server.emit("question", to=connection.sid, callback=take)
        assert answered.wait(DEADLINE)
        return answers[0]

    connection = site.connection("1")
    connection.connect()
    connection.send('21["ask"]')
    question = connection.read()
    assert "question" in question
    connection.send(f'3{question[1 : question.index("[")]}["answer"]')
    assert connection.read() == '31["answer"]'


# -- an application's own SocketIO --------------------------------------------------


def adopted(**config: Any) -> Site:
    return Site(SocketIO(), **config)


def test_an_adopted_one_keeps_its_handlers_and_lets_anybody_connect() -> None:
    site = adopted()
    connected: list[str] = []

    @site.livepush.socketio.on("connect")
    def connect(auth: Any = None) -> None:
        connected.append("yes")

    site.livepush.socketio.on("mine")(lambda value: value + 1)
    visitor = site.connection()
    assert visitor.connect() is None
    assert connected == ["yes"]
    assert visitor.call("mine", 1) == 2
    answer = visitor.call(SUBSCRIBE, ROOM)
    assert answer["error"] == {
        "code": 103,
        "message": "Not logged in.",
        "temporary": False,
    }
    member = site.joined("1")
    site.livepush.emit("chat:42", "ding")
    assert json.loads(member.read()[1:])[0] == "ding"
    assert visitor.silent()
    member.close()
    visitor.close()
    until(site.emptied)


def test_an_adopted_one_may_answer_before_it_is_asked() -> None:
    """``always_connect``: the client is told of its sid before the handler is run."""
    own = SocketIO(always_connect=True)
    site = Site(own)
    connection = site.joined("1")
    site.livepush.emit("chat:42", "ding")
    assert json.loads(connection.read()[1:])[0] == "ding"
    connection.close()
    until(site.emptied)


class Decodes(Bytes):
    """The other serializer, reading too."""

    def __init__(self, *args: Any, encoded_packet: Any = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if encoded_packet is not None:
            self.packet_type, self.id, self.data = json.loads(encoded_packet)
            self.namespace = "/"


def test_an_adopted_one_may_have_another_serializer() -> None:
    site = Site(SocketIO(serializer=Decodes))
    connection = site.connection("1")
    connection.send(b"[0,null,null]")
    assert json.loads(connection.read())[0] == 0
    connection.send(json.dumps([2, 5, [SUBSCRIBE, ROOM]]).encode())
    kind, number, values = json.loads(connection.read())
    assert (kind, number) == (3, 5)
    assert values[0]["ok"] is True
    site.livepush.emit("chat:42", "ding", {"n": 1})
    kind, number, values = json.loads(connection.read())
    assert (kind, number, values[:2]) == (2, None, ["ding", {"n": 1}])


@pytest.mark.parametrize(
    "auth", ["a-token", ["a", {"b": 1}], True, {"token": "x"}, {"": None}]
)
def test_what_is_given_with_a_connect_reaches_an_adopted_ones_handler(
    auth: Any,
) -> None:
    """Bug: the connection was closed where it was no object."""
    own, given = SocketIO(), []
    own.on("connect")(given.append)
    site = Site(own)
    assert site.connection("1").connect(auth) is None
    assert given == [auth]


def test_what_is_too_deep_reaches_nobody() -> None:
    own, given = SocketIO(), []
    own.on("connect")(given.append)
    connection = Site(own).connection("1")
    deep: Any = []
    for _ in range(200):
        deep = [deep]
    with suppress(ValueError):  # the stock engine's loop has no root of ours
        connection.send(f"0{json.dumps(deep)}")
    assert given == []


def test_refuses_to_adopt_what_it_can_not_use() -> None:
    site = Site()
    with pytest.raises(ConfigError, match=r"flask_socketio\.SocketIO"):
        LivePush(fresh(), socketio="x")
    with pytest.raises(ConfigError, match="not set up yet"):
        LivePush(fresh(), socketio=SocketIO())
    other = SocketIO(fresh(), async_mode="threading", namespaces=["/own"])
    with pytest.raises(ConfigError, match="'/'"):
        LivePush(fresh(), socketio=other)
    app = fresh()
    app.config["LIVEPUSH_ASYNC_MODE"] = "gevent"
    with pytest.raises(ConfigError, match="'gevent'"):
        LivePush(app, socketio=SocketIO(app, async_mode="threading"))
    assert site.livepush.socketio.server is not None


def fresh() -> Any:
    from flask import Flask

    return Flask("another")


# -- Flask-SocketIO's test client ---------------------------------------------------


@pytest.mark.parametrize("own", [None, SocketIO()], ids=["ours", "adopted"])
def test_works_with_flask_socketios_test_client(own: SocketIO | None) -> None:
    site = Site(own)
    http = site.app.test_client()
    http.get("/login/1")
    client = site.livepush.socketio.test_client(site.app, flask_test_client=http)
    assert client.is_connected()
    ack = client.emit(SUBSCRIBE, ROOM, callback=True)
    assert ack["ok"] is True
    site.livepush.emit("chat:42", "ding", {"n": 1})
    until(lambda: client.queue)
    (event,) = client.get_received()
    assert event["name"] == "ding"
    assert event["args"] == [
        {"n": 1},
        {"room": "chat:42", "epoch": ack["epoch"], "offset": 1},
    ]
    refused = client.emit(SUBSCRIBE, {"room": "chat:7"}, callback=True)
    assert refused["error"]["code"] == 103
    client.disconnect()
    assert site.emptied()
    if own is None:
        visitor = site.livepush.socketio.test_client(site.app)
        assert not visitor.is_connected()


def test_many_join_while_much_is_emitted() -> None:
    site = Site()
    connections: list[Connection] = []
    lock = threading.Lock()

    def join(number: int) -> None:
        for _ in range(5):
            connection = site.connection("1")
            connection.connect()
            connection.send(f'21["{SUBSCRIBE}",{json.dumps(ROOM)}]')
            with lock:
                connections.append(connection)

    def write(number: int) -> None:
        for step in range(50):
            site.livepush.emit("chat:42", "n", [number, step])

    threads = [
        threading.Thread(target=target, args=(n,), daemon=True)
        for n in range(3)
        for target in (join, write)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    for connection in connections:
        first = connection.read()
        assert first.startswith("31["), first
        offset = json.loads(first[2:])[0]["offset"]
        while offset < 150:
            offset += 1
            assert json.loads(connection.read()[1:])[2]["offset"] == offset
        connection.close()
    until(site.emptied)


def test_whispers_and_presence_of_rooms_that_have_them() -> None:
    site = Site()
    site.chat.whisper = True
    clients = []
    for user in ("1", "2"):
        http = site.app.test_client()
        http.get(f"/login/{user}")
        clients.append(
            site.livepush.socketio.test_client(site.app, flask_test_client=http)
        )
    one, other = clients
    message = {"v": 1, **ROOM, "event": "typing", "data": {"n": 1}}

    def whisper(**changes: Any) -> Any:
        return one.emit("livepush.whisper", {**message, **changes}, callback=True)

    assert whisper()["error"]["code"] == 103
    ack = one.emit(SUBSCRIBE, {**ROOM, "presence": True}, callback=True)
    assert [user["id"] for user in ack["presence"]] == ["1"]
    ack = other.emit(SUBSCRIBE, ROOM, callback=True)
    assert "presence" not in ack
    until(lambda: one.queue)
    (event,) = one.get_received()
    joined = {"room": "chat:42", "joined": [{"id": "2"}], "left": []}
    assert (event["name"], event["args"]) == ("livepush.presence", [joined])
    assert whisper() == {"ok": True}
    until(lambda: other.queue)
    (event,) = other.get_received()
    assert event["name"] == "typing"
    assert event["args"] == [
        {"n": 1},
        {"room": "chat:42", "whisper": True, "from": "1"},
    ]
    assert whisper(event="x.invalidated")["error"]["code"] == 103
    assert whisper(event="livepush.reset")["error"]["code"] == 100
    assert whisper(room="other")["error"]["code"] == 101
    site.chat.whisper = False
    assert whisper()["error"]["code"] == 103
    for client in clients:
        client.disconnect()
    assert site.emptied()
