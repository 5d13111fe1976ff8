"""A server program for the tests of ``running``: it answers in which mode it runs."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterable

from tests.support.servers import serve


def app(environ: dict[str, object], start: Callable[..., object]) -> Iterable[bytes]:
    """Answer with the module that ``socket.socket`` comes from."""
    start("200 OK", [("Content-Type", "text/plain")])
    return [f"{socket.socket.__module__} {sys.argv[1:]}".encode()]


if __name__ == "__main__":
    print("about to serve", flush=True)
    serve(app)
