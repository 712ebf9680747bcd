"""Mail handed over to a server whose replies the tests decide, and what the replies mean.

How the notification connector uses it is in tests/connectors; a real server in tests/systems.
"""

from __future__ import annotations

import base64
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unreachable
from nsps.runtime.secrets import SecretValue
from nsps.transport.deadline import Deadline
from nsps.transport.smtp import Envelope, SmtpServer, SmtpSettings, speaks_of_the_mail
from nsps_testing.sockets import SocketServer
from nsps_testing.standard import make_context, rotated_parts

ANN, BOB, EVE = "ann@example.net", "bob@example.net", "eve@example.net"


class Server(SocketServer):
    """A mail server. ``replies``: the first words of a command -> its reply, or None: silence."""

    def __init__(self, replies: dict[str, str | None]) -> None:
        self.replies: dict[str, str | None] = {
            "connect": "220 hi",
            "EHLO": "250 hi",
            "DATA": "354 go",
            ".": "250 2.0.0 queued as 4711",
            **replies,
        }
        self.commands: list[str] = []
        super().__init__(self._serve_mail)

    def _serve_mail(self, connection: socket.socket) -> None:
        with connection.makefile("rwb") as stream:
            self.converse(stream)

    def converse(self, stream: Any) -> None:
        self.reply(stream, "connect")
        mail = False
        while line := stream.readline():
            text = line.decode().rstrip("\r\n")
            if mail and text != ".":
                continue
            self.commands.append(text)
            mail = text == "DATA" and (self.replies["DATA"] or "").startswith("354")
            self.reply(stream, text)

    def reply(self, stream: Any, command: str) -> None:
        found = [each for each in self.replies if command.upper().startswith(each.upper())]
        reply = self.replies[max(found, key=len)] if found else "250 ok"
        if reply is not None:
            stream.write(f"{reply}\r\n".encode())
            stream.flush()


@contextmanager
def serving(replies: dict[str, str | None]) -> Iterator[Server]:
    with Server(replies) as server:
        yield server


def smtp(port: int, host: str = "127.0.0.1", **secrets: str) -> SmtpServer:
    settings = SmtpSettings(host=host, port=port, security="none")

    def secret(name: str, *, again: bool = False) -> SecretValue | None:
        return SecretValue(secrets[name]) if name in secrets else None

    return SmtpServer(settings, "nsps@example.net", secret)


def envelope(*to: str) -> Envelope:
    return Envelope("nsps@example.net", to or (ANN,), b"Subject: x\n\nHello.\n")


class TestRecipients:
    def test_each_that_is_refused_for_good_is_named_and_the_others_get_it(self) -> None:
        refusals: dict[str, str | None] = {
            f"RCPT TO:<{BOB}>": f"550 5.1.1 <{BOB}>: unknown",
            f"RCPT TO:<{EVE}>": "552 5.2.2 mailbox full",
        }
        with serving(refusals) as server:
            handed = smtp(server.port).send(envelope(BOB, ANN, EVE), Deadline(5))
        assert handed.reply == "250 2.0.0 queued as 4711"
        where = f"mail server 127.0.0.1:{server.port} answered RCPT TO with"
        assert handed.refused == {
            BOB: f"{where} 550 5.1.1 <<address>>: unknown",
            EVE: f"{where} 552 5.2.2 mailbox full",
        }
        assert "." in server.commands

    @pytest.mark.parametrize(
        ("bob", "eve", "kind"),
        [
            ("450 4.2.1 busy", "250 ok", Transient),
            ("550 5.1.1 unknown", "450 4.2.1 busy", Transient),
            ("550 5.7.1 relay denied", "250 ok", Transient),
            ("550 5.1.1 unknown", "550 5.1.1 unknown", Terminal),
        ],
    )
    def test_if_one_may_be_taken_later_or_none_at_all_the_mail_goes_to_nobody(
        self, bob: str, eve: str, kind: type[Exception]
    ) -> None:
        with serving({f"RCPT TO:<{BOB}>": bob, f"RCPT TO:<{EVE}>": eve}) as server:
            with pytest.raises(kind):
                smtp(server.port).send(envelope(BOB, EVE), Deadline(5))
        assert "DATA" not in server.commands


@pytest.mark.parametrize(
    ("step", "text", "of_the_mail"),
    [
        ("RCPT TO", "5.1.1 unknown", True),
        ("RCPT TO", "no such user", True),
        ("RCPT TO", "5.2.2 over quota", True),
        ("RCPT TO", "5.7.1 denied", False),
        ("RCPT TO", "relay access denied", False),
        ("DATA", "5.7.1 looks like spam", True),
        ("the message", "5.6.0 malformed", True),
        ("the message", "5.4.5 daily sending limit exceeded", False),
        ("the message", "5.7.1 sender address not owned", False),
        ("MAIL FROM", "5.1.1 unknown", False),
        ("the conversation", "5.1.1 unknown", False),
    ],
)
def test_what_a_refusal_speaks_of(step: str, text: str, of_the_mail: bool) -> None:
    assert speaks_of_the_mail(step, text) is of_the_mail


class TestInTime:
    def test_silence_before_the_mail_was_handed_over(self) -> None:
        for command in ("connect", "EHLO", "MAIL", "RCPT", "DATA"):
            with serving({command: None}) as server:
                with pytest.raises(Transient, match="did not answer in time") as error:
                    smtp(server.port).send(envelope(), Deadline(0.3))
            assert not isinstance(error.value, NoAnswer), command

    def test_silence_after_it_was(self) -> None:
        with serving({".": None}) as server:
            with pytest.raises(NoAnswer, match="may have been sent"):
                smtp(server.port).send(envelope(), Deadline(0.3))

    def test_a_tls_handshake_gets_what_the_reply_before_it_left(self) -> None:
        ended = threading.Event()

        def serve(connection: socket.socket) -> None:
            connection.sendall(b"220 hi\r\n")
            connection.recv(1000)
            connection.sendall(b"250-hi\r\n250 STARTTLS\r\n")
            connection.recv(1000)
            ended.wait(1.7)
            connection.sendall(b"220 go ahead\r\n")
            ended.wait(10)  # and no handshake

        with SocketServer(serve) as server:
            settings = SmtpSettings(host="127.0.0.1", port=server.port, security="starttls")
            began = time.monotonic()
            with pytest.raises(Transient, match="did not answer in time"):
                SmtpServer(settings, "nsps@example.net", make_context().optional).check(Deadline(2))
            took = time.monotonic() - began
            ended.set()
        assert took < 3.4, "3.7 s if the handshake had all of the time anew"

    def test_looking_up_the_name_counts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        ended = threading.Event()

        def look_up(*_: object, **__: object) -> list[Any]:
            ended.wait(10)
            return []

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        began = time.monotonic()
        with pytest.raises(Unreachable, match=r"mail server mail\.example\.net:25 did not answer"):
            smtp(25, host="mail.example.net").check(Deadline(0.3))
        ended.set()
        assert time.monotonic() - began < 8


def test_a_password_needs_tls_beyond_loopback() -> None:
    server = smtp(25, host="mail.example.net", user="nsps", password="horse-battery")
    with pytest.raises(Transient, match="never sent without TLS") as error:
        server.check(Deadline(5))
    assert "horse" not in f"{error.value}{server!r}{vars(server)!r}"


def test_a_refused_password_is_read_again_at_once() -> None:
    def plain(password: str) -> str:
        return base64.b64encode(f"\0nsps\0{password}".encode()).decode()

    replies: dict[str, str | None] = {
        "EHLO": "250-hi\r\n250 AUTH PLAIN",
        "AUTH": "535 no",
        f"AUTH PLAIN {plain('renewed')}": "235 welcome",
    }
    with serving(replies) as server:
        settings = SmtpSettings(host="127.0.0.1", port=server.port, security="none")
        rotated = rotated_parts("password", "refused", "renewed")

        def secret(name: str, *, again: bool = False) -> SecretValue | None:
            return SecretValue("nsps") if name == "user" else rotated.optional(name, again=again)

        mail = SmtpServer(settings, "nsps@example.net", secret)
        assert mail.send(envelope(), Deadline(5)).reply.startswith("250")
        shown = [each for each in server.commands if each.startswith("AUTH")]
        assert shown == [f"AUTH PLAIN {plain(each)}" for each in ("refused", "renewed")]
        server.replies = {**server.replies, f"AUTH PLAIN {plain('renewed')}": "535 no"}
        with pytest.raises(Transient, match="535: the server refuses the user or the password"):
            mail.check(Deadline(5))
