"""The notification connector against a real SMTP server whose answers the tests decide."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from hypothesis import given
from hypothesis import strategies as st
from nsps.connector.base import AnswerState, CallbackRefused, CallbackRequest, Receipt
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.domain.snapshot import Block, BlockNotRead
from nsps.transport.smtp import single_line
from nsps_testing.certificates import issued
from nsps_testing.sockets import SocketServer
from nsps_testing.standard import (
    ChaosProxy,
    MessageStandardTests,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.notification.connector import NotificationConnector, Settings
from functions.connectors.notification.mail import mailbox, recipients
from functions.connectors.notification.wording import DEFAULT_WORDING

USER, PASSWORD = "nsps-mail", "correct-horse-battery"
PB: dict[str, dict[str, Any]] = {
    "account_info": {
        "i_account": 277147,
        "id": "79123456789@msisdn",
        "firstname": "Ann",
        "email": "ann@example.net",
    },
    "sim_info": {"imsi": "001010000020349", "iccid": "8970101000000203493"},
}


class Inbox:
    """An aiosmtpd handler: ``replies`` says what each command gets; mails are kept."""

    def __init__(self) -> None:
        self.replies: dict[str, str] = {}
        self.by_recipient: dict[str, str] = {}
        self.mails: list[Any] = []
        self.logins: list[tuple[bytes, bytes]] = []
        self.options: list[list[str]] = []

    async def handle_MAIL(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.options.append(options)
        if "MAIL" in self.replies:
            return self.replies["MAIL"]
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        reply = self.by_recipient.get(address, self.replies.get("RCPT"))
        if reply:
            return reply
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        if "DATA" in self.replies:
            return self.replies["DATA"]
        self.mails.append(envelope)
        return "250 2.0.0 Ok: queued as 4711"

    async def handle_NOOP(self, server: Any, session: Any, envelope: Any, arg: str) -> str:  # noqa: N802
        return "250 OK"

    def authenticate(
        self, server: Any, session: Any, envelope: Any, mechanism: str, data: LoginPassword
    ) -> AuthResult:
        self.logins.append((data.login, data.password))
        good = (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        return AuthResult(success=good, handled=good)

    def last(self) -> EmailMessage:
        content = self.mails[-1].content
        return message_from_bytes(content, policy=default)

    def text(self) -> str:
        return str(self.last().get_content()).replace("\r\n", "\n")


class Server(Controller):
    """aiosmtpd on a free port."""

    def __init__(self, inbox: Inbox, **options: Any) -> None:
        self._options = options
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        super().__init__(inbox, hostname="127.0.0.1", port=port)

    def factory(self) -> SMTP:
        return SMTP(self.handler, hostname="mx.example.net", **self._options)


@pytest.fixture
def inbox() -> Inbox:
    return Inbox()


@pytest.fixture
def serve(inbox: Inbox) -> Iterator[Callable[..., Server]]:
    started: list[Server] = []

    def start(**options: Any) -> Server:
        server = Server(inbox, **options)
        server.start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


CERTIFICATE = issued("localhost")


def connector(
    port: int, secrets: dict[str, str] | None = None, **settings: Any
) -> NotificationConnector:
    given_settings = {
        "host": "127.0.0.1",
        "port": port,
        "security": "none",
        "sender": "Example Mobile <no-reply@example.net>",
        **settings,
    }
    model = Settings.model_validate(given_settings)
    return NotificationConnector(model, make_context(secrets, handler="mail"))


def deliver(
    made: NotificationConnector,
    pb: Any = PB,
    event_type: str = "Account/Blocked",
    seconds: float = 5.0,
    reference: str = "ref-1",
) -> str:
    message = made.message(enriched(pb, event_type=event_type))
    assert message is not None
    said = made.send(message, make_call(seconds, reference))
    return said if isinstance(said, str) else said.answer


def with_account(**members: Any) -> dict[str, Any]:
    return {**PB, "account_info": PB["account_info"] | members}


class TestStandard(MessageStandardTests):
    connector_class = NotificationConnector
    pb = PB
    event_type = "Account/Blocked"
    secrets: ClassVar = {"user": USER, "password": PASSWORD}
    deadline = 0.5
    canaries = ("001010000020349", "ann@example.net")
    silent = (
        ("Account/Blocked", {}),
        ("Account/Blocked", {"account_info": {"i_account": 1, "email": " "}}),
        ("Account/BalanceChanged", PB),
    )

    @pytest.fixture
    def system(self, serve: Callable[..., Server], inbox: Inbox) -> Iterator[ChaosProxy]:
        server = serve(authenticator=inbox.authenticate, auth_require_tls=False)
        with ChaosProxy(("127.0.0.1", server.port)) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        return {
            "host": "127.0.0.1",
            "port": system.port,
            "security": "none",
            "sender": "no-reply@example.net",
        }

    def test_the_same_event_gives_the_same_message(self, connector: Any) -> None:
        one, other = (connector.message(self.event()) for _ in range(2))
        assert one == other
        self.assert_private(one.summary)

    @pytest.mark.parametrize("warm", [False, True], ids=["new connection", "pooled connection"])
    def test_a_system_that_hangs_gives_no_answer_by_the_deadline(
        self, connector: Any, system: ChaosProxy, warm: bool
    ) -> None:
        """SMTP says more than the rule asks: before the final dot, nothing was sent."""
        if warm:
            connector.check(make_call())
        system.hang()
        error = self.timely(lambda: self.act(connector, make_call(self.deadline)))
        assert isinstance(error, Transient)
        assert not isinstance(error, NoAnswer)

    def test_wherever_it_is_cut_the_outcome_is_true(
        self, connector: Any, system: ChaosProxy, inbox: Inbox
    ) -> None:
        """Transient: no mail. NoAnswer: perhaps. Success: one mail."""
        for turn in range(1, 20):
            inbox.mails.clear()
            system.lose_answer(turn)
            error = self.attempt(lambda: self.act(connector, make_call()))
            cut = system.cut
            system.pass_all()
            if error is None:
                assert len(inbox.mails) == 1
            elif not isinstance(error, NoAnswer):
                assert inbox.mails == []
            if not cut:
                assert turn > 5
                return
        pytest.fail("the conversation does not end")


class TestTheMail:
    def test_it_arrives_as_written(self, serve: Callable[..., Server], inbox: Inbox) -> None:
        said = deliver(connector(serve().port))
        assert said == "250 2.0.0 Ok: queued as 4711"
        assert inbox.mails[-1].rcpt_tos == ["ann@example.net"]
        assert inbox.mails[-1].mail_from == "no-reply@example.net"
        mail = inbox.last()
        assert mail["From"] == "Example Mobile <no-reply@example.net>"
        assert mail["To"] == "ann@example.net"
        assert mail["Subject"] == "Your account has been blocked"
        assert mail["Auto-Submitted"] == "auto-generated"
        assert mail["Date"]
        assert inbox.text().startswith("Hello Ann,\n\nYour account 79123456789@msisdn has")

    def test_a_repetition_has_the_same_message_id(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        made = connector(serve().port)
        for reference in ("one", "one", "other"):
            deliver(made, reference=reference)
        ids = [message_from_bytes(each.content)["Message-ID"] for each in inbox.mails]
        assert ids[0] == ids[1] != ids[2]
        assert ids[0].endswith("@example.net>")

    @pytest.mark.parametrize(
        "text",
        ["Größe, 北京, Привіт 😀", "x" * 5000, ".\n..\n. dot", "a\r\nb\rc\nd", "end without line"],
    )
    def test_any_text_comes_through(
        self, serve: Callable[..., Server], inbox: Inbox, text: str
    ) -> None:
        made = connector(
            serve().port,
            templates={
                "*/*": {
                    "subject": "Grüße an {{ account_info.firstname }}",
                    "text": "{{ variables.t }}",
                }
            },
        )
        event = enriched(PB, event_type="Account/New", variables={"t": text})
        message = made.message(event)
        assert message is not None
        made.send(message, make_call())
        assert inbox.last()["Subject"] == "Grüße an Ann"
        wanted = text.replace("\r\n", "\n").replace("\r", "\n")
        assert inbox.text().rstrip("\n") == wanted.rstrip("\n")

    @pytest.mark.parametrize("event_type", sorted(DEFAULT_WORDING))
    def test_every_default_wording_works(
        self, serve: Callable[..., Server], inbox: Inbox, event_type: str
    ) -> None:
        made = connector(serve().port)
        for pb in (PB, {"account_info": {"email": "x@example.net"}}):
            deliver(made, pb, event_type)
            assert "None" not in inbox.text()
        deliver(made, PB, "SIM/Replaced")
        assert "3493" in inbox.text()
        assert "8970101000000203493" not in inbox.text()

    def test_a_template_of_the_settings_comes_before_the_default(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        mine = {"Account/*": {"subject": "Mine", "text": "{{ event_type }}"}}
        made = connector(serve().port, templates=mine)
        deliver(made)
        assert inbox.last()["Subject"] == "Mine"
        bare = connector(1, default_templates=False)
        assert bare.message(enriched(PB, event_type="Account/Blocked")) is None

    def test_addresses_do_not_show_in_the_history(self, serve: Callable[..., Server]) -> None:
        made = connector(serve().port)
        message = made.message(enriched(PB, event_type="Account/Blocked"))
        assert message is not None
        assert message.summary == "e-mail Account/Blocked to a***@example.net"


class TestInjection:
    @pytest.mark.parametrize(
        "email",
        ["ann@example.net\r\nBcc: eve@example.net", "ann@example.net\nDATA", "a b@example.net",
         "ann@example.net>\r\nRCPT TO:<eve@example.net", "<ann@example.net> NOTIFY=NEVER",
         "ann@exa\x00mple.net", "@example.net", "ann@", "ann", "ann@-example.net"],
    )  # fmt: skip
    def test_an_address_that_is_none_is_refused(self, email: str) -> None:
        with pytest.raises(Terminal, match="correct it in PortaBilling"):
            connector(1).message(enriched(with_account(email=email), event_type="Account/Blocked"))

    def test_a_name_cannot_add_a_header(self, serve: Callable[..., Server], inbox: Inbox) -> None:
        templates = {"Account/*": {"subject": "Hi {{ account_info.firstname }}", "text": "x"}}
        evil = with_account(firstname="Ann\r\nBcc: eve@example.net\r\n\r\nbody")
        deliver(connector(serve().port, templates=templates), evil)
        assert inbox.last()["Bcc"] is None
        assert inbox.last()["Subject"] == "Hi Ann Bcc: eve@example.net body"
        assert inbox.mails[-1].rcpt_tos == ["ann@example.net"]

    @given(st.text())
    def test_a_header_is_single_line(self, text: str) -> None:
        line = single_line(text)
        assert len(line.splitlines()) <= 1
        message = EmailMessage()
        message["Subject"] = line

    @given(st.text())
    def test_any_recipient_is_an_address_or_refused(self, text: str) -> None:
        try:
            for address in recipients(text):
                assert not set(address) & set(" \r\n<>\x00")
                mailbox(address)
        except Terminal:
            pass


TOKEN = "a-token-of-the-mail-server-4711"


def bounce(to: str, *recipients: str, kind: str = "delivery-status") -> bytes:
    """A delivery status notification as Postfix writes it; each recipient's fields are given."""
    fields = "\n\n".join(["Reporting-MTA: dns; mx.example.net", *recipients])
    return (
        "From: MAILER-DAEMON@mx.example.net\nSubject: Undelivered Mail Returned to Sender\n"
        f"To: {to}\nMIME-Version: 1.0\n"
        f'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        f"--b\n\nI am sorry.\n\n--b\nContent-Type: message/{kind}\n\n{fields}\n\n"
        "--b\nContent-Type: message/rfc822\n\nSubject: Your account\n\nHello Ann.\n\n--b--\n"
    ).encode()


FAILED = (
    "Final-Recipient: rfc822; ann@example.net\nAction: failed\nStatus: 5.1.1\n"
    "Diagnostic-Code: smtp; 550 5.1.1 <ann@example.net>: no such user"
)
DELAYED = FAILED.replace("failed", "delayed").replace("5.1.1", "4.4.1")


class TestBounces:
    """tests/systems/test_postfix.py has genuine ones."""

    @pytest.fixture
    def sent(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> tuple[NotificationConnector, Receipt, str]:
        """The connector, the receipt of a mail, and the mail's return path."""
        made = connector(serve().port, {"callback": TOKEN}, bounces_to="bounces@example.net")
        message = made.message(enriched(PB, event_type="Account/Blocked"))
        assert message is not None
        receipt = made.send(message, make_call())
        assert isinstance(receipt, Receipt)
        return made, receipt, inbox.mails[-1].mail_from

    def reports(self, made: NotificationConnector, mail: bytes) -> list[tuple[str, str, str]]:
        request = CallbackRequest("POST", "/", {"Authorization": f"Bearer {TOKEN}"}, mail, {})
        made.authenticate(request)
        return [(each.order, each.state, each.message) for each in made.parse_callback(request)]

    def test_each_mail_has_a_return_path_of_its_own_that_fits(
        self, sent: tuple[NotificationConnector, Receipt, str], inbox: Inbox
    ) -> None:
        made, receipt, path = sent
        message = made.message(enriched(PB, event_type="Account/Blocked"))
        assert message is not None and made.send(message, make_call()) == receipt
        assert made.send(message, make_call(reference="other")) != receipt
        first, again, other = (each.mail_from for each in inbox.mails)
        assert first == again == path != other
        assert receipt.id in path and path.endswith("@example.net")
        assert len(path.partition("@")[0]) <= 64
        assert inbox.last()["From"] == "Example Mobile <no-reply@example.net>"
        assert made.silence is AnswerState.DONE

    @pytest.mark.parametrize(
        ("recipients", "state", "words"),
        [
            ([FAILED], "failed", "the mail came back: 5.1.1 smtp; 550 5.1.1 <(address)>: no such"),
            ([DELAYED], "progress", "4.4.1 smtp; 550"),
            ([DELAYED, FAILED], "failed", "the mail came back: 5.1.1"),
            (["Final-Recipient: rfc822; a@b\nAction: relayed\nStatus: 2.0.0"], "progress", "2.0.0"),
            (["Action: FAILED"], "failed", "the mail came back:"),
        ],
    )
    def test_the_action_counts(
        self,
        sent: tuple[NotificationConnector, Receipt, str],
        recipients: list[str],
        state: str,
        words: str,
    ) -> None:
        made, receipt, path = sent
        ((order, found, message),) = self.reports(made, bounce(path, *recipients))
        assert (order, found) == (receipt.id, state)
        assert message.startswith(words) and "ann@" not in message

    def test_other_mail_holds_no_answer(
        self, sent: tuple[NotificationConnector, Receipt, str]
    ) -> None:
        made, receipt, path = sent
        forged = path.replace(receipt.id, "0" * len(receipt.id))
        for mail in (
            bounce(forged, FAILED),
            bounce("bounces@example.net", FAILED),
            bounce(path),
            bounce(path, FAILED, kind="external-body"),
            f"To: {path}\nSubject: I am away\n\nAction: failed\n".encode(),
            b"",
            b"\xff\xfe\x00" * 100,
        ):
            assert self.reports(made, mail) == []

    def test_only_the_mail_server_hands_one_on(
        self, sent: tuple[NotificationConnector, Receipt, str]
    ) -> None:
        made, _, path = sent
        for headers in ({}, {"Authorization": "Bearer another"}):
            with pytest.raises(CallbackRefused):
                made.authenticate(CallbackRequest("POST", "/", headers, bounce(path, FAILED), {}))

    def test_without_a_secret_nothing_is_sent(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        with pytest.raises(Transient, match="no secret callback"):
            deliver(connector(serve().port, bounces_to="bounces@example.net"))
        assert inbox.mails == []


class TestInternational:
    def test_a_domain_goes_in_its_idna_form(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        deliver(connector(serve().port), with_account(email="ann@bücher.example"))
        assert inbox.mails[-1].rcpt_tos == ["ann@xn--bcher-kva.example"]

    def test_a_local_part_goes_where_smtputf8_is_offered(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        deliver(connector(serve(enable_SMTPUTF8=True).port), with_account(email="jörg@example.net"))
        assert inbox.mails[-1].rcpt_tos == ["jörg@example.net"]
        assert "SMTPUTF8" in inbox.options[-1]
        assert "jörg@example.net" in inbox.mails[-1].content.decode()

    def test_elsewhere_it_is_rejected(self, serve: Callable[..., Server], inbox: Inbox) -> None:
        with pytest.raises(Terminal, match="SMTPUTF8"):
            deliver(connector(serve().port), with_account(email="jörg@example.net"))
        assert inbox.mails == []


class TestReplies:
    @pytest.mark.parametrize(
        ("command", "reply", "kind", "words"),
        [
            ("MAIL", "451 4.3.0 try later", Transient, "451"),
            ("MAIL", "550 5.1.8 no such sender", Transient, "correct sender"),
            ("MAIL", "552 5.3.4 too big", Terminal, "552"),
            ("MAIL", "530 5.7.0 Authentication required", Transient, "refuses the sender"),
            ("RCPT", "450 4.2.1 mailbox busy", Transient, "450"),
            ("RCPT", "421 4.3.2 shutting down", Transient, "421"),
            ("RCPT", "530 5.7.0 Authentication required", Transient, "secrets user and password"),
            ("RCPT", "550 5.1.1 <ann@example.net>: unknown", Terminal, "<<address>>: unknown"),
            ("RCPT", "550 no such user here", Terminal, "no such user"),
            ("RCPT", "550 <sender@relay.example>: no such user", Terminal, "no such user"),
            ("RCPT", "552 5.2.2 <ann@example.net>: over quota", Terminal, "over quota"),
            ("RCPT", "554 5.7.1 <ann@example.net>: Relay access denied", Transient, "sender"),
            ("RCPT", "550 5.4.5 Daily user sending limit exceeded", Transient, "sending limit"),
            ("RCPT", "550 5.7.1 Helo command rejected", Transient, "ehlo_name"),
            ("RCPT", "554 5.7.1 Client host rejected: Access denied", Transient, "Client host"),
            ("DATA", "550 5.4.5 Daily user sending limit exceeded", Transient, "sending limit"),
            ("RCPT", "550 relay not permitted", Transient, "relay"),
            ("DATA", "554 5.7.1 Sender address rejected: not owned", Transient, "ehlo_name"),
            ("DATA", "554 5.2.252 SendAsDenied", Transient, "SendAsDenied"),
            ("DATA", "452 4.3.1 disk full", Transient, "452"),
            ("DATA", "554 5.7.1 looks like spam", Terminal, "looks like spam"),
        ],
    )
    def test_a_refusal_is_read(
        self, serve: Callable[..., Server], inbox: Inbox, command: str, reply: str,
        kind: type[Exception], words: str,
    ) -> None:  # fmt: skip
        inbox.replies[command] = reply
        with pytest.raises(kind, match=r"mail server 127\.0\.0\.1") as error:
            deliver(connector(serve().port))
        assert words in str(error.value)
        assert "ann@example.net" not in str(error.value)
        assert not isinstance(error.value, NoAnswer)
        assert inbox.mails == []

    def test_one_refused_address_of_several(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        made = connector(serve().port)
        both = with_account(email="ann@example.net; bob@example.net")
        inbox.by_recipient["bob@example.net"] = "550 5.1.1 unknown"
        assert deliver(made, both).endswith("; 1 of 2 addresses refused")
        assert [each.rcpt_tos for each in inbox.mails] == [["ann@example.net"]]
        inbox.by_recipient["bob@example.net"] = "450 4.2.1 busy"
        with pytest.raises(Transient):
            deliver(made, both)
        assert len(inbox.mails) == 1, "nobody is written to twice"

    @pytest.mark.parametrize("greeting", ["554 5.7.1 you are blocked", "421 too busy"])
    def test_a_server_that_does_not_want_to_talk(self, greeting: str) -> None:
        with Scripted([greeting]) as port, pytest.raises(Transient, match="does not want to talk"):
            deliver(connector(port))

    def test_a_server_that_refuses_our_name_is_tried_again(self) -> None:
        refusal = "550 5.7.1 Helo command rejected"
        with (
            Scripted(["220 hi", refusal, refusal]) as port,
            pytest.raises(Transient, match="ehlo_name"),
        ):
            deliver(connector(port))

    def test_silence_after_the_final_dot_is_no_answer(self) -> None:
        with Scripted(["220 hi", "250 hi", "250 ok", "250 ok", "354 go", None], hang=True) as port:
            began = time.monotonic()
            with pytest.raises(NoAnswer, match="may have been sent"):
                deliver(connector(port), seconds=0.5)
            assert time.monotonic() - began < 10

    def test_hanging_up_after_the_final_dot_is_no_answer(self) -> None:
        with Scripted(["220 hi", "250 hi", "250 ok", "250 ok", "354 go", None]) as port:
            with pytest.raises(NoAnswer):
                deliver(connector(port))

    def test_hanging_up_before_it_is_not(self) -> None:
        with Scripted(["220 hi", "250 hi", "250 ok", None]) as port:
            with pytest.raises(Transient) as error:
                deliver(connector(port))
            assert not isinstance(error.value, NoAnswer)

    @pytest.mark.parametrize("noise", ["hello?", "25", "250", "abc def", "9" * 3000])
    def test_nonsense_is_tried_again(self, noise: str) -> None:
        with Scripted([noise, noise, noise, noise]) as port:
            with pytest.raises(Transient):
                deliver(connector(port), seconds=2)

    def test_dripping_bytes_do_not_stretch_the_deadline(self) -> None:
        with Scripted(["220 " + "x" * 60], drip=0.1) as port:
            began = time.monotonic()
            with pytest.raises(Transient):
                deliver(connector(port), seconds=0.6)
            assert time.monotonic() - began < 4


class Scripted:
    """An SMTP server of lines: one to greet, one per turn of the client; None: no more.

    ``hang``: it stays silent then instead of hanging up. ``drip``: seconds between bytes.
    """

    def __init__(self, lines: list[str | None], hang: bool = False, drip: float = 0) -> None:
        self.lines, self.hang, self.drip = lines, hang, drip
        self.ended = threading.Event()
        self.server = SocketServer(self.talk)

    def __enter__(self) -> int:
        return self.server.port

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.server.close()

    def talk(self, connection: socket.socket) -> None:
        for turn, line in enumerate(self.lines):
            if turn:
                data = connection.recv(65536)
                while self.lines[turn - 1] == "354 go" and not data.endswith(b"\r\n.\r\n"):
                    data += connection.recv(65536)
            if line is None:
                break
            self.say(connection, f"{line}\r\n".encode())
        if self.hang:
            self.ended.wait(10)

    def say(self, connection: socket.socket, data: bytes) -> None:
        if not self.drip:
            connection.sendall(data)
            return
        for at in range(len(data)):
            connection.sendall(data[at : at + 1])
            if self.ended.wait(self.drip):
                return


class TestSecurity:
    def test_starttls_and_login(
        self, serve: Callable[..., Server], inbox: Inbox, tmp_path: Path
    ) -> None:
        server = serve(
            tls_context=CERTIFICATE.server_side(tmp_path),
            require_starttls=True,
            authenticator=inbox.authenticate,
        )
        secrets = {"user": USER, "password": PASSWORD, "ca": CERTIFICATE.cert_pem}
        made = connector(server.port, secrets, host="localhost", security="starttls")
        made.check(make_call())
        deliver(made)
        assert inbox.logins[-1] == (USER.encode(), PASSWORD.encode())
        assert inbox.mails[-1].rcpt_tos == ["ann@example.net"]

    def test_a_server_that_begins_with_tls(self, inbox: Inbox, tmp_path: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = Controller(
            inbox, hostname="localhost", port=port, ssl_context=CERTIFICATE.server_side(tmp_path)
        )
        server.start()
        try:
            secrets = {"ca": CERTIFICATE.cert_pem}
            deliver(connector(port, secrets, host="localhost", security="tls"))
        finally:
            server.stop()
        assert len(inbox.mails) == 1

    def test_an_unknown_certificate_is_refused(
        self, serve: Callable[..., Server], inbox: Inbox, tmp_path: Path
    ) -> None:
        server = serve(tls_context=CERTIFICATE.server_side(tmp_path))
        with pytest.raises(Transient, match="certificate"):
            deliver(connector(server.port, host="localhost", security="starttls"))
        secrets = {"ca": CERTIFICATE.cert_pem}
        with pytest.raises(Transient, match="TLS failed"):
            deliver(connector(server.port, secrets, host="127.0.0.1", security="starttls"))
        assert inbox.mails == []

    def test_nothing_is_sent_in_the_clear(self, serve: Callable[..., Server], inbox: Inbox) -> None:
        with pytest.raises(Transient, match="STARTTLS"):
            deliver(connector(serve().port, security="starttls"))
        assert inbox.mails == []

    def test_a_wrong_password_is_tried_again_with_a_text(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        server = serve(authenticator=inbox.authenticate, auth_require_tls=False)
        secrets = {"user": USER, "password": "wrong-password"}
        with pytest.raises(
            Transient, match="535: the server refuses the user or the password"
        ) as e:
            deliver(connector(server.port, secrets))
        assert "wrong-password" not in str(e.value) and USER not in str(e.value)

    def test_no_authentication_is_offered(self, serve: Callable[..., Server]) -> None:
        secrets = {"user": USER, "password": PASSWORD}
        with pytest.raises(Transient, match="offers no authentication"):
            deliver(connector(serve().port, secrets))

    def test_a_password_that_cannot_be_sent_does_not_show(
        self, serve: Callable[..., Server], inbox: Inbox
    ) -> None:
        server = serve(authenticator=inbox.authenticate, auth_require_tls=False)
        made = connector(server.port, {"user": USER, "password": "pässword"})
        with pytest.raises(Transient, match="must be ASCII") as error:
            deliver(made)
        assert error.value.__cause__ is None

    def test_a_password_needs_tls_beyond_loopback(self) -> None:
        made = connector(25, {"user": USER, "password": PASSWORD}, host="smtp.example.net")
        with pytest.raises(Transient, match=r"never sent without TLS"):
            deliver(made)


class TestTemplates:
    def test_a_block_that_was_not_read_is_not_written_about(self) -> None:
        text = "{{ sim_info.iccid }} of {{ product_info.name }}"
        made = connector(1, templates={"Account/*": {"subject": "x", "text": text}})
        assert set(made.reads(made.settings)) == {
            ("to", Block.ACCOUNT_INFO),
            ("templates.Account/*", Block.SIM_INFO),
            ("templates.Account/*", Block.PRODUCT_INFO),
        }
        read = [Block.ACCOUNT_INFO, Block.SIM_INFO]
        with pytest.raises(BlockNotRead, match="product_info"):
            made.message(enriched(PB, event_type="Account/Blocked", read=read))
        assert made.message(enriched(PB, event_type="Account/Blocked")) is not None

    @pytest.mark.parametrize(
        ("ident", "number"), [("+79123456789@msisdn", "79123456789"), ("alice", "")]
    )
    def test_the_number_is_the_subscriber_s(self, ident: str, number: str) -> None:
        made = connector(1, templates={"Account/*": {"subject": "x", "text": "<{{ msisdn }}>"}})
        assert set(made.reads(made.settings)) == {
            ("to", Block.ACCOUNT_INFO),
            ("templates.Account/*", Block.ACCOUNT_INFO),
            ("templates.Account/*", Block.SIM_INFO),
        }
        pb = PB | {"account_info": PB["account_info"] | {"id": ident}}
        mail = made.message(enriched(pb, event_type="Account/Blocked"))
        assert mail is not None and mail.content.text == f"<{number}>"

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("{{ account_info.emial }}", "emial"),
            ("{{ 1 / 0 }}", "ZeroDivisionError"),
            ("{{ account_info.__class__.__mro__ }}", "unsafe"),
            ("{{ variables.nothing }}", "nothing"),
            ("{{ account_info.feature('x').name }}", "name"),
        ],
    )
    def test_a_fault_is_final_and_named(self, text: str, words: str) -> None:
        made = connector(1, templates={"Account/*": {"subject": "x", "text": text}})
        with pytest.raises(Terminal, match=r"template text of Account/\*") as error:
            made.message(enriched(PB, event_type="Account/Blocked"))
        assert words in str(error.value)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"templates": {"Account/*": {"subject": "{{ x", "text": "x"}}},
            {"templates": {"Account/*": {"subject": "x", "text": "{{ acount_info.id }}"}}},
            {"templates": {"Account": {"subject": "x", "text": "x"}}},
            {"templates": {"Account/*": {"subject": "x"}}},
            {"to": "{{ email }}"},
            {"sender": "nobody"},
            {"sender": "jörg@example.net"},
            {"sender": "a@example.net\r\nBcc: b@example.net"},
            {"security": "ssl"},
            {"bounces_to": "nobody"},
            {"bounces_to": "a+b@example.net"},
            {"bounces_to": "a-name-of-16-let@example.net"},
            {"languages": {"cs": {"Account": {"subject": "x", "text": "x"}}}},
            {"port": 0},
        ],
    )
    def test_mistakes_are_found_before_anything_starts(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Settings.model_validate({"host": "h", "sender": "a@example.net", **wrong})
