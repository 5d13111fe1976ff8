"""``push_changes`` in threads, in itself, in generators and coroutines."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.following import Chat, closing, events, sqlite_url
from tests.support.waiting import DEADLINE

CREATED = "message.created"


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[Chat]:
    """An application that pushes what is decorated alone."""
    with closing(Chat(sqlite_url(tmp_path), LIVEPUSH_PUSH="decorated")) as made:
        yield made


def test_one_object_serves_several_threads(chat: Chat) -> None:
    """Bug: one thread's end ended the other's block, and then its own never began.

    1. A enters, B enters.
    2. A leaves, which closed what B had entered: B's commit was not pushed.
    """
    screens = chat.screens("chat:1", "chat:2")
    block = chat.livepush.push_changes()
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with block:
            entered.set()
            assert left.wait(DEADLINE)
            chat.post(2)
        chat.post(2)

    thread = threading.Thread(target=other)
    with block:
        thread.start()
        assert entered.wait(10)
        chat.post(1)
    chat.post(1)
    left.set()
    thread.join()
    assert events(*screens) == [[CREATED], [CREATED]]


def test_one_object_may_be_used_in_itself(chat: Chat) -> None:
    screen = chat.screen("chat:1")
    block = chat.livepush.push_changes()
    with block:
        with block:
            chat.post()
        chat.post()
    chat.post()
    assert events(screen) == [CREATED] * 2
    with pytest.raises(ZeroDivisionError), block:
        raise ZeroDivisionError
    chat.post()
    assert events(screen) == []


def test_blocks_of_generators_end_in_any_order(chat: Chat) -> None:
    """Bug: what ended first took the other's block along, or left its own behind."""
    screen = chat.screen("chat:1")
    block = chat.livepush.push_changes()

    def steps() -> Iterator[None]:
        with chat.livepush.push_changes():
            yield
        yield

    generator = steps()
    next(generator)
    with block:
        next(generator)
        chat.post()
        assert events(screen) == [CREATED]
    chat.post()
    assert events(screen) == []


def test_pushes_what_a_generator_commits_and_not_its_consumer(chat: Chat) -> None:
    """Bug: the block was over before the generator had begun."""
    screen = chat.screen("chat:1")
    told: list[Any] = []

    @chat.livepush.push_changes
    def imported(rows: int) -> Iterator[Any]:
        for _ in range(rows):
            try:
                told.append((yield chat.post()))
            except LookupError as error:
                told.append(type(error))
            except GeneratorExit:
                chat.post()
                raise
        return "done"

    generator: Any = imported(2)
    next(generator)
    chat.post()
    assert events(screen) == [CREATED]
    generator.send("sent")
    with pytest.raises(StopIteration) as end:
        generator.throw(LookupError())
    assert end.value.value == "done"
    assert told == ["sent", LookupError]
    assert events(screen) == [CREATED]
    generator = imported(2)
    next(generator)
    generator.close()
    assert events(screen) == [CREATED] * 2


def test_pushes_what_a_coroutine_commits(chat: Chat) -> None:
    """Bug: the block was over before the coroutine had begun."""
    screen = chat.screen("chat:1")

    @chat.livepush.push_changes
    async def task() -> str:
        await asyncio.sleep(0)
        chat.post()
        return "done"

    # In a thread of its own: the tests' browser keeps a loop running in this one.
    with ThreadPoolExecutor(1) as executor:
        done = executor.submit(lambda: asyncio.run(task()))  # type: ignore[arg-type]
        assert done.result(DEADLINE) == "done"
    assert events(screen) == [CREATED]


def test_pushes_what_a_streamed_body_commits(chat: Chat) -> None:
    screen = chat.screen("chat:1")

    @chat.app.get("/stream")
    @chat.livepush.push_changes
    def stream() -> Iterator[str]:
        yield str(chat.post())
        yield str(chat.post())

    assert chat.app.test_client().get("/stream").text == "12"
    assert events(screen) == [CREATED] * 2
