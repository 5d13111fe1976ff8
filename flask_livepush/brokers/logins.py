"""The contract of what tells every process which logins have ended.

Each process holds a mirror of the ended ids, so that whoever asks waits for nobody.
A table in a database may keep them as well, which is another contract. Whose an id is,
and what follows from its end, is not its business.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Ended:
    """A login that has ended.

    Args:
        login: Its id: 22 letters, digits, ``-`` and ``_``.
        again: Whether its clients are to come back at once: another login of the same
            user has taken its place.
    """

    login: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Recheck:
    """Subscriptions that have to be asked about again, or connections to be ended.

    Whoever asks loads the user anew, as rights depend on what a user is.

    Args:
        user: Whose, by identity; None: everybody's.
        room: In which room, or in which of all those of a pattern, by its text as in
            ``chat:<int:room_id>``; None: in all.
        close: End the user's connections instead.
    """

    user: str | None = None
    room: str | None = None
    close: bool = False


class LoginListener(Protocol):
    """What is told, by any thread or greenlet, which must not be kept waiting.

    Each end is told once in a process, by whoever ends the login here; what comes from
    elsewhere by one thread or greenlet, in order.
    """

    def ended(self, logins: Sequence[Ended]) -> None:
        """Take notice that these have ended; the mirror has them already."""

    def recheck(self, orders: Sequence[Recheck]) -> None:
        """Take notice that rights may have changed.

        ``Recheck()`` alone where orders may have been lost: everything is to be asked
        about again.
        """


class Logins(ABC):
    """Carries ends of logins, and orders to ask again, to every process.

    What :meth:`end` was given reaches the mirror of every process within a second, and
    no outage takes it back. All methods may be called from any thread or greenlet.
    """

    @abstractmethod
    def listen(self, listener: LoginListener) -> None:
        """Tell this listener from now on; called once, before anything else."""

    @abstractmethod
    def end(self, logins: Iterable[Ended]) -> None:
        """End logins: here at once, elsewhere soon. Ended ones again are no error.

        It waits no longer than a view may, and raises nothing: what can't be told now
        is told as soon as that is possible. With a table of ended logins it is in there
        when this returns.
        """

    @abstractmethod
    def recheck(self, orders: Iterable[Recheck]) -> None:
        """Let every process ask again, this one too. Never blocks, raises nothing."""

    @abstractmethod
    def has_ended(self, login: str) -> bool:
        """Say whether an id has ended, by the mirror; asks nobody."""

    @abstractmethod
    def is_current(self) -> bool:
        """Say whether the mirror can be vouched for at this moment; asks nobody."""

    @abstractmethod
    def confirm(self) -> None:
        """Wait a moment until the mirror is current.

        Raises:
            BrokerUnavailable: It is not, after a second; or after a few, where the
                broker is new and others are given the time to tell it what they know.
        """

    @abstractmethod
    def spend(self, ticket: str, seconds: float) -> bool:
        """Say whether a ticket's number is given for the first time; it may wait.

        Args:
            ticket: Its number.
            seconds: How long the number must be remembered.

        Raises:
            BrokerUnavailable: Nobody can say.
        """

    @abstractmethod
    def finish(self, seconds: float) -> bool:
        """Wait until what was ended is told; say whether it is. This process ends."""

    @abstractmethod
    def close(self) -> None:
        """Give back what is held; nobody is told any more."""


class LoginTable(Protocol):
    """Keeps ended logins where no restart of a broker reaches them.

    It waits no longer than a view may where it adds; what it raises is its database's.
    """

    def add(self, logins: Sequence[str], age: float) -> None:
        """Add logins that ended so many seconds ago; those that are there are none."""

    def read(self, within: float | None) -> Iterator[Sequence[tuple[str, float]]]:
        """Read in parts which logins ended, each with how many seconds ago.

        Args:
            within: Only those of so many seconds; None: all.
        """

    def purge(self) -> None:
        """Delete what need not be known any more."""
