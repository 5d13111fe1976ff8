"""Redis behind TLS: whom a client believes, and that all goes through it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from flask_livepush.brokers.redis import servers
from flask_livepush.errors import BrokerUnavailable
from flask_livepush.protocol.publication import Draft, Position
from tests.support.brokers import Recorder, on_redis
from tests.support.redis import redis_server, until
from tests.support.servers import unused_port

ROOM = "chat:1"
# redis-py 5.0 leaves a socket to the garbage collector whose TLS can't be begun.
pytestmark = pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)


@dataclass(frozen=True, slots=True)
class Encrypted:
    """A server that speaks TLS, and the files of those who speak to it.

    Args:
        ca: Who has signed its certificate.
        stranger: Who has not.
        client: A certificate and its key, which the same has signed.
    """

    port: int
    ca: Path
    stranger: Path
    client: Path

    def url(self, query: str) -> str:
        """Return its URL."""
        return f"rediss://127.0.0.1:{self.port}?{query}"


def encrypted(folder: Path, *, clients: str) -> Iterator[Encrypted]:
    """Run one; ``clients`` says whether they must show a certificate."""
    authority, stranger = trustme.CA(), trustme.CA()
    server = authority.issue_cert("127.0.0.1")
    server.cert_chain_pems[0].write_to_path(folder / "server.crt")
    server.private_key_pem.write_to_path(folder / "server.key")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    stranger.cert_pem.write_to_path(folder / "stranger.pem")
    client = authority.issue_cert("client@example.org")
    client.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    port = unused_port()
    options = {
        "port": str(port),
        "cert-file": str(folder / "server.crt"),
        "key-file": str(folder / "server.key"),
        "ca-cert-file": str(folder / "ca.pem"),
        "auth-clients": clients,
    }
    words = [w for name, value in options.items() for w in (f"--tls-{name}", value)]
    with redis_server(*words):
        yield Encrypted(
            port, folder / "ca.pem", folder / "stranger.pem", folder / "client.pem"
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Encrypted]:
    yield from encrypted(tmp_path_factory.mktemp("tls"), clients="no")


def check(url: str) -> None:
    """Ask as an application does when it starts."""
    found = servers(url, quick=5.0)
    try:
        found.check()
    finally:
        found.close()


def published(url: str) -> list[str]:
    """Publish, and return what is heard of it, once the history has the same."""
    broker, recorder = on_redis(url), Recorder()
    try:
        broker.listen(recorder)
        broker.subscribe(ROOM)
        broker.confirm(ROOM)
        since = broker.position(ROOM)
        # More than a record of TLS holds, which is 16 KiB.
        texts = [f'"{number:05}{"x" * 5_000}"' for number in range(20)]
        for text in texts[:10]:
            broker.publish(ROOM, [Draft("x", text)])
        broker.publish(ROOM, [Draft("x", text) for text in texts[10:]])
        recorder.wait(lambda: len(recorder.offsets(ROOM)) == 20)
        heard = [p.data for _, _, found in recorder.batches for p in found]
        history = broker.history(ROOM, since)
        assert history.position == Position(since.epoch, 20)
        assert [p.data for p in history.publications or ()] == heard == texts
        return heard
    finally:
        broker.close()


def test_publishes_and_hears_when_the_server_s_authority_is_named(
    server: Encrypted,
) -> None:
    assert len(published(server.url(f"ssl_ca_certs={server.ca}"))) == 20


def test_shows_a_certificate_of_its_own(tmp_path: Path) -> None:
    [*_] = (
        published(
            server.url(
                f"ssl_ca_certs={server.ca}"
                f"&ssl_certfile={server.client}&ssl_keyfile={server.client}"
            )
        )
        for server in encrypted(tmp_path, clients="yes")
    )


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("ssl_ca_certs={stranger}", "certificate verify failed"),
        ("", "certificate verify failed"),
        ("ssl_ca_certs={ca}.not-there", "No such file"),
    ],
)
def test_refuses_a_server_that_it_has_no_reason_to_believe(
    server: Encrypted, query: str, why: str
) -> None:
    files = {"ca": server.ca, "stranger": server.stranger}
    url = server.url(query.format(**files))
    with pytest.raises(BrokerUnavailable, match=f"rediss://.* does not answer.*{why}"):
        check(url)
    broker = on_redis(url)
    with pytest.raises(BrokerUnavailable, match=why):
        broker.publish(ROOM, [Draft("x", "1")])
    broker.close()


def test_says_in_the_log_why_it_can_not_listen(
    server: Encrypted, caplog: pytest.LogCaptureFixture
) -> None:
    broker = on_redis(server.url(f"ssl_ca_certs={server.stranger}"))
    broker.listen(Recorder())
    broker.subscribe(ROOM)
    until(lambda: "certificate verify failed" in caplog.text)
    broker.close()


def test_refuses_a_name_that_the_certificate_does_not_have(server: Encrypted) -> None:
    query = f"ssl_ca_certs={server.ca}"
    url = server.url(query).replace("127.0.0.1", "localhost")
    with pytest.raises(BrokerUnavailable, match=r"[Hh]ostname mismatch"):
        check(f"{url}&ssl_check_hostname=true")
    assert published(f"{url}&ssl_check_hostname=false")


def test_says_so_when_the_server_does_not_speak_tls() -> None:
    with redis_server() as plain:
        url = plain.url.replace("redis://", "rediss://")
        with pytest.raises(BrokerUnavailable, match="does not answer"):
            check(url)
