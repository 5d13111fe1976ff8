"""The whole of it over the network: each async mode, each transport, one body."""

from __future__ import annotations

import json
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import requests

from tests.support.live_client import LiveClient, shown
from tests.support.servers import MODES, Mode, Program, running
from tests.support.waiting import DEADLINE

APP = Path(__file__).parents[1] / "support" / "live_app.py"
TRANSPORTS = ("websocket", "polling")

numbers = iter(range(1000, 100_000))


@pytest.fixture(
    scope="module", params=[*((mode, "loop") for mode in MODES), ("threading", "stock")]
)
def url(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A running server."""
    mode: Mode
    mode, engine = request.param
    file = tmp_path_factory.mktemp(mode) / "live.db"
    env = {"FLASK_LIVEPUSH_ENGINE": engine}
    with running(APP, str(file), mode=mode, env=env) as server:
        yield server.url


@pytest.fixture
def room() -> int:
    """The number of a room that no other test uses."""
    return next(numbers)


@pytest.fixture
def connect(url: str) -> Iterator[Callable[..., LiveClient]]:
    """Return a function that connects; afterwards all leave, and nothing is left."""
    with ExitStack() as stack:

        def make(transport: str = "websocket") -> LiveClient:
            client = LiveClient(url, transport)
            stack.callback(client.close)
            return client

        yield make
    assert_empty(url)


def assert_empty(url: str) -> None:
    waited = threading.Event()
    left = None
    for _ in range(int(DEADLINE / 0.02)):
        left = requests.get(f"{url}/left", timeout=DEADLINE).json()
        if left == [0, 0, 0]:
            return
        waited.wait(0.02)
    raise AssertionError(left)


def write(url: str, room: int, count: int = 1) -> None:
    answer = requests.post(
        f"{url}/write/{room}", params={"count": count}, timeout=DEADLINE
    )
    assert answer.status_code == 200


def ids(url: str, room: int) -> set[int]:
    return set(requests.get(f"{url}/ids/{room}", timeout=DEADLINE).json())


Connect = Callable[..., LiveClient]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_joins_follows_and_recovers(
    url: str, connect: Connect, room: int, transport: str
) -> None:
    write(url, room, 2)
    client = connect(transport)
    name = f"chat:{room}"
    ack = client.subscribe(name)
    assert ack["recovered"] is False
    assert ack["offset"] == 2
    kind = ack["snapshot"]["kinds"]["message"]
    assert (kind["key"], kind["partial"]) == ("id", False)
    assert {row["id"] for row in kind["rows"]} == ids(url, room)
    write(url, room, 3)
    client.wait(lambda: shown(client)[1] == 5)
    assert shown(client)[0] == ids(url, room)
    client.close()
    write(url, room, 4)
    again = connect(transport)
    again.frames[:] = client.frames
    ack = again.subscribe(name, {"epoch": ack["epoch"], "offset": 5})
    assert ack["recovered"] is True
    assert [p["offset"] for p in ack["publications"]] == [6, 7, 8, 9]
    assert "snapshot" not in ack
    write(url, room)
    again.wait(lambda: shown(again)[1] == 10)
    assert shown(again)[0] == ids(url, room)
    ack = again.subscribe(name, {"epoch": "another", "offset": 5})
    assert ack["recovered"] is False
    assert len(ack["snapshot"]["kinds"]["message"]["rows"]) == 10
    for refused, code in (("chat:7", 103), ("chat:07", 101), ("nowhere", 101)):
        assert again.subscribe(refused)["error"]["code"] == code
    again.frames[:] = [f for f in again.frames if not (f[1] or {}).get("error")]


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_joins_that_race_commits_lose_and_double_nothing(
    url: str, connect: Connect, room: int, transport: str
) -> None:
    name = f"chat:{room}"
    clients = [connect(transport) for _ in range(5)]
    problems: list[BaseException] = []

    def safely(work: Callable[[], None]) -> threading.Thread:
        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                problems.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    def join(client: LiveClient, number: int) -> Callable[[], None]:
        def run() -> None:
            dice = random.Random(number)
            for turn in range(10):
                since = None
                if turn and dice.random() < 0.6:
                    ack = client.call("livepush.unsubscribe", {"room": name})
                    assert ack == {"ok": True}
                    epoch = next(
                        f[1] for f in client.frames if f[1] and "epoch" in f[1]
                    )
                    since = {"epoch": epoch["epoch"], "offset": shown(client)[1]}
                elif turn:
                    client.call("livepush.unsubscribe", {"room": name})
                assert client.subscribe(name, since)["ok"]

        return run

    threads = [safely(join(client, n)) for n, client in enumerate(clients)]
    threads += [safely(lambda: write(url, room, 50)) for _ in range(4)]
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert problems == []
    expected = ids(url, room)
    assert len(expected) == 200
    for client in clients:
        client.wait(lambda client=client: shown(client)[1] == 200)
        assert shown(client)[0] == expected
    orders = {
        tuple((f[2]["offset"], f[1]["id"]) for f in client.frames if f[2])
        for client in clients
    }
    # Whoever saw an offset saw the same row there.
    merged: dict[int, int] = {}
    for order in orders:
        for offset, row in order:
            assert merged.setdefault(offset, row) == row


def test_a_message_may_follow_the_connect_at_once(url: str, room: int) -> None:
    """Over polling each message is a request of its own, in a thread of its own."""
    with requests.Session() as session:
        session.headers["X-User"] = "1"
        address = f"{url}/socket.io/?EIO=4&transport=polling"
        opened = session.get(address, timeout=DEADLINE).text
        address += "&sid=" + json.loads(opened[1:])["sid"]
        message = f'421["livepush.subscribe",{{"room":"chat:{room}"}}]'
        session.post(address, data="40", timeout=DEADLINE)
        session.post(address, data=message, timeout=DEADLINE)
        text = ""
        while '"ok":true' not in text:
            text += session.get(address, timeout=DEADLINE).text + "\x1e"
        frames = text.split("\x1e")
        assert frames[0].startswith("40{")
        assert frames[1].startswith("431[")
        write(url, room)
        event = session.get(address, timeout=DEADLINE).text
        assert event.startswith('42["message.created",')
        session.post(address, data="1", timeout=DEADLINE)
    assert_empty(url)


def test_refuses_visitors(url: str) -> None:
    with requests.Session() as session:
        address = f"{url}/socket.io/?EIO=4&transport=polling"
        opened = session.get(address, timeout=DEADLINE).text
        address += "&sid=" + json.loads(opened[1:])["sid"]
        session.post(address, data="40", timeout=DEADLINE)
        answer = session.get(address, timeout=DEADLINE).text
        assert answer.startswith("44")
        assert json.loads(answer[2:])["data"]["code"] == 103
        foreign = session.get(
            f"{url}/socket.io/?EIO=4&transport=polling",
            headers={"Origin": "https://evil.example"},
            timeout=DEADLINE,
        )
        assert foreign.status_code == 400
        session.post(address, data="1", timeout=DEADLINE)
    assert_empty(url)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_junk_leaves_the_connection_alive(
    url: str, connect: Connect, room: int, transport: str
) -> None:
    client = connect(transport)
    junk = ["2", "2[]", "3", '3999["unknown"]', '2["connect"]', "2[[]]", "1/nowhere,"]
    for text in junk:
        client.client.eio.send(text)
    client.send("livepush.nonsense", {})
    assert client.subscribe(f"chat:{room}")["ok"]
    write(url, room)
    client.wait(lambda: client.frames[-1][0] == "message.created")


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_many_rooms_may_be_asked_for_at_once(
    connect: Connect, room: int, transport: str
) -> None:
    """Bug: over polling more than 16 messages at once were lost without an answer."""
    client = connect(transport)
    # The client's writer puts all that waits into one request.
    packets = [
        f'2{n}["livepush.subscribe",{{"room":"chat:{room + n}"}}]' for n in range(60)
    ]
    acks: list[int] = []
    client.client._handle_ack = lambda namespace, number, data: acks.append(number)
    for packet in packets:
        client.client.eio.send(packet)
    waited = threading.Event()
    for _ in range(int(DEADLINE / 0.02)):
        if len(acks) == 60:
            break
        waited.wait(0.02)
    assert acks == list(range(60))


def test_a_flood_ends_the_connection_and_nothing_else(
    url: str, connect: Connect, room: int
) -> None:
    bystander = connect()
    assert bystander.subscribe(f"chat:{room}")["ok"]
    requests.post(f"{url}/gate/close", timeout=DEADLINE)
    client = connect()
    ended = threading.Event()
    client.client.on("disconnect", lambda *reason: ended.set())
    for _ in range(400):
        if not client.client.connected:
            break
        client.client.eio.send('2["livepush.subscribe",{"room":"slow:1"}]')
    assert ended.wait(DEADLINE)
    requests.post(f"{url}/gate/open", timeout=DEADLINE)
    write(url, room)
    bystander.wait(lambda: shown(bystander)[1] == 1)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_leaving_in_the_middle_of_a_join_leaves_nothing_behind(
    url: str, transport: str
) -> None:
    requests.post(f"{url}/gate/close", timeout=DEADLINE)
    client = LiveClient(url, transport)
    client.send("livepush.subscribe", {"room": "slow:1"})
    assert requests.get(f"{url}/asked", timeout=DEADLINE).text == "True"
    client.close()
    requests.post(f"{url}/gate/open", timeout=DEADLINE)
    assert_empty(url)


@pytest.mark.parametrize("worker", ["gthread", "gevent"])
def test_serves_under_gunicorn(worker: str, tmp_path: Path, room: int) -> None:
    server = Program(
        [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"),
            *(
                "--worker-class",
                worker,
                "--threads",
                "16",
                "tests.support.live_app:app",
            ),
        ],
        name=f"gunicorn ({worker})",
        env={"LIVE_DATABASE": str(tmp_path / "live.db")},
    )
    try:
        port = server.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")[1]
        url = f"http://127.0.0.1:{port}"
        with ExitStack() as stack:
            clients = []
            for transport in TRANSPORTS:
                client = LiveClient(url, transport)
                stack.callback(client.close)
                assert client.client.transport() == transport
                assert client.subscribe(f"chat:{room}")["ok"]
                clients.append(client)
            write(url, room, 20)
            for client in clients:
                client.wait(lambda client=client: shown(client)[1] == 20)
                assert shown(client)[0] == ids(url, room)
        assert_empty(url)
    finally:
        server.stop()
