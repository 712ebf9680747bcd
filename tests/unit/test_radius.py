"""CoA and Disconnect on real UDP sockets, to RADIUS clients that misbehave."""

from __future__ import annotations

import hashlib
import io
import os
import re
import socket
import struct
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
from nsps.domain.outcome import DeliveryError, NoAnswer, Terminal, Transient, Unclear, Unreachable
from nsps.runtime.secrets import SecretValue
from nsps.transport.connection import AddressRefused
from nsps.transport.deadline import Deadline
from nsps.transport.radius import Nas, RadiusClient
from nsps_testing.loopback import loopback_only
from pyrad.dictionary import Dictionary
from pyrad.packet import (
    CoAACK,
    CoANAK,
    CoAPacket,
    CoARequest,
    DisconnectACK,
    DisconnectNAK,
    DisconnectRequest,
)

SECRET = "shared-with-the-nas-4711"
DICTIONARY = Dictionary(
    io.StringIO("""
VENDOR Mikrotik 14988
ATTRIBUTE User-Name 1 string
ATTRIBUTE Framed-IP-Address 8 ipaddr
ATTRIBUTE Session-Timeout 27 integer
ATTRIBUTE Acct-Session-Id 44 string
ATTRIBUTE Mikrotik-Rate-Limit 8 string Mikrotik
""")
)
SESSION: dict[str, str | int] = {"User-Name": "alice", "Acct-Session-Id": "4F2"}
FIRST_WAIT = 0.05

Behaviour = Callable[[CoAPacket], Iterable[bytes]]
"""What is sent back for a request."""


def answering(code: int, cause: int | bytes | None = None, secret: str = SECRET) -> Behaviour:
    """A signed answer, with this Error-Cause."""

    def behave(request: CoAPacket) -> Iterable[bytes]:
        yield signed(request, code, cause, secret)

    return behave


def signed(
    request: CoAPacket, code: int, cause: int | bytes | None = None, secret: str = SECRET
) -> bytes:
    reply = request.CreateReply()
    reply.code, reply.secret = code, secret.encode()
    if cause is not None:
        reply[101] = [struct.pack("!I", cause) if isinstance(cause, int) else cause]
    return bytes(reply.ReplyPacket())


def silent(_request: CoAPacket) -> Iterable[bytes]:
    return ()


@dataclass
class Seen:
    raw: bytes
    source: tuple[str, int]
    packet: CoAPacket


class NasDouble:
    """A RADIUS client on loopback. The n-th datagram (the last one, for all that follow) gets the
    n-th behaviour; one that is not signed with the secret is dropped, as the RFC has it."""

    def __init__(self, *behaviours: Behaviour, secret: str = SECRET) -> None:
        self.seen: list[Seen] = []
        self._behaviours, self._secret = behaviours, secret.encode()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            raw, source = self._socket.recvfrom(4096)
            if not raw:
                return
            packet = CoAPacket(packet=raw, secret=self._secret, dict=DICTIONARY)
            if not packet.VerifyCoARequest():
                continue
            behave = self._behaviours[min(len(self.seen), len(self._behaviours) - 1)]
            self.seen.append(Seen(raw, source, packet))
            for answer in behave(packet):
                self._socket.sendto(answer, source)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(5)
        self._socket.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., NasDouble]]:
    started: list[NasDouble] = []

    def start(*behaviours: Behaviour, secret: str = SECRET) -> NasDouble:
        started.append(NasDouble(*behaviours, secret=secret))
        return started[-1]

    yield start
    for nas in started:
        nas.close()


Serve = Callable[..., NasDouble]


def nas_of(double: NasDouble, secret: str = SECRET) -> Nas:
    return Nas("127.0.0.1", double.port, SecretValue(secret))


def client(first_wait: float = FIRST_WAIT) -> RadiusClient:
    return RadiusClient(DICTIONARY, first_wait=first_wait)


def disconnect(nas: Nas, seconds: float = 5.0, first_wait: float = FIRST_WAIT) -> bool:
    return client(first_wait).disconnect(nas, SESSION, Deadline(seconds))


def error_of(action: Callable[[], object]) -> DeliveryError:
    """The error, whose text and traceback show no secret and no attribute's value."""
    with pytest.raises(DeliveryError) as caught:
        action()
    shown = "".join(traceback.format_exception(caught.value)) + repr(caught.value)
    assert SECRET not in shown and "alice" not in shown
    return caught.value


# --- the packet ----------------------------------------------------------------------------------


def test_a_disconnect_is_signed_twice_and_dated(serve: Serve) -> None:
    nas = serve(answering(DisconnectACK))
    assert disconnect(nas_of(nas)) is True
    [seen] = nas.seen
    assert seen.packet.code == DisconnectRequest
    assert seen.raw[20] == 80 and seen.packet.verify_message_authenticator()
    assert struct.unpack("!I", seen.packet[55][0])[0] == pytest.approx(time.time(), abs=5)
    assert seen.packet["User-Name"] == ["alice"] and seen.packet["Acct-Session-Id"] == ["4F2"]


def test_a_change_carries_what_is_to_hold(serve: Serve) -> None:
    nas = serve(answering(CoAACK))
    wanted: dict[str, str | int] = {"Mikrotik-Rate-Limit": "20M/5M", "Session-Timeout": 3600}
    assert client().change(nas_of(nas), {**SESSION, **wanted}, Deadline(5)) is True
    [seen] = nas.seen
    assert seen.packet.code == CoARequest
    assert {name: seen.packet[name] for name in wanted} == {
        "Mikrotik-Rate-Limit": ["20M/5M"],
        "Session-Timeout": [3600],
    }


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({"No-Such-Attribute": "1"}, "No-Such-Attribute"),
        ({"Session-Timeout": "alice"}, "Session-Timeout does not take its value: it is no integer"),
        ({"Framed-IP-Address": "alice"}, "Framed-IP-Address .* ipaddr"),
        ({"User-Name": "alice" * 60}, "User-Name"),
        ({"Mikrotik-Rate-Limit": "alice" * 50}, "Mikrotik-Rate-Limit"),
        ({"User-Name": ["alice" * 50] * 20}, "do not fit into a packet"),
    ],
)
def test_what_no_packet_can_carry(serve: Serve, attributes: dict[str, str], text: str) -> None:
    nas = serve(silent)
    error = error_of(lambda: client().change(nas_of(nas), attributes, Deadline(5)))
    assert type(error) is Terminal and re.search(text, str(error))
    assert nas.seen == []


# --- answers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cause", "error", "text"),
    [
        (503, None, ""),  # no such session: there is nothing to end
        (507, None, ""),
        (401, Transient, "Unsupported Attribute"),
        (402, Transient, "Missing Attribute"),
        (403, Transient, "NAS Identification Mismatch"),
        (404, Terminal, "Invalid Request"),
        (405, Terminal, "Unsupported Service"),
        (406, Transient, "Unsupported Extension"),
        (407, Terminal, "Invalid Attribute Value"),
        (501, Transient, "Administratively Prohibited"),
        (502, Transient, "Request Not Routable"),
        (504, Transient, "Session Context Not Removable"),
        (505, Transient, "Other Proxy Processing Error"),
        (506, Transient, "Resources Unavailable"),
        (508, Transient, "Multiple Session Selection Unsupported"),
        (999, Transient, "999"),
        (None, Transient, "no cause"),
        (b"", Transient, "no cause"),
        (b"\x01\xf7", Transient, "no cause"),  # 503 in two bytes
    ],
)
def test_a_refusal_is_read_by_its_cause(
    serve: Serve, cause: int | bytes | None, error: type[DeliveryError] | None, text: str
) -> None:
    nas = serve(answering(DisconnectNAK, cause))
    if error is None:
        assert disconnect(nas_of(nas)) is False
    else:
        found = error_of(lambda: disconnect(nas_of(nas)))
        assert type(found) is error and text in str(found)
        assert f"Disconnect-Request to 127.0.0.1:{nas.port}" in str(found)


@pytest.mark.parametrize("code", [CoAACK, CoANAK, DisconnectRequest])
def test_a_signed_answer_to_something_else_says_nothing(serve: Serve, code: int) -> None:
    nas = serve(answering(code))
    assert type(error_of(lambda: disconnect(nas_of(nas)))) is Unclear


def test_a_request_that_was_lost_is_sent_again_unchanged(serve: Serve) -> None:
    nas = serve(silent, silent, answering(DisconnectACK))
    assert disconnect(nas_of(nas)) is True
    assert len({(seen.raw, seen.source) for seen in nas.seen}) == 1 and len(nas.seen) == 3


def test_an_answer_that_comes_after_the_repetition_is_taken(serve: Serve) -> None:
    def late(request: CoAPacket) -> Iterable[bytes]:
        time.sleep(3 * FIRST_WAIT)
        return answering(DisconnectACK)(request)

    assert disconnect(nas_of(serve(late))) is True


def test_an_answer_that_comes_twice_answers_one_request(serve: Serve) -> None:
    def twice(request: CoAPacket) -> Iterable[bytes]:
        return [signed(request, DisconnectACK)] * 2

    nas = serve(twice, answering(DisconnectNAK, 506))
    assert disconnect(nas_of(nas)) is True
    assert type(error_of(lambda: disconnect(nas_of(nas)))) is Transient


def test_no_answer_by_the_deadline(serve: Serve) -> None:
    nas = serve(silent)
    began = time.monotonic()
    error = error_of(lambda: disconnect(nas_of(nas), seconds=0.5))
    assert type(error) is NoAnswer and "no answer within 0.5 s" in str(error)
    assert time.monotonic() - began < 5
    assert 3 <= len(nas.seen) <= 5  # at 0, 0.05, 0.15, 0.35 s


def wrong_authenticator(request: CoAPacket) -> bytes:
    return signed(request, DisconnectACK, secret="another")


def wrong_message_authenticator(request: CoAPacket) -> bytes:
    """Signed as a whole, with a Message-Authenticator that is not."""
    head = struct.pack("!BBH", DisconnectACK, request.id, 20 + 18)
    attributes = bytes([80, 18]) + bytes(16)
    hashed = head + request.authenticator + attributes + SECRET.encode()
    return head + hashlib.md5(hashed).digest() + attributes


def another_id(request: CoAPacket) -> bytes:
    answer = bytearray(signed(request, DisconnectACK))
    answer[1] ^= 1
    return bytes(answer)


@pytest.mark.parametrize(
    "forged",
    [
        wrong_authenticator,
        wrong_message_authenticator,
        another_id,
        lambda request: signed(request, DisconnectACK)[:19],
        lambda request: bytes(request.raw_packet),  # the request itself, reflected
        lambda _request: os.urandom(60),
        lambda _request: b"",
    ],
)
def test_what_is_not_signed_is_no_answer(
    serve: Serve, forged: Callable[[CoAPacket], bytes]
) -> None:
    nas = serve(lambda request: [forged(request)] * 3)
    error = error_of(lambda: disconnect(nas_of(nas), seconds=0.3))
    assert type(error) is NoAnswer and "not signed with the shared secret" in str(error)

    nas = serve(lambda request: [forged(request), signed(request, DisconnectACK)])
    assert disconnect(nas_of(nas)) is True


def test_a_secret_that_the_nas_does_not_share(serve: Serve) -> None:
    nas = serve(answering(DisconnectACK), secret="the-secret-of-before")
    assert type(error_of(lambda: disconnect(nas_of(nas), seconds=0.3))) is NoAnswer
    assert nas.seen == []


# --- nothing was sent ----------------------------------------------------------------------------


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(
    ("nas", "seconds", "error"),
    [
        (("127.0.0.1", 0, SECRET), 5.0, Unreachable),  # no one listens
        (("no-such-host.invalid", 3799, SECRET), 5.0, Unreachable),
        (("169.254.169.254", 3799, SECRET), 5.0, AddressRefused),
        (("127.0.0.1", 3799, ""), 5.0, Transient),
        (("127.0.0.1", 3799, SECRET), 0.0, Transient),
    ],
)
def test_a_request_that_cannot_be_sent(
    nas: tuple[str, int, str], seconds: float, error: type[DeliveryError]
) -> None:
    host, port, secret = nas
    target = Nas(host, port or free_port(), SecretValue(secret))
    with loopback_only():
        found = error_of(lambda: disconnect(target, seconds))
    assert type(found) is error and "nothing was sent" in str(found)


def test_a_nas_that_ends_after_it_got_the_request_may_have_acted(serve: Serve) -> None:
    """The port is closed when the request is repeated: the first one may have arrived."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as nas:
        nas.bind(("127.0.0.1", 0))
        port = int(nas.getsockname()[1])

        def receive_and_end() -> None:
            nas.recv(4096)
            nas.close()

        end = threading.Thread(target=receive_and_end)
        end.start()
        target = Nas("127.0.0.1", port, SecretValue(SECRET))
        assert type(error_of(lambda: disconnect(target))) is NoAnswer
        end.join(5)


def test_requests_of_several_threads_do_not_mix(serve: Serve) -> None:
    def by_name(request: CoAPacket) -> Iterable[bytes]:
        known = request["User-Name"] == ["known"]
        return answering(DisconnectACK if known else DisconnectNAK, None if known else 503)(request)

    nas, shared = nas_of(serve(by_name)), client(first_wait=1.0)

    def ask(number: int) -> bool:
        name = "known" if number % 2 else "unknown"
        return shared.disconnect(nas, {"User-Name": name}, Deadline(5))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, range(200))) == [bool(each % 2) for each in range(200)]
