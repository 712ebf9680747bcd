"""The systems that misbehave on request, by which all connectors are judged."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import requests
from nsps_testing.faults import ChaosProxy, Reply, ScriptedHttp
from nsps_testing.sockets import SocketServer


class Echo(SocketServer):
    """A server that greets nobody and answers each line with the same line."""

    def __init__(self) -> None:
        self.received: list[bytes] = []
        super().__init__(self._answer)

    def _answer(self, connection: socket.socket) -> None:
        while line := connection.recv(1024):
            self.received.append(line)
            connection.sendall(line)


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        yield server


@pytest.fixture
def proxy(echo: Echo) -> Iterator[ChaosProxy]:
    with ChaosProxy(echo.address) as made:
        yield made


@pytest.mark.parametrize("url", ["https://127.0.0.1:8080", "127.0.0.1:8080", "http://:8080"])
def test_a_url_that_it_cannot_stand_before_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="write http://"):
        ChaosProxy.before(url)


def connect(proxy: ChaosProxy) -> socket.socket:
    return socket.create_connection(proxy.address, timeout=5)


def ask(connection: socket.socket, line: bytes) -> bytes:
    connection.sendall(line)
    return connection.recv(1024)


def test_it_passes_everything(proxy: ChaosProxy) -> None:
    with connect(proxy) as one, connect(proxy) as other:
        assert [ask(one, b"a"), ask(other, b"b"), ask(one, b"c")] == [b"a", b"b", b"c"]
    assert proxy.turns == 3 and not proxy.cut


def test_its_answers_come_later(proxy: ChaosProxy) -> None:
    with connect(proxy) as connection:
        for seconds, slow in ((0.0, False), (0.3, True), (0.0, False)):
            proxy.slow(seconds)
            began = time.monotonic()
            assert ask(connection, b"a") == b"a"
            assert (time.monotonic() - began >= 0.3) is slow


def test_it_hangs_and_goes_on_where_it_stopped(proxy: ChaosProxy, echo: Echo) -> None:
    with connect(proxy) as old:
        ask(old, b"a")
        proxy.hang()
        with connect(proxy) as new:
            for connection in (old, new):
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    ask(connection, b"b")
            assert echo.received == [b"a"]
            proxy.pass_all()
            for connection in (old, new):
                connection.settimeout(5)
                assert connection.recv(1024) == b"b"


def test_it_hangs_from_a_request_on(proxy: ChaosProxy, echo: Echo) -> None:
    proxy.hang_at(2)
    with connect(proxy) as connection:
        assert ask(connection, b"a") == b"a"
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            ask(connection, b"b")
        assert echo.received == [b"a"]
        proxy.pass_all()
        connection.settimeout(5)
        assert connection.recv(1024) == b"b"


def test_it_resets_open_and_new_connections(proxy: ChaosProxy) -> None:
    with connect(proxy) as old:
        ask(old, b"a")
        proxy.reset()
        with pytest.raises(ConnectionError):
            ask(old, b"b")
        with pytest.raises(ConnectionError), connect(proxy) as new:
            ask(new, b"b")
            ask(new, b"b")
    proxy.pass_all()
    with connect(proxy) as again:
        assert ask(again, b"c") == b"c"


def test_it_refuses_and_listens_again_at_the_same_address(proxy: ChaosProxy) -> None:
    address = proxy.address
    with connect(proxy) as old:
        ask(old, b"a")
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        with pytest.raises(ConnectionError):
            ask(old, b"b")
    proxy.pass_all()
    assert proxy.address == address
    with connect(proxy) as again:
        assert ask(again, b"c") == b"c"


def test_it_drops_connections_and_goes_on(proxy: ChaosProxy) -> None:
    with connect(proxy) as old:
        ask(old, b"a")
        proxy.drop_connections()
        with pytest.raises(ConnectionError):
            ask(old, b"b")
    with connect(proxy) as new:
        assert ask(new, b"c") == b"c"


def test_a_lost_request_never_arrives(proxy: ChaosProxy, echo: Echo) -> None:
    proxy.lose_request(2)
    with connect(proxy) as connection:
        assert ask(connection, b"a") == b"a"
        with pytest.raises(ConnectionResetError):
            ask(connection, b"b")
    assert proxy.cut and echo.received == [b"a"]
    with connect(proxy) as next_one:  # once is once
        assert ask(next_one, b"c") == b"c"


@pytest.mark.parametrize("let_through", [0, 3])
def test_a_lost_answer_was_given(proxy: ChaosProxy, echo: Echo, let_through: int) -> None:
    proxy.lose_answer(2, let_through)
    with connect(proxy) as connection:
        ask(connection, b"a")
        connection.sendall(b"bcdef")
        came = b""
        with pytest.raises(ConnectionResetError):
            while data := connection.recv(1024):
                came += data
    assert b"bcdef".startswith(came) and len(came) <= let_through
    assert proxy.cut and echo.received == [b"a", b"bcdef"]


def test_turns_are_counted_over_all_connections(proxy: ChaosProxy) -> None:
    proxy.lose_request(3)
    with connect(proxy) as one, connect(proxy) as other:
        assert ask(one, b"a") + ask(other, b"b") == b"ab"
        with pytest.raises(ConnectionResetError):
            ask(one, b"c")
        assert ask(other, b"d") == b"d"


def test_nothing_is_left_running(echo: Echo) -> None:
    before = threading.active_count()
    for _ in range(5):
        with ChaosProxy(echo.address) as made, connect(made) as connection:
            ask(connection, b"a")
            made.hang()
    end = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_scripted_replies_come_first_and_requests_are_kept() -> None:
    with ScriptedHttp(lambda seen: Reply(200, {"path": seen.path})) as system:
        system.script(Reply(503, "busy", headers={"Retry-After": "3"}), Reply(201, b"\x00"))
        answers = [requests.post(f"{system.url}/a?b=1", json={"n": n}, timeout=5) for n in range(3)]
    assert [answer.status_code for answer in answers] == [503, 201, 200]
    assert answers[0].text == "busy" and answers[0].headers["Retry-After"] == "3"
    assert answers[1].content == b"\x00" and answers[2].json() == {"path": "/a?b=1"}
    assert [seen.json() for seen in system.requests] == [{"n": 0}, {"n": 1}, {"n": 2}]
    assert {seen.method for seen in system.requests} == {"POST"}


@pytest.mark.parametrize("fault", ["close", "reset"])
def test_a_fault_instead_of_an_answer(fault: str) -> None:
    with ScriptedHttp() as system:
        system.always(Reply(fault=fault))  # type: ignore[arg-type]
        with pytest.raises(requests.ConnectionError):
            requests.get(system.url, timeout=5)


def test_an_answer_that_hangs_ends_with_the_system() -> None:
    with ScriptedHttp(Reply(fault="hang")) as system, pytest.raises(requests.Timeout):
        requests.get(system.url, timeout=0.3)
