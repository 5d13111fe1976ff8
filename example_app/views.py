"""The pages and forms. They work without JavaScript; with it, nothing is reloaded.

A form is posted either by the browser, which wants to be redirected, or by chat.js,
which asks for JSON: see :func:`_answer`.
"""

from __future__ import annotations

from flask import Blueprint, abort, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from flask_login import current_user, login_required, login_user, logout_user
from sqlalchemy.exc import IntegrityError
from werkzeug.security import check_password_hash

from .models import FIELDS, Message, Reading, Room, User, chat, db, livepush, now

bp = Blueprint("chat", __name__)
LATEST = 100
MAX_LENGTH = 2000


@bp.get("/")
@login_required
def home() -> ResponseReturnValue:
    """Go to the first room."""
    room = db.first_or_404(current_user.rooms())
    return redirect(url_for(".show_room", room_id=room.id))


# The page starts from the position it is rendered at: whatever is committed after that,
# even before its script runs, reaches it over the socket.
@bp.get("/rooms/<int:room_id>")
@login_required
@livepush.page(chat)
def show_room(room_id: int) -> ResponseReturnValue:
    """Show a room's latest messages, which makes them read."""
    room = _room(room_id)
    newest = (
        db.select(Message)
        .where(Message.room_id == room_id)
        .order_by(Message.id.desc())
        .limit(LATEST)
    )
    messages = db.session.scalars(newest).all()[::-1]
    if messages:
        _mark_read(room, messages[-1].id)
    return render_template(
        "room.html",
        room=room,
        rooms=db.session.scalars(current_user.rooms()).all(),
        unread=current_user.unread(),
        messages=messages,
        rows=[livepush.row(message) for message in messages],
        # For the template's empty message, which chat.js fills in.
        blank=Message(**dict.fromkeys(FIELDS, ""), room_id=0),
        live_room=chat.name(room_id=room.id),
        live_user=livepush.user.name(user_id=current_user.id),
        max_length=MAX_LENGTH,
    )


# Messages are tracked, so their commits are pushed wherever they are made; push_changes
# adds the Livepush-Position header, by which the poster's own page knows that the event
# and the answer are the same message.
@bp.post("/rooms/<int:room_id>/messages")
@login_required
@livepush.push_changes
def post_message(room_id: int) -> ResponseReturnValue:
    """Post a message."""
    room = _room(room_id)
    message = Message(
        room_id=room.id,
        author_id=current_user.id,
        author_name=current_user.name,
        body=_body(),
    )
    db.session.add(message)
    db.session.flush()  # gives it its id
    _tell_readers(room, "unread.added", message)
    db.session.commit()
    return _answer(message)


@bp.get("/messages/<int:message_id>/edit")
@login_required
def edit_form(message_id: int) -> ResponseReturnValue:
    """Show a form for a message; chat.js opens one in its place instead."""
    message = _own_message(message_id)
    return render_template("edit.html", message=message, max_length=MAX_LENGTH)


@bp.post("/messages/<int:message_id>/edit")
@login_required
@livepush.push_changes
def edit_message(message_id: int) -> ResponseReturnValue:
    """Change the text of a message of one's own."""
    message = _own_message(message_id)
    message.body = _body()
    message.edited_at = now()
    db.session.commit()
    return _answer(message)


@bp.post("/messages/<int:message_id>/delete")
@login_required
@livepush.push_changes
def delete_message(message_id: int) -> ResponseReturnValue:
    """Delete a message of one's own."""
    message = _own_message(message_id)
    room = _room(message.room_id)
    _tell_readers(room, "unread.removed", message)
    db.session.delete(message)
    db.session.commit()
    if request.accept_mimetypes.best == "application/json":
        return {}
    return redirect(url_for(".show_room", room_id=room.id))


@bp.post("/rooms/<int:room_id>/read")
@login_required
def read_room(room_id: int) -> ResponseReturnValue:
    """Note that the messages up to one were on a screen."""
    room = _room(room_id)
    newest = db.select(db.func.max(Message.id)).where(Message.room_id == room_id)
    up_to = request.form.get("up_to", 0, type=int)
    _mark_read(room, min(up_to, db.session.scalar(newest) or 0))
    return {}


@bp.route("/login", methods=["GET", "POST"])
def login() -> ResponseReturnValue:
    """Log in by name and password."""
    failed = False
    if request.method == "POST":
        name = request.form.get("name", "").strip()
        same = db.func.lower(User.name) == name.lower()
        user = db.session.scalar(db.select(User).where(same))
        password = request.form.get("password", "")
        if user and check_password_hash(user.password_hash, password):
            login_user(user, remember="remember" in request.form)
        else:
            failed = True
    if current_user.is_authenticated:
        return redirect(url_for(".home"))
    return render_template("login.html", failed=failed), 401 if failed else 200


@bp.post("/logout")
def logout() -> ResponseReturnValue:
    """Log out."""
    logout_user()
    return redirect(url_for(".login"))


def _answer(message: Message) -> ResponseReturnValue:
    if request.accept_mimetypes.best == "application/json":
        return livepush.row(message)
    return redirect(url_for(".show_room", room_id=message.room_id))


def _room(room_id: int) -> Room:
    # Whether there is a private room of that number is private too.
    room: Room | None = current_user.room(room_id)
    return room or abort(404, "There is no such room, or it is not open to you.")


def _own_message(message_id: int) -> Message:
    message = db.session.get(Message, message_id)
    if message is None or current_user.room(message.room_id) is None:
        abort(404, "This message has been deleted.")
    if message.author_id != current_user.id:
        abort(403, "Only its author can change a message.")
    return message


def _body() -> str:
    body = request.form.get("body", "").replace("\r\n", "\n").strip()
    if not 0 < len(body) <= MAX_LENGTH:
        abort(400, f"A message has 1 to {MAX_LENGTH} characters.")
    return body


def _tell_readers(room: Room, event: str, message: Message) -> None:
    # To each of them, on every device. The transaction has written something, so
    # `notify` waits for its commit, and says nothing should it be rolled back.
    for user_id in room.reader_ids():
        if user_id != message.author_id:
            ids = {"room_id": room.id, "message_id": message.id}
            livepush.notify(user_id, event, ids)


def _mark_read(room: Room, up_to: int) -> None:
    ids = {"user_id": current_user.id, "room_id": room.id}
    reading = db.session.get(Reading, ids)
    if reading is None:
        reading = Reading(**ids, last_read_id=0)
        db.session.add(reading)
    if up_to <= reading.last_read_id:
        return
    reading.last_read_id = up_to
    try:
        db.session.flush()
    except IntegrityError:  # another window of this user was as fast
        db.session.rollback()
        return
    livepush.notify(current_user, "room.read", {"room_id": room.id, "up_to": up_to})
    db.session.commit()
