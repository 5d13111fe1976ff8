"""What stands in front of applications and is in their way: one fault each.

A :class:`Front` looks at the first request of each connection and then passes bytes on;
its subclasses do something else with upgrades, or with all.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .redis import until
from .servers import Program, on_unused_port, unused_port
from .system import require

_KEY = re.compile(rb"(?i)sec-websocket-key: *(\S+)")
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Front:
    """Passes everything on.

    Args:
        ports: Of the servers behind it; each connection has the next one.
    """

    def __init__(self, *ports: int) -> None:
        self._ports = ports
        self._next = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        self.over = threading.Event()

    def __enter__(self) -> Front:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over.set()
        for wire in self._open:
            end(wire)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._open.append(near)
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        head = b""
        with suppress(OSError):
            while b"\r\n\r\n" not in head:
                data = near.recv(65536)
                if not data:
                    return
                head += data
            if b"upgrade: websocket" in head.lower():
                self.upgrade(near, head)
            else:
                self.request(near, head)
        end(near)

    def request(self, near: socket.socket, head: bytes) -> None:
        """Serve a connection whose first request is an ordinary one."""
        self.join(near, self.far(head))

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        """Serve a connection whose first request is an upgrade."""
        self.join(near, self.far(head))

    def far(self, head: bytes) -> socket.socket:
        """Open a connection to the server and send it what has come."""
        port = self._ports[self._next % len(self._ports)]
        self._next += 1
        far = socket.create_connection(("127.0.0.1", port))
        self._open.append(far)
        far.sendall(head)
        return far

    def join(self, near: socket.socket, far: socket.socket) -> None:
        """Pass bytes on in both directions until one ends."""
        back = threading.Thread(target=self.back, args=(far, near), daemon=True)
        back.start()
        copy(near, far)
        end(far)
        back.join()

    def back(self, far: socket.socket, near: socket.socket) -> None:
        """Pass on what the server sends."""
        copy(far, near)
        end(near)


class Answering(Front):
    """Answers upgrades itself.

    Args:
        status: What with; None: nothing, and ends the connection.
    """

    def __init__(self, *ports: int, status: int | None) -> None:
        super().__init__(*ports)
        self._status = status

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        if self._status is not None:
            near.sendall(
                b"HTTP/1.1 %d No\r\nServer: blocker\r\nContent-Length: 0\r\n\r\n"
                % self._status
            )


class Mute(Front):
    """Never answers an upgrade."""

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        self.over.wait()


class Silent(Front):
    """Accepts upgrades itself, and then carries nothing."""

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        found = _KEY.search(head)
        assert found is not None
        digest = hashlib.sha1(found[1] + _GUID).digest()
        near.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Accept: %s\r\n\r\n"
            % base64.b64encode(digest)
        )
        self.over.wait()


class Hoarding(Front):
    """Keeps what a WebSocket carries until it ends."""

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        far = self.far(head)
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += far.recv(65536)
        hello, mark, rest = answer.partition(b"\r\n\r\n")
        near.sendall(hello + mark)
        kept = [rest]

        def keep() -> None:
            with suppress(OSError):
                while data := far.recv(65536):
                    kept.append(data)

        keeper = threading.Thread(target=keep, daemon=True)
        keeper.start()
        # The client's close frame makes the server end the connection.
        threading.Thread(target=copy, args=(near, far), daemon=True).start()
        keeper.join()
        near.sendall(b"".join(kept))


class Cutting(Front):
    """Cuts WebSockets.

    Args:
        after: Seconds.
    """

    def __init__(self, *ports: int, after: float) -> None:
        super().__init__(*ports)
        self._after = after

    def upgrade(self, near: socket.socket, head: bytes) -> None:
        timer = threading.Timer(self._after, end, (near,))
        timer.daemon = True
        timer.start()
        super().upgrade(near, head)


class Late(Front):
    """Passes answers of ordinary requests on late.

    Args:
        by: Seconds.
    """

    def __init__(self, *ports: int, by: float) -> None:
        super().__init__(*ports)
        self._by = by

    def request(self, near: socket.socket, head: bytes) -> None:
        far = self.far(head)
        slow = b"GET" in head and b"sid=" in head

        def back() -> None:
            with suppress(OSError):
                while data := far.recv(65536):
                    if slow:
                        self.over.wait(self._by)
                    near.sendall(data)
            end(near)

        threading.Thread(target=back, daemon=True).start()
        copy(near, far)
        end(far)


class Portless(Front):
    """Tells the server the host without its port, as nginx's ``$host`` is."""

    def far(self, head: bytes) -> socket.socket:
        return super().far(re.sub(rb"(?i)(\r\nhost: [^\r:]*):\d+", rb"\1", head))


class Rewriting(Front):
    """Tells the server another host than the client's, as nginx does by default."""

    def far(self, head: bytes) -> socket.socket:
        return super().far(re.sub(rb"(?i)\r\nhost: [^\r]*", b"\r\nHost: inner", head))


def copy(source: socket.socket, target: socket.socket) -> None:
    """Pass bytes on until the end."""
    with suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)


def end(wire: socket.socket) -> None:
    """End a connection at once, in whichever thread it is read."""
    with suppress(OSError):
        wire.shutdown(socket.SHUT_RDWR)
    wire.close()


_NGINX = """\
daemon off;
worker_processes 1;
error_log stderr notice;
pid {home}/pid;
events {{}}
http {{
    access_log off;
    client_body_temp_path {home}/body;
    proxy_temp_path {home}/proxy;
    fastcgi_temp_path {home}/fastcgi;
    uwsgi_temp_path {home}/uwsgi;
    scgi_temp_path {home}/scgi;
    upstream nodes {{
        {nodes}
    }}
    server {{
        listen 127.0.0.1:{port}{tls};
        location / {{
            proxy_pass http://nodes;
            proxy_http_version 1.1;
            {lines}
        }}
    }}
}}
"""


@contextmanager
def nginx(
    home: Path, ports: list[int], *lines: str, certificate: Path | None = None
) -> Iterator[str]:
    """Run nginx in front of servers, round robin, until the block ends; give its URL.

    Args:
        home: A directory for it.
        ports: Where the servers listen.
        lines: More for its ``location``.
        certificate: A file with a certificate and its key; None: it does not encrypt.
    """
    tls = ""
    if certificate is not None:
        tls = f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate}"

    def argv(port: int) -> list[str | Path]:
        config = home / "nginx.conf"
        config.write_text(
            _NGINX.format(
                home=home,
                port=port,
                tls=tls,
                nodes=" ".join(f"server 127.0.0.1:{p};" for p in ports),
                lines=" ".join(f"{line};" for line in lines),
            )
        )
        return [require("nginx"), "-c", config, "-p", home]

    program, port = on_unused_port(
        argv,
        name="nginx",
        cwd=home,
        ready="start worker process",
        taken="Address already in use",
    )
    try:
        yield f"{'http' if certificate is None else 'https'}://127.0.0.1:{port}"
    finally:
        program.stop()


_HAPROXY = """\
defaults
    mode http
    timeout connect 5s
    timeout client 30s
    timeout server 30s
    timeout tunnel 60s
frontend all
    bind 127.0.0.1:{port}
    default_backend nodes
backend nodes
    balance roundrobin
    cookie SERVER insert indirect nocache
{nodes}
"""


@contextmanager
def haproxy(home: Path, ports: list[int]) -> Iterator[str]:
    """Run HAProxy, which keeps a client with a server by a cookie; give its URL."""
    port = unused_port()
    config = home / "haproxy.cfg"
    nodes = (
        f"    server node{i} 127.0.0.1:{p} cookie server-{i}"
        for i, p in enumerate(ports)
    )
    config.write_text(_HAPROXY.format(port=port, nodes="\n".join(nodes)))
    program = Program(
        [require("haproxy"), "-db", "-f", config], name="haproxy", cwd=home
    )

    def listens() -> bool:
        assert program.alive, program.log
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        return False

    try:
        until(listens, "HAProxy does not listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        program.stop(patience=1)
