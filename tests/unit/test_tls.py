"""Mutual TLS: real servers on loopback that demand a client certificate, over HTTP and frames."""

from __future__ import annotations

import json
import socket
import ssl
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from nsps.domain.outcome import NoAnswer, Transient
from nsps.runtime.secrets import SecretValue
from nsps.transport.call import Call
from nsps.transport.connection import Connection
from nsps.transport.deadline import Deadline
from nsps.transport.http import Answer, Http
from nsps.transport.rest import NoAuthentication, Rest
from nsps.transport.tcp import TcpPool
from nsps.transport.tls import AUTHORITY, CLIENT_CERTIFICATE, Tls, TlsRefused
from nsps_testing.certificates import NOW, issued
from nsps_testing.sockets import SocketServer

DAY = timedelta(days=1)
AUTHORITY_OF_TEST = issued("authority")
SERVER = issued("server", AUTHORITY_OF_TEST)
OURS, RENEWED = issued("ours", AUTHORITY_OF_TEST), issued("renewed", AUTHORITY_OF_TEST)
STRANGER = issued("stranger", issued("another authority"))
EXPIRED = issued("expired", AUTHORITY_OF_TEST, NOW - 2 * DAY, NOW - DAY)
EARLY = issued("early", AUTHORITY_OF_TEST, NOW + DAY, NOW + 2 * DAY)


class Server(SocketServer):
    """Demands a certificate of the authority, and answers each request with whose it was."""

    def __init__(self, folder: Path, version: ssl.TLSVersion, http: bool) -> None:
        self._context = SERVER.server_side(folder, AUTHORITY_OF_TEST)
        self._context.minimum_version = self._context.maximum_version = version
        self._http = http
        self.trusted: list[socket.socket] = []
        self.requests = 0
        super().__init__(self._answer)

    def _answer(self, raw: socket.socket) -> None:
        connection = self._context.wrap_socket(raw, server_side=True, do_handshake_on_connect=False)
        with connection:
            try:
                connection.do_handshake()
            except OSError:  # the alert is sent; an answer to what came meanwhile would reset it
                socket.socket.shutdown(connection, socket.SHUT_WR)
                while socket.socket.recv(connection, 65536):
                    pass
                return
            self.trusted.append(connection)
            shown: Any = connection.getpeercert()
            name = shown["subject"][0][0][1]
            while connection.recv(65536):
                self.requests += 1
                body = json.dumps({"name": name})
                head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
                connection.sendall(f"{head}{body}".encode() if self._http else f"{name}\n".encode())


class Handler:
    """A handler's secrets, and a client of the server made of them."""

    def __init__(self, server: Server, http: bool) -> None:
        self.secrets = {AUTHORITY: AUTHORITY_OF_TEST.cert_pem, CLIENT_CERTIFICATE: OURS.pem}
        self.newest: dict[str, str] = {}
        """What a secret turns out to be when it is read again."""
        self.now = NOW
        self.tls = Tls(self.secret, self.secrets.__contains__, self.refresh, lambda: self.now)
        self.http = Http(tls=self.tls)
        self._port, self._over_http = server.port, http
        self._pool = TcpPool("TEST", "localhost", server.port, _line, tls=self.tls)

    def secret(self, name: str) -> SecretValue:
        return SecretValue(self.secrets[name], f"sm://acme-{name}")

    def refresh(self, name: str) -> SecretValue:
        self.secrets.update(self.newest)
        return self.secret(name)

    def ask(self) -> str:
        """The name in the certificate that the server saw."""
        if not self._over_http:
            return self._pool.request(b"who am I\n", str, Deadline(10))
        url = f"https://localhost:{self._port}/who"
        return str(self.http.request("GET", url, deadline=Deadline(10)).json()["name"])

    def close(self) -> None:
        self.http.close()
        self._pool.close()


def _line(connection: Connection) -> str:
    line = connection.readline(1000)
    if not line:
        raise ConnectionError("closed")
    return line.decode().strip()


@pytest.fixture(params=["http", "tcp"])
def http(request: pytest.FixtureRequest) -> bool:
    return str(request.param) == "http"


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
def server(request: pytest.FixtureRequest, tmp_path: Path, http: bool) -> Iterator[Server]:
    server = Server(tmp_path, request.param, http)
    yield server
    server.close()


@pytest.fixture
def handler(server: Server, http: bool) -> Iterator[Handler]:
    handler = Handler(server, http)
    yield handler
    handler.close()


def test_the_certificate_is_shown_and_the_connection_kept(handler: Handler, server: Server) -> None:
    assert [handler.ask(), handler.ask()] == ["ours", "ours"]
    assert len(server.trusted) == 1


def test_a_renewed_certificate_counts_at_the_next_request(handler: Handler, server: Server) -> None:
    before = handler.ask()
    handler.secrets[CLIENT_CERTIFICATE] = RENEWED.pem
    assert [before, handler.ask(), handler.ask()] == ["ours", "renewed", "renewed"]
    assert len(server.trusted) == 2


@pytest.mark.parametrize("shown", [STRANGER.pem, None], ids=["stranger", "none"])
def test_a_certificate_that_the_system_does_not_take(
    handler: Handler, server: Server, shown: str | None
) -> None:
    handler.secrets.pop(CLIENT_CERTIFICATE)
    handler.secrets.update({CLIENT_CERTIFICATE: shown} if shown else {})
    with pytest.raises(Transient, match=f"secret {CLIENT_CERTIFICATE}|HANDSHAKE_FAILURE") as raised:
        handler.ask()
    assert not isinstance(raised.value, NoAnswer), "the system did nothing"
    assert f"localhost:{server.port}" in str(raised.value)
    assert server.requests == 0


@pytest.mark.parametrize("refused", [CLIENT_CERTIFICATE, AUTHORITY])
def test_what_is_refused_is_read_again_at_once(
    handler: Handler, server: Server, refused: str
) -> None:
    """Ours, by the system; and the system's, by us."""
    handler.newest = {refused: handler.secrets[refused]}
    handler.secrets[refused] = STRANGER.pem
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(lambda _: handler.ask(), range(4))) == ["ours"] * 4
    assert server.requests == 4


def test_the_system_s_certificate_is_of_no_known_authority(handler: Handler) -> None:
    handler.secrets.pop(AUTHORITY)
    with pytest.raises(
        TlsRefused, match=r"certificate refused .*: is its authority the secret ca\?"
    ):
        handler.ask()


PASSPHRASE = OURS.cert_pem + OURS.key_pem("secret")
UNUSABLE = [
    ("", "holds no certificate in PEM form"),
    (OURS.key_pem(), "holds no certificate in PEM form"),
    (OURS.cert_pem, "holds no private key in PEM form"),
    (OURS.cert_pem + OURS.key_pem()[:-60], "holds no private key in PEM form"),
    (OURS.cert_pem + RENEWED.key_pem(), "its private key is not that of its first certificate"),
    (PASSPHRASE, "its private key has a passphrase"),
    (EXPIRED.pem, f"expired on {EXPIRED.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"),
    (EARLY.pem, f"is not valid before {EARLY.certificate.not_valid_before_utc:%Y-%m-%d}"),
]


@pytest.mark.parametrize("server", [ssl.TLSVersion.TLSv1_3], indirect=True)
@pytest.mark.parametrize(("secret", "what"), UNUSABLE)
def test_a_secret_that_cannot_be_used(
    handler: Handler, server: Server, secret: str, what: str
) -> None:
    """It is named with what is wrong; its text is not; and it counts once it is corrected."""
    handler.secrets[CLIENT_CERTIFICATE] = secret
    with pytest.raises(Transient, match=rf"secret client_certificate \(sm://acme-.*\) {what}.*: "
    ) as raised:  # fmt: skip
        handler.ask()
    assert not {line for line in secret.splitlines() if line in str(raised.value)}
    assert server.trusted == []
    handler.newest = {CLIENT_CERTIFICATE: OURS.pem}
    assert handler.ask() == "ours"


@pytest.mark.parametrize("server", [ssl.TLSVersion.TLSv1_3], indirect=True)
def test_a_certificate_that_expires_while_it_is_in_use(handler: Handler) -> None:
    assert handler.ask() == "ours"
    handler.now = OURS.certificate.not_valid_after_utc
    with pytest.raises(Transient, match="expired on"):
        handler.ask()


def test_the_key_is_in_no_file_for_longer_than_openssl_reads_it(
    handler: Handler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    seen: list[int] = []
    load = ssl.SSLContext.load_cert_chain

    def spied(context: ssl.SSLContext, file: str) -> None:
        seen.append(stat.S_IMODE(Path(file).stat().st_mode))
        assert Path(file).parent == folder
        load(context, file)

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", spied)
    assert handler.ask() == "ours"
    assert seen == [0o600]
    assert list(folder.iterdir()) == []


class Answers:
    """An Http that gives these answers, with certificates that are renewed when asked to."""

    def __init__(self, *answers: Any) -> None:
        self._answers, self.renewals = list(answers), 0

    def request(self, *_given: Any, **_named: Any) -> Any:
        return self._answers.pop(0)

    def renew_certificates(self) -> bool:
        self.renewals += 1
        return True


NGINX = b"<html>\r\n<head><title>400 The SSL certificate error</title></head>"


@pytest.mark.parametrize(("status", "body"), [(400, NGINX), (496, b""), (401, b"{}")])
def test_a_proxy_that_refuses_the_certificate_in_its_answer(status: int, body: bytes) -> None:
    answers = Answers(Answer(status, {}, body), Answer(200, {}, b"{}"))
    http: Any = answers
    Rest(http, "https://api", NoAuthentication()).change("x", Call(Deadline(9), "r"), {})
    assert answers.renewals == 1
