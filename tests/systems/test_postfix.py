"""The notification connector against Postfix: what a mail server in the field really answers."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from nsps.connector.base import Answer, AnswerState, CallbackRequest, Receipt
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps_testing.standard import enriched, make_call, make_context

from functions.connectors.notification import connector as notification
from functions.connectors.notification.connector import NotificationConnector, Settings
from tests.connectors.test_notification import Inbox, Server

POSTFIX = shutil.which("postfix", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
MASTER = Path("/usr/share/postfix/master.cf.dist")
NOBODY = 65534

pytestmark = [
    pytest.mark.skipif(
        POSTFIX is None or not MASTER.exists(),
        reason="Postfix is not installed: apt-get install --no-install-recommends postfix",
    ),
    pytest.mark.skipif(os.geteuid() != 0, reason="Postfix is started by root only"),
]

MAIN = """\
compatibility_level = 3.6
queue_directory = {folder}/spool
data_directory = {folder}/data
mail_owner = postfix
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mx.example.net
mydestination =
maillog_file = {folder}/maillog
maillog_file_prefixes = {folder}
virtual_mailbox_domains = example.net, xn--bcher-kva.example
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = texthash:{folder}/boxes
virtual_uid_maps = static:65534
virtual_gid_maps = static:65534
smtpd_recipient_restrictions = reject_unauth_destination
smtpd_relay_restrictions = permit_mynetworks reject_unauth_destination
default_transport = error:no outside mail
message_size_limit = 20000
smtpd_tls_security_level = may
smtpd_tls_received_header = yes
smtpd_tls_cert_file = {folder}/cert.pem
smtpd_tls_key_file = {folder}/key.pem
"""


class Postfix:
    """A Postfix with mailboxes of example.net, in a folder of its own."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port

    def mails(self, box: str) -> list[Message]:
        """What was delivered, oldest first."""
        files = sorted((self.folder / "mail" / box / "new").glob("*"), key=os.path.getmtime)
        return [message_from_bytes(each.read_bytes(), policy=default) for each in files]

    def wait_for_mail(self, box: str, count: int) -> Message:
        end = time.monotonic() + 15
        while len(self.mails(box)) < count:
            assert time.monotonic() < end, (self.folder / "maillog").read_text()[-2000:]
            time.sleep(0.05)
        return self.mails(box)[-1]

    @contextmanager
    def running(self) -> Iterator[None]:
        assert POSTFIX is not None
        command = [POSTFIX, "-c", str(self.folder), "start-fg"]
        with (self.folder / "output").open("wb") as output:
            process = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            self._wait_until(lambda: answers(self.port), process)
            yield
        finally:
            stop = [POSTFIX, "-c", str(self.folder), "stop"]
            subprocess.run(stop, capture_output=True, timeout=20, check=False)
            process.wait(20)
            self._wait_until(lambda: not answers(self.port))  # its children end a moment later

    def _wait_until(
        self, ready: Callable[[], bool], process: subprocess.Popen[bytes] | None = None
    ) -> None:
        end = time.monotonic() + 40
        while not ready():
            if (process and process.poll() is not None) or time.monotonic() > end:
                pytest.fail(f"Postfix: {(self.folder / 'output').read_text()}")
            time.sleep(0.05)


def answers(port: int) -> bool:
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def prepare(folder: Path) -> int:
    """Write the configuration; returns the port. Postfix's own users must reach the folder."""
    folder.chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    for name in ("spool", "data", "mail"):
        (folder / name).mkdir()
    shutil.chown(folder / "data", "postfix")
    os.chown(folder / "mail", NOBODY, NOBODY)
    (folder / "main.cf").write_text(MAIN.format(folder=folder))
    lines = MASTER.read_text().splitlines()
    services = [line for line in lines if line and not line.startswith(("#", " ", "smtp  "))]
    plain = [chroot_free(line) for line in services]
    outgoing = "smtp unix - - n - - smtp"
    listening = f"127.0.0.1:{port} inet n - n - - smtpd"
    (folder / "master.cf").write_text("\n".join([listening, outgoing, *plain]) + "\n")
    boxes = {"ann@example.net": "ann/", "jörg@example.net": "joerg/"}
    boxes["ann@xn--bcher-kva.example"] = "buecher/"
    text = "".join(f"{address} {box}\n" for address, box in boxes.items())
    (folder / "boxes").write_text(text, encoding="utf-8")
    certify(folder)
    return port


def chroot_free(line: str) -> str:
    fields = line.split()
    if len(fields) >= 8:
        fields[4] = "n"
    return " ".join(fields)


def certify(folder: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)


@contextmanager
def installed() -> Iterator[Postfix]:
    with tempfile.TemporaryDirectory(prefix="nsps-postfix-") as name:
        folder = Path(name)
        yield Postfix(folder, prepare(folder))


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with installed() as made, made.running():
        yield made


def connector(postfix: Postfix, secrets: Any = None, **settings: Any) -> NotificationConnector:
    given = {
        "host": "localhost",
        "port": postfix.port,
        "security": "none",
        "sender": "Example Mobile <no-reply@example.net>",
        "templates": {"*/*": {"subject": "Grüße", "text": "{{ variables.text }}"}},
        **settings,
    }
    return NotificationConnector(Settings.model_validate(given), make_context(secrets))


def send(made: NotificationConnector, email: str, text: str = "Hello.") -> str:
    account = {"i_account": 1, "email": email}
    event = enriched(
        {"account_info": account}, event_type="Account/Blocked", variables={"text": text}
    )
    message = made.message(event)
    assert message is not None
    said = made.send(message, make_call(10))
    return said if isinstance(said, str) else said.answer


def test_a_mail_is_delivered_as_written(postfix: Postfix) -> None:
    text = "Größe 北京\n.\n..hidden dot\n" + "long " * 500
    before = len(postfix.mails("ann"))
    said = send(connector(postfix), "ann@example.net", text)
    assert said.startswith("250 2.0.0 Ok: queued as ")
    mail = postfix.wait_for_mail("ann", before + 1)
    assert mail["Subject"] == "Grüße"
    assert mail["To"] == "ann@example.net"
    assert mail["Return-Path"] == "<no-reply@example.net>"
    assert mail.get_content().rstrip("\n") == text.rstrip("\n")  # type: ignore[attr-defined]


def test_by_starttls(postfix: Postfix) -> None:
    secrets = {"ca": (postfix.folder / "cert.pem").read_text()}
    made = connector(postfix, secrets, security="starttls")
    made.check(make_call())
    before = len(postfix.mails("ann"))
    send(made, "ann@example.net")
    assert "using TLSv1." in postfix.wait_for_mail("ann", before + 1)["Received"]
    with pytest.raises(Transient, match="certificate"):
        send(connector(postfix, security="starttls"), "ann@example.net")


def test_international_addresses(postfix: Postfix) -> None:
    send(connector(postfix), "jörg@example.net")
    assert postfix.wait_for_mail("joerg", 1)["To"] == "jörg@example.net"
    send(connector(postfix), "ann@bücher.example")
    postfix.wait_for_mail("buecher", 1)


@pytest.mark.parametrize(
    ("email", "text", "words"),
    [
        ("nobody@example.net", "x", "550 5.1.1 <<address>>: Recipient address rejected"),
        ("ann@example.net", "x" * 30_000, "552 5.3.4 Error: message file too big"),
    ],
)
def test_a_refusal_for_good(postfix: Postfix, email: str, text: str, words: str) -> None:
    made = connector(postfix)
    with pytest.raises(Terminal) as error:
        send(made, email, text)
    assert words in str(error.value)
    assert email not in str(error.value)


def test_a_relay_that_is_not_allowed_is_our_set_up(postfix: Postfix) -> None:
    with pytest.raises(Transient, match="<<address>>: Relay access denied"):
        send(connector(postfix), "ann@elsewhere.example")


def test_authentication_that_is_not_offered(postfix: Postfix) -> None:
    made = connector(postfix, {"user": "nsps", "password": "some-password"})
    with pytest.raises(Transient, match="offers no authentication"):
        send(made, "ann@example.net")


# ---- mail that comes back --------------------------------------------------------------------

TOKEN = "a-token-of-the-mail-server-4711"
README = Path(notification.__file__).with_name("README.md").read_text(encoding="utf-8")


@dataclass
class Returning:
    """A Postfix that hands on what comes back, as the README sets it up; ``far`` refuses mail."""

    postfix: Postfix
    made: NotificationConnector
    far: Inbox
    answers: list[Answer] = field(default_factory=list)
    away: bool = False

    def take(self, request: CallbackRequest) -> int:
        """What the callbacks function does with a POST."""
        if self.away:
            self.away = False
            return 503
        self.made.authenticate(request)
        self.answers += self.made.parse_callback(request)
        return 204

    def send(self) -> str:
        """A mail for the far server, which Postfix takes; the name of its receipt."""
        self.answers.clear()
        account = {"i_account": 1, "email": "ann@far.example"}
        event = enriched(
            {"account_info": account}, event_type="Account/Blocked", variables={"text": "Hi"}
        )
        message = self.made.message(event)
        assert message is not None
        receipt = self.made.send(message, make_call(10, str(time.time())))
        assert isinstance(receipt, Receipt) and receipt.answer.startswith("250")
        return receipt.id

    def answer(self, state: AnswerState) -> Answer:
        """The first answer of this state."""
        end = time.monotonic() + 30
        while not (found := [each for each in self.answers if each.state is state]):
            assert time.monotonic() < end, (self.postfix.folder / "maillog").read_text()[-3000:]
            time.sleep(0.05)
        return found[0]


@pytest.fixture(scope="module")
def returning() -> Iterator[Returning]:
    far = Inbox()
    server = Server(far)
    server.start()
    with installed() as postfix:
        made = connector(postfix, {"callback": TOKEN}, bounces_to="bounces@example.net")
        place = Returning(postfix, made, far)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                request = CallbackRequest("POST", "/", dict(self.headers), body, {})
                self.send_response(place.take(request))
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        callbacks = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=callbacks.serve_forever, daemon=True).start()
        set_up_as_documented(postfix.folder, callbacks.server_port, server.port)
        with postfix.running():
            yield place
        callbacks.shutdown()
        callbacks.server_close()
    server.stop()


def set_up_as_documented(folder: Path, callbacks: int, far: int) -> None:
    """The README's lines for main.cf and master.cf; all waits are a second."""
    main, master = README.split("# main.cf\n")[1].split("```")[0].split("# master.cf\n")
    transport = "transport_maps = inline:{"
    assert transport in main
    main = main.replace(transport, f"{transport}far.example=smtp:[127.0.0.1]:{far}, ")
    waits = (
        "queue_run_delay",
        "minimal_backoff_time",
        "maximal_backoff_time",
        "delay_warning_time",
    )
    main += "".join(f"{name} = 1s\n" for name in waits)
    with (folder / "main.cf").open("a") as file:
        file.write(f"relay_domains = far.example\n{main}")
    token = folder / "token"
    token.write_text(f"Authorization: Bearer {TOKEN}\n")
    token.chmod(0o400)
    os.chown(token, NOBODY, NOBODY)
    master = master.replace("/etc/postfix/nsps-bounces", str(token))
    master = master.replace("CALLBACKS_URL", f"http://127.0.0.1:{callbacks}")
    with (folder / "master.cf").open("a") as file:
        file.write(master)
    with (folder / "boxes").open("a") as file:
        file.write("bounces@example.net bounces/\n")


def test_a_mail_that_comes_back_has_failed(returning: Returning) -> None:
    returning.far.replies = {"RCPT": "550 5.1.1 <ann@far.example>: no such user"}
    returning.away = True
    name = returning.send()
    answer = returning.answer(AnswerState.FAILED)
    assert answer.order == name and not returning.away, "after a second try"
    assert answer.message.startswith("the mail came back: 5.1.1 smtp; 550 5.1.1")
    assert "no such user" in answer.message and "ann@" not in answer.message


def test_a_delayed_mail_has_not_failed(returning: Returning) -> None:
    returning.far.replies = {"RCPT": "451 4.2.0 come again"}
    name = returning.send()
    answer = returning.answer(AnswerState.PROGRESS)
    assert answer.order == name and "451 4.2.0 come again" in answer.message
    before = len(returning.far.mails)
    returning.far.replies = {}
    end = time.monotonic() + 30
    while len(returning.far.mails) == before:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert {each.state for each in returning.answers} == {AnswerState.PROGRESS}


def test_it_recovers_with_postfix() -> None:
    with installed() as other:
        made = connector(other)
        for _ in range(2):
            with pytest.raises(Transient, match="cannot be reached") as error:
                send(made, "ann@example.net")
            assert not isinstance(error.value, NoAnswer)
            with other.running():
                assert send(made, "ann@example.net").startswith("250")
