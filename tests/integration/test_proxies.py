"""The configurations in ``docs/examples``, run, with two processes behind them."""

from __future__ import annotations

import configparser
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from flask_livepush.config import TABLE
from tests.support.chat_site import (
    Follower,
    Front,
    PollingWire,
    UpgradedWire,
    Visitor,
    WebSocketWire,
    Wire,
    fill,
    haproxy,
    nginx,
    polling_or_better,
    start_instance,
)
from tests.support.redis import redis_server
from tests.support.servers import ROOT, Program, unused_port
from tests.support.system import find
from tests.support.waiting import until

EXAMPLES = ROOT / "docs" / "examples"
UNIT = "livepush@.service"
NGINX = (EXAMPLES / "nginx.conf").read_text()
HAPROXY = (EXAMPLES / "haproxy.cfg").read_text()
PROGRAM = "/srv/chat/.venv/bin/gunicorn"
PORTS = (8001, 8002)
PING_INTERVAL = 0.5
LIMIT = re.compile(r"\b75s")


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(EXAMPLES / UNIT)
    return parser


Instances = list[tuple[Program, int]]


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instances]:
    """Two processes on one machine, started as the unit has it."""
    command = unit()["Service"]["ExecStart"].replace("%i", "$PORT")
    assert command.startswith(PROGRAM)
    with ExitStack() as stack:
        redis = stack.enter_context(redis_server())
        env = {
            "SECRET_KEY": "of this test",
            "DATABASE_URL": f"sqlite:///{tmp_path_factory.mktemp('chat')}/chat.sqlite3",
            "LIVEPUSH_MESSAGE_QUEUE": redis.url,
            "LIVEPUSH_PREFIX": "chat",
            "LIVEPUSH_PING_INTERVAL": str(PING_INTERVAL),
            "PROXIES": "1",
        }
        fill(env)
        started = []
        for _ in PORTS:
            started.append(
                start_instance(env, command=command.replace(PROGRAM, "gunicorn"))
            )
            stack.callback(started[-1][0].stop)
        yield started


def on_ports(config: str, *ports: int) -> str:
    """Return a configuration whose processes listen elsewhere."""
    for documented, port in zip(PORTS, ports, strict=True):
        assert f"127.0.0.1:{documented}" in config
        config = config.replace(f"127.0.0.1:{documented}", f"127.0.0.1:{port}")
    return config


def round_robin(config: str) -> str:
    found, count = re.subn(r"^ *hash \$node consistent;.*\n", "", config, flags=re.M)
    assert count == 1
    return found


FRONTS: dict[str, Callable[..., Any]] = {
    "nginx": lambda ports, folder: nginx(on_ports(NGINX, *ports), folder),
    "round robin": lambda ports, folder: nginx(
        on_ports(round_robin(NGINX), *ports), folder
    ),
    "haproxy": lambda ports, folder: haproxy(on_ports(HAPROXY, *ports), folder),
}


@pytest.fixture(scope="module")
def front(
    request: pytest.FixtureRequest,
    instances: Instances,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Front]:
    """The proxy that the test names."""
    ports = [port for _, port in instances]
    with FRONTS[request.param](ports, tmp_path_factory.mktemp("front")) as front:
        front.wait()
        yield front


@pytest.fixture(scope="module")
def ada(front: Front) -> Iterator[Visitor]:
    """Somebody who is logged in."""
    with Visitor(front, "ada") as visitor:
        yield visitor


every_front = pytest.mark.parametrize("front", FRONTS, indirect=True)
every_way = pytest.mark.parametrize(
    ("front", "wire"),
    [
        ("nginx", WebSocketWire),
        ("nginx", PollingWire),
        ("nginx", UpgradedWire),
        ("haproxy", WebSocketWire),
        ("haproxy", PollingWire),
        ("haproxy", UpgradedWire),
        ("round robin", WebSocketWire),
        ("round robin", PollingWire),
        ("round robin", polling_or_better),
    ],
    indirect=["front"],
)


@every_way
def test_connections_of_each_kind_are_live(
    ada: Visitor, wire: Callable[[Visitor], Wire]
) -> None:
    with ExitStack() as stack:
        followers = []
        # Several users, so that both processes have some.
        for name in ("ada", "bob", "grace"):
            visitor = stack.enter_context(Visitor(ada.front, name))
            followers.append(Follower(visitor, wire))
            stack.callback(followers[-1].stop)
        until(
            lambda: all(f.frames for f in followers),
            what="not all have joined",
        )
        for number in range(3):
            assert ada.post(f"number {number}") == 200
        for follower in followers:
            until(
                lambda f=follower: len(f.frames) == 4,
                what="not all is told",
            )
            told = [data["body"] for _, data, _ in follower.frames[1:]]
            assert told == [f"number {number}" for number in range(3)]
            assert follower.ends == []


@every_front
def test_the_origin_is_that_of_the_site_as_browsers_see_it(
    front: Front, ada: Visitor
) -> None:
    assert ada.handshake().status_code == 200
    plain = front.url.replace("https", "http")
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": plain},
        {"Origin": "https://127.0.0.1"},
        {"Origin": "https://evil.example", "X-Forwarded-Host": "evil.example"},
        {"Origin": plain, "X-Forwarded-Proto": "http"},
    ):
        assert ada.handshake(**headers).status_code == 400, headers


@every_front
def test_what_clients_say_of_themselves_does_not_get_through(
    front: Front, instances: Instances
) -> None:
    marks = [instance.mark() for instance, _ in instances]
    told = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
    }
    for _ in range(4):
        assert front.get("/login", **told).status_code == 200

    def seen() -> list[str]:
        return [
            line
            for (instance, _), mark in zip(instances, marks, strict=True)
            for line in instance.log.splitlines()[mark:]
            if "GET /login for=" in line
        ]

    # A line is written after the answer.
    until(lambda: len(seen()) == 4, what="the requests are not in the log")
    for line in seen():
        assert "for=127.0.0.1 proto=https" in line
        assert f"host=127.0.0.1:{front.port}" in line


def test_silent_connections_are_kept(instances: Instances, tmp_path: Path) -> None:
    """The limits are those of the files, cut to 2 s; pings come each 0.5 s."""
    ports = [port for _, port in instances]
    with ExitStack() as stack:
        wires: list[Wire] = []
        for name, run, config in (("n", nginx, NGINX), ("h", haproxy, HAPROXY)):
            (tmp_path / name).mkdir()
            config = LIMIT.sub("2s", on_ports(config, *ports))
            front = stack.enter_context(run(config, tmp_path / name))
            front.wait()
            ada = stack.enter_context(Visitor(front, "ada"))
            for wire in (WebSocketWire(ada), PollingWire(ada)):
                wires.append(stack.enter_context(closing(wire)))
                stack.callback(wire.abort)
                assert wire.read()[0] == "0"
        for _ in range(6):
            for wire in wires:
                assert wire.read() == "2"
                wire.send("3")


def test_limits_are_longer_than_silence_may_be() -> None:
    default = {setting.key: setting.default for setting in TABLE}
    silence = default["LIVEPUSH_PING_INTERVAL"] + default["LIVEPUSH_PING_TIMEOUT"]
    for config, names in (
        (NGINX, ["proxy_read_timeout", "proxy_send_timeout"]),
        (HAPROXY, ["timeout client", "timeout server", "timeout tunnel"]),
    ):
        for name in names:
            found = re.search(rf"^\s*{name} (\d+)s", config, re.M)
            assert found, name
            assert int(found[1]) > silence


@pytest.mark.parametrize("name", FRONTS)
def test_a_process_that_is_gone_is_not_noticed(
    name: str, instances: Instances, tmp_path: Path
) -> None:
    ports = [instances[0][1], unused_port()]
    with FRONTS[name](ports, tmp_path) as front, ExitStack() as stack:
        front.wait()
        # As many as would have met both.
        for _ in range(6):
            visitor = stack.enter_context(Visitor(front, "ada"))
            with closing(WebSocketWire(visitor)) as wire:
                assert wire.read()[0] == "0"


def test_sockets_may_have_a_service_of_their_own(
    instances: Instances, tmp_path: Path
) -> None:
    """As in the last section of docs/hosts.md."""
    hosts = (ROOT / "docs" / "hosts.md").read_text()
    found = re.search(r"```nginx\n(map \$uri.*?)```", hosts, re.S)
    assert found
    site = re.sub(r"upstream chat \{.*?\n\}\n", lambda _: found[1], NGINX, flags=re.S)
    site = site.replace("proxy_pass http://chat;", "proxy_pass http://$service;")
    (web, web_port), (realtime, realtime_port) = instances
    with (
        nginx(on_ports(site, web_port, realtime_port), tmp_path) as front,
        Visitor(front, "ada") as ada,
        ExitStack() as stack,
    ):
        marks = web.mark(), realtime.mark()
        followers = [Follower(ada, wire) for wire in (WebSocketWire, PollingWire)]
        for follower in followers:
            stack.callback(follower.stop)
        until(
            lambda: all(f.frames for f in followers),
            what="not all have joined",
        )
        assert ada.post("from the web") == 200
        for follower in followers:
            until(
                lambda f=follower: len(f.frames) == 2,
                what="it is not told",
            )
            assert follower.frames[1][1]["body"] == "from the web"
    logs = [
        "".join(program.log.splitlines(keepends=True)[mark:])
        for program, mark in zip((web, realtime), marks, strict=True)
    ]
    assert "/socket.io/" not in logs[0]
    assert "/rooms/1/messages" in logs[0]
    assert "/socket.io/" in logs[1]
    assert "/rooms/" not in logs[1]


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    service = unit()["Service"]
    config: dict[str, Any] = {}
    exec((ROOT / "example_app" / "gunicorn.conf.py").read_text(), config)
    assert int(service["TimeoutStopSec"]) > config["graceful_timeout"]
    analyze = find("systemd-analyze")
    if analyze is None:
        return  # no Linux with systemd; the rest of the unit is tested all the same
    ours = tmp_path / UNIT.replace("@", "@8001")
    ours.write_text((EXAMPLES / UNIT).read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(
        [analyze, "verify", ours], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
