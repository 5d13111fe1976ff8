"""The program of the browser tests: the chat, on a free port."""

from __future__ import annotations

from example_app import create_app
from example_app.demo_data import fill
from example_app.models import Membership, Message, db
from tests.support.servers import serve

app = create_app(local=True)
fill(app, local=True)


@app.extensions["csrf"].exempt
@app.post("/reset")
def reset() -> list[str]:
    """Make it as new, for the next test."""
    return fill(app, local=True, reset=True)


@app.extensions["csrf"].exempt
@app.post("/import/<int:number>")
def add_messages(number: int) -> str:
    """Commit many messages of Ada's at once."""
    for n in range(number):
        body = f"number {n}"
        message = Message(room_id=1, author_id=1, author_name="Ada", body=body)
        db.session.add(message)
    db.session.commit()
    return ""


@app.extensions["csrf"].exempt
@app.post("/put-out/<int:user_id>/<int:room_id>")
def put_out(user_id: int, room_id: int) -> str:
    """Let somebody be no member of a room any more."""
    db.session.delete(db.session.get_one(Membership, (room_id, user_id)))
    db.session.commit()
    return ""


if __name__ == "__main__":
    serve(app)
