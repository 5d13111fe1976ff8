"""Nobody is in a namespace before they are accepted, and then they hear that first."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import socketio
from flask_socketio import Namespace, SocketIO, emit, join_room

from tests.support.connections import Connection, Site, connected
from tests.support.waiting import DEADLINE, until

Refusal = socketio.exceptions.ConnectionRefusedError


@pytest.fixture(params=["loop", "stock"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve connections by both."""
    monkeypatch.setattr(Site, "engine", request.param)


@contextmanager
def forced_switches() -> Iterator[None]:
    """Let threads take turns as often as they can.

    Nothing may be compiled meanwhile: CPython 3.11 does not bear that.
    """
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def answer(connection: Connection) -> tuple[str, Any]:
    """Return the type and the data of the next packet."""
    text = connection.read()
    return text[0], json.loads(text[1:]) if text[1:] else None


def tables(site: Site) -> list[Any]:
    """Return what Socket.IO knows of connections, which is nothing when all left."""
    manager = site.livepush.socketio.server.manager
    known = [manager.rooms, manager.pending_connect, manager.pending_disconnect]
    return [table for table in known if table]


class Stop:
    """A place in an application's code where a test holds it up."""

    def __init__(self) -> None:
        self.reached, self._go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self._go.wait(DEADLINE)

    def go_on(self) -> None:
        self._go.set()


@pytest.mark.parametrize("user", ["1", None])
def test_nobody_hears_anything_while_their_user_is_loaded(user: str | None) -> None:
    """Bug: refused connects read the application's broadcasts meanwhile."""
    site, stop = Site(), Stop()

    def load(name: str) -> Any:
        stop()
        return site.users.get(name) if user else None

    site.app.login_manager.user_loader(load)
    connection = site.connection("1")
    connection.send("0")
    assert stop.reached.wait(DEADLINE)
    site.livepush.socketio.emit("news", {"secret": 1})
    site.livepush.socketio.send("secret", to=connection.eio_sid)
    assert connection.silent()
    assert tables(site) == []
    stop.go_on()
    assert answer(connection)[0] == ("0" if user else "4")
    site.livepush.socketio.emit("later", 2)
    if user:
        assert answer(connection) == ("2", ["later", 2])
    else:
        assert connection.silent()


@pytest.mark.parametrize("namespace", ["/", "/own"])
@pytest.mark.parametrize("refused", [None, False, Refusal("no"), ValueError("broken")])
def test_what_is_sent_while_the_application_is_asked_waits_for_its_answer(
    refused: Any, namespace: str
) -> None:
    site, stop = Site(), Stop()
    own = site.livepush.socketio

    @own.on("connect", namespace=namespace)
    def connect() -> Any:
        join_room("members")
        emit("hello", {"n": 1})
        emit("picture", b"png")
        stop()
        emit("last", 2)
        if isinstance(refused, Exception):
            raise refused
        return refused

    name = "" if namespace == "/" else f"{namespace},"
    connection = site.connection("1")
    connection.send(f"0{name}")
    assert stop.reached.wait(DEADLINE)
    own.emit("news", 1, namespace=namespace)
    own.emit("news", 2, namespace=namespace, to="members")
    assert connection.silent()
    stop.go_on()
    first = connection.read()
    if refused is not None:
        assert first.startswith(f"4{name}{{")
        own.emit("news", 3, namespace=namespace)
        assert connection.silent()
        assert tables(site) == []
        return
    assert first.startswith(f'0{name}{{"sid":')
    sent = [connection.read() for _ in range(6)]
    assert sent == [
        f'2{name}["hello",{{"n":1}}]',
        f'51-{name}["picture",{{"_placeholder":true,"num":0}}]',
        b"png",
        f'2{name}["news",1]',
        f'2{name}["news",2]',
        f'2{name}["last",2]',
    ]


def test_a_client_whose_connect_handler_fails_is_told_to_come_again() -> None:
    """Bug: it got no answer at all."""
    site = Site()

    @site.livepush.socketio.on("connect")
    def connect() -> None:
        raise ValueError("broken")

    refused = site.connection("1").connect()
    assert refused["data"]["code"] == 120
    assert refused["data"]["temporary"] is True
    assert "broken" not in json.dumps(refused)
    until(lambda: site.events._connections.all() == [])
    assert tables(site) == []
    assert site.events._outlet.__dict__.get("_sessions", {}) == {}


def test_handlers_of_a_class_are_asked_too() -> None:
    site = Site()
    seen: list[Any] = []

    class Own(Namespace):  # type: ignore[misc]
        def on_connect(self, auth: Any) -> None:
            seen.append(auth)
            self.emit("hello", 1)

    site.livepush.socketio.on_namespace(Own("/own"))
    connection = site.connection("1")
    connection.send('0/own,{"token":"x"}')
    assert connection.read().startswith('0/own,{"sid"')
    assert connection.read() == '2/own,["hello",1]'
    assert seen == [{"token": "x"}]


@pytest.mark.parametrize("refused", [None, False])
def test_an_application_that_always_connects_is_asked_after_our_own_check(
    refused: bool | None,
) -> None:
    own = SocketIO(always_connect=True)
    site = Site(own)

    @own.on("connect")
    def connect() -> bool | None:
        emit("hello", 1)
        return refused

    connection = site.connection("1")
    connection.send("0")
    assert answer(connection)[0] == "0"
    assert answer(connection) == ("2", ["hello", 1])
    if refused is False:
        assert answer(connection)[0] == "1"
        until(lambda: tables(site) == [])


def test_a_handler_that_emits_too_much_has_its_client_refused() -> None:
    site = Site()

    @site.livepush.socketio.on("connect")
    def connect() -> None:
        for n in range(1100):
            emit("row", n)

    refused = site.connection("1").connect()
    assert refused["data"]["code"] == 120
    assert tables(site) == []


def test_many_who_come_and_go_at_once_leave_nothing() -> None:
    """Bug: python-socketio's tables were lost by whoever found them gone."""
    site = Site(LIVEPUSH_MAX_CONNECTIONS_PER_USER=1000)
    site.livepush.socketio.on("connect", namespace="/own")(lambda: join_room("a"))
    server = site.livepush.socketio.server
    environs = {user: site.environ(user) for user in "123"}
    failed: list[BaseException] = []

    def come_and_go(user: str) -> None:
        try:
            for number in range(60):
                connection = connected(server, dict(environs[user]))
                assert connection.connect() is None
                if number % 2:
                    connection.send("0/own,")
                    assert connection.read().startswith("0/own,")
                    connection.send("1/own,")
                connection.close()
        except BaseException as error:
            failed.append(error)
            raise

    assert connected(server, dict(environs["1"])).connect() is None
    threads = [threading.Thread(target=come_and_go, args=(n,)) for n in "112233"]
    with forced_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    for open_one in list(server.eio.sockets.values()):
        open_one.close(wait=False)
    assert failed == []
    until(lambda: tables(site) == [] and site.events._known == set())
    assert site.livepush.socketio.server.manager.basic_enter_room.__self__._rooms == {}
    assert site.events._connections.all() == []
    assert site.emptied()


def test_tables_are_whole_whatever_threads_do_with_them() -> None:
    site = Site()
    manager = site.livepush.socketio.server.manager
    failed: list[BaseException] = []

    def guarded(task: Callable[[], object]) -> Callable[[], None]:
        def run() -> None:
            try:
                for _ in range(400):
                    task()
            except BaseException as error:
                failed.append(error)
                raise

        return run

    numbers = iter(range(1_000_000))

    def pass_through() -> None:
        eio_sid = f"eio{next(numbers)}"
        sid = manager.pre_connect(eio_sid, "/")
        assert not manager.is_connected(sid, "/")
        manager.connect(sid, "/")
        assert manager.is_connected(sid, "/")
        manager.enter_room(sid, "/", "all")
        assert manager.sid_from_eio_sid(eio_sid, "/") == sid
        manager.pre_disconnect(sid, "/")
        manager.disconnect(sid, "/")

    def look() -> None:
        list(manager.get_participants("/", None))
        list(manager.get_participants("/", ["all", "none"]))

    tasks = [*[pass_through] * 4, look]
    threads = [threading.Thread(target=guarded(task)) for task in tasks]
    with forced_switches():
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(DEADLINE)
    assert failed == []
    assert tables(site) == []


def test_who_connects_never_waits_for_the_joins_of_others() -> None:
    """Bug: eight sockets with twenty joins each stopped all others of the process."""
    site, stop = Site(LIVEPUSH_HANDLER_THREADS=2), Stop()

    def rule(user: Any, room_id: int) -> bool:
        if user.id == "1":
            stop()
        return True

    site.livepush.room("slow:<int:room_id>")(rule)
    busy = [site.connection("1") for _ in range(8)]
    for connection in busy:
        assert connection.connect() is None
        for number in range(20):
            subscribe = ["livepush.subscribe", {"v": 1, "room": f"slow:{number}"}]
            connection.send(f"2{number}{json.dumps(subscribe)}")
    assert stop.reached.wait(DEADLINE)
    # The user loader is asked, so it is not the reader who lets them in.
    for user in ("2", "3", "2"):
        assert site.connection(user).connect() is None
    stop.go_on()
