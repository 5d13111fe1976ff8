"""``push_changes``: a decorator of views, tasks and commands, and a context manager."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any, TypeVar

from flask import Response, after_this_request, current_app, has_request_context

from .protocol import position_header
from .protocol.publication import Position

F = TypeVar("F", bound=Callable[..., Any])


class PushChanges:
    """A block whose commits are pushed.

    Args:
        scope: Enters such a block; what it yields is filled with where rooms stand
            after the block's commits.
        may_tell: Says whether the visitor may be told of a room by its name.
    """

    def __init__(
        self,
        scope: Callable[[], AbstractContextManager[dict[str, Position]]],
        may_tell: Callable[[str], bool],
    ) -> None:
        self._scope = scope
        self._may_tell = may_tell
        self._entered: list[ExitStack] = []

    def __call__(self, function: F) -> F:
        """Push what a function commits; a view's response says where rooms stand."""

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self._scope() as positions:
                if not has_request_context():
                    return function(*args, **kwargs)
                after_this_request(functools.partial(self._add_header, positions))
                # Views may be coroutine functions; Flask runs those it calls itself.
                return current_app.ensure_sync(function)(*args, **kwargs)

        return decorated  # type: ignore[return-value]

    def __enter__(self) -> None:
        stack = ExitStack()
        stack.enter_context(self._scope())
        self._entered.append(stack)

    def __exit__(self, *_: object) -> None:
        self._entered.pop().close()

    def _add_header(
        self, positions: dict[str, Position], response: Response
    ) -> Response:
        told = {name: at for name, at in positions.items() if self._may_tell(name)}
        value = position_header.write(told)
        if value:
            response.headers[position_header.NAME] = value
        return response
