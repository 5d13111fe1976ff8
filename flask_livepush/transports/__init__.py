"""The only code that knows Socket.IO: events in, frames out.

Private points that are used, each pinned by a test in ``tests/transports/``.

- python-socketio 5.18, of the server's instance: ``_handle_connect``,
  ``_handle_event``, ``_handle_event_internal``, ``_handle_disconnect``,
  ``_handle_ack``, ``_trigger_event``, ``_send_eio_packet`` and ``environ``; of its
  manager: ``basic_enter_room``, ``basic_leave_room``, ``basic_disconnect``,
  ``get_rooms``, ``rooms``, ``callbacks``, ``pending_connect`` and
  ``pending_disconnect``.
- python-engineio 4.15, of the server: ``handlers``, ``sockets``; what the engine has
  from it: its ``__dict__``, ``_trigger_event``, ``_cors_allowed_origins``,
  ``_cors_headers``, ``_log_error_once``, ``_generate_sid_cookie``, ``_gzip``,
  ``_deflate`` and ``compression_methods``. ``Payload.max_decode_packets`` is
  documented.
- Of HTTP servers: ``gunicorn.socket``, ``werkzeug.socket`` and ``eventlet.input`` in
  the environment, gevent's ``wsgi.input.raw._sock``, and how each is told that a
  request was answered by other means (``engine/taking.py``).
"""
