"""A server that says no as it is told to, and what it has seen."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import socketio
from flask import Flask, Response, render_template_string, request, send_file
from flask.typing import ResponseReturnValue

from tests.support.servers import serve

# The prefix is not the usual one: the page has to find it out.
PAGE = """\
<!doctype html>
<title>Refused</title>
<script src="/push/livepush.js"></script>
<script>
  let { fails, asks, ...options } = {{ options|tojson }};
  const refusals = [], states = [];
  let asked = 0;
  if (asks) options.auth = async () => {
    if (fails-- > 0) throw new Error("no token to be had");
    return { token: ++asked };
  };
  const live = LivePush.connect(options);
  live.onRefused((error) => refusals.push(error));
  live.status.subscribe((state) => states.push(state));
</script>
"""

app = Flask("refusing")
io = socketio.Server(async_mode="threading")
script: dict[str, Any] = {}
seen: dict[str, Any] = {}


@app.get("/")
def page() -> str:
    """Connect with the options in the address."""
    return render_template_string(PAGE, options=app.json.loads(request.args["options"]))


@app.get("/push/livepush.js")
def livepush_js() -> Response:
    """Serve the client."""
    path = files("flask_livepush").joinpath("static", "livepush.js")
    return send_file(str(path), mimetype="text/javascript")


@app.get("/push/login")
def renew() -> ResponseReturnValue:
    """Answer as told; a login that was renewed is let in, unless nothing helps."""
    seen["renewals"] += 1
    status = script["renewal"]
    if status == 200 and not script["always"]:
        script["refuse"] = None
    return "", status


@app.post("/script")
def begin() -> str:
    """Take what to do from now on, and forget what was seen."""
    script.clear()
    script.update({"refuse": None, "renewal": 200, "always": False})
    script.update(request.get_json())
    seen.update({"connects": [], "renewals": 0, "keys": []})
    return ""


@app.get("/seen")
def tell() -> dict[str, Any]:
    """Tell what came."""
    return seen


@app.post("/end")
def end() -> str:
    """End every connection for good, with the events that are named."""
    for event in request.get_json():
        io.emit(event, {"code": 103, "message": "Signed out."})
    for sid in list(io.manager.get_participants("/", None)):
        io.disconnect(sid[0])
    return ""


@io.event  # type: ignore[untyped-decorator]
def connect(sid: str, environ: dict[str, Any], auth: Any) -> None:
    """Refuse, if so told."""
    seen["connects"].append(auth)
    error = script["refuse"]
    if error:
        raise socketio.exceptions.ConnectionRefusedError(error["message"], error)


def note_keys(environ: dict[str, Any], start_response: Any) -> Any:
    """Note down what requests of polling sessions bear."""
    query = environ.get("QUERY_STRING", "")
    if environ["PATH_INFO"].startswith("/socket.io/") and "polling" in query:
        seen["keys"].append(environ.get("HTTP_LIVEPUSH_KEY"))
    return wrapped(environ, start_response)


wrapped = socketio.WSGIApp(io, app)

if __name__ == "__main__":
    serve(note_keys)
