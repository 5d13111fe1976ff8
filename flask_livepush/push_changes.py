"""``push_changes``: a decorator of views, tasks and commands, and a context manager."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, TypeVar

from flask import Response, after_this_request, current_app, has_request_context

from .protocol import position_header
from .protocol.publication import Position

F = TypeVar("F", bound=Callable[..., Any])
_Scope = AbstractContextManager[dict[str, Position]]


class PushChanges:
    """A block whose commits are pushed.

    One may be used by several threads and greenlets at once, and in itself.

    Args:
        scope: Enters such a block; what it yields is filled with where rooms stand
            after the block's commits.
        may_tell: Says whether the visitor may be told of a room by its name.
    """

    def __init__(
        self, scope: Callable[[], _Scope], may_tell: Callable[[str], bool]
    ) -> None:
        self._scope = scope
        self._may_tell = may_tell
        # Of the running thread, greenlet or task, the innermost last.
        self._entered: ContextVar[tuple[_Scope, ...]] = ContextVar(
            "entered", default=()
        )

    def __call__(self, function: F) -> F:
        """Push what a function commits; a view's response says where rooms stand.

        Of a generator function, what it commits while it runs.
        """

        @functools.wraps(function)
        def decorated(*args: Any, **kwargs: Any) -> Any:
            with self._scope() as positions:
                if not has_request_context():
                    return self._while_it_runs(function(*args, **kwargs))
                after_this_request(functools.partial(self._add_header, positions))
                # Views may be coroutine functions; Flask runs those it calls itself.
                return self._while_it_runs(
                    current_app.ensure_sync(function)(*args, **kwargs)
                )

        return decorated  # type: ignore[return-value]

    def __enter__(self) -> None:
        scope = self._scope()
        scope.__enter__()
        self._entered.set((*self._entered.get(), scope))

    def __exit__(self, *_: object) -> None:
        entered = self._entered.get()
        if entered:  # else it was begun elsewhere, by a generator that changed threads
            self._entered.set(entered[:-1])
            entered[-1].__exit__(None, None, None)

    def _while_it_runs(self, result: Any) -> Any:
        """Let what has only begun have its scope when it goes on."""
        if inspect.isgenerator(result):
            return self._stepwise(result)
        if inspect.iscoroutine(result):
            return self._awaited(result)
        return result

    def _stepwise(
        self, generator: Generator[Any, Any, Any]
    ) -> Generator[Any, Any, Any]:
        # What its consumer commits between two steps is the consumer's business.
        step: Callable[[], Any] = functools.partial(next, generator)
        while True:
            try:
                with self._scope():
                    item = step()
            except StopIteration as end:
                return end.value
            try:
                step = functools.partial(generator.send, (yield item))
            except GeneratorExit:
                with self._scope():
                    generator.close()
                raise
            except BaseException as error:  # noqa: BLE001
                step = functools.partial(generator.throw, error)

    async def _awaited(self, coroutine: Awaitable[Any]) -> Any:
        with self._scope():
            return await coroutine

    def _add_header(
        self, positions: dict[str, Position], response: Response
    ) -> Response:
        told = {name: at for name, at in positions.items() if self._may_tell(name)}
        value = position_header.write(told)
        if value:
            response.headers[position_header.NAME] = value
        return response
