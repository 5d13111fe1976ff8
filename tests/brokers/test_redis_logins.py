"""Ended logins where Redis hangs, dies, forgets, or holds what others put there."""

from __future__ import annotations

import logging
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from flask_livepush.brokers import redis_logins
from flask_livepush.brokers.logins import Ended, Recheck
from flask_livepush.brokers.redis import servers
from flask_livepush.brokers.redis_ended import Place, RedisEnded
from flask_livepush.brokers.redis_format import Names
from flask_livepush.brokers.redis_logins import RedisLogins
from flask_livepush.brokers.redis_servers import QUICK
from flask_livepush.errors import BrokerUnavailable
from tests.support.brokers import new_prefix
from tests.support.ended import (
    LIFETIME,
    LoginRecorder,
    new_ends,
    new_login,
    on_redis,
)
from tests.support.redis import RedisServer, redis_sentinels, redis_server
from tests.support.servers import MODES, Mode, running
from tests.support.waiting import DEADLINE, until

#: What is promised: seconds from an end, or from Redis's return, to all processes.
PROMISED = 1.0


class Process:
    """One process's logins, and what they tell."""

    def __init__(self, url: str, prefix: str, **options: Any) -> None:
        self.logins: RedisLogins = on_redis(url, prefix=prefix, **options)
        self.told = LoginRecorder()
        self.logins.listen(self.told)

    def knows(self, *ends: Ended) -> bool:
        """Say whether it knows that these have ended."""
        return all(self.logins.has_ended(end.login) for end in ends)


@pytest.fixture(scope="module")
def old_server() -> Iterator[RedisServer]:
    """A server that has been there for long enough that who is new need not wait."""
    with redis_server() as server:
        until(lambda: server.info("server")["uptime_in_seconds"] >= 3)
        yield server


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """That one, or one that has just started."""
    if getattr(request, "param", "old") == "old":
        old: RedisServer = request.getfixturevalue("old_server")
        yield old
    else:
        with redis_server() as server:
            yield server


#: For tests that end the server, or want it new.
with_new_server = pytest.mark.parametrize("server", ["new"], indirect=True)


@pytest.fixture
def prefix() -> str:
    return new_prefix()


@pytest.fixture
def start(server: RedisServer, prefix: str) -> Iterator[Callable[..., Process]]:
    """Return a function that starts a process; it returns at once."""
    with ExitStack() as stack:

        def begin(**options: Any) -> Process:
            process = Process(server.url, prefix, **options)
            stack.callback(process.logins.close)
            return process

        yield begin


def vouches(process: Process) -> bool:
    """Say whether it vouches, and whoever has begun by asking that has it listen."""
    return process.logins.is_current() and process.logins._listens


def asked(url: str, prefix: str, node: str = "another") -> RedisEnded:
    """Return what a process asks, as a process of its own."""
    return RedisEnded(
        servers(url, quick=DEADLINE), prefix=prefix, node=node, lifetime=LIFETIME
    )


def entries(server: RedisServer, prefix: str) -> list[bytes]:
    """Return all ids in Redis."""
    found = server.ask("XRANGE", Names(prefix).logins.ended, "-", "+")
    return [word[:22] for _, fields in found for word in fields[b"e"].split()]


def test_all_its_keys_are_in_one_slot_and_in_no_rooms_name(prefix: str) -> None:
    names = Names(prefix + "{x}")
    keys = names.logins
    found = {keys.meta, keys.ended, keys.orders, keys.lock, keys.channel}
    found.add(names.ticket("{a}"))
    assert len({key_slot(key.encode()) for key in found}) == 1
    for room in ("logins", "all", "logins:{all}", ""):
        assert names.room(room).meta not in found


# -- Redis hangs, dies, forgets --------------------------------------------------------


def test_a_server_that_hangs_is_noticed_and_all_ends_arrive_after_it(
    server: RedisServer, start: Callable[..., Process]
) -> None:
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    server.pause()
    began = time.monotonic()
    ends = new_ends(3)
    one.logins.end(ends[:1])
    # The time that a view may take, and what a busy machine adds to it.
    assert time.monotonic() - began < 2 * QUICK + PROMISED
    for end in ends[1:]:
        one.logins.end([end])
    one.logins.recheck([Recheck(user="7")])
    assert one.knows(*ends)
    assert one.told.ends == ends
    until(lambda: not one.logins.is_current() and not other.logins.is_current())
    with pytest.raises(BrokerUnavailable, match="does not say which logins"):
        other.logins.confirm()
    assert not one.logins.finish(0.1)
    assert not other.knows(ends[0])
    server.go_on()
    other.told.wait(lambda: sorted(map(str, other.told.ends)) == sorted(map(str, ends)))
    other.told.wait(lambda: other.told.orders == [Recheck(user="7")])
    other.logins.confirm()
    until(lambda: one.logins.finish(1))


@with_new_server
@pytest.mark.parametrize("keep", [True, False], ids=["with data", "without data"])
def test_what_ended_before_or_during_an_outage_is_known_after_it(
    server: RedisServer, start: Callable[..., Process], keep: bool
) -> None:
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    before, during = new_ends(1200), new_ends(2)
    one.logins.end(before)
    other.told.wait(lambda: len(other.told.ends) == len(before))
    server.kill()
    one.logins.end(during[:1])
    other.logins.end(during[1:])
    until(lambda: not one.logins.is_current())
    server.start(keep=keep)
    began = time.monotonic()
    one.told.wait(lambda: during[1] in one.told.ends)
    other.told.wait(lambda: during[0] in other.told.ends)
    # The promise, measured from when Redis has been started at the latest.
    assert time.monotonic() - began < PROMISED
    # One that starts meanwhile vouches for nobody before it knows all.
    newcomer = start()
    until(newcomer.logins.is_current)
    assert newcomer.knows(*before, *during)
    for process in (one, other):
        until(process.logins.is_current)
        assert process.told.orders[:1] == [Recheck()]
        assert sorted(map(str, process.told.ends)) == sorted(map(str, before + during))


@with_new_server
def test_nobody_vouches_before_what_is_known_was_written_back(
    server: RedisServer, start: Callable[..., Process], prefix: str
) -> None:
    one = start()
    ends = new_ends(3000)
    one.logins.end(ends)
    until(lambda: vouches(one))
    server.kill()
    server.start(keep=False)
    newcomer = start()
    until(newcomer.logins.is_current)
    assert newcomer.knows(*ends)
    server.ask("FLUSHALL")
    later = start()
    until(later.logins.is_current)
    assert later.knows(*ends)


def test_what_is_missing_is_written_back_once(
    server: RedisServer, start: Callable[..., Process], prefix: str
) -> None:
    processes = [start() for _ in range(4)]
    ends = new_ends(2500)
    processes[0].logins.end(ends)
    for process in processes:
        until(lambda process=process: process.knows(*ends) and vouches(process))
    server.ask("FLUSHALL")
    for process in processes:
        process.told.wait(lambda process=process: Recheck() in process.told.orders)
    for process in processes:
        until(process.logins.is_current)
    found = entries(server, prefix)
    assert len(found) == len(ends)
    assert {login.decode() for login in found} == {end.login for end in ends}


@pytest.mark.parametrize("key", ["meta", "ended", "orders"])
@pytest.mark.parametrize("how", ["removed", "of another type"])
def test_a_key_that_is_gone_or_foreign_is_made_anew_with_all_that_is_known(
    server: RedisServer,
    start: Callable[..., Process],
    prefix: str,
    key: str,
    how: str,
) -> None:
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    ends, later = new_ends(2), new_ends(1)
    one.logins.end(ends)
    one.logins.recheck([Recheck(room="r")])
    other.told.wait(lambda: other.told.orders and len(other.told.ends) == 2)
    name = getattr(Names(prefix).logins, key)
    server.ask("DEL", name)
    if how == "of another type":
        server.ask("SET", name, "mine")
    other.told.wait(lambda: other.told.orders[-1] == Recheck())
    one.logins.end(later)
    other.told.wait(lambda: other.told.ends == ends + later)
    newcomer = start()
    until(newcomer.logins.is_current)
    assert newcomer.knows(*ends, *later)


def test_an_entry_that_a_failover_has_lost_is_written_back(
    server: RedisServer, start: Callable[..., Process], prefix: str
) -> None:
    """The tail of the stream is gone, and nothing else tells of it."""
    one = start()
    until(lambda: vouches(one))
    first, last = new_ends(2)
    one.logins.end([first])
    one.logins.end([last])
    until(lambda: one.logins._place.ended != "0-0" and one.logins.finish(1))
    keys = Names(prefix).logins
    until(lambda: server.ask("XLEN", keys.ended) == 2)
    newest = server.ask("XREVRANGE", keys.ended, "+", "-", "COUNT", 1)[0][0]
    until(lambda: one.logins._place.ended == newest.decode())
    oldest = server.ask("XRANGE", keys.ended, "-", "+", "COUNT", 1)[0][0]
    server.ask("HSET", keys.meta, "last", oldest)
    server.ask("XDEL", keys.ended, newest)
    until(lambda: entries(server, prefix) == [e.login.encode() for e in (first, last)])
    newcomer = start()
    until(newcomer.logins.is_current)
    assert newcomer.knows(first, last)


def test_a_replica_that_takes_over_has_all_that_processes_know() -> None:
    with redis_sentinels() as sentinels, ExitStack() as stack:
        prefix = new_prefix()
        one, other = (Process(sentinels.url, prefix) for _ in range(2))
        for process in (one, other):
            stack.callback(process.logins.close)
        until(lambda: vouches(one) and vouches(other))
        ends = new_ends(3)
        one.logins.end(ends[:1])
        other.told.wait(lambda: other.told.ends == ends[:1])
        # The replica does not get this one.
        sentinels.replica.pause()
        one.logins.end(ends[1:2])
        other.told.wait(lambda: other.told.ends == ends[:2])
        sentinels.primary.kill()
        sentinels.replica.go_on()
        one.logins.end(ends[2:])
        sentinels.watch(500)
        until(lambda: sentinels.current() == sentinels.replica.port)
        other.told.wait(lambda: other.told.ends == ends)
        until(lambda: vouches(one) and vouches(other))
        newcomer = Process(sentinels.url, prefix)
        stack.callback(newcomer.logins.close)
        until(newcomer.logins.is_current)
        assert newcomer.knows(*ends)


def test_who_is_new_on_a_server_that_was_there_before_need_not_wait(
    server: RedisServer, prefix: str
) -> None:
    fresh = asked(server.url, prefix).read(Place(), listens=False)
    assert fresh.wait == 0
    server.ask("FLUSHALL")
    # One who has known something has lost it, so there may be others.
    known = asked(server.url, prefix).read(fresh.place, listens=False)
    assert known.begun
    assert known.wait > 0


@with_new_server
def test_who_is_new_on_a_server_that_has_just_started_waits_for_others(
    server: RedisServer, prefix: str
) -> None:
    assert asked(server.url, prefix).read(Place(), listens=False).wait > 0


def test_who_is_new_where_others_listen_to_an_empty_server_waits_for_them(
    server: RedisServer, start: Callable[..., Process], prefix: str
) -> None:
    with server.client() as client, client.pubsub() as other:
        other.subscribe(Names(prefix).logins.channel)
        assert other.get_message(timeout=5)
        assert asked(server.url, prefix).read(Place(), listens=False).wait > 0


@with_new_server
def test_says_when_all_that_knew_may_be_gone(
    server: RedisServer, start: Callable[..., Process], caplog: pytest.LogCaptureFixture
) -> None:
    one = start()
    until(one.logins.is_current)
    until(lambda: vouches(one))
    said = [r for r in caplog.records if "LIVEPUSH_LOGINS = 'database'" in r.message]
    assert len(said) == 1


def test_works_where_the_user_may_not_ask_info(
    server: RedisServer, prefix: str
) -> None:
    server.ask("ACL", "SETUSER", "app", "on", ">hidden", "~*", "&*", "+@all", "-info")
    url = f"redis://app:hidden@127.0.0.1:{server.port}"
    one, other = Process(url, prefix), Process(url, prefix)
    until(lambda: vouches(one) and vouches(other))
    ends = new_ends(2)
    one.logins.end(ends[:1])
    other.told.wait(lambda: other.told.ends == ends[:1])
    server.ask("FLUSHALL")
    one.logins.end(ends[1:])
    other.told.wait(lambda: other.told.ends == ends)
    until(lambda: len(entries(server, prefix)) == 2)
    for process in (one, other):
        process.logins.close()


# -- what is full ----------------------------------------------------------------------


@with_new_server
def test_more_than_may_wait_is_written_back_all_the_same(
    server: RedisServer,
    start: Callable[..., Process],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(redis_logins, "_MOST_WAITING", 100)
    one = start()
    until(lambda: vouches(one))
    server.kill()
    ends = new_ends(500)
    for start_ in range(0, 500, 50):
        one.logins.end(ends[start_ : start_ + 50])
    assert len(one.logins._waiting) <= 100
    said = [r for r in caplog.records if "wait for the message queue" in r.message]
    assert len(said) == 1
    server.start(keep=True)
    until(lambda: one.logins.finish(1))
    newcomer = start()
    until(newcomer.logins.is_current)
    assert newcomer.knows(*ends)


def test_more_orders_than_may_wait_become_one_that_asks_everything(
    server: RedisServer,
    start: Callable[..., Process],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(redis_logins, "_MOST_WAITING", 100)
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    server.pause()
    close = Recheck(user="7", close=True)
    one.logins.recheck([close])
    for number in range(300):
        one.logins.recheck([Recheck(user=str(number))])
    server.go_on()
    other.told.wait(lambda: Recheck() in other.told.orders)
    assert close in other.told.orders
    until(lambda: one.logins.finish(1))


def test_a_process_remembers_no_more_than_it_may(
    start: Callable[..., Process],
    server: RedisServer,
    prefix: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one = start(most=100)
    until(lambda: vouches(one))
    ends = new_ends(400)
    for end in ends:
        one.logins.end([end])
    assert one.knows(*ends[-100:])
    assert not one.knows(ends[0])
    said = [r for r in caplog.records if "the oldest are forgotten" in r.message]
    assert len(said) == 1
    until(lambda: server.ask("XLEN", Names(prefix).logins.ended) <= 100)
    # What was trimmed is not taken for lost.
    assert one.told.orders == []
    until(lambda: one.logins._place.ended > "1" and one.logins.is_current())
    assert one.told.orders == []


def test_orders_that_were_trimmed_before_they_were_read_ask_everything(
    server: RedisServer, prefix: str
) -> None:
    writer, reader = asked(server.url, prefix), asked(server.url, prefix, "reader")
    first = reader.read(Place(), listens=False)
    writer.write([], [Recheck(user="1")], place=Place(), listens=False)
    second = reader.read(first.place, listens=False)
    assert second.orders == [Recheck(user="1")]
    assert not second.missed
    # One entry has 100 of them.
    orders = [Recheck(user=str(number)) for number in range(100 * 10_005)]
    writer.write([], orders[: 100 * 9_999], place=Place(), listens=False)
    seen = reader.read(second.place, listens=False)
    assert not seen.missed
    writer.write([], orders[: 100 * 10], place=Place(), listens=False)
    assert reader.read(first.place, listens=False).missed
    missed = reader.read(Place(first.place.epoch, "0-0", "0-0"), listens=False)
    assert missed.missed
    assert missed.orders == []
    assert not reader.read(missed.place, listens=False).missed


def test_an_order_that_is_given_again_while_it_is_sent_is_sent_again(
    start: Callable[..., Process],
) -> None:
    """Bug: it was taken out with the first, as both were one object."""
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    order = Recheck(room="chat:<int:room_id>")
    write = one.logins._redis.write

    def slow(ended: Any, orders: Any, **options: Any) -> Any:
        one.logins._redis.write = write  # type: ignore[method-assign]
        epoch = write(ended, orders, **options)
        one.logins.recheck([order])
        return epoch

    one.logins._redis.write = slow  # type: ignore[method-assign]
    one.logins.recheck([order])
    until(lambda: other.told.orders == [order, order])


# -- what others put there -------------------------------------------------------------

JUNK: list[tuple[str, ...] | tuple[bytes, ...]] = [
    ("e", ""),
    ("e", "short"),
    ("x", "y"),
    ("e", "x" * 23),
    ("e", "x" * 100_000),
    (b"e", b"\xff\xfe" * 11),
    (b"e", b"\0\n\r\n 17 \xc3"),
    ("e", "é" * 22),
    ("e", "a\n1 b\nc d"),
    ("a", "1", "b", "2"),
]


def test_foreign_entries_cost_only_themselves(
    server: RedisServer, start: Callable[..., Process], prefix: str
) -> None:
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    ended = Names(prefix).logins.ended
    expected: list[Ended] = []
    with server.client() as client:
        for fields in JUNK:
            client.execute_command("XADD", ended, "*", *fields)
            (end,) = new_ends(1)
            one.logins.end([end])
            expected.append(end)
            mixed = new_login()
            text = b"\xff nothing " + mixed.encode() + b"!later=1 \xff"
            client.execute_command("XADD", ended, "*", "e", text)
            expected.append(Ended(mixed))
    other.told.wait(lambda: len(other.told.ends) >= len(expected))
    assert sorted(map(str, other.told.ends)) == sorted(map(str, expected))
    newcomer = start()
    until(newcomer.logins.is_current)
    assert newcomer.knows(*expected)
    assert other.told.orders == []


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"7",
        b"null",
        b"[7]",
        b'{"a": 1}',
        b"[[1, 2, 3]]",
        b'[["a"]]',
        b'[["a", null, "yes"]]',
        b"[" * 100_000,
    ],
)
def test_foreign_orders_cost_only_themselves(
    server: RedisServer, prefix: str, text: bytes
) -> None:
    reader = asked(server.url, prefix)
    begin = reader.read(Place(), listens=False).place
    orders = Names(prefix).logins.orders
    with server.client() as client:
        client.execute_command("XADD", orders, "*", "n", b"\xff", "o", text)
        client.execute_command("XADD", orders, "*", "x", "y")
        good = '[["7", null, true, "what later versions say"]]'
        client.execute_command("XADD", orders, "*", "n", "node", "o", good)
    found = reader.read(begin, listens=False)
    assert found.orders == [Recheck("7", None, True)]
    assert found.corrupt == 2
    assert not found.missed


def test_an_age_is_kept_when_it_is_written_back(
    server: RedisServer, prefix: str
) -> None:
    writer = asked(server.url, prefix)
    old, young = new_ends(2)
    writer.write([(old, 1800.0), (young, 0.0)], place=Place(), listens=False)
    found = dict(writer.read(Place(), listens=False).ended)
    assert abs(found[old] - 1800) < 60
    assert found[young] < 60


# -- how it runs -----------------------------------------------------------------------


def test_reads_without_wake_ups(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wake-up may be lost without a sign."""
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    monkeypatch.setattr(other.logins, "_wake", lambda: None)
    (end,) = new_ends(1)
    one.logins.end([end])
    other.told.wait(lambda: other.told.ends == [end])


class Killed(BaseException):
    """What ends a greenlet from outside."""


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_goes_on_when_who_reads_is_killed(start: Callable[..., Process]) -> None:
    one, other = start(), start()
    until(lambda: vouches(one) and vouches(other))
    kills = [Killed("its greenlet")]

    def fail() -> None:
        if kills:
            raise kills.pop()

    other.told.problem = fail
    ends = new_ends(2)
    one.logins.end(ends[:1])
    until(lambda: not kills)
    one.logins.end(ends[1:])
    until(other.logins.is_current)
    until(lambda: other.knows(*ends))
    reader = other.logins._reader
    assert reader is not None
    other.logins.killed(reader)
    assert other.logins._reader is not reader
    reader.close()
    until(lambda: vouches(other))


def test_many_ends_at_once_are_all_told_once(start: Callable[..., Process]) -> None:
    processes = [start() for _ in range(3)]
    for process in processes:
        until(lambda process=process: vouches(process))
    ends = new_ends(300)

    def end(number: int) -> None:
        for login in ends[number::10]:
            processes[number % 3].logins.end([login])

    threads = [threading.Thread(target=end, args=(n,), daemon=True) for n in range(10)]
    for thread in threads:
        thread.start()
    for process in processes:
        process.told.wait(lambda process=process: len(process.told.ends) >= 300)
        assert sorted(map(str, process.told.ends)) == sorted(map(str, ends))


PROGRAM = """
    import os, sys, time
    from flask_livepush.brokers.logins import Ended, Recheck
    from tests.support.ended import LoginRecorder, new_ends, on_redis
    from tests.support.servers import current_mode
    from tests.support.waiting import DEADLINE, until

    mode, (url, fork) = current_mode(), sys.argv[1:]
    if mode == "gevent":
        import gevent
        spawn = gevent.spawn
    elif mode == "eventlet":
        import eventlet
        spawn = eventlet.spawn
    else:
        from tests.support.brokers import spawn

    def make():
        logins = on_redis(url, prefix=f"p{mode}{fork}", spawn=spawn)
        told = LoginRecorder()
        logins.listen(told)
        return logins, told

    one, told = make()
    ends = new_ends(4)
    if fork == "fork":
        until(one.is_current)
        one.end(ends[:1])
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                assert one.has_ended(ends[0].login)
                until(one.is_current)
                os.write(writer, b"1")
                told.wait(lambda: told.ends == ends[:2])
                one.end(ends[2:3])
                one.recheck([Recheck(user="child")])
                os._exit(0 if one.finish(100) else 1)
            finally:
                os._exit(2)
        os.read(reader, 1)
        one.end(ends[1:2])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        told.wait(lambda: told.ends == ends[:3])
        told.wait(lambda: told.orders == [Recheck(user="child")])
        assert one.is_current()
    else:
        other, heard = make()
        until(lambda: one.is_current() and other.is_current())
        for end in ends:
            one.end([end])
        heard.wait(lambda: heard.ends == ends)
        one.recheck([Recheck(user="7")])
        heard.wait(lambda: heard.orders == [Recheck(user="7")])
        other.confirm()
        assert one.spend("1", 60) and not other.spend("1", 60)
        until(lambda: one.finish(1))
        other.close()
    one.close()
    print("LISTENING 1")
    print("DONE")
"""


@pytest.mark.parametrize("mode", MODES)
def test_works_in_every_async_mode(mode: Mode, redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    with running(program, redis_url, "no", mode=mode) as process:
        process.wait_for("DONE")


def test_a_forked_process_listens_for_itself(redis_url: str, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    with running(program, redis_url, "fork") as process:
        process.wait_for("DONE")


def test_nothing_runs_before_somebody_asks(
    server: RedisServer, start: Callable[..., Process], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    begun: list[object] = []
    one = start(spawn=begun.append)
    (end,) = new_ends(1)
    one.logins.end([end])
    one.logins.recheck([Recheck()])
    assert one.logins.finish(0)
    assert begun == []
    one.logins.has_ended(end.login)
    one.logins.is_current()
    assert len(begun) == 1


def test_what_ended_last_is_written_back_first(
    server: RedisServer, start: Callable[..., Process], prefix: str
) -> None:
    """Others may not have heard of it before Redis lost it."""
    one = start()
    ends = new_ends(3000)
    one.logins.end(ends[:2999])
    one.logins.end(ends[2999:])
    until(lambda: vouches(one))
    server.ask("FLUSHALL")
    until(lambda: Recheck() in one.told.orders and one.logins.is_current())
    found = [login.decode() for login in entries(server, prefix)]
    assert found == [end.login for end in reversed(ends)]


def test_another_server_has_another_epoch(server: RedisServer, prefix: str) -> None:
    """As after a failover, in which nothing that this process has read was lost."""
    ended = asked(server.url, prefix)
    place = ended.read(Place(), listens=False).place
    assert not ended.read(place, listens=False).begun
    server.ask("HSET", Names(prefix).logins.meta, "server", "another")
    found = ended.read(place, listens=False)
    assert found.begun
    assert found.wait > 0
    assert not ended.write(
        [(end, 0.0) for end in new_ends(1)], place=place, listens=False, strict=True
    )
    assert entries(server, prefix) == []
