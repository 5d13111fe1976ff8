"""The chat as hosts run it: instances by ``app.yaml``'s entrypoint, behind a proxy.

The proxy encrypts, so that cookies are what they are on a host, with a certificate for
127.0.0.1 that the clients in here believe. Each of them is one thread:
python-socketio's client uses an encrypted socket in two at once, for which OpenSSL is
not made; of a hundred connections one was never answered.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import requests
import trustme
import websocket
import yaml

from .servers import ROOT, Program, on_unused_port
from .system import require
from .waiting import DEADLINE, until

APP_YAML: dict[str, Any] = yaml.safe_load((ROOT / "app.yaml").read_text())
ENTRYPOINT: str = APP_YAML["entrypoint"]

#: Everybody's.
PASSWORD = "demo"
LOUNGE = "chat:1"

# A line for each request, by which tests know what reaches an instance.
_ACCESS_LOG = (
    "--no-control-socket --access-logfile - --access-logformat "
    "'REQUEST %(m)s %(U)s for=%({x-forwarded-for}i)s proto=%({x-forwarded-proto}i)s "
    "host=%({host}i)s via=%({via}i)s trace=%({x-cloud-trace-context}i)s "
    "appengine=%({x-appengine-user-ip}i)s status=%(s)s'"
)


def start_instance(
    env: Mapping[str, str],
    *,
    command: str = ENTRYPOINT,
    python: Path = Path(sys.executable),
    cwd: Path = ROOT,
    port: int | None = None,
) -> tuple[Program, int]:
    """Start an instance as a host does: by a shell, with ``$PORT``.

    Args:
        env: Its environment; of ours it has nothing but ``PATH``.
        command: What the shell runs.
        python: The interpreter whose programs are found first.
        cwd: The directory with the source.
        port: Where it listens; an unused port unless told.

    Returns:
        The program, and its port.
    """

    def argv(port: int) -> list[str | Path]:
        settings: dict[str, str] = {
            "PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONUNBUFFERED": "1",
            "GUNICORN_CMD_ARGS": _ACCESS_LOG,
            **env,
            "PORT": str(port),
        }
        variables = [f"{name}={value}" for name, value in settings.items()]
        return ["env", "-i", *variables, "sh", "-c", f"exec {command}"]

    # gunicorn's worker, or what ``python -m example_app`` says; neither listens yet.
    ready = r"Booting worker|^The chat is at"
    if port is None:
        program, port = on_unused_port(
            argv, name="instance", cwd=cwd, ready=ready, taken="in use"
        )
    else:
        program = Program(argv(port), name="instance", cwd=cwd)
        program.wait_for(ready)

    def listens() -> bool:
        assert program.alive, program.log
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return True
        return False

    until(listens, DEADLINE, what=f"nothing listens on {port}")
    return program, port


def fill(env: Mapping[str, str]) -> None:
    """Create the tables and the demo's users, as whoever deploys does."""
    subprocess.run(
        [sys.executable, "-m", "flask", "--app", "example_app", "fill"],
        env={"PATH": "/usr/bin:/bin", "DEMO_PASSWORD": PASSWORD, **env},
        cwd=ROOT,
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=DEADLINE,
    )


class Front:
    """A proxy that encrypts.

    Args:
        program: Its process.
        port: Where it listens.
        ca: The file of the certificate by which clients believe it.
    """

    def __init__(self, program: Program, port: int, ca: Path) -> None:
        self.program = program
        self.port = port
        self.ca = ca

    @property
    def url(self) -> str:
        """Its address, without a slash at the end, which is also its origin."""
        return f"https://127.0.0.1:{self.port}"

    def wait(self) -> None:
        """Wait until the chat answers through it."""

        def answers() -> bool:
            with suppress(requests.RequestException):
                return self.get("/login").status_code == 200
            return False

        until(answers, DEADLINE, what="the chat does not answer")

    def get(self, path: str, **headers: str) -> requests.Response:
        """Ask once, on a connection of its own."""
        return requests.get(
            self.url + path, headers=headers, verify=self.ca, timeout=DEADLINE
        )


def _certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate with its key; return that file, and its authority's."""
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1", "localhost")
    own.private_key_and_cert_chain_pem.write_to_path(str(folder / "chat.pem"))
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    return folder / "chat.pem", folder / "ca.pem"


@contextmanager
def nginx(site: str, folder: Path) -> Iterator[Front]:
    """Run nginx with what would be a file in ``conf.d``.

    Args:
        site: The file; its certificate and its port are replaced by ours.
        folder: For what nginx writes.
    """
    program = require("nginx")
    pem, ca = _certificate(folder)
    site = re.sub(r"(ssl_certificate(_key)?\s+)\S+;", rf"\1{pem};", site)
    assert "listen 443 ssl;" in site
    temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

    def argv(port: int) -> list[str | Path]:
        listen = f"listen 127.0.0.1:{port} ssl;"
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/nginx.pid; worker_processes 1;\n"
            "worker_shutdown_timeout 1s; error_log stderr notice;\n"
            "events { worker_connections 1024; }\n"
            "http { access_log off;\n"
            + "".join(f"{name}_temp_path {folder}/{name};\n" for name in temporary)
            + site.replace("listen 443 ssl;", listen)
            + "}\n"
        )
        return [program, "-p", folder, "-c", folder / "nginx.conf"]

    running, port = on_unused_port(
        argv,
        name="nginx",
        cwd=folder,
        ready="start worker process ",
        taken="Address already in use",
    )
    try:
        yield Front(running, port, ca)
    finally:
        running.stop()


@contextmanager
def haproxy(config: str, folder: Path) -> Iterator[Front]:
    """Run HAProxy with a configuration; its certificate and its port are ours."""
    program = require("haproxy")
    pem, ca = _certificate(folder)
    bind = "bind :443 ssl crt /etc/ssl/chat.pem"
    assert bind in config

    def argv(port: int) -> list[str | Path]:
        ours = f"bind 127.0.0.1:{port} ssl crt {pem}"
        (folder / "haproxy.cfg").write_text(config.replace(bind, ours))
        return [program, "-W", "-db", "-f", folder / "haproxy.cfg"]

    running, port = on_unused_port(
        argv,
        name="haproxy",
        cwd=folder,
        ready="Loading success",
        taken="already in use",
    )
    try:
        yield Front(running, port, ca)
    finally:
        running.stop()


class Visitor:
    """A user of the chat who comes through a front, and is logged in.

    Args:
        front: The proxy.
        name: ``ada``, ``bob`` or ``grace``.
    """

    def __init__(self, front: Front, name: str) -> None:
        self.front = front
        self._http = _session(front)
        # As a browser does; for requests that are encrypted it is checked.
        self._http.headers["Referer"] = f"{front.url}/"
        page = self._http.get(f"{front.url}/login", timeout=DEADLINE)
        form = {"name": name, "password": PASSWORD, "csrf_token": _token(page)}
        answer = self._http.post(
            f"{front.url}/login", data=form, allow_redirects=False, timeout=DEADLINE
        )
        assert answer.status_code == 302, answer.text
        page = self._http.get(f"{front.url}/rooms/1", timeout=DEADLINE)
        self._form = {"csrf_token": _token(page)}

    def __enter__(self) -> Visitor:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def post(self, body: str) -> int:
        """Write a message; return the answer's status."""
        answer = self._http.post(
            f"{self.front.url}/rooms/1/messages",
            data={**self._form, "body": body},
            # A connection that is kept may be closed at this moment.
            headers={"Accept": "application/json", "Connection": "close"},
            timeout=DEADLINE,
        )
        return answer.status_code

    def session(self, **headers: str) -> requests.Session:
        """Return a session of its own, with all cookies this visitor has."""
        session = _session(self.front)
        session.cookies.update(self._http.cookies)
        session.headers["Origin"] = self.front.url
        session.headers.update(headers)
        return session

    def handshake(self, **headers: str) -> requests.Response:
        """Open a connection by polling, leave it, and return the first answer."""
        with self.session(**headers) as session:
            address = f"{self.front.url}/socket.io/?EIO=4&transport=polling"
            answer = session.get(address, timeout=DEADLINE)
            if answer.ok:
                sid = json.loads(answer.text[1:])["sid"]
                session.post(f"{address}&sid={sid}", data="1", timeout=DEADLINE)
            return answer

    def cookie(self) -> str:
        """Return all cookies, as a header."""
        return "; ".join(f"{c.name}={c.value}" for c in self._http.cookies)


def _session(front: Front) -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # $REQUESTS_CA_BUNDLE would be preferred to ours
    session.verify = str(front.ca)
    return session


def _token(page: requests.Response) -> str:
    found = re.search(r'csrf_token" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


class Ended(Exception):
    """A connection is over."""


class Wire(Protocol):
    """An Engine.IO connection, by hand."""

    def send(self, text: str) -> None:
        """Send a packet."""

    def read(self) -> str:
        """Return the next packet.

        Raises:
            Ended: The connection is over.
        """

    def abort(self) -> None:
        """Let whoever reads find the end; from another thread."""

    def close(self) -> None:
        """Free what it has."""


class WebSocketWire:
    """One that is a WebSocket from the first."""

    def __init__(self, visitor: Visitor, sid: str = "") -> None:
        front = visitor.front
        self._socket = websocket.create_connection(
            f"wss://127.0.0.1:{front.port}/socket.io/?EIO=4&transport=websocket{sid}",
            cookie=visitor.cookie(),
            origin=front.url,
            sslopt={"ca_certs": str(front.ca)},
            timeout=DEADLINE,
        )

    def send(self, text: str) -> None:
        """Send a packet."""
        self._socket.send(text)

    def read(self) -> str:
        """Return the next packet."""
        text = self._socket.recv()
        if not text:
            raise Ended("the WebSocket was closed")
        return str(text)

    def abort(self) -> None:
        """Let whoever reads find the end."""
        with suppress(OSError):
            self._socket.sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Free what it has."""
        self._socket.shutdown()


class PollingWire:
    """One that polls, and never tries anything else."""

    def __init__(self, visitor: Visitor) -> None:
        self._http = visitor.session()
        self._address = f"{visitor.front.url}/socket.io/?EIO=4&transport=polling"
        opened = self._get()
        self._waiting = [opened]
        self.sid = "&sid=" + json.loads(opened[1:])["sid"]
        self._address += self.sid

    def _get(self) -> str:
        answer = self._http.get(self._address, timeout=DEADLINE)
        if answer.status_code != 200:
            raise Ended(f"{answer.status_code} {answer.text}")
        return answer.text

    def send(self, text: str) -> None:
        """Send a packet."""
        answer = self._http.post(self._address, data=text, timeout=DEADLINE)
        if answer.status_code != 200:
            raise Ended(f"{answer.status_code} {answer.text}")

    def read(self) -> str:
        """Return the next packet."""
        while not self._waiting:
            self._waiting = self._get().split("\x1e")
        text = self._waiting.pop(0)
        if text in ("1", "6", ""):
            raise Ended("it was closed")
        return text

    def abort(self) -> None:
        """Let whoever reads find the end."""
        with suppress(requests.RequestException):
            self._http.post(self._address, data="1", timeout=DEADLINE)

    def close(self) -> None:
        """Free what it has."""
        self._http.close()


class UpgradedWire(WebSocketWire):
    """One that begins with polling, and changes to a WebSocket."""

    def __init__(self, visitor: Visitor, polling: PollingWire | None = None) -> None:
        polling = polling or PollingWire(visitor)
        super().__init__(visitor, polling.sid)
        self._opened = [polling.read()]
        polling.close()
        super().send("2probe")
        assert super().read() == "3probe"
        super().send("5")

    def read(self) -> str:
        """Return the next packet."""
        return self._opened.pop() if self._opened else super().read()


def polling_or_better(visitor: Visitor) -> Wire:
    """Try to change to a WebSocket, as a client does that begins with polling.

    It may be refused, where it comes to another process than the polls before.
    """
    polling = PollingWire(visitor)
    try:
        return UpgradedWire(visitor, polling)
    except websocket.WebSocketBadStatusException as refusal:
        if refusal.status_code != 400:
            raise
        return polling


class Follower:
    """A client that follows the lounge and comes back with its position, for ever.

    What it was told is in ``frames``, for :func:`tests.support.live_client.shown`.

    Args:
        visitor: Whose cookies it has.
        wire: Opens a connection.
    """

    def __init__(self, visitor: Visitor, wire: Callable[[Visitor], Wire]) -> None:
        self.frames: list[tuple[str, Any, Any]] = []
        #: Why each of its connections ended, so far.
        self.ends: list[str] = []
        self._visitor = visitor
        self._open = wire
        self._position: dict[str, Any] | None = None
        self._stopped = threading.Event()
        self._wire: Wire | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def recoveries(self) -> int:
        """How often it was told all that it had missed."""
        return sum(
            1
            for name, data, _ in list(self.frames)
            if name == "ack livepush.subscribe" and data["recovered"]
        )

    def stop(self) -> None:
        """Leave."""
        self._stopped.set()
        if self._wire is not None:
            self._wire.abort()
        self._thread.join(DEADLINE)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with closing(self._open(self._visitor)) as wire:
                    self._wire = wire
                    self._follow(wire)
            except (
                OSError,
                ValueError,
                Ended,
                requests.RequestException,
                websocket.WebSocketException,
            ) as error:
                self.ends.append(f"{type(error).__name__}: {error}")
            self._wire = None
            self._stopped.wait(0.1)

    def _follow(self, wire: Wire) -> None:
        assert wire.read()[0] == "0"
        wire.send("40")
        while not self._stopped.is_set():
            text = wire.read()
            if text == "2":
                wire.send("3")
            elif text.startswith("40"):
                message: dict[str, Any] = {"v": 1, "room": LOUNGE}
                if self._position is not None:
                    message["since"] = self._position
                wire.send(f'421["livepush.subscribe",{json.dumps(message)}]')
            elif text.startswith("431"):
                self._answer(json.loads(text[3:])[0])
            elif text.startswith("42"):
                self._event(*json.loads(text[2:]))
            elif text.startswith("41"):
                raise Ended("Socket.IO disconnected it")

    def _answer(self, answer: dict[str, Any]) -> None:
        if not answer["ok"]:
            assert answer["error"]["temporary"], answer
            raise Ended(answer["error"]["message"])
        self._position = {key: answer[key] for key in ("epoch", "offset")}
        self.frames.append(("ack livepush.subscribe", answer, None))

    def _event(self, name: str, data: Any = None, meta: Any = None) -> None:
        if name in ("livepush.reset", "livepush.reconnect"):
            raise Ended(name)
        if name.startswith("livepush."):
            return
        self._position = {key: meta[key] for key in ("epoch", "offset")}
        self.frames.append((name, data, meta))
