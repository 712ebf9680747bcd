"""HTTP calls against servers that misbehave: in time, and sure whether anything was sent."""

from __future__ import annotations

import gzip
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from nsps.domain.outcome import NoAnswer, Transient
from nsps.transport.connection import AddressRefused, resolve
from nsps.transport.deadline import Deadline
from nsps.transport.http import MAX_ANSWER_BYTES, Answer, AnswerTooLarge, Http
from nsps_testing.loopback import loopback_only
from nsps_testing.sockets import SocketServer

Behaviour = Callable[[socket.socket], None]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Server(SocketServer):
    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/path?token=hunter2"


@pytest.fixture
def serve() -> Iterator[Callable[[Behaviour], Server]]:
    servers: list[Server] = []

    def start(behave: Behaviour) -> Server:
        servers.append(Server(behave))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def answer(*pieces: bytes, pause: float = 0.0) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        while connection.recv(65536):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)

    return behave


def once(last: bytes) -> Behaviour:
    def behave(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(last)

    return behave


def reset(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def drip(text: bytes) -> Behaviour:
    return answer(*(bytes([byte]) for byte in text), pause=0.05)


def test_an_answer_of_any_status(serve: Any) -> None:
    for status in (200, 204, 302, 404, 500):
        server = serve(once(b"HTTP/1.1 %d X\r\nX-A: b\r\nContent-Length: 0\r\n\r\n" % status))
        got = Http().request("GET", server.url, deadline=Deadline(5))
        assert (got.status, got.headers["x-a"], got.ok) == (status, "b", status < 300)
        assert got.url == f"http://127.0.0.1:{server.port}/path"


@pytest.mark.parametrize(
    "behave",
    [
        silent,
        drip(b"HTTP/1.1 200 OK\r\nX-A: " + b"a" * 500),
        drip(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + b"a" * 500),
        drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 100),
    ],
)
def test_the_deadline_bounds_the_whole_call(serve: Any, behave: Behaviour) -> None:
    started = time.monotonic()
    with pytest.raises(NoAnswer, match=r"no answer within 0.5 s"):
        Http().request("POST", serve(behave).url, deadline=Deadline(0.5))
    assert time.monotonic() - started < 10, "25 s without a deadline for the whole"


def test_a_tls_handshake_and_a_queue_without_end_are_bounded_too(serve: Any) -> None:
    started = time.monotonic()
    with pytest.raises(Transient) as raised:
        url = f"https://127.0.0.1:{serve(silent).port}/"
        Http().request("GET", url, deadline=Deadline(0.5))
    assert not isinstance(raised.value, NoAnswer)
    assert time.monotonic() - started < 10, "25 s without a deadline for the whole"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:1/a?token=hunter2", "connection refused"),
        ("http://user:hunter2@127.0.0.1:1/", "connection refused"),
        ("http://name.invalid/", "the name is not known"),
        ("ftp://127.0.0.1/", "not a web address"),
        ("nonsense hunter2", "not a web address"),
        ("http://[::1/hunter2", "not a web address"),
    ],
)
def test_what_was_never_sent_is_transient(url: str, words: str) -> None:
    with pytest.raises(Transient, match=words) as raised:
        Http().request("GET", url, deadline=Deadline(5))
    assert isinstance(raised.value, Transient) and not isinstance(raised.value, NoAnswer)
    assert "hunter2" not in str(raised.value)


def test_nothing_is_sent_after_the_deadline(serve: Any) -> None:
    server = serve(answer(OK))
    with pytest.raises(Transient, match="no time left"):
        Http().request("GET", server.url, deadline=Deadline(0))
    assert len(server.connections) == 0


@pytest.mark.parametrize(
    "behave",
    [
        reset,
        once(b""),
        once(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc"),
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"),
        once(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
        once(b"SSH-2.0-OpenSSH_9.2\r\n"),
        once(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc"),
    ],
)
def test_what_was_sent_without_a_whole_answer_is_no_answer(serve: Any, behave: Behaviour) -> None:
    with pytest.raises(NoAnswer) as raised:
        Http().request("POST", serve(behave).url, deadline=Deadline(5), json={"a": 1})
    assert "hunter2" not in str(raised.value)


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_is_limited_as_unpacked(
    serve: Any, packed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = b"a" * (MAX_ANSWER_BYTES + 1)
    sent = gzip.compress(body) if packed else body
    head = b"Content-Encoding: gzip\r\n" if packed else b""
    server = serve(
        once(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (head, len(sent)) + sent)
    )
    with pytest.raises(AnswerTooLarge):
        Http().request("GET", server.url, deadline=Deadline(5))
    monkeypatch.setattr("nsps.transport.http.MAX_ANSWER_BYTES", len(body))
    assert Http().request("GET", server.url, deadline=Deadline(5)).body == body


def test_connections_are_kept_and_shared_by_threads(serve: Any) -> None:
    server = serve(answer(OK))
    http = Http(threads=4)
    with ThreadPoolExecutor(4) as pool:
        calls = [
            pool.submit(http.request, "GET", server.url, deadline=Deadline(5)) for _ in range(40)
        ]
        assert {call.result().status for call in calls} == {200}
    assert len(server.connections) <= 4


def test_a_dead_kept_connection_is_replaced_once_where_repeating_is_harmless(serve: Any) -> None:
    def one_answer_then_close_on_use(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(OK)
        connection.recv(65536)

    server = serve(one_answer_then_close_on_use)
    http = Http()
    for _ in range(3):
        assert http.request("PUT", server.url, deadline=Deadline(5), idempotent=True).ok
    assert len(server.connections) == 3
    with pytest.raises(NoAnswer, match="closed without an answer"):
        http.request("POST", server.url, deadline=Deadline(5))


def test_a_fresh_connection_is_not_tried_twice(serve: Any) -> None:
    server = serve(reset)
    with pytest.raises(NoAnswer):
        Http().request("PUT", server.url, deadline=Deadline(5), idempotent=True)
    assert len(server.connections) == 1


def test_redirects_are_not_followed(serve: Any) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    assert Http().request("GET", serve(once(moved)).url, deadline=Deadline(5)).status == 302


def test_cookies_are_not_kept(serve: Any) -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        while data := connection.recv(65536):
            seen.append(data)
            connection.sendall(OK.replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"))

    http, server = Http(), serve(behave)
    for _ in range(2):
        http.request("GET", server.url, deadline=Deadline(5))
    assert len(seen) == 2
    assert b"Cookie" not in seen[1]


@pytest.mark.parametrize(
    "host",
    ["169.254.169.254", "2852039166", "0xa9.0xfea9fe", "[fe80::1]", "[fd20:ce::254]",
     "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[2002:a9fe:a9fe::]"],
)  # fmt: skip
def test_a_metadata_server_is_never_called(host: str) -> None:
    with loopback_only(), pytest.raises(AddressRefused, match="never called"):
        Http().request("GET", f"http://{host}:9/", deadline=Deadline(5))


def test_who_wants_the_metadata_server_may_call_it() -> None:
    assert resolve("169.254.169.254", 80, 1.0, metadata_server=True)


def test_the_address_that_was_checked_is_the_one_that_is_called(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DNS rebinding: the second look-up would give another address, and there is none."""
    server = serve(answer(OK))
    asked: list[str] = []

    def look_up(host: str, port: int, *_: Any) -> list[Any]:
        asked.append(host)
        address = "127.0.0.1" if len(asked) == 1 else "169.254.169.254"
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    url = f"http://rebinding.example:{server.port}/"
    assert Http().request("GET", url, deadline=Deadline(5)).ok
    assert asked == ["rebinding.example"]
    with loopback_only(), pytest.raises(AddressRefused):
        Http().request("GET", url, deadline=Deadline(5))


def test_of_several_addresses_those_that_may_be_called_are(
    serve: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(answer(OK))
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda _host, port, *_: [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in ("169.254.169.254", "127.0.0.1")
        ],
    )
    url = f"http://several.example:{server.port}/"
    with loopback_only():
        assert Http().request("GET", url, deadline=Deadline(5)).ok


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0), ("", None), ("soon", None), ("-1", None),
        ("Sat, 21 Nov 2026 02:10:33 GMT", 30.0),
        ("Sat, 21 Nov 2026 02:00:00 GMT", 0.0), ("9" * 400, 999999999.0), ("²", None),
    ],
)  # fmt: skip
def test_retry_after(text: str, seconds: float | None) -> None:
    now = datetime(2026, 11, 21, 2, 10, 3, tzinfo=UTC)
    assert Answer(503, {"retry-after": text}, b"").retry_after(lambda: now) == seconds


def test_an_answer_that_is_not_json_is_no_answer() -> None:
    with pytest.raises(NoAnswer, match=r"the answer is not JSON \(HTTP 200, text/html\)"):
        Answer(200, {"content-type": "text/html; charset=x"}, b"<html>", "http://h/p").json()
    assert Answer(200, {}, b'{"a": 1}').json() == {"a": 1}


def test_a_deadline_counts_on_its_clock() -> None:
    now = [100.0]
    deadline = Deadline(10, lambda: now[0])
    part = deadline.at_most(3)
    now[0] += 4
    assert deadline.remaining() == 6
    assert part.expired
    now[0] += 60
    assert deadline.remaining() == 0.0


@pytest.mark.parametrize(
    ("query", "given", "line", "headers", "body"),
    [
        ("", {}, "GET /path HTTP/1.1", {"accept": "*/*", "user-agent": "NSPS"}, ""),
        ("?a=b c", {"params": {"n": [1, 2], "none": None, "t": "ü&"}}, "GET /path?a=b%20c&n=1&n=2"
         "&t=%C3%BC%26 HTTP/1.1", {}, ""),
        ("#part", {"json": {"a": "ü"}}, "GET /path HTTP/1.1",
         {"content-type": "application/json", "content-length": "15"}, '{"a": "\\u00fc"}'),
        ("", {"data": "ü", "headers": {"ACCEPT": "text/xml", "x-empty": ""}}, "GET /path HTTP/1.1",
         {"accept": "text/xml", "x-empty": "", "content-length": "2"}, "ü"),
        ("", {"data": {"a": "ü", "b": [1, 2], "c": None}}, "GET /path HTTP/1.1",
         {"content-type": "application/x-www-form-urlencoded"}, "a=%C3%BC&b=1&b=2"),
        ("", {"json": {}, "headers": {"Content-Type": "application/x"}}, "GET /path HTTP/1.1",
         {"content-type": "application/x"}, "{}"),
    ],
)  # fmt: skip
def test_what_is_sent(
    serve: Any, query: str, given: Any, line: str, headers: dict[str, str], body: str
) -> None:
    seen: list[bytes] = []

    def behave(connection: socket.socket) -> None:
        seen.append(connection.recv(65536))
        while body and not seen[0].endswith(body.encode()):
            seen[0] += connection.recv(65536)
        connection.sendall(OK)

    url = f"http://127.0.0.1:{serve(behave).port}/path{query}"
    Http().request("GET", url, deadline=Deadline(5), **given)
    head, _, rest = seen[0].decode().partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    sent = [each.partition(": ")[::2] for each in lines]
    assert (first, rest) == (line, body)
    for name, value in headers.items():
        assert [found for each, found in sent if each.lower() == name] == [value]


@pytest.mark.parametrize(
    "given",
    [
        {"headers": {"X-A": "hunter2\r\nX-B: c"}},
        {"headers": {"X-A": " hunter2"}},
        {"headers": {"X\nhunter2": "b"}},
        {"json": {"hunter2": float("nan")}},
    ],
)
def test_what_http_cannot_carry_is_refused_before_a_connection_is_made(
    serve: Any, given: Any
) -> None:
    server = serve(answer(OK))
    with pytest.raises(Transient) as raised:
        Http().request("POST", server.url, deadline=Deadline(5), **given)
    assert not isinstance(raised.value, NoAnswer) and "hunter2" not in str(raised.value)
    assert len(server.connections) == 0
