"""A site of one static page with the client, which connects to nothing itself."""

from __future__ import annotations

from importlib.resources import files

from flask import Flask, Response, send_file

from tests.support.servers import serve

PAGE = """\
<!doctype html>
<title>Elsewhere</title>
<link rel="icon" href="data:,">
<script src="/livepush.js"></script>
<script>
  // What the pages of docs/ do with the client is looked at here.
  const connect = LivePush.connect, said = [], states = [], refusals = [];
  let client;
  LivePush.connect = (options) => {
    client = connect(options);
    client.status.subscribe((state) => states.push(state));
    client.onRefused((error) => refusals.push(error));
    client.room("user:1").on("said", (text) => said.push(text));
    return client;
  };
</script>
"""

app = Flask("elsewhere")


@app.get("/")
def page() -> str:
    """Show the page."""
    return PAGE


@app.get("/livepush.js")
def livepush_js() -> Response:
    """Serve the client."""
    path = files("flask_livepush").joinpath("static", "livepush.js")
    return send_file(str(path), mimetype="text/javascript")


if __name__ == "__main__":
    serve(app)
