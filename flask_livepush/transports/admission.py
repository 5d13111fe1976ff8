"""Who is let into a namespace, and what they hear first.

Nobody is in before they are accepted. First the connection is judged, while Socket.IO
knows nothing of it. Then the application's handler of connects runs, with a client that
Socket.IO knows, so that the handler may enter it into rooms and emit to it; all that is
sent to it meanwhile waits, and goes out after the CONNECT that accepts it, or not at
all. Every step that fails undoes those before it.

Runs in the connection's mailbox.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import engineio
import socketio

from ..connections import Connections
from ..errors import ClientError, Unavailable
from ..login.caller import Handshake
from ..logs import logger
from ..metrics import OFF, Metrics
from .fanout import NAMESPACE, Outlet

log = logger(__name__)

# Packets that may wait for a CONNECT, and their bytes: no client is worth more.
_MOST_HELD = 1000
_MOST_BYTES = 8 * 1024 * 1024
_FAILED = "The server failed; try again later."


class Arrival(str):
    """An Engine.IO session's id, as Socket.IO's tables have it for one namespace.

    It is the id for all who look it up. What is sent to it before it is opened waits.
    """

    __slots__ = ("_bytes", "_held", "_lock", "overfull")
    # Guards what is held, and the order in which packets go out; None: it was opened.
    _lock: threading.Lock | None
    _held: list[Any]
    _bytes: int
    #: Whether more was sent than waits for a CONNECT.
    overfull: bool

    def __new__(cls, eio_sid: str) -> Arrival:
        self = super().__new__(cls, eio_sid)
        self._lock = threading.Lock()
        self._held = []
        self._bytes = 0
        self.overfull = False
        return self

    def hold(self, packet: Any) -> bool:
        """Keep a packet for later; False: it was opened, and may be sent to."""
        lock = self._lock
        if lock is None:
            return False
        with lock:
            if self._lock is None:
                return False
            if len(self._held) >= _MOST_HELD or self._bytes > _MOST_BYTES:
                self.overfull = True
            else:
                self._held.append(packet)
                self._bytes += len(packet.data or "")
            return True

    def open(self, send: Callable[[Any], object], first: list[Any]) -> None:
        """Send these packets, then what waits; from now on everything goes out."""
        lock = self._lock
        assert lock is not None
        with lock:
            held, self._held = self._held, []
            for packet in (*first, *held):
                send(packet)
            self._lock = None


class Admission:
    """Lets clients into the namespaces of one server, whose instance is changed.

    Args:
        server: The server.
        outlet: Learns of those who are in the default namespace.
        connections: Asked before a connection is accepted; keeps those that are.
        metrics: Counts connections and refusals.
    """

    def __init__(
        self,
        server: socketio.Server,
        *,
        outlet: Outlet,
        connections: Connections,
        metrics: Metrics = OFF,
    ) -> None:
        self._server = server
        self._outlet = outlet
        self._connections = connections
        self._metrics = metrics
        self._send = server.eio.send_packet
        server.eio.send_packet = self.send_packet

    def send_packet(self, eio_sid: str, pkt: Any) -> Any:
        """Send a packet as the Engine.IO server does, unless it has to wait."""
        if type(eio_sid) is Arrival and eio_sid.hold(pkt):
            return None
        return self._send(eio_sid, pkt)

    def asks_nobody(self, eio_sid: str, namespace: str | None, data: Any) -> bool:
        """Say whether a CONNECT runs no code of the application, and so waits for none.

        A turn of another thread would take longer than it does.
        """
        server = self._server
        environ = server.environ.get(eio_sid)
        return (
            environ is not None
            and namespace in (None, NAMESPACE)
            and self._connections.asks_nobody(Handshake(environ, data or None))
            and not any(
                name in server.namespace_handlers
                or "connect" in server.handlers.get(name, ())
                for name in (NAMESPACE, "*")
            )
        )

    def connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        """Take a CONNECT to a namespace."""
        server = self._server
        name = namespace or NAMESPACE
        if server.manager.sid_from_eio_sid(eio_sid, name) is not None:
            log.debug("A client connected to a namespace again; it was ignored")
        elif not (
            name in server.handlers
            or name in server.namespace_handlers
            or server.namespaces == "*"
            or name in server.namespaces
        ):
            # The server would answer with a text; the protocol has an object.
            invalid = {"message": "Invalid namespace"}
            self._tell(eio_sid, socketio.packet.CONNECT_ERROR, name, invalid)
        else:
            sid = server.eio.generate_id()
            try:
                refused = self._admit(sid, eio_sid, name, data)
            except BaseException:
                self._turn_away(sid, eio_sid, name, self._refusal(Unavailable(_FAILED)))
                raise
            if refused is not None:
                self._turn_away(sid, eio_sid, name, refused)

    def _admit(self, sid: str, eio_sid: str, name: str, data: Any) -> Any:
        """Let a connection in; else return what it is told, an object."""
        server, manager = self._server, self._server.manager
        environ = server.environ[eio_sid]
        refused = self._judge(sid, eio_sid, name, environ, data)
        if refused is not None:
            return refused
        arrival = Arrival(eio_sid)
        manager.pre_connect(arrival, name, sid)
        if server.always_connect:
            self._open(sid, arrival, name)
        refused = self._ask_application(name, sid, environ, data)
        if refused is None and arrival.overfull:
            log.warning(
                "A handler of connects emitted more than %d packets or %d bytes to its "
                "client, which is refused; let the client ask for so much.",
                _MOST_HELD,
                _MOST_BYTES,
            )
            refused = self._refusal(Unavailable(_FAILED))
        if refused is None and not server.always_connect:
            self._open(sid, arrival, name)
        return refused

    def _judge(
        self, sid: str, eio_sid: str, name: str, environ: dict[str, Any], data: Any
    ) -> Any:
        """Register whose a connection is; else return what it is told."""
        outcome, refused = "refused", None
        is_guest = name != NAMESPACE
        # What is given with the CONNECT to another namespace is the application's.
        handshake = Handshake(environ, None if is_guest else data or None)
        try:
            self._connections.enter(sid, eio_sid, handshake, is_guest=is_guest)
            outcome = "accepted"
        except ClientError as error:
            refused = self._refusal(error)
        except Exception:
            log.exception("Loading the user of a connection failed; it is refused")
            refused = self._refusal(Unavailable(_FAILED))
        finally:
            if not is_guest:
                self._metrics.count("connects_total", outcome)
        return refused

    def _refusal(self, error: ClientError) -> dict[str, Any]:
        """Return what a client is told of an error, which is counted."""
        self._metrics.count("refusals_total", str(error.code))
        data = {
            "code": error.code,
            "message": error.message,
            "temporary": error.temporary,
        }
        return {"message": error.message, "data": data}

    def _ask_application(
        self, name: str, sid: str, environ: dict[str, Any], data: Any
    ) -> Any:
        """Call the application's handler of connects; return what it refuses with."""
        call = partial(self._server._trigger_event, "connect", name, sid, environ)
        try:
            if data:
                answer = call(data)
            else:
                try:
                    answer = call(None)
                except TypeError as error:
                    # Handlers may take what was given with the CONNECT, or not.
                    try:
                        answer = call()
                    except TypeError:
                        raise error from None
        except socketio.exceptions.ConnectionRefusedError as refusal:
            return refusal.error_args
        except ConnectionRefusedError:
            return {"message": "Connection refused by server"}
        if answer is False:
            return socketio.exceptions.ConnectionRefusedError().error_args
        return None

    def _open(self, sid: str, arrival: Arrival, name: str) -> None:
        server = self._server
        if name == NAMESPACE:
            self._outlet.opened(sid, str(arrival))
        server.manager.connect(sid, name)
        kind = socketio.packet.CONNECT
        packet = server.packet_class(kind, data={"sid": sid}, namespace=name)
        arrival.open(partial(self._send, str(arrival)), self._encoded(packet))
        connection = server.eio.sockets.get(arrival)
        if connection is not None:
            connection.entered = True

    def _encoded(self, packet: Any) -> list[Any]:
        encoded = packet.encode()
        parts = encoded if isinstance(encoded, list) else [encoded]
        message = engineio.packet.MESSAGE
        return [engineio.packet.Packet(message, part) for part in parts]

    def _turn_away(self, sid: str, eio_sid: str, name: str, told: Any) -> None:
        """Tell a client why it is not let in; nothing is left of it."""
        manager = self._server.manager
        # With always_connect it was told that it is connected.
        was_open = manager.is_connected(sid, name)
        self._connections.left(sid)
        if name == NAMESPACE:
            self._outlet.closed(sid)
        manager.disconnect(sid, name, ignore_queue=True)
        kinds = socketio.packet
        kind = kinds.DISCONNECT if was_open else kinds.CONNECT_ERROR
        self._tell(eio_sid, kind, name, told)

    def _tell(self, eio_sid: str, kind: int, name: str, told: Any) -> None:
        server = self._server
        packet = server.packet_class(kind, data=told, namespace=name)
        server._send_packet(eio_sid, packet)
