"""A manager with an index does what python-socketio's does, in any order of calls."""

from __future__ import annotations

import random
from typing import Any

import pytest
import socketio

from flask_livepush.transports.clients import index_rooms

SIDS = [f"sid{n}" for n in range(5)]
ROOMS = ["a", "b", "c"]
NAMESPACES = ["/", "/own"]


class Ids:
    """A server that gives connections the ids in which they were asked for."""

    def __init__(self) -> None:
        self.eio = self
        self._next = 0
        self.packet_class = socketio.packet.Packet

    def generate_id(self) -> str:
        self._next += 1
        return f"id{self._next}"


def manager(*, indexed: bool) -> socketio.Manager:
    """Return a manager without a server."""
    made = socketio.Manager()
    made.set_server(Ids())
    if indexed:
        index_rooms(made)
    return made


def state(made: socketio.Manager) -> Any:
    """Return all that a manager knows."""
    return (
        {
            namespace: {room: dict(sids) for room, sids in rooms.items()}
            for namespace, rooms in made.rooms.items()
        },
        made.callbacks,
        {key: sorted(sids) for key, sids in made.pending_connect.items()},
        {key: sorted(sids) for key, sids in made.pending_disconnect.items()},
    )


def step(made: socketio.Manager, dice: random.Random) -> Any:
    """Call something; return what came of it."""
    sids = sorted(made.rooms.get("/", {}).get(None, {})) or ["nobody"]
    sid, room = dice.choice(sids), dice.choice(ROOMS)
    namespace = dice.choice(NAMESPACES)
    calls = [
        lambda: made.pre_connect(f"eio{dice.randrange(8)}", namespace),
        lambda: made.connect(sid, namespace) if made.is_pre_connected(sid, "/") else 0,
        lambda: made.enter_room(sid, namespace, room),
        lambda: made.leave_room(sid, namespace, room),
        lambda: made.close_room(room, namespace),
        lambda: sorted(made.get_rooms(sid, namespace)),
        lambda: made.pre_disconnect(sid, namespace),
        lambda: made.disconnect(sid, namespace),
        lambda: made._generate_ack_id(sid, print),
    ]
    try:
        return dice.choice(calls)()
    except Exception as error:  # noqa: BLE001
        return type(error)


@pytest.mark.parametrize("seed", range(30))
def test_does_what_the_stock_manager_does(seed: int) -> None:
    stock, ours = manager(indexed=False), manager(indexed=True)
    dice = random.Random(seed), random.Random(seed)
    for _ in range(300):
        assert step(stock, dice[0]) == step(ours, dice[1])
        assert repr(state(stock)) == repr(state(ours))


def test_does_not_look_into_the_rooms_of_others() -> None:
    ours = manager(indexed=True)
    sids = [ours.connect(f"eio{n}", "/") for n in range(10)]

    class Untouched(dict[Any, Any]):
        def __contains__(self, key: object) -> bool:
            raise AssertionError("somebody else's room")

    for sid in sids[1:]:
        ours.rooms["/"][sid] = Untouched()
    ours.disconnect(sids[0], "/")
    assert not ours.is_connected(sids[0], "/")
