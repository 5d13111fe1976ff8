"""Run the chat: ``python -m example_app --help``."""

from __future__ import annotations

import argparse
import errno
import logging
import os
import signal
import socket
import sys
import warnings

_ENDS = (signal.SIGINT, signal.SIGTERM)
# Seconds for a polite end.
_PATIENCE = 3


def main() -> int:
    """Serve the chat until it is interrupted; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m example_app")
    parser.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    parser.add_argument("--port", default=5000, type=int, help="0 takes a free one")
    modes = ["threading", "eventlet", "gevent"]
    parser.add_argument("--mode", default="threading", choices=modes)
    parser.add_argument("--reset", action="store_true", help="begin with a new chat")
    args = parser.parse_args()

    # Before anything else is imported, which might keep what is replaced here.
    if args.mode == "eventlet":
        warnings.filterwarnings("ignore", r"\s*Eventlet is deprecated")
        import eventlet

        eventlet.monkey_patch()
    elif args.mode == "gevent":
        from gevent import monkey

        monkey.patch_all()

    from . import create_app
    from .demo_data import fill
    from .models import livepush

    local = args.host in ("127.0.0.1", "localhost", "::1")
    try:
        port = _free_port(args.host, args.port)
        app = create_app(local=local)
    except (OSError, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 1
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # no line for each request
    host = f"[{args.host}]" if ":" in args.host else args.host
    print(
        f"\nThe chat is at http://{host}:{port} ({args.mode}). Log in as",
        *fill(app, local=local, reset=args.reset),
        "Use two browsers, or a private window, to be two of them. Ctrl-C stops it.\n",
        sep="\n",
        flush=True,
    )
    for number in _ENDS:
        signal.signal(number, _end)
    livepush.run(app, host=args.host, port=port)
    return 0


def _end(number: int, frame: object) -> None:
    """End quietly, where gevent would print a traceback for Ctrl-C; a second time hard.

    Told twice at once, as by make and by its own group, gevent would lose the exit.
    """
    for each in _ENDS:
        signal.signal(each, signal.SIG_DFL)
    # It is raised wherever this process is just now: with gevent in somebody's request
    # as well, where a library's bare `except` may keep it.
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGALRM, lambda *_: os._exit(0))
        signal.alarm(_PATIENCE)
    sys.exit(0)


def _free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0.

    Raises:
        OSError: It cannot be had; the message is for the person who asked.
    """
    if port not in range(65536):
        raise OSError(f"{port} is no port; they go up to 65535.")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            return int(probe.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"Port {port} of {host} is in use; stop what uses it or choose another "
                "with --port (make demo PORT=…)."
            ) from None
        raise OSError(f"{host}:{port} cannot be used: {error.strerror}.") from None


if __name__ == "__main__":
    sys.exit(main())
