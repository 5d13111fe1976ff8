"""An Engine.IO server whose WebSockets need no thread each.

A WebSocket's socket is taken out of the HTTP server's hands after the upgrade and given
to the process's one loop; what goes out to many is encoded once.
"""
