"""A server program that answers as the protocols' own suites of tests expect.

The application under ``/short`` is the same with a short heartbeat. ``/state`` tells
what a process holds. Under gunicorn it is ``tests.support.protocol_app:serving``.
"""

from __future__ import annotations

import gc
import os
import ssl
import sys
import threading
from typing import Any

from flask import Flask, jsonify, request
from flask_socketio import emit
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from flask_livepush import LivePush
from tests.support.servers import announce, current_mode, serve
from tests.support.waiting import DEADLINE

#: Bytes that may wait for one connection.
LIMIT = 200_000


def create(**settings: Any) -> tuple[Flask, LivePush]:
    """Make an application."""
    app = Flask("protocol")
    app.config.update(
        SECRET_KEY="secret",
        LIVEPUSH_ALLOW_ANONYMOUS=True,
        LIVEPUSH_MAX_MESSAGE_BYTES=1_000_000,
        LIVEPUSH_SEND_BUFFER_BYTES=LIMIT,
        **settings,
    )
    livepush = LivePush(app)
    socketio = livepush.socketio

    @livepush.room("lobby")
    def lobby(user: object) -> bool:
        return True

    given: dict[str, Any] = {}
    for namespace in ("/", "/custom"):

        @socketio.on("connect", namespace=namespace)
        def connect(auth: Any = None) -> None:
            given[request.sid] = auth or {}  # type: ignore[attr-defined]

        @socketio.on("disconnect", namespace=namespace)
        def disconnect(reason: str) -> None:
            del given[request.sid]  # type: ignore[attr-defined]

        @socketio.on("auth", namespace=namespace)
        def auth() -> None:
            # Not when it connects: that would be sent before the answer is.
            emit("auth", given[request.sid])  # type: ignore[attr-defined]

        @socketio.on("message", namespace=namespace)
        def message(*args: Any) -> None:
            emit("message-back", args)

        @socketio.on("message-with-ack", namespace=namespace)
        def message_with_ack(*args: Any) -> Any:
            return args

    @socketio.on("leave")
    def leave() -> None:
        emit("farewell")
        socketio.server.disconnect(request.sid)  # type: ignore[attr-defined]

    @socketio.on("end")
    def end() -> None:
        emit("farewell")
        sid = request.sid  # type: ignore[attr-defined]
        server = socketio.server
        server.eio.disconnect(server.manager.eio_sid_from_sid(sid, "/"))

    @socketio.on("storm")
    def storm(kilobytes: int) -> None:
        for _ in range(kilobytes):
            emit("drop", "x" * 1000)

    @app.post("/emit")
    def publish() -> str:
        livepush.emit("lobby", "ding", int(request.args["number"]))
        return ""

    @app.get("/state")
    def state() -> Any:
        engine = socketio.server.eio
        loop = engine._sessions.loop
        return jsonify(
            sessions={
                sid: {"polled": session.poll is not None, "upgraded": session.upgraded}
                for sid, session in list(engine.sockets.items())
            },
            leaving=len(engine._sessions._leaving),
            environ=len(socketio.server.environ),
            binary=len(socketio.server._binary_packet),
            sockets=0 if loop is None else loop.sockets,
            descriptors=len(os.listdir("/proc/self/fd")),
            threads=threading.active_count(),
            pid=os.getpid(),
            connections=[
                worker.nr_conns
                for worker in gc.get_objects()
                if type(worker).__name__ == "ThreadWorker"
            ],
        )

    return app, livepush


app, livepush = create()
short, _ = create(
    LIVEPUSH_PING_INTERVAL=0.3, LIVEPUSH_PING_TIMEOUT=0.2, LIVEPUSH_UPGRADE_TIMEOUT=0.5
)
# For clients that do answer, on a machine that is late with all of it.
beating, _ = create(LIVEPUSH_PING_INTERVAL=0.3, LIVEPUSH_PING_TIMEOUT=DEADLINE)
serving = DispatcherMiddleware(
    app, {"/short": short.wsgi_app, "/beating": beating.wsgi_app}
)


def serve_encrypted(certificate: str) -> None:
    """Serve with TLS, as the async mode does."""
    mode = current_mode()
    if mode == "eventlet":
        import eventlet
        import eventlet.wsgi

        listener = eventlet.listen(("127.0.0.1", 0))
        announce(listener.getsockname()[1])
        wrapped = eventlet.wrap_ssl(listener, certfile=certificate, server_side=True)
        eventlet.wsgi.server(wrapped, serving, log_output=False)
    elif mode == "gevent":
        from gevent.pywsgi import WSGIServer

        server = WSGIServer(
            ("127.0.0.1", 0), serving, log=None, certfile=certificate, keyfile=None
        )
        server.start()
        announce(server.server_port)
        server.serve_forever()
    else:
        from werkzeug.serving import make_server

        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        threaded = make_server(
            "127.0.0.1", 0, serving, threaded=True, ssl_context=context
        )
        announce(threaded.server_port)
        threaded.serve_forever()


def serve_plainly() -> None:
    """Serve with a server that shows no socket to applications."""
    from socketserver import ThreadingMixIn
    from wsgiref.simple_server import WSGIServer, make_server

    class Threads(ThreadingMixIn, WSGIServer):
        daemon_threads = True

    server = make_server("127.0.0.1", 0, serving, Threads)
    announce(server.server_port)
    server.serve_forever()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--encrypted", certificate]:
            serve_encrypted(certificate)
        case ["--plain"]:
            serve_plainly()
        case _:
            serve(serving)
