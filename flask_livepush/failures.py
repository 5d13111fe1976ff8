"""What fails at run time where nobody can be told: logged once, counted, handed on.

A view must not fail because a row can't be pushed, and a log must not be filled by one
bad row. So each place is logged once, with its traceback; each failure is counted and
handed to whoever collects errors. No payload may ever be in one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass

log = logging.getLogger(__name__)

# Places that are remembered; beyond, the oldest is forgotten and may be logged again.
_MAX_PLACES = 1_000


@dataclass(frozen=True, slots=True)
class Failure:
    """Something that was meant for screens and does not reach them as it was meant.

    Args:
        reason: A sentence with the thing, the cause and the remedy, without values.
        kind: The kind of the rows concerned; empty: of none.
        room: The pattern of the rooms concerned; empty: of any.
    """

    reason: str
    kind: str = ""
    room: str = ""


class Failures:
    """Takes note of failures.

    Args:
        tell: Called with each, in the thread where it happened; what it raises is
            logged.
    """

    def __init__(self, tell: Callable[[Failure], None] = lambda failure: None) -> None:
        self._tell = tell
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
        known = place in self._places
        self._places[place] = None
        if len(self._places) > _MAX_PLACES:
            self._places.pop(next(iter(self._places)), None)
        log.log(
            logging.DEBUG if known else level,
            "%s%s",
            failure.reason,
            f" [{failure.kind or '-'} in {failure.room or 'any room'}]",
            exc_info=error,
        )
        try:
            self._tell(failure)
        except Exception:
            log.exception("Telling a failure failed")
