"""The notification connector against Postfix: what a mail server in the field really answers."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from nsps.connector.base import Answer, AnswerState, CallbackRequest, Receipt
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps_local.daemons.postfix import NOBODY, Postfix
from nsps_local.daemons.postfix import postfix as new_postfix
from nsps_testing.standard import enriched, make_call, make_context
from nsps_testing.waiting import wait_for

from functions.connectors.notification import connector as notification
from functions.connectors.notification.connector import NotificationConnector, Settings
from tests.connectors.test_notification import Inbox, Server


def wait_for_mail(postfix: Postfix, box: str, count: int) -> Message:
    """The newest mail, once there are so many."""
    end = time.monotonic() + 15
    while len(postfix.mails(box)) < count:
        assert time.monotonic() < end, (postfix.folder / "maillog").read_text()[-2000:]
        time.sleep(0.05)
    return postfix.mails(box)[-1]


@pytest.fixture(scope="module")
def postfix() -> Iterator[Postfix]:
    with new_postfix() as made, made.running():
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
    mail = wait_for_mail(postfix, "ann", before + 1)
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
    assert "using TLSv1." in wait_for_mail(postfix, "ann", before + 1)["Received"]
    with pytest.raises(Transient, match="certificate"):
        send(connector(postfix, security="starttls"), "ann@example.net")


def test_international_addresses(postfix: Postfix) -> None:
    send(connector(postfix), "jörg@example.net")
    assert wait_for_mail(postfix, "joerg", 1)["To"] == "jörg@example.net"
    send(connector(postfix), "ann@bücher.example")
    wait_for_mail(postfix, "buecher", 1)


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
    with new_postfix() as postfix:
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
    wait_for(lambda: len(returning.far.mails) > before)
    assert {each.state for each in returning.answers} == {AnswerState.PROGRESS}


def test_it_recovers_with_postfix() -> None:
    with new_postfix() as other:
        made = connector(other)
        for _ in range(2):
            with pytest.raises(Transient, match="cannot be reached") as error:
                send(made, "ann@example.net")
            assert not isinstance(error.value, NoAnswer)
            with other.running():
                assert send(made, "ann@example.net").startswith("250")
