"""Events in: connections, their order, and the protocol's messages.

Our events and checks are no registered handlers, which an application's own
``on("connect")`` would silently replace: the server's instance is asked before its
handlers are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import engineio
import socketio

from ..connections import Connection, Connections
from ..errors import BadMessage, ClientError
from ..logs import logger
from ..metrics import OFF, Metrics
from ..node import Node
from ..protocol import messages
from .admission import Admission
from .bearing import CLOSED, NOTHING, Bearing, is_websocket
from .fanout import NAMESPACE, Fanout, Outlet
from .farewell import Farewell
from .mailbox import Mailboxes

log = logger(__name__)

Spawn = Callable[[Callable[[], object]], object]

_OURS = "livepush."
# Names a client must not send: python-socketio would run the handlers of the real
# events.
_RESERVED = ("connect", "disconnect")
# Levels of arrays and objects in each other.
_MAX_DEPTH = 100
# Bytes that an empty attachment costs.
_ATTACHMENT = 64


class Events:
    """Takes what connections send to one server.

    Args:
        server: The server; its instance is changed.
        node: Serves joins.
        fanout: Encodes acks.
        outlet: Learns of connections.
        spawn: Runs what connections send in the background.
        spawn_first: The same for what they begin with, which must not wait for that.
        spawn_answers: The same for what they answer, for which that may be waiting.
        connections: Asked before a connection to the default namespace is accepted;
            keeps those that are, and says when one ends.
        bearing: Looks at what each session's first request bears.
        max_pending: Messages of one connection that may wait for their turn.
        in_order: Whether the application's handlers too are called one at a time, in
            the order of a connection's events. Else each has a thread of its own, as
            is python-socketio's default.
        farewell: Learns of connections too.
        metrics: Counts connections.
    """

    def __init__(
        self,
        server: socketio.Server,
        *,
        node: Node,
        fanout: Fanout,
        outlet: Outlet,
        spawn: Spawn,
        spawn_first: Spawn,
        spawn_answers: Spawn,
        connections: Connections,
        bearing: Bearing = NOTHING,
        max_pending: int,
        in_order: bool,
        farewell: Farewell,
        metrics: Metrics = OFF,
    ) -> None:
        self._server = server
        self._farewell = farewell
        self._node = node
        self._fanout = fanout
        self._outlet = outlet
        self._connections = connections
        self._bearing = bearing
        self._in_order = in_order
        self._metrics = metrics
        metrics.gauge("connections", lambda: self._number(True), "websocket")
        metrics.gauge("connections", lambda: self._number(False), "polling")
        # A polling client sends what has gathered as one request; past 16 packets the
        # stock limit, which is the process's, loses them all. Bytes are limited anyway.
        payload = engineio.payload.Payload
        payload.max_decode_packets = max(payload.max_decode_packets, max_pending)
        self._mailboxes = Mailboxes(spawn, limit=max_pending, spawn_first=spawn_first)
        self._answers = Mailboxes(spawn_answers, limit=max_pending)
        self._handle_event = server._handle_event
        self._trigger_event = server._trigger_event
        # Connections, by their Engine.IO session's id: those that have not been told
        # to the application as gone. Flask-SocketIO's test clients are none.
        self._known: set[str] = set()
        # Those of them that have been ended: nothing that they sent before is handled.
        self._ended: set[str] = set()
        self._on_connect = server.eio.handlers["connect"]
        self._on_disconnect = server.eio.handlers["disconnect"]
        self._admission = Admission(
            server, outlet=outlet, connections=connections, metrics=metrics
        )
        self._handle_message = server.eio.handlers["message"]
        # An application's own handler may be given anything.
        check = _check_auth if in_order else _check_depth
        server._handle_connect = self._in_turn(self.handle_connect, check)
        server._handle_event = self._in_turn(self.handle_event, _check_depth)
        server._handle_disconnect = self._in_turn(server._handle_disconnect)
        self._handle_ack = server._handle_ack
        server._handle_ack = self._in_turn(
            self.handle_ack, _check_depth, mailboxes=self._answers
        )
        server._trigger_event = self.trigger_event
        server.eio.on("message", self.on_message)
        server.eio.on("connect", self.on_connect)
        server.eio.on("disconnect", self.on_disconnect)
        connections.carried_by(self)

    def _in_turn(
        self,
        handler: Callable[..., Any],
        check: Callable[[Any], None] | None = None,
        *,
        mailboxes: Mailboxes | None = None,
    ) -> Callable[..., Any]:
        """Let a handler of packets run in the connection's mailbox.

        The reader decodes packets, checks their data and goes on. Answers to calls of
        the server have a mailbox of their own: a handler in the other may be waiting
        for one.
        """
        boxes = mailboxes or self._mailboxes

        def handle(eio_sid: str, *args: Any) -> None:
            # A test client expects that its messages have been handled when it has
            # sent them.
            if eio_sid not in self._known or boxes.inside(eio_sid):
                self._handle(handler, eio_sid, *args)
                return
            if check is not None:
                check(args[-1])
            task = partial(self._handle_in_turn, handler, eio_sid, *args)
            first = handler == self.handle_connect
            asks_nobody = first and self._admission.asks_nobody(eio_sid, *args)
            if asks_nobody and boxes.enter(eio_sid, task):
                return
            if not boxes.put(eio_sid, task, first=first):
                log.warning("A client sends faster than it is served; it is closed")
                self._metrics.count("drops_total", "too_fast")
                self._close(eio_sid)

        return handle

    def _handle_in_turn(
        self, handler: Callable[..., Any], eio_sid: str, *args: Any
    ) -> None:
        if eio_sid not in self._ended:
            self._handle(handler, eio_sid, *args)

    def _handle(self, handler: Callable[..., Any], eio_sid: str, *args: Any) -> None:
        if eio_sid not in self._server.environ:
            return  # it has gone meanwhile
        connection = self._server.eio.sockets.get(eio_sid)
        if (
            handler == self.handle_connect
            or getattr(connection, "entered", False)
            # Its CONNECT has been answered a moment ago.
            or self._server.manager.sid_from_eio_sid(eio_sid, args[0] or NAMESPACE)
        ):
            handler(eio_sid, *args)
        else:
            log.debug("A client did not begin with a CONNECT; it is closed")
            self._close(eio_sid)

    def _close(self, eio_sid: str) -> None:
        # Server.disconnect would wait for the client to take what is queued for it.
        connection = self._server.eio.sockets.get(eio_sid)
        if connection is not None:
            connection.close(wait=False)

    def on_message(self, eio_sid: str, data: str | bytes) -> None:
        """Take a message; in the reader.

        Raises:
            Exception: It is no packet, or not the one that must come now: the
                connection must end.
        """
        announced = self._server._binary_packet.get(eio_sid)
        if announced is not None:
            self._check_attachment(announced, data)
        self._handle_message(eio_sid, data)
        begun = self._server._binary_packet.get(eio_sid)
        if begun is None:
            return
        connection = self._server.eio.sockets.get(eio_sid)
        if connection is None or connection.closed:
            # It has ended meanwhile: nobody would forget it.
            self._server._binary_packet.pop(eio_sid, None)
        elif not begun.attachment_count:
            raise ValueError("A binary packet has no attachment.")

    def _check_attachment(self, announced: Any, data: str | bytes) -> None:
        if isinstance(data, str):
            raise ValueError("A text came instead of an attachment.")
        size = getattr(announced, "livepush_size", 0) + len(data) + _ATTACHMENT
        if size > self._server.eio.max_http_buffer_size:
            raise ValueError("The attachments of a packet are too large.")
        announced.livepush_size = size

    def on_connect(self, eio_sid: str, environ: dict[str, Any]) -> Any:
        """Take a new connection, which is in no namespace yet."""
        self._known.add(eio_sid)
        socket = self._server.eio.sockets.get(eio_sid)
        if socket is not None:
            socket.bond = (
                CLOSED if is_websocket(environ) else self._bearing.bond(environ)
            )
        self._outlet.began(eio_sid)
        self._farewell.opened(eio_sid)
        return self._on_connect(eio_sid, environ)

    def on_disconnect(self, eio_sid: str, *reason: Any) -> None:
        """Take the end of a connection; what it still had waiting is forgotten."""
        self._server._binary_packet.pop(eio_sid, None)
        self._farewell.closed(eio_sid)
        self._mailboxes.close(eio_sid, partial(self._end, eio_sid, *reason))

    def _end(self, eio_sid: str, *reason: Any) -> None:
        try:
            self._on_disconnect(eio_sid, *reason)
        finally:
            self._known.discard(eio_sid)
            self._ended.discard(eio_sid)

    def handle_connect(self, eio_sid: str, namespace: str | None, data: Any) -> None:
        """Take a CONNECT to a namespace, in the connection's mailbox."""
        self._admission.connect(eio_sid, namespace, data)

    def handle_event(
        self, eio_sid: str, namespace: str | None, number: int | None, data: Any
    ) -> None:
        """Take an event, ours or the application's, in the connection's mailbox."""
        if not isinstance(data, list) or not data or not isinstance(data[0], str):
            log.debug("An event without a name was dropped")
        elif data[0] in _RESERVED:
            log.debug("A client sent an event of a reserved name; it was dropped")
        elif data[0].startswith(_OURS) and (namespace or NAMESPACE) == NAMESPACE:
            self._take(eio_sid, number, data[0], tuple(data[1:]))
        elif self._in_order:
            self._call_handler(eio_sid, namespace or NAMESPACE, number, data)
        else:
            self._handle_event(eio_sid, namespace, number, data)

    def _call_handler(
        self, eio_sid: str, namespace: str, number: int | None, data: list[Any]
    ) -> None:
        # As the server's _handle_event without a thread. Setting async_handlers to
        # False would do the same and forbid handlers to call() the client, which they
        # can: its answer does not wait for the mailbox.
        server = self._server
        sid = server.manager.sid_from_eio_sid(eio_sid, namespace)
        if server.manager.is_connected(sid, namespace):
            server._handle_event_internal(server, sid, eio_sid, data, namespace, number)

    def handle_ack(
        self, eio_sid: str, namespace: str | None, number: int | None, data: Any
    ) -> None:
        """Take the answer to a call of the server's, in a mailbox of its own."""
        if isinstance(data, list):
            self._handle_ack(eio_sid, namespace, number, data)
        else:
            log.debug("An ack without arguments was dropped")

    def trigger_event(self, event: str, namespace: str, *args: Any) -> Any:
        """Look at disconnects before the application's handlers do."""
        if event != "disconnect":
            return self._trigger_event(event, namespace, *args)
        self._connections.left(args[0])
        if namespace == NAMESPACE:
            self._node.disconnect(args[0])
            self._outlet.closed(args[0])
        return self._disconnect(namespace, *args)

    def _disconnect(self, namespace: str, *args: Any) -> Any:
        """Tell the application; the server must go on and forget the connection."""
        try:
            return self._trigger_event("disconnect", namespace, *args)
        except Exception:
            log.exception("A handler of disconnects failed")
            return None

    def connection_of(self, sid: str, namespace: str) -> Connection | None:
        """Return the connection to the default namespace of whoever has this id."""
        manager = self._server.manager
        if namespace != NAMESPACE:
            eio_sid = manager.eio_sid_from_sid(sid, namespace)
            sid = manager.sid_from_eio_sid(eio_sid, NAMESPACE)
        return self._connections.find(sid)

    @property
    def untold(self) -> int:
        """How many connections have not been told to the application as gone."""
        return len(self._known)

    def _number(self, upgraded: bool) -> int:
        connections = list(self._server.eio.sockets.values())
        return sum(c.upgraded == upgraded for c in connections if not c.closed)

    # -- ends --------------------------------------------------------------------------
    def end(self, connection: Connection, error: ClientError) -> None:
        """Write why to a connection, a DISCONNECT, and the end.

        The client stays away: it is told of the end of each of its namespaces.
        """
        server, manager = self._server, self._server.manager
        eio_sid = connection.eio_sid
        kinds = socketio.packet
        packets = []
        # The default namespace comes first.
        for namespace in sorted(manager.get_namespaces()):
            sid = manager.sid_from_eio_sid(eio_sid, namespace)
            if sid is None or not manager.is_connected(sid, namespace):
                continue
            if namespace == NAMESPACE:
                told = [messages.ENDED, messages.ended(error)]
                packets.append(
                    server.packet_class(kinds.EVENT, namespace="/", data=told)
                )
            packets.append(server.packet_class(kinds.DISCONNECT, namespace=namespace))
        if not packets:
            # It has not been told yet that it is connected: it is refused when it
            # comes again.
            self._part(connection)
            return
        try:
            if eio_sid in server.eio.sockets:
                frames = [self._outlet.message(packet.encode()) for packet in packets]
                self._outlet.end(eio_sid, frames)
            elif eio_sid not in self._known:  # a test client, which has no session
                for packet in packets:
                    server._send_packet(eio_sid, packet)
        finally:
            self._part(connection)

    def send_away(self, connection: Connection) -> None:
        """Close a connection by Engine.IO: its client comes back."""
        self._part(connection)

    def silence(self, connection: Connection) -> None:
        """Let nothing of ours be written to it, and nothing that it sent be handled."""
        if connection.eio_sid in self._known:
            self._ended.add(connection.eio_sid)
        self._outlet.closed(connection.sid)
        self._node.disconnect(connection.sid)

    def _part(self, connection: Connection) -> None:
        eio_sid = connection.eio_sid
        if eio_sid in self._server.eio.sockets:
            self._close(eio_sid)
        elif eio_sid not in self._known:  # a test client, which has no session
            self._server.disconnect(connection.sid, ignore_queue=True)
        if eio_sid not in self._known:
            self._ended.discard(eio_sid)

    def _take(
        self, eio_sid: str, number: int | None, event: str, args: tuple[Any, ...]
    ) -> None:
        sid = self._server.manager.sid_from_eio_sid(eio_sid, NAMESPACE)
        if not self._server.manager.is_connected(sid, NAMESPACE):
            return
        ack = partial(self._fanout.ack, number)
        try:
            if event == messages.SUBSCRIBE:
                self._join(sid, messages.parse_subscribe(args), ack)
                return
            if event == messages.UNSUBSCRIBE:
                self._node.unsubscribe(sid, messages.parse_unsubscribe(args))
                text = messages.DONE
            elif event == messages.WHISPER:
                whisper = messages.parse_whisper(args)
                self._connections.vouch(sid)
                self._node.whisper(sid, whisper)
                text = messages.DONE
            else:
                raise BadMessage("This server knows no message of this name.")
        except ClientError as error:
            self._metrics.count("refusals_total", str(error.code))
            text = messages.failed(error)
        finally:
            # The server may have disconnected it meanwhile, from another thread.
            if not self._server.manager.is_connected(sid, NAMESPACE):
                self._node.disconnect(sid)
        answer = ack(text)
        if answer is not None and eio_sid not in self._ended:
            self._fanout.write([sid], [answer])

    def _join(
        self, sid: str, request: messages.Subscribe, ack: Callable[[str], Any]
    ) -> None:
        try:
            handshake: Any = self._connections.vouch(sid).handshake
        except ClientError:
            # Refused is out of the room, as wherever else a join is.
            self._node.unsubscribe(sid, messages.Unsubscribe(request.room))
            raise
        self._node.subscribe(sid, handshake, request, ack)


def _check_auth(data: Any) -> None:
    if data is not None and not isinstance(data, dict):
        raise ValueError("What is given with a CONNECT is no object.")
    _check_depth(data)


def _check_depth(data: Any) -> None:
    """Refuse what would be too deep for functions that call themselves."""
    level = [data]
    for _ in range(_MAX_DEPTH):
        deeper: list[Any] = []
        for item in level:
            if isinstance(item, list):
                deeper += item
            elif isinstance(item, dict):
                deeper += item.values()
        if not deeper:
            return
        level = deeper
    raise ValueError(f"Data is nested more than {_MAX_DEPTH} deep.")
