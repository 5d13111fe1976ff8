"""A program with one page under the strictest policy, which notes down what it breaks.

No source is allowed but scripts of the answer's nonce, and the site's own connections.
"""

from __future__ import annotations

import secrets

from flask import Flask, Response, g, render_template_string

from flask_livepush import LivePush
from tests.support.servers import serve

PAGE = """\
<!doctype html>
<title>Strict</title>
<link rel="icon" href="data:,">
<script nonce="{{ g.csp_nonce }}">
  const violations = [];
  document.addEventListener("securitypolicyviolation", (violation) =>
    violations.push(`${violation.effectiveDirective} ${violation.blockedURI}`));
</script>
{{ livepush_script() }}
{{ livepush_room() }}
<script nonce="{{ g.csp_nonce }}">
  const live = LivePush.connect();
  const states = [], numbers = [], starts = [];
  live.status.subscribe((state) => states.push(state));
  const room = live.room("lobby");
  room.on("number", (number) => numbers.push(number));
</script>
{% if inline %}<script>numbers.push("inline");</script>{% endif %}
"""

app = Flask("strict")
app.config.update(SECRET_KEY="secret", LIVEPUSH_ALLOW_ANONYMOUS=True)
livepush = LivePush(app)


@livepush.room("lobby")
def lobby(user: object) -> bool:
    """Let everybody in."""
    return True


@app.before_request
def draw() -> None:
    """Draw the answer's nonce."""
    g.csp_nonce = secrets.token_urlsafe(16)


@app.after_request
def restrict(response: Response) -> Response:
    """Send the policy."""
    response.headers["Content-Security-Policy"] = (
        f"default-src 'none'; script-src 'nonce-{g.csp_nonce}'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return response


@app.get("/")
@livepush.page("lobby")
def page() -> str:
    """Follow the lobby."""
    return render_template_string(PAGE)


@app.get("/inline")
@livepush.page("lobby")
def inline() -> str:
    """Try to run a script that nobody has allowed."""
    return render_template_string(PAGE, inline=True)


@app.post("/number/<int:number>")
def number(number: int) -> str:
    """Tell the lobby a number."""
    livepush.emit("lobby", "number", number)
    return ""


@app.post("/end")
def end() -> str:
    """End every connection."""
    server = livepush.socketio.server
    for sid in list(server.eio.sockets):
        server.eio.disconnect(sid)
    return ""


if __name__ == "__main__":
    serve(app)
