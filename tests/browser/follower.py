"""A program with one page, which notes down what it is told and when."""

from __future__ import annotations

from flask import Flask, render_template_string

from flask_livepush import LivePush
from tests.support.servers import serve

PAGE = """\
<!doctype html>
<title>Follower</title>
{{ livepush_script() }}
<script>
  const live = LivePush.connect();
  const states = [], numbers = [];
  live.status.subscribe((state) => states.push(
    { after: performance.now(), state, transport: live.transport }));
  live.room("lobby").on("number", (number) => numbers.push(number));
</script>
"""

app = Flask("follower")
app.config.update(
    SECRET_KEY="secret",
    LIVEPUSH_ALLOW_ANONYMOUS=True,
    # Shorter than the shortest idle limit of a proxy in the tests.
    LIVEPUSH_PING_INTERVAL=1,
)
livepush = LivePush(app)


@livepush.room("lobby")
def lobby(user: object) -> bool:
    """Let everybody in."""
    return True


@app.get("/")
def page() -> str:
    """Follow the lobby."""
    return render_template_string(PAGE)


@app.post("/number/<int:number>")
def number(number: int) -> str:
    """Tell the lobby a number."""
    livepush.emit("lobby", "number", number)
    return ""


@app.post("/reconnect/<float:within>")
def reconnect(within: float) -> str:
    """Ask every connection to come back."""
    livepush.socketio.emit("livepush.reconnect", {"within": within})
    return ""


if __name__ == "__main__":
    serve(app)
