"""The chat as App Engine flex runs it: what is cut, moved and stopped loses nothing.

Two instances by ``app.yaml``'s entrypoint and variables stand behind an nginx that does
as Google's front end: it encrypts, adds Google's headers, gives a cookie for affinity
and loses it for every third request, cuts all sockets at an age, and prefers what is
left when an instance gets SIGTERM.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.support.browser import MILLISECONDS
from tests.support.chat_site import (
    APP_YAML,
    Follower,
    Front,
    PollingWire,
    Visitor,
    WebSocketWire,
    fill,
    nginx,
    start_instance,
)
from tests.support.live_client import shown
from tests.support.postgres import Postgres
from tests.support.redis import RedisServer, redis_server
from tests.support.servers import Program
from tests.support.waiting import until

VARIABLES: dict[str, str] = APP_YAML["env_variables"]
RULE = "203.0.113.7"  # the address of Google's forwarding rule
WORKERS = {
    "threading": "gthread",
    "eventlet": "flask_livepush.gunicorn.EventletWorker",
}

FRONT = """
split_clients $request_id $lost { 33% 1; * ""; }
map $lost$cookie_gclb $affinity {
    ""       $request_id;
    ~^1      $request_id;
    default  $cookie_gclb;
}
map $cookie_gclb $new { "" "GCLB=$request_id; Path=/; HttpOnly"; default ""; }
map $http_upgrade $upgrade { "" close; default upgrade; }
upstream instances {
    hash $affinity consistent;
    server 127.0.0.1:PORT0 max_fails=0;
    server 127.0.0.1:PORT1 max_fails=0;
}
server {
    listen 443 ssl;
    ssl_certificate /etc/ssl/chat.pem;
    ssl_certificate_key /etc/ssl/chat.pem;
    location / {
        proxy_pass http://instances;
        proxy_http_version 1.1;
        proxy_set_header Upgrade $http_upgrade;
        proxy_set_header Connection $upgrade;
        proxy_set_header Host $http_host;
        proxy_set_header X-Forwarded-For "$proxy_add_x_forwarded_for, RULE";
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_set_header Via "1.1 google";
        proxy_set_header X-Cloud-Trace-Context "$request_id/1;o=1";
        proxy_set_header X-Appengine-User-IP "";
        proxy_read_timeout 3600s;
        add_header Set-Cookie $new always;
    }
}
"""


class AppEngine:
    """Two instances and the front before them.

    Args:
        env: The variables of each instance.
        folder: For the front.
    """

    def __init__(self, env: dict[str, str]) -> None:
        self._env = env
        self.started = 0
        self.instances = [self._start() for _ in range(2)]

    def _start(self, port: int | None = None) -> tuple[Program, int]:
        self.started += 1
        env = {**self._env, "GAE_INSTANCE": f"aef-default-{self.started}"}
        return start_instance(env, port=port)

    @contextmanager
    def front(self, folder: Path) -> Iterator[Front]:
        """Run what is before them."""
        site = FRONT.replace("RULE", RULE)
        for number, (_, port) in enumerate(self.instances):
            site = site.replace(f"PORT{number}", str(port))
        with nginx(site, folder) as front:
            front.wait()
            yield front

    def scale_down(self, number: int) -> None:
        """Take an instance away, and wait until it has gone by itself."""
        instance, _ = self.instances[number]
        # So long App Engine waits, and then kills.
        assert instance.stop(patience=30) == 0, instance.log

    def scale_up(self, number: int) -> None:
        """Start another instance in its place."""
        self.instances[number] = self._start(self.instances[number][1])

    def stop(self) -> None:
        """Stop all."""
        for instance, _ in self.instances:
            instance.stop()


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    """Memorystore."""
    with redis_server() as server:
        yield server


@pytest.fixture
def database(postgres: Postgres) -> Iterator[dict[str, str]]:
    """Cloud SQL: what its URL's socket and user are here."""
    name = VARIABLES["DATABASE_URL"].partition("@/")[2].partition("?")[0]
    postgres.execute(f"CREATE ROLE {name} LOGIN")
    postgres.execute(f"CREATE DATABASE {name} OWNER {name} TEMPLATE template0")
    url = re.sub(
        r"host=/cloudsql/\S+", f"host={postgres.home}", VARIABLES["DATABASE_URL"]
    )
    yield {"DATABASE_URL": url, "PGPORT": str(postgres.port)}
    postgres.execute(f"DROP DATABASE {name} WITH (FORCE)")
    postgres.execute(f"DROP ROLE {name}")


@pytest.fixture(params=WORKERS)
def app_engine(
    request: pytest.FixtureRequest, redis: RedisServer, database: dict[str, str]
) -> Iterator[AppEngine]:
    """The instances, in each mode; the tables are there."""
    env = {
        **VARIABLES,
        **database,
        "LIVEPUSH_MESSAGE_QUEUE": redis.url,
        "SECRET_KEY": "of this test",
        "WORKER_CLASS": WORKERS[request.param],
        # Its own default is told in docs/deploying.md, and waited for in no test.
        "LIVEPUSH_DRAIN_SECONDS": "2",
    }
    fill({**env, "GAE_INSTANCE": "none"})
    running = AppEngine(env)
    try:
        yield running
    finally:
        running.stop()


def committed(database: dict[str, str]) -> set[int]:
    """Return the ids of the lounge's messages."""
    url = database["DATABASE_URL"].replace("+psycopg", "", 1)
    with psycopg.connect(url, port=int(database["PGPORT"])) as connection:
        rows = connection.execute("SELECT id FROM message WHERE room_id = 1")
        return {row[0] for row in rows}


def test_nothing_is_lost_or_doubled_while_instances_come_and_go(
    app_engine: AppEngine,
    database: dict[str, str],
    new_user: Callable[..., Page],
    tmp_path: Path,
) -> None:
    with app_engine.front(tmp_path) as front, ExitStack() as stack:
        ada, bob = (stack.enter_context(Visitor(front, n)) for n in ("ada", "bob"))
        check_headers(app_engine, front, ada)
        sockets = [Follower(visitor, WebSocketWire) for visitor in (ada, bob)]
        polling = [Follower(visitor, PollingWire) for visitor in (ada, bob)]
        followers = [*sockets, *polling]
        for follower in followers:
            stack.callback(follower.stop)
        page = open_lounge(new_user, front, bob)
        until(
            lambda: all(f.frames for f in followers),
            what="not all have joined",
        )
        answers = []

        def write(count: int) -> None:
            for _ in range(count):
                answers.append(ada.post(f"message {len(answers)}"))

        def check(what: str) -> None:
            def converged() -> bool:
                return all(shown(f)[0] == committed(database) for f in followers)

            until(converged, what=f"not all show what is committed {what}")
            expect(page.locator("#messages .message")).to_have_count(
                len(committed(database)), timeout=MILLISECONDS
            )

        write(10)
        check("at first")
        # All connections have reached their age.
        os.kill(front.program.pid, signal.SIGHUP)
        write(10)
        until(
            lambda: all(f.ends for f in sockets),
            what="the age was not noticed",
        )
        check("after their age")
        before = [len(f.ends) for f in followers]
        for number in (0, 1):
            app_engine.scale_down(number)
            write(5)
            app_engine.scale_up(number)
            write(5)
            check(f"after instance {number} was replaced")
        # Each was on one of them.
        assert all(len(f.ends) > n for f, n in zip(followers, before, strict=True))
        # What was in flight to an instance that ends may be answered by the front.
        assert set(answers) <= {200, 502, 504}
        assert answers.count(200) >= len(answers) - 2
        assert all(f.recoveries for f in followers)
        ids = page.locator("#messages .message").evaluate_all(
            "all => all.map(one => Number(one.dataset.id))"
        )
        assert ids == sorted(committed(database))


def open_lounge(new_user: Callable[..., Page], front: Front, visitor: Visitor) -> Page:
    """Open the chat in a browser that is logged in, and wait until it is live."""
    page = new_user(base_url=front.url, ignore_https_errors=True)
    page.context.add_cookies(
        [
            {"name": name, "value": value, "url": front.url}
            for name, _, value in (
                cookie.partition("=") for cookie in visitor.cookie().split("; ")
            )
            if name == "session"
        ]
    )
    page.goto("/rooms/1")
    expect(page.locator("#state")).to_have_text(
        "live · WebSocket", timeout=MILLISECONDS
    )
    return page


def check_headers(app_engine: AppEngine, front: Front, visitor: Visitor) -> None:
    """Fail unless the instances are told what App Engine tells, and no more."""
    marks = [instance.mark() for instance, _ in app_engine.instances]
    spoofed = {"X-Appengine-User-IP": "6.6.6.6", "X-Forwarded-For": "6.6.6.6"}
    assert front.get("/login", **spoofed).status_code == 200

    def seen() -> list[str]:
        return [
            line
            for (instance, _), mark in zip(app_engine.instances, marks, strict=True)
            for line in instance.log.splitlines()[mark:]
            if "6.6.6.6" in line
        ]

    (line,) = until(seen, what="the request is not in the log")
    # Clients may put addresses in front; what Google saw is the last but one.
    assert f"for=6.6.6.6, 127.0.0.1, {RULE} proto=https" in line
    assert "via=1.1 google" in line
    assert "appengine=- " in line
    assert visitor.handshake().status_code == 200
    for origin in ("https://evil.example", front.url.replace("https", "http")):
        assert visitor.handshake(Origin=origin).status_code == 400
