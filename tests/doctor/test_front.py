"""The doctor on its way through fronts, each of which has one fault."""

from __future__ import annotations

import re
import ssl
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import trustme

from flask_livepush.doctor import front, polling
from flask_livepush.doctor.client import Client
from flask_livepush.doctor.findings import Finding
from flask_livepush.doctor.place import place
from tests.support.fronts import (
    Answering,
    Cutting,
    Front,
    Hoarding,
    Late,
    Mute,
    Portless,
    Rewriting,
    Silent,
    haproxy,
    nginx,
)
from tests.support.redis import redis_url, until
from tests.support.servers import MODES, ROOT, Server, running, unused_port
from tests.support.waiting import DEADLINE

APP = ROOT / "tests" / "support" / "doctor_app.py"
CLUSTER = ROOT / "tests" / "support" / "cluster_app.py"
STOCK = {"VISITED_ENGINE": "stock"}
__all__ = ["redis_url"]

# What an nginx has to be told.
UPGRADE = (
    "proxy_set_header Upgrade $http_upgrade",
    'proxy_set_header Connection "upgrade"',
)
HOST = "proxy_set_header Host $http_host"
PROTO = "proxy_set_header X-Forwarded-Proto $scheme"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a busy machine be no fault of a front."""
    monkeypatch.setattr(polling, "_LATE", DEADLINE)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running(APP) as server:
        yield server


@pytest.fixture(scope="module")
def two(server: Server) -> Iterator[list[int]]:
    """The ports of two processes."""
    with running(APP) as other:
        yield [server.port, other.port]


# Seconds for tests in which something does not answer at all: they take as long, and
# all else must have answered by then.
SILENCE = 3.0


def examine(
    url: str,
    *,
    within: float = DEADLINE,
    hold: float = 0,
    context: ssl.SSLContext | None = None,
    **options: Any,
) -> dict[str, list[Finding]]:
    """Examine the way to a URL; return the findings by their names."""
    chosen = {
        "path": "/socket.io/",
        "prefix": "/livepush",
        "origin": None,
        "cookie": None,
        **options,
    }
    where = place(url, lambda: context or ssl.create_default_context())
    client = Client(where, within=within, now=time.monotonic, **chosen)
    found: dict[str, list[Finding]] = {}
    for finding in front.check(client, hold=hold):
        found.setdefault(finding.name, []).append(finding)
    return found


def problems(found: dict[str, list[Finding]]) -> set[str]:
    """Return the names of the findings that are problems."""
    return {
        name
        for name, findings in found.items()
        if any(finding.level == "problem" for finding in findings)
    }


@pytest.mark.parametrize("mode", MODES)
def test_finds_nothing_in_the_way_when_nothing_is(mode: Any) -> None:
    with running(APP, mode=mode) as server:
        found = examine(server.url)
    assert problems(found) == set()
    assert list(found) == [
        *("address", "open", "origin", "affinity", "polling", "login"),
        *("waiting poll", "websocket", "upgrade", "live", "ready"),
    ]
    measured = ("address", "open", "polling", "waiting poll", "websocket", "upgrade")
    assert all(found[name][0].seconds is not None for name in measured)


def test_leaves_no_session_behind(server: Server) -> None:
    """Each would count as a connection for a minute."""
    examine(server.url, hold=0.1)
    until(lambda: requests.get(server.url + "/sessions", timeout=DEADLINE).text == "0")


def test_says_that_a_login_is_needed_and_uses_a_cookie(server: Server) -> None:
    (login,) = examine(server.url)["login"]
    assert login.level == "hint"
    assert "Not logged in" in login.sentence
    value = requests.get(server.url + "/login", timeout=DEADLINE).cookies["session"]
    found = examine(server.url, cookie=f"theme=dark; session={value}")
    (login,) = found["login"]
    assert login.level == "ok"
    assert value not in repr(found)
    (login,) = examine(server.url, cookie="session=expired")["login"]
    assert login.level == "hint"
    assert "is no login, or none any more" in login.sentence


@pytest.mark.parametrize(
    ("status", "said"), [(502, "502, by blocker"), (200, "200"), (None, "ended")]
)
def test_finds_a_front_that_blocks_websockets(
    server: Server, status: int | None, said: str
) -> None:
    with Answering(server.port, status=status) as there:
        found = examine(there.url)
    assert problems(found) == {"websocket"}
    assert said in found["websocket"][0].sentence
    assert "Upgrade" in (found["websocket"][0].remedy or "")


def test_finds_a_front_that_never_answers_an_upgrade(server: Server) -> None:
    with Mute(server.port) as there:
        found = examine(there.url, within=SILENCE)
    assert problems(found) == {"websocket"}
    assert "swallows it" in found["websocket"][0].sentence


def test_finds_a_front_that_accepts_and_stays_silent(server: Server) -> None:
    with Silent(server.port) as there:
        found = examine(there.url, within=SILENCE)
    assert problems(found) == {"websocket"}
    assert "nothing comes" in found["websocket"][0].sentence


def test_finds_a_front_that_holds_back_what_a_websocket_carries(
    server: Server,
) -> None:
    with Hoarding(server.port) as there:
        found = examine(there.url, within=SILENCE)
    assert problems(found) == {"websocket"}
    assert "only when it ends" in found["websocket"][0].sentence


def test_finds_a_front_that_cuts_websockets(server: Server) -> None:
    begun = time.monotonic()
    with Cutting(server.port, after=3) as there:
        found = examine(there.url, hold=6)
    took = time.monotonic() - begun
    assert problems(found) == {"patience"}
    websocket, poll = found["patience"]
    said = re.search(r"after (\d\.\d) s", websocket.sentence)
    assert said is not None
    assert websocket.seconds is not None
    assert 0 < websocket.seconds < took
    assert "PING_INTERVAL" in (websocket.remedy or "")
    assert poll.level == "ok"


def test_holds_connections_as_an_open_page_does(server: Server) -> None:
    with running(APP, "--beating") as beating:
        found = examine(beating.url, hold=3, cookie="session=none")
    websocket, poll = found["patience"]
    assert {websocket.level, poll.level} == {"ok"}
    assert re.search(r"with ([2-9]|1\d) pings", websocket.sentence)
    assert re.search(r"with ([2-9]|1\d) pings", poll.sentence)


def test_says_when_the_application_has_had_enough(server: Server) -> None:
    """Nobody is logged in, and it waits for a second."""
    with running(APP, "--strict") as strict:
        cut = examine(strict.url, hold=DEADLINE, cookie="session=none")["patience"]
    assert {finding.level for finding in cut} == {"hint"}
    assert "nobody is logged in" in cut[0].sentence


def test_finds_polls_that_are_answered_late(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(polling, "_LATE", 0.1)
    with Late(server.port, by=0.3) as there:
        found = examine(there.url)
    assert problems(found) == {"waiting poll"}
    assert "late" in found["waiting poll"][0].sentence


def test_finds_processes_without_affinity(two: list[int], tmp_path: Path) -> None:
    with nginx(tmp_path, two, HOST, *UPGRADE) as url:
        found = examine(url, hold=0.1)
    assert problems(found) == {"affinity", "upgrade"}
    (affinity,) = found["affinity"]
    assert "'Session ID unknown'" in affinity.sentence
    assert "no cookie" in affinity.sentence
    for one in (affinity, *found["upgrade"]):
        assert (one.remedy or "").startswith("Set LIVEPUSH_MESSAGE_QUEUE")
    assert "be sticky" in (affinity.remedy or "")
    (ready,) = found["ready"]
    assert ready.level == "hint"
    assert "right for one process only" in ready.sentence
    assert "polling" not in found
    assert found["websocket"][0].level == "ok"
    # Polls can't be held; a WebSocket can.
    assert len(found["patience"]) == 1


def test_says_that_requests_were_forwarded(redis_url: str, tmp_path: Path) -> None:
    nodes = (CLUSTER, str(tmp_path / "db"), redis_url)
    with (
        running(*nodes) as one,
        running(*nodes) as other,
        nginx(tmp_path, [one.port, other.port], HOST, *UPGRADE) as url,
    ):
        found = examine(url, hold=0.1)
    assert problems(found) == set()
    (affinity,) = found["affinity"]
    assert affinity.level == "hint"
    assert "were forwarded to the session's process" in affinity.sentence
    assert found["polling"][0].level == found["waiting poll"][0].level == "ok"


def test_finds_a_missing_affinity_later_than_by_its_first_requests(
    server: Server, two: list[int]
) -> None:
    """Bug: with two processes, one of 256 sessions had all eight; then no poll."""

    class Lucky(Front):
        def far(self, head: bytes) -> Any:
            # Eleven connections are made until it should be found out.
            self._ports = two if self._next > 11 else two[:1]
            return super().far(head)

    with Lucky(server.port) as there:
        found = examine(there.url)
    assert [finding.level for finding in found["affinity"]] == ["ok", "problem"]
    assert "A later request" in found["affinity"][1].sentence


def test_knows_the_stock_engine() -> None:
    with running(APP, env=STOCK) as server:
        found = examine(server.url)
    assert problems(found) == set()
    assert "JSONP is served" in found["jsonp"][0].sentence


def test_names_the_cookie_of_affinity(two: list[int], tmp_path: Path) -> None:
    with haproxy(tmp_path, two) as url:
        found = examine(url, hold=0.1)
    assert problems(found) == set()
    (affinity,) = found["affinity"]
    assert "the cookie 'SERVER'" in affinity.sentence
    assert "server-0" not in repr(found)


def test_finds_an_nginx_that_does_not_pass_upgrades_on(
    server: Server, tmp_path: Path
) -> None:
    with nginx(tmp_path, [server.port], HOST) as url:
        found = examine(url)
    assert problems(found) == {"websocket"}
    (websocket,) = found["websocket"]
    assert "does not pass the headers Upgrade" in websocket.sentence
    assert "proxy_set_header Upgrade" in (websocket.remedy or "")


def test_finds_a_missing_forwarded_proto(server: Server, tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = tmp_path / "own.pem"
    own = authority.issue_cert("127.0.0.1")
    own.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    context = ssl.create_default_context()
    authority.configure_trust(context)
    lines = (HOST, *UPGRADE)
    with nginx(tmp_path, [server.port], *lines, certificate=certificate) as url:
        found = examine(url, context=context, hold=0.1)
        (stranger,) = examine(url)["address"]
        (plain,) = examine(url.replace("https", "http"))["open"]
    assert problems(found) == {"origin"}
    (origin,) = found["origin"]
    assert "X-Forwarded-Proto is missing" in origin.sentence
    assert "TLS" in found["address"][0].sentence
    assert stranger.level == "problem"
    assert "certificate is not believed" in stranger.sentence
    assert "SSL_CERT_FILE" in (stranger.remedy or "")
    assert plain.level == "problem"
    assert "is for https://" in plain.sentence
    lines = (HOST, *UPGRADE, PROTO)
    with nginx(tmp_path, [server.port], *lines, certificate=certificate) as url:
        assert problems(examine(url, context=context, hold=0.1)) == set()


def test_finds_a_front_that_does_not_pass_the_host_on(server: Server) -> None:
    with Rewriting(server.port) as there:
        found = examine(there.url)
    assert problems(found) == {"origin"}
    assert "Host" in (found["origin"][0].remedy or "")


def test_finds_a_front_that_drops_the_port(server: Server) -> None:
    """Bug: the remedy was $host, which drops the port: it led back to itself."""
    with Portless(server.port) as there:
        found = examine(there.url)
    assert problems(found) == {"origin"}
    assert "without the port" in found["origin"][0].sentence
    assert "Host $http_host" in (found["origin"][0].remedy or "")


def test_says_which_origin_may_not_connect(server: Server) -> None:
    found = examine(server.url, origin="https://shop.example")
    assert problems(found) == {"origin"}
    assert "https://shop.example may not connect" in found["origin"][0].sentence


def test_finds_a_server_with_one_thread() -> None:
    program = Server(
        [
            *(sys.executable, "-m", "gunicorn", "--bind", "127.0.0.1:0"),
            *("--worker-class", "sync", "--workers", "1"),
            "tests.support.doctor_app:app",
        ],
        name="gunicorn (sync)",
        env=STOCK,
        cwd=ROOT,
    )
    try:
        said = program.wait_for(r"Listening at: http://127\.0\.0\.1:(\d+)")
        url = f"http://127.0.0.1:{said[1]}"
        requests.get(
            f"{url}/sessions", timeout=DEADLINE
        )  # it has loaded the application
        found = examine(url, within=SILENCE)
    finally:
        program.stop(patience=0)
    assert "waiting poll" in problems(found)
    assert "nothing else is answered" in found["waiting poll"][0].sentence


def test_says_what_is_wrong_where_nothing_is() -> None:
    port = unused_port()
    (address,) = examine(f"http://127.0.0.1:{port}")["address"]
    assert address.level == "problem"
    assert f"nothing listens at port {port}" in address.sentence
    (address,) = examine("http://no-such-host.invalid")["address"]
    assert "its name is not known" in address.sentence


def test_says_what_answers_where_there_is_no_engine(server: Server) -> None:
    found = examine(server.url, path="/elsewhere/")
    assert list(found) == ["address", "open"]
    assert "/elsewhere/ is answered 404" in found["open"][0].sentence
    assert found["open"][0].level == "problem"


def test_says_where_a_redirection_leads() -> None:
    class Redirecting(Front):
        def request(self, near: Any, head: bytes) -> None:
            near.sendall(
                b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\n"
                b"Location: https://u:secret@login.example/sso?token=secret\r\n\r\n"
            )

    with Redirecting(0) as there:
        (opened,) = examine(there.url)["open"]
    assert "a redirection to https://login.example/sso." in opened.sentence
    assert "secret" not in repr(opened)


def test_sends_a_login_that_the_front_wants() -> None:
    seen: list[bytes] = []

    class Asking(Front):
        def request(self, near: Any, head: bytes) -> None:
            seen.append(head)
            near.sendall(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

    with Asking(0) as there:
        url = there.url.replace("://", "://ada:pass%20word@")
        found = examine(url)
    assert b"Authorization: Basic YWRhOnBhc3Mgd29yZA==\r\n" in seen[0]
    assert found["open"][0].level == "problem"
    assert "pass" not in repr(found["address"])


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n" + b"x" * 1_000_000,
        b"HTTP/1.1 200 OK\r\n\r\n0{",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n0[\xff]x",
        b"a" * 1_000_000,
    ],
    ids=["ssh", "chunk", "huge", "half", "no object", "endless line"],
)
def test_survives_an_answer_that_is_none(answer: bytes) -> None:
    class Odd(Front):
        def request(self, near: Any, head: bytes) -> None:
            near.sendall(answer)

    with Odd(0) as there:
        found = examine(there.url, within=SILENCE)
    assert found["open"][0].level == "problem"


@pytest.mark.parametrize(
    "url",
    [
        *("example.org", "ftp://example.org", "https://", "http://example.org:port"),
        *("http://example.org:99999", "http://[::1", "https://" + "a" * 64 + ".org"),
    ],
)
def test_refuses_what_is_no_address(url: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        place(url, ssl.create_default_context)


def test_understands_addresses() -> None:
    found = place("wss://ada:x@Example.org:8443/app/?q=1", ssl.create_default_context)
    assert (found.url, found.origin) == (
        "https://example.org:8443/app",
        "https://example.org:8443",
    )
    assert place("http://[::1]:80/", ssl.create_default_context).url == "http://[::1]"
