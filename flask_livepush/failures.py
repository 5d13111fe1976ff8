"""What fails at run time where nobody can be told: logged once, counted, handed on.

A view must not fail because a row can't be pushed, and a log must not be filled by one
bad row. So each place is logged once, with its traceback; each failure is counted and
handed to whoever collects errors. No payload may ever be in one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal

from .logs import logger

log = logger(__name__)

# Places that are remembered; beyond, the oldest is forgotten and may be logged again.
_MAX_PLACES = 1_000

What = Literal["field", "row", "state", "broker", "other"]


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was meant for screens and does not reach them as it was meant.

    Args:
        reason: A sentence with the thing, the cause and the remedy, without values.
        kind: The kind of the rows concerned; empty: of none.
        room: The pattern of the rooms concerned; empty: of any.
        what: What it is counted as: a field that a row is sent without, a row that
            is not sent, what a room or a user tells of itself, the broker that does
            not answer a page or a join, or none of these.
    """

    reason: str
    kind: str = ""
    room: str = ""
    what: What = "other"


def place_of(error: BaseException) -> Hashable:
    """Return where an error was raised, for :meth:`Failures.note`."""
    found = error.__traceback__
    while found is not None and found.tb_next is not None:
        found = found.tb_next
    at = None if found is None else (found.tb_frame.f_code, found.tb_lineno)
    return (type(error), at)


class Failures:
    """Takes note of failures.

    Args:
        tell: Called with each, in the thread where it happened; what it raises is
            logged.
    """

    def __init__(self, tell: Callable[[Failure], None] = lambda failure: None) -> None:
        self._tell = tell
        self._lock = threading.Lock()  # guards the places
        self._places: dict[Hashable, None] = {}

    def note(
        self,
        place: Hashable,
        failure: Failure,
        *,
        error: BaseException | None = None,
        level: int = logging.ERROR,
    ) -> None:
        """Log a failure, if it is the first of its place, and tell it.

        Args:
            place: What must not be logged twice, such as a declaration's field.
            error: What was raised; its traceback is logged.
            level: Of the log's entry; later ones are for debugging.
        """
        with self._lock:
            known = place in self._places
            self._places[place] = None
            if len(self._places) > _MAX_PLACES:
                del self._places[next(iter(self._places))]
        log.log(
            logging.DEBUG if known else level,
            "%s%s",
            failure.reason,
            f" [{failure.kind} in {failure.room or 'any room'}]"
            if failure.kind
            else "",
            exc_info=error,
        )
        try:
            self._tell(failure)
        except Exception:
            log.exception("Telling a failure failed")

    def over(self, place: Hashable) -> bool:
        """Forget a place, as what failed there works again; say whether it had."""
        if place not in self._places:  # the common case costs no lock
            return False
        with self._lock:
            return self._places.pop(place, self) is None
