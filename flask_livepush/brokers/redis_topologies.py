"""One server, a primary that sentinels know, a cluster: who has a key in each.

What is sent there, and in which time, is for :mod:`.redis_servers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from redis import exceptions as problems
from redis.crc import key_slot

from ..errors import BrokerUnavailable
from .redis_servers import FAILED, QUICK, Servers, exchange
from .redis_url import Address, Target


class OneServer(Servers):
    """One server has all keys."""

    def address(self, key: str) -> Address | None:
        return self.target.addresses[0]

    def refresh(self) -> None:
        """Do nothing: it is where the URL says."""


class Sentinels(Servers):
    """The primary that sentinels agree on has all keys.

    Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
    """

    def __init__(self, target: Target, *, quick: float = QUICK) -> None:
        super().__init__(target, quick=quick)
        self._primary: Address | None = None
        self._sentinels = list(target.addresses)

    def address(self, key: str) -> Address | None:
        return self._primary

    def lost(self, address: Address) -> None:
        if address == self._primary:
            self._primary = None
        super().lost(address)

    def refresh(self) -> None:
        last: Exception | None = None
        for sentinel in list(self._sentinels):
            connection = self.make(sentinel, self.target.sentinel_options, self.quick)
            words = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.target.service)
            try:
                connection.connect()
                answer = exchange(connection, [words])[0]
            except FAILED as error:
                last = error
                continue
            finally:
                connection.disconnect()
            if isinstance(answer, list):
                self._primary = (answer[0].decode(), int(answer[1]))
                self._sentinels.remove(sentinel)
                self._sentinels.insert(0, sentinel)
                return
            last = answer or problems.ResponseError(
                f"no sentinel knows a service {self.target.service!r}"
            )
        self._primary = None
        assert last is not None
        raise self.unavailable(last) from last


class Cluster(Servers):
    """Each primary has the keys of some slots.

    Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
    """

    sharded = True

    def __init__(self, target: Target, *, quick: float = QUICK) -> None:
        super().__init__(target, quick=quick)
        self._slots: dict[int, Address] = {}
        self._stale = True
        self._failed: Address | None = None

    def address(self, key: str) -> Address | None:
        return self._slots.get(key_slot(key.encode()))

    def lost(self, address: Address) -> None:
        self._stale = True
        self._failed = address
        super().lost(address)

    def moved(self, slot: int, address: Address) -> None:
        self._slots[slot] = address
        self._stale = True

    def refresh(self) -> None:
        known = dict.fromkeys([*self._slots.values(), *self.target.addresses])
        last: Exception | None = None
        for node in sorted(known, key=lambda node: node == self._failed):
            try:
                with self.pool(node, patient=False).connection() as connection:
                    answer = exchange(connection, [("CLUSTER", "SLOTS")])[0]
            except FAILED as error:
                last = error
                super().lost(node)
                continue
            if isinstance(answer, list) and answer:
                self._slots = dict(_owners(answer, node))
                self._stale = False
                return
            last = answer or problems.ClusterDownError("no slot is served")
        assert last is not None
        raise self.unavailable(last) from last

    def _find(self, key: str) -> Address:
        if self._stale:
            with suppress(BrokerUnavailable):  # what is known may do
                self.refresh()
            self._stale = False
        return super()._find(key)


def _owners(slots: list[Any], asked: Address) -> Iterator[tuple[int, Address]]:
    for first, last, primary, *_ in slots:
        # A node that does not know its own name leaves it empty.
        address = (primary[0].decode() if primary[0] else asked[0], int(primary[1]))
        for slot in range(first, last + 1):
            yield slot, address


def servers_of(target: Target, *, quick: float = QUICK) -> Servers:
    """Return the servers of a target; none is connected to yet.

    Args:
        quick: Seconds to wait where a view waits too.
    """
    if target.kind == "sentinel":
        return Sentinels(target, quick=quick)
    kind = Cluster if target.kind == "cluster" else OneServer
    return kind(target, quick=quick)
