"""Mail handed over to an SMTP server, and what its replies mean.

    server = SmtpServer(settings, sender, secret)
    handed = server.send(Envelope(sender, to, content), call.deadline)

Whatever goes wrong before the final dot has changed nothing: Unreachable, Transient, or Terminal
where the server refuses the mail. After the dot, only the server knows: NoAnswer. A refusal that
concerns the mail is final; one that concerns our set-up is tried again, for an operator can
correct it and the mail must still go out. No text holds an address.
"""

from __future__ import annotations

import re
import smtplib
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unreachable
from nsps.runtime.redact import shortened
from nsps.runtime.secrets import OptionalSecret, SecretValue
from nsps.transport.connection import Connection, connect, resolve
from nsps.transport.deadline import Deadline
from nsps.transport.tls import tls_context

_PORTS = {"none": 25, "starttls": 587, "tls": 465}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}

# Replies that speak of this client's standing with the server, not of the mail.
_STANDING = {
    421: "the server closes the connection",
    530: "the server wants authentication: set the secrets user and password",
    534: "the server wants another way to authenticate",
    535: "the server refuses the user or the password",
    538: "the server wants encryption: set security to starttls or tls",
}

# Steps at which a server can refuse a recipient or a mail; elsewhere it refuses us.
_RCPT, _DATA, _MESSAGE = "RCPT TO", "DATA", "the message"
_OURS = "the settings host, sender and ehlo_name"
_ENHANCED = re.compile(r"^\s*(5\.\d{1,3}\.\d{1,3})\b")
# RFC 3463: the address does not exist, the mailbox is closed or full, the message is too large.
_OF_THE_RECIPIENT = re.compile(r"5\.1\.(0|1|2|3|4|6|10)|5\.2\.[0-3]|5\.3\.4")
# What servers write when they refuse the client, the sender or its quota, whatever the code.
_OF_OUR_SETUP = re.compile(
    r"relay|send ?as|quota|(sending|rate|user|daily|hourly).{0,20}limit|\b(ehlo|helo)\b"
    r"|client host|sender|authenticat|not (permitted|allowed|authori[sz]ed)"
    r"|block(ed|list)|blacklist|reputation",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ADDRESS = re.compile(r"[^\s<>:,;\"']+@[^\s<>:,;\"']+")


class SmtpSettings(BaseModel):
    """The part of a connector's settings that says where the mail server is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(
        min_length=1,
        description="The mail server, by name (its certificate is checked against it).",
    )
    port: int | None = Field(
        default=None,
        ge=1,
        le=65535,
        description="Its port; 587 for starttls, 465 for tls, 25 for none unless given.",
    )
    security: Literal["starttls", "tls", "none"] = Field(
        default="starttls",
        description="How the conversation is encrypted; none only on a network of your own.",
    )
    ehlo_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$",
        description="The name by which NSPS greets the mail server (EHLO); the sender's domain "
        "unless given.",
    )


@dataclass(frozen=True, slots=True)
class Envelope:
    """A mail as it goes on the wire: addresses as local@domain, the whole message as bytes."""

    sender: str
    to: tuple[str, ...]
    content: bytes

    @property
    def international(self) -> bool:
        """Whether it needs a server that takes addresses beyond ASCII (SMTPUTF8)."""
        return not all(address.isascii() for address in (self.sender, *self.to))


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The server took the mail: its reply, and which recipients it refused for good, and why."""

    reply: str
    refused: dict[str, str]


class SmtpServer:
    """A mail server. Each mail is a conversation of its own, with one deadline.

    ``secret``: gives the handler's secrets ``user``, ``password`` and ``ca``; the first two are
    read anew, and tried once more, where the server refuses them.
    """

    def __init__(self, settings: SmtpSettings, sender: str, secret: OptionalSecret) -> None:
        self._settings = settings
        self._port = settings.port or _PORTS[settings.security]
        self._ehlo_name = settings.ehlo_name or sender.rpartition("@")[2]
        self._secret = secret
        self._where = f"mail server {settings.host}:{self._port}"

    def check(self, deadline: Deadline) -> None:
        """Whether it would take a mail: greeted, encrypted, logged in."""
        with self._conversation(deadline) as smtp:
            self._expect(smtp.noop(), "NOOP")

    def send(self, envelope: Envelope, deadline: Deadline) -> HandedOver:
        """Hand the mail over, to each recipient that the server takes.

        If a recipient may be taken later, the mail goes to none yet: a repetition must not reach
        anyone twice. Raises Unreachable, Transient, Terminal, NoAnswer.
        """
        with self._conversation(deadline) as smtp:
            options = []
            if envelope.international:
                if not smtp.has_extn("smtputf8"):
                    raise Terminal(
                        f"{self._where} does not take addresses with letters beyond ASCII "
                        "(SMTPUTF8)"
                    )
                options = ["SMTPUTF8", "BODY=8BITMIME"]
            self._name_sender(smtp.mail(envelope.sender, options))
            refused = self._name_recipients(smtp, envelope.to)
            return HandedOver(self._hand_over(smtp, envelope.content), refused)

    def _name_sender(self, reply: tuple[int, bytes]) -> None:
        """A refused sender is a fault of the configuration: it holds for every mail alike."""
        code, text = reply
        if code == 552 or b"5.3.4" in text:
            raise Terminal(f"{self._where} answered MAIL FROM with {code} {_shown(text)}")
        if 500 <= code <= 599:
            raise Transient(
                f"{self._where} refuses the sender: {code} {_shown(text)}; correct sender"
            )
        self._expect(reply, "MAIL FROM")

    def _name_recipients(self, smtp: _Conversation, to: tuple[str, ...]) -> dict[str, str]:
        """Those refused for good. Raises a refusal that may pass; and one if all are refused."""
        refused: dict[str, Transient | Terminal] = {}
        for address in to:
            code, text = smtp.rcpt(address)
            if code not in (250, 251, 252):
                refused[address] = self._refusal(code, text, _RCPT)
        for refusal in refused.values():
            if isinstance(refusal, Transient):
                raise refusal
        if len(refused) == len(to):
            raise refused[to[0]]
        return {address: str(refusal) for address, refusal in refused.items()}

    def _hand_over(self, smtp: _Conversation, content: bytes) -> str:
        self._expect(smtp.docmd("DATA"), _DATA, good=(354,))
        smtp.send(_dotted(content))  # an error in here: the final dot did not leave, all is void
        try:
            code, text = smtp.getreply()
        except (OSError, smtplib.SMTPException) as error:
            raise NoAnswer(
                f"{self._where} had the whole mail and did not answer ({type(error).__name__}): "
                "it may have been sent"
            ) from None
        self._expect((code, text), _MESSAGE)
        return f"{code} {_shown(text)}"

    # --- from the connection to the login --------------------------------------------------------

    @contextmanager
    def _conversation(self, deadline: Deadline) -> Iterator[_Conversation]:
        """A server that is ready to take a mail. Every fault of it comes out as Transient."""
        smtp = _Conversation(deadline, self._ehlo_name)
        try:
            self._greet(smtp)
            yield smtp
            with suppress(OSError, smtplib.SMTPException):
                smtp.quit()
        except smtplib.SMTPServerDisconnected:
            what = "did not answer in time" if deadline.expired else "closed the connection"
            raise Transient(f"{self._where} {what} before it had the mail") from None
        except smtplib.SMTPResponseException as error:
            raise self._refusal(error.smtp_code, error.smtp_error, "the conversation") from None
        except smtplib.SMTPException as error:
            raise Transient(f"{self._where}: {type(error).__name__}; check the settings") from None
        except ssl.SSLError as error:
            raise Transient(
                f"{self._where}: TLS failed ({error.reason or type(error).__name__}); check the "
                "server's certificate, or give its authority as the secret ca"
            ) from None
        except TimeoutError:
            raise Unreachable(f"{self._where} did not answer in time; nothing was sent") from None
        except OSError as error:
            raise Unreachable(
                f"{self._where} cannot be reached ({type(error).__name__}); nothing was sent"
            ) from None
        finally:
            smtp.close()

    def _greet(self, smtp: _Conversation) -> None:
        host, security = self._settings.host, self._settings.security
        login = self._login()
        if login and security == "none" and host not in _LOOPBACK:
            raise Transient(
                f"{self._where}: a password is never sent without TLS; set security to starttls"
            )
        code, text = smtp.open(host, self._port, self._tls() if security == "tls" else None)
        if code != 220:
            # 554 here is about this client (blocked, not welcome), never about a mail.
            raise Transient(f"{self._where} does not want to talk: {code} {_shown(text)}")
        smtp.ehlo_or_helo_if_needed()
        if security == "starttls":
            if not smtp.has_extn("starttls"):
                raise Transient(
                    f"{self._where} does not offer STARTTLS; nothing is sent in the clear"
                )
            smtp.starttls(context=self._tls())
            smtp.ehlo_or_helo_if_needed()
        if login:
            self._log_in(smtp, login)

    def _login(self, *, again: bool = False) -> tuple[SecretValue, SecretValue] | None:
        user, password = (self._secret(name, again=again) for name in ("user", "password"))
        return None if user is None or password is None else (user, password)

    def _log_in(
        self, smtp: _Conversation, login: tuple[SecretValue, SecretValue], last: bool = False
    ) -> None:
        try:
            smtp.login(*(each.reveal() for each in login))
        except UnicodeError:
            raise Transient("the secrets user and password must be ASCII") from None
        except smtplib.SMTPNotSupportedError:
            raise Transient(
                f"{self._where} offers no authentication; remove the secrets user and password"
            ) from None
        except smtplib.SMTPAuthenticationError as error:
            renewed = None if last else self._login(again=True)
            if renewed is not None and renewed != login:
                self._log_in(smtp, renewed, last=True)
                return
            # The reply is left out: some servers put the user's name into it.
            hint = _STANDING.get(error.smtp_code, "the server refuses to authenticate")
            raise Transient(f"{self._where}: {error.smtp_code}: {hint}") from None

    def _tls(self) -> ssl.SSLContext:
        return tls_context(self._secret("ca"))

    # --- what a reply means ----------------------------------------------------------------------

    def _expect(self, reply: tuple[int, bytes], step: str, good: tuple[int, ...] = (250,)) -> None:
        if reply[0] not in good:
            raise self._refusal(reply[0], reply[1], step)

    def _refusal(self, code: int, text: bytes | str, step: str) -> Transient | Terminal:
        words = _shown(text)  # without the recipient, whose address may hold any word
        said = f"{self._where} answered {step} with {code} {words}"
        if code in _STANDING:
            return Transient(f"{said}: {_STANDING[code]}")
        if not 500 <= code <= 599:
            return Transient(said)
        if speaks_of_the_mail(step, words):
            return Terminal(said)
        return Transient(f"{said}; this concerns the sending side: check the server and {_OURS}")


def speaks_of_the_mail(step: str, text: str) -> bool:
    """Whether a 5xx reply refuses the recipient or the mail, and not the sending side.

    (Sources: RFC 5321 section 4.2, RFC 3463.)
    """
    if step not in (_RCPT, _DATA, _MESSAGE):
        return False
    found = _ENHANCED.match(text)
    code = found.group(1) if found else ""
    if _OF_THE_RECIPIENT.fullmatch(code):
        return True  # a full mailbox is said to be over quota, too
    if _OF_OUR_SETUP.search(text):
        return False
    if step == _RCPT:
        return not code
    return code in ("", "5.7.1") or code.startswith("5.6.")


def single_line(text: str) -> str:
    """Text for a header: no line end and no other control character can be in it."""
    return " ".join(CONTROL.sub(" ", text).split())


def _shown(reply: bytes | str) -> str:
    """A server's words for operators: one line, bounded, without addresses."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return shortened(_ADDRESS.sub("<address>", single_line(text)), 300)


def _dotted(content: bytes) -> bytes:
    """A message as it goes after DATA: lines end in CRLF, dots doubled, the final dot last."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", content)
    lines = re.sub(rb"(?m)^\.", b"..", lines)
    return lines + (b"" if lines.endswith(b"\r\n") else b"\r\n") + b".\r\n"


class _Conversation(smtplib.SMTP):
    """smtplib with one deadline for the whole conversation, not one per read."""

    def __init__(self, deadline: Deadline, ehlo_name: str) -> None:
        super().__init__(local_hostname=ehlo_name)
        self._deadline = deadline
        self._time_left = deadline.time_left

    def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
        """Connect and read the greeting; ``tls``: for a server that begins with TLS."""
        self._host = host  # smtplib checks the certificate of STARTTLS against it
        self.sock = connect(resolve(host, port, self._time_left()), self._time_left)
        if tls is not None:
            self.sock.settimeout(self._time_left())
            self.sock = tls.wrap_socket(self.sock, server_hostname=host)
        return self.getreply()

    def send(self, s: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self._time_left())
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = Connection(self.sock, self._time_left)
        reply = super().getreply()
        if self.sock is not None:  # for the TLS handshake after STARTTLS
            self.sock.settimeout(self._deadline.remaining() or 0.001)
        return reply
