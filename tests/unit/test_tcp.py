"""Framed requests over kept connections, against servers that misbehave."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from nsps.domain.outcome import NoAnswer, Transient, Unreachable
from nsps.runtime.secrets import SecretValue
from nsps.transport.connection import AddressRefused, Connection
from nsps.transport.deadline import Deadline
from nsps.transport.tcp import BadFrame, TcpPool
from nsps.transport.tls import Tls, tls_context
from nsps_testing.certificates import issued
from nsps_testing.loopback import loopback_only
from nsps_testing.sockets import SocketServer
from nsps_testing.waiting import wait_for

Behaviour = Callable[[socket.socket, bytes], None]
"""What a server does with a request on a connection."""


def framed(text: str) -> bytes:
    body = text.encode()
    return struct.pack(">I", len(body)) + body


def read_frame(connection: Connection) -> str:
    (length,) = struct.unpack(">I", connection.exactly(4))
    if length == 0:
        raise BadFrame("an empty message: check the port")
    return connection.exactly(length).decode()


def answer_of(frame: str) -> str | None:
    return None if frame.startswith("notification") else frame


class Server(SocketServer):
    """The n-th connection (the last one, for all that follow) gets the n-th behaviour."""

    def __init__(self, *behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> None:
        self._behaviours = behaviours
        super().__init__(self._answer, tls)

    def _answer(self, connection: socket.socket) -> None:
        number = self.connections.index(connection)
        behave = self._behaviours[min(number, len(self._behaviours) - 1)]
        while request := connection.recv(65536):
            behave(connection, request)


def echo(connection: socket.socket, request: bytes) -> None:
    connection.sendall(request)


def silent(connection: socket.socket, request: bytes) -> None:
    """No answer."""


def saying(*pieces: bytes) -> Behaviour:
    def behave(connection: socket.socket, request: bytes) -> None:
        for piece in pieces:
            connection.sendall(piece)

    return behave


def hanging_up(*pieces: bytes) -> Behaviour:
    def behave(connection: socket.socket, request: bytes) -> None:
        saying(*pieces)(connection, request)
        connection.shutdown(socket.SHUT_RDWR)

    return behave


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers: list[Server] = []

    def start(*behaviours: Behaviour, tls: ssl.SSLContext | None = None) -> Server:
        servers.append(Server(*behaviours, tls=tls))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


Pools = Callable[..., TcpPool[str]]


@pytest.fixture
def pool() -> Iterator[Pools]:
    pools: list[TcpPool[str]] = []

    def make(port: int, host: str = "127.0.0.1", **options: object) -> TcpPool[str]:
        pools.append(TcpPool("TEST", host, port, read_frame, **options))  # type: ignore[arg-type]
        return pools[-1]

    yield make
    for each in pools:
        each.close()


def ask(pool: TcpPool[str], text: str = "hello", seconds: float = 5.0) -> str:
    return pool.request(framed(text), answer_of, Deadline(seconds))


def wait_for_bytes(pool: TcpPool[str]) -> None:
    """Until something has come on the idle connection, or its end."""
    [idle] = pool._idle
    connection = idle.connection
    connection._sock.settimeout(5)
    connection._sock.recv(1, socket.MSG_PEEK)


class TestWell:
    def test_one_connection_serves_request_after_request(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        server = serve(echo)
        one = pool(server.port)
        assert [ask(one, text) for text in ("a", "b" * 100_000, "c")] == ["a", "b" * 100_000, "c"]
        assert len(server.connections) == 1

    def test_each_thread_s_request_has_a_connection_to_itself(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        together = threading.Barrier(4)

        def slow_echo(connection: socket.socket, request: bytes) -> None:
            together.wait(10)  # until four requests are under way
            connection.sendall(request)

        server = serve(slow_echo)
        one = pool(server.port)
        texts = [f"request {number}" for number in range(32)]
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(lambda text: ask(one, text, 20), texts)) == texts
        assert len(server.connections) == 4

    def test_notifications_and_pieces_before_the_answer(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        whole = framed("notification 1") + framed("notification 2") + framed("done")
        server = serve(saying(*(whole[at : at + 3] for at in range(0, len(whole), 3))))
        assert ask(pool(server.port)) == "done"

    def test_what_comes_between_two_requests_is_kept_in_order(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        notification = framed("notification")
        rest = iter([b"", notification[5:]])

        def behave(connection: socket.socket, request: bytes) -> None:
            connection.sendall(next(rest) + request)

        server = serve(behave)
        one = pool(server.port)
        assert ask(one, "first") == "first"
        server.connections[0].sendall(notification[:5])
        wait_for_bytes(one)
        assert ask(one, "second") == "second"
        assert len(server.connections) == 1

    def test_each_request_has_its_own_deadline(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        now = [0.0]
        one = pool(serve(echo).port)
        for moment in (0.0, 100.0):
            now[0] = moment
            assert one.request(framed("x"), answer_of, Deadline(5, lambda: now[0])) == "x"


class TestNothingWasSent:
    def test_nobody_listens(self, pool: Pools) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        with pytest.raises(Unreachable, match=f"TEST 127.0.0.1:{port} cannot be reached: conn"):
            ask(pool(port))

    def test_a_name_that_is_not_known(self, pool: Pools) -> None:
        with pytest.raises(Unreachable, match=r"host\.invalid:7 .*the name is not known"):
            ask(pool(7, host="host.invalid"))

    @pytest.mark.parametrize("warm", [False, True])
    def test_no_time_is_left(self, serve: Callable[..., Server], pool: Pools, warm: bool) -> None:
        one = pool(serve(echo).port)
        if warm:
            ask(one)
        with pytest.raises(Transient, match="no time left") as error:
            ask(one, seconds=0)
        assert not isinstance(error.value, NoAnswer)


class TestKeptConnections:
    @pytest.mark.parametrize("last", [b"", framed("notification")], ids=["", "last words"])
    def test_one_that_the_server_closed_is_not_used(
        self, serve: Callable[..., Server], pool: Pools, last: bytes
    ) -> None:
        server = serve(echo)
        one = pool(server.port)
        assert ask(one) == "hello"
        server.connections[0].sendall(last)
        server.connections[0].shutdown(socket.SHUT_RDWR)
        wait_for_bytes(one)
        assert ask(one) == "hello"
        assert len(server.connections) == 2

    def test_one_that_was_idle_for_long_is_not_used(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        now = [0.0]
        server = serve(echo)
        one = pool(server.port, clock=lambda: now[0])
        for moment, connections in ((0, 1), (239, 1), (478, 1), (718, 2)):
            now[0] = moment
            ask(one)
            assert len(server.connections) == connections

    def test_one_that_gave_no_answer_in_time_is_thrown_away(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        late = threading.Event()

        def slow(connection: socket.socket, request: bytes) -> None:
            late.wait(10)
            connection.sendall(framed("the late answer"))

        one = pool(serve(slow, echo).port)
        with pytest.raises(NoAnswer, match=r"TEST .* did not answer within 0\.2 s"):
            ask(one, seconds=0.2)
        late.set()
        assert ask(one) == "hello"

    def test_one_that_sent_half_an_answer_is_thrown_away(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        one = pool(serve(hanging_up(framed("half an answer")[:-3]), echo).port)
        with pytest.raises(NoAnswer, match="connection lost: closed by the other side"):
            ask(one)
        assert ask(one) == "hello"

    def test_one_whose_answer_the_caller_cannot_read_is_thrown_away(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        def fails(frame: str) -> str:
            raise ZeroDivisionError

        one = pool(serve(saying(framed("odd") + framed("left over")), echo).port)
        with pytest.raises(ZeroDivisionError):
            one.request(framed("hello"), fails, Deadline(5))
        assert ask(one) == "hello"

    def test_close_ends_them(self, serve: Callable[..., Server], pool: Pools) -> None:
        server = serve(echo)
        one = pool(server.port)
        ask(one)
        one.close()
        assert one._idle == []
        assert ask(one) == "hello" and len(server.connections) == 2


class TestNoAnswer:
    @pytest.mark.parametrize(
        ("sent", "words"),
        [
            (framed(""), "an empty message: check the port"),
            (b"\xff" * 100, "a message of 4294967295 bytes"),
        ],
        ids=["empty", "endless"],
    )
    def test_what_is_not_the_protocol(
        self, serve: Callable[..., Server], pool: Pools, sent: bytes, words: str
    ) -> None:
        server = serve(saying(sent))
        with pytest.raises(NoAnswer, match=f"TEST 127.0.0.1:{server.port}.*{words}"):
            ask(pool(server.port))

    def test_notifications_without_end(self, serve: Callable[..., Server], pool: Pools) -> None:
        server = serve(saying(framed("notification") * 2000))
        with pytest.raises(NoAnswer, match="messages without end"):
            ask(pool(server.port))

    def test_dripping_bytes_do_not_stretch_the_deadline(
        self, serve: Callable[..., Server], pool: Pools
    ) -> None:
        stopped = threading.Event()

        def drip(connection: socket.socket, request: bytes) -> None:
            for byte in framed("x" * 1000):
                connection.sendall(bytes([byte]))
                if stopped.wait(0.05):
                    return

        began = time.monotonic()
        with pytest.raises(NoAnswer, match="did not answer"):
            ask(pool(serve(drip).port), seconds=0.4)
        stopped.set()
        assert time.monotonic() - began < 10

    def test_a_server_that_does_not_read(self, pool: Pools) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            one = pool(listener.getsockname()[1])
            with pytest.raises(NoAnswer):
                ask(one, "x" * 50_000_000, seconds=0.5)


CERTIFICATE = issued("localhost")


def trusting(authority: str | None) -> Tls:
    return Tls(
        lambda _: SecretValue(authority or ""), lambda name: name == "ca" and bool(authority)
    )


class TestTls:
    def test_the_connection_is_kept_and_its_end_noticed(
        self, serve: Callable[..., Server], pool: Pools, tmp_path: Path
    ) -> None:
        server = serve(echo, tls=CERTIFICATE.server_side(tmp_path))
        client = trusting(CERTIFICATE.cert_pem)
        one = pool(server.port, host="localhost", tls=client)
        assert [ask(one), ask(one)] == ["hello", "hello"]
        assert len(server.connections) == 1
        server.connections[0].shutdown(socket.SHUT_RDWR)
        wait_for(lambda: not one._idle[0].connection.is_open())
        assert ask(one) == "hello"
        assert len(server.connections) == 2

    @pytest.mark.parametrize(("host", "trusted"), [("localhost", False), ("127.0.0.1", True)])
    def test_a_certificate_that_is_not_the_server_s_is_refused(
        self, serve: Callable[..., Server], pool: Pools, tmp_path: Path,
        host: str, trusted: bool,
    ) -> None:  # fmt: skip
        server = serve(echo, tls=CERTIFICATE.server_side(tmp_path))
        client = trusting(CERTIFICATE.cert_pem if trusted else None)
        with pytest.raises(Unreachable, match="certificate refused"):
            ask(pool(server.port, host=host, tls=client))

    def test_a_server_that_does_not_finish_the_handshake(self, pool: Pools) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            began = time.monotonic()
            with pytest.raises(Unreachable, match="timed out"):
                ask(pool(listener.getsockname()[1], tls=trusting(None)), seconds=0.3)
            assert time.monotonic() - began < 10

    @pytest.mark.parametrize("wrong", ["", "no certificate", "\x00"])
    def test_an_authority_that_is_no_certificate(self, wrong: str) -> None:
        with pytest.raises(Transient, match="the secret ca"):
            tls_context(SecretValue(wrong))


def test_a_metadata_server_is_never_called() -> None:
    pool = TcpPool("TEST", "169.254.169.254", 9, read_frame)
    with loopback_only(), pytest.raises(AddressRefused, match="never called"):
        pool.request(b"x", answer_of, Deadline(1))
