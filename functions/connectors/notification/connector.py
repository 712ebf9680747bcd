"""E-mail to the subscriber (or to whom the settings say) when something happens to an account.

One SMTP conversation per message: whatever goes wrong before the final dot has changed nothing;
after it, only the server knows.
"""

from __future__ import annotations

import hashlib
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.policy import SMTPUTF8 as SMTPUTF8_POLICY
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Literal

import idna
from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from nsps.connector.base import Call, Enriched, Message, MessageConnector, Parts
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unreachable
from nsps.domain.routing import check_pattern, matches
from nsps.domain.snapshot import (
    AccessPolicyInfo,
    AccountInfo,
    Block,
    CustomerInfo,
    ProductInfo,
    SimInfo,
)
from nsps.domain.subscriber import msisdn
from nsps.runtime.redact import shortened
from nsps.transport.http import Deadline
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

_PORTS = {"none": 25, "starttls": 587, "tls": 465}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_NAMES = frozenset({"event_type", "variables", "msisdn", *(block.value for block in Block)})
_SUBJECT_MAX = 200
_TEXT_MAX = 100_000

# Replies that speak of this client's standing with the server, not of the message.
_STANDING = {
    421: "the server closes the connection",
    530: "the server wants authentication: set the secrets user and password",
    534: "the server wants another way to authenticate",
    535: "the server refuses the user or the password",
    538: "the server wants encryption: set security to starttls or tls",
}


# Steps at which a server can refuse a recipient or a message; elsewhere it refuses us.
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


def speaks_of_the_mail(step: str, text: str) -> bool:
    """Whether a 5xx reply refuses the recipient or the message, and not the sending side.

    Only then is it final: a refused set-up is corrected, and the mail must still go out.
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


def _blank_none(value: object) -> object:
    return "" if value is None else value


_jinja = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined,
    finalize=_blank_none,
    autoescape=False,
)


@lru_cache(maxsize=256)
def _compiled(source: str) -> Template:
    return _jinja.from_string(source)


def _check_template(source: str) -> str:
    """Return the template, or raise ValueError that says where it is wrong."""
    try:
        unknown = meta.find_undeclared_variables(_jinja.parse(source)) - _NAMES
    except TemplateError as error:
        raise ValueError(f"not a Jinja2 template: {error}") from None
    if unknown:
        raise ValueError(
            f"unknown name {', '.join(sorted(unknown))}; there are {', '.join(sorted(_NAMES))}"
        )
    return source


class Wording(BaseModel):
    """Subject and text of the mail for some event types; both are Jinja2 templates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str = Field(min_length=1, max_length=1000)
    text: str = Field(min_length=1, max_length=_TEXT_MAX)

    _templates = field_validator("subject", "text")(_check_template)


_HELLO = "Hello{{ ' ' ~ account_info.firstname if account_info.firstname else '' }},\n\n"

_SIM = Wording(
    subject="The SIM card of your account has changed",
    text=_HELLO + "{% if sim_info.iccid %}The SIM card of your account is now the one whose "
    "number ends in {{ sim_info.iccid[-4:] }}.{% else %}Your account no longer has a SIM "
    "card.{% endif %} Please contact us at once if you did not ask for this.\n",
)

DEFAULT_WORDING: Mapping[str, Wording] = {
    "Account/Blocked": Wording(
        subject="Your account has been blocked",
        text=_HELLO + "Your account {{ account_info.id }} has been blocked. "
        "Please contact us if you did not expect this.\n",
    ),
    "Account/Unblocked": Wording(
        subject="Your account is active again",
        text=_HELLO + "Your account {{ account_info.id }} is active again.\n",
    ),
    "SIM/Replaced": _SIM,
    "Account/SIMCardAssignment": _SIM,
}


class Settings(BaseModel):
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
    sender: str = Field(
        description="The sender, as local@domain or Name <local@domain>.",
    )
    ehlo_name: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$",
        description="The name by which NSPS greets the mail server (EHLO); the sender's domain "
        "unless given.",
    )
    to: str = Field(
        default="{{ account_info.email }}",
        description="Jinja2 template of the recipients, commas between several; empty means "
        "nothing to send.",
    )
    templates: dict[str, Wording] = Field(
        default_factory=dict,
        description="Event type pattern to {subject, text}, both Jinja2 templates; the first "
        "pattern that matches is used.",
    )
    default_templates: bool = Field(
        default=True,
        description="Whether the built-in wording serves the events that no template of yours "
        "matches.",
    )

    _to = field_validator("to")(_check_template)

    @field_validator("templates")
    @classmethod
    def _patterns(cls, templates: dict[str, Wording]) -> dict[str, Wording]:
        for pattern in templates:
            check_pattern(pattern)
        return templates

    @model_validator(mode="after")
    def _sender_is_an_address(self) -> Settings:
        if not mailbox(self.sender).username.isascii():
            raise ValueError("the sender's local part must be ASCII: not every server takes others")
        return self

    def wording(self, event_type: str) -> tuple[str, Wording] | None:
        """The first pattern that takes the event type, the settings' own before the defaults."""
        defaults = DEFAULT_WORDING if self.default_templates else {}
        for pattern, wording in [*self.templates.items(), *defaults.items()]:
            if matches(pattern, event_type):
                return pattern, wording
        return None


@dataclass(frozen=True, slots=True)
class Mail:
    """What is to be sent; ``to`` are addresses as they go on the wire."""

    to: tuple[str, ...]
    subject: str
    text: str

    @property
    def international(self) -> bool:
        return not all(address.isascii() for address in self.to)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_ADDRESS = re.compile(r"[^\s<>:,;\"']+@[^\s<>:,;\"']+")


def one_line(text: str) -> str:
    """Text for a header: no line end and no other control character can be in it."""
    return " ".join(_CONTROL.sub(" ", text).split())


def mailbox(text: str) -> Address:
    """``Name <local@domain>`` or ``local@domain``, its domain in IDNA form. Raises ValueError."""
    if _CONTROL.search(text):
        raise ValueError("an e-mail address holds a control character")
    match = re.fullmatch(r"\s*(?:(?P<name>[^<>]*?)\s*<(?P<in>[^<>]+)>|(?P<bare>[^<>]+?))\s*", text)
    spec = (match["in"] or match["bare"]).strip() if match else ""
    local, at, domain = spec.rpartition("@")
    if not (match and at and _LOCAL.fullmatch(local)):
        raise ValueError("not an e-mail address: write local@domain or Name <local@domain>")
    name = (match["name"] or "").strip().strip('"')
    return Address(display_name=name, username=local, domain=_wire_domain(domain))


_LOCAL = re.compile(r"[^\s@<>()\[\],;:\\\"]{1,64}")


def _wire_domain(domain: str) -> str:
    if domain.isascii():
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", domain):
            raise ValueError("the domain of an e-mail address is not one")
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("the domain of an e-mail address is not one") from None


def recipients(rendered: str) -> tuple[str, ...]:
    """The addresses in the rendered ``to``, commas or semicolons between them; () if none.

    Raises Terminal if one of them is not an address.
    """
    found = (part for part in re.split(r"[,;]", rendered) if part.strip())
    try:
        return tuple(dict.fromkeys(mailbox(part).addr_spec for part in found))
    except ValueError as error:
        raise Terminal(f"the recipient is {error}; correct it in PortaBilling") from None


class NotificationConnector(MessageConnector[Settings]):
    """Sends one e-mail per event, by SMTP."""

    settings_model = Settings

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self.sender = mailbox(settings.sender)

    def reads(self) -> Iterator[tuple[str, Block]]:
        settings = self.settings
        yield from (("to", block) for block in _named_in(settings.to))
        for pattern, wording in settings.templates.items():
            for block in _named_in(wording.subject, wording.text):
                yield f"templates.{pattern}", block

    def message(self, event: Enriched) -> Message | None:
        found = self.settings.wording(event.event.event_type)
        if found is None:
            return None
        pattern, wording = found
        names = _names(event, _named_in(self.settings.to, wording.subject, wording.text))
        to = recipients(_render("the setting to", self.settings.to, names))
        if not to:
            return None
        mail = Mail(
            to=to,
            subject=one_line(_render(f"subject of {pattern}", wording.subject, names))[
                :_SUBJECT_MAX
            ],
            text=_render(f"text of {pattern}", wording.text, names)[:_TEXT_MAX],
        )
        return Message(f"e-mail {pattern} to {_masked(to)}", mail)

    def send(self, message: Message, call: Call) -> str:
        mail: Mail = message.content
        with self._conversation(call.deadline) as smtp:
            utf8 = mail.international
            if utf8 and not smtp.has_extn("smtputf8"):
                raise Terminal(
                    f"{self._where} does not take addresses with letters beyond ASCII (SMTPUTF8)"
                )
            options = ["SMTPUTF8", "BODY=8BITMIME"] if utf8 else []
            self._expect_sender(smtp.mail(self.sender.addr_spec, options))
            refused = self._name_recipients(smtp, mail.to)
            answer = self._hand_over(smtp, self._compose(mail, call.reference, utf8))
            return f"{answer}{refused}"

    def check(self, call: Call) -> None:
        with self._conversation(call.deadline) as smtp:
            self._expect(smtp.noop(), "NOOP")

    # --- the conversation ------------------------------------------------------------------------

    @property
    def _where(self) -> str:
        settings = self.settings
        return f"mail server {settings.host}:{settings.port or _PORTS[settings.security]}"

    @contextmanager
    def _conversation(self, deadline: Deadline) -> Iterator[Conversation]:
        """A server that is ready to take a message. Every fault of it comes out as Transient."""
        smtp = Conversation(deadline, self.settings.ehlo_name or self.sender.domain)
        try:
            self._greet(smtp)
            yield smtp
            with suppress(OSError, smtplib.SMTPException):
                smtp.quit()
        except smtplib.SMTPServerDisconnected:
            raise Transient(f"{self._where} closed the connection before it had the mail") from None
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

    def _greet(self, smtp: Conversation) -> None:
        settings = self.settings
        port = settings.port or _PORTS[settings.security]
        login = self.parts.has_secret("user") and self.parts.has_secret("password")
        if login and settings.security == "none" and settings.host not in _LOOPBACK:
            raise Transient(
                f"{self._where}: a password is never sent without TLS; set security to starttls"
            )
        tls = self._tls() if settings.security != "none" else None
        implicit = tls if settings.security == "tls" else None
        code, text = smtp.open(settings.host, port, implicit)
        if code != 220:
            # 554 here is about this client (blocked, not welcome), never about a message.
            raise Transient(f"{self._where} does not want to talk: {code} {_clean(text)}")
        smtp.ehlo_or_helo_if_needed()
        if settings.security == "starttls":
            assert tls is not None
            if not smtp.has_extn("starttls"):
                raise Transient(
                    f"{self._where} does not offer STARTTLS; nothing is sent in the clear"
                )
            smtp.starttls(context=tls)
            smtp.ehlo_or_helo_if_needed()
        if login:
            self._log_in(smtp)

    def _log_in(self, smtp: Conversation) -> None:
        user = self.parts.secret("user").reveal()
        password = self.parts.secret("password").reveal()
        try:
            smtp.login(user, password)
        except UnicodeError:
            raise Transient("the secrets user and password must be ASCII") from None
        except smtplib.SMTPNotSupportedError:
            raise Transient(
                f"{self._where} offers no authentication; remove the secrets user and password"
            ) from None
        except smtplib.SMTPAuthenticationError as error:
            # The reply is left out: some servers put the user's name into it.
            hint = _STANDING.get(error.smtp_code, "the server refuses to authenticate")
            raise Transient(f"{self._where}: {error.smtp_code}: {hint}") from None

    def _tls(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        if self.parts.has_secret("ca"):
            try:
                context.load_verify_locations(cadata=self.parts.secret("ca").reveal())
            except ssl.SSLError:
                raise Transient("the secret ca is not a certificate in PEM form") from None
        return context

    def _expect(self, reply: tuple[int, bytes], step: str, good: tuple[int, ...] = (250,)) -> None:
        if reply[0] not in good:
            raise self._refusal(reply[0], reply[1], step)

    def _expect_sender(self, reply: tuple[int, bytes]) -> None:
        """A refused sender is a fault of the configuration: it holds for every mail alike."""
        code, text = reply
        if code == 552 or b"5.3.4" in text:
            raise Terminal(f"{self._where} answered MAIL FROM with {code} {_clean(text)}")
        if 500 <= code <= 599:
            raise Transient(
                f"{self._where} refuses the sender: {code} {_clean(text)}; correct sender"
            )
        self._expect(reply, "MAIL FROM")

    def _name_recipients(self, smtp: Conversation, to: tuple[str, ...]) -> str:
        """Name them all; what to add to the history if some are refused for good.

        If one may work later, nobody is written to yet: a repetition must not reach anyone twice.
        """
        refusals: list[Transient | Terminal] = []
        for address in to:
            code, text = smtp.rcpt(address)
            if code not in (250, 251, 252):
                refusals.append(self._refusal(code, text, _RCPT))
        for refusal in refusals:
            if isinstance(refusal, Transient) or len(refusals) == len(to):
                raise refusal
        return f"; {len(refusals)} of {len(to)} addresses refused" if refusals else ""

    def _hand_over(self, smtp: Conversation, mail: bytes) -> str:
        self._expect(smtp.docmd("DATA"), _DATA, good=(354,))
        smtp.send(_dotted(mail))  # an error in here: the final dot did not leave, all is void
        try:
            code, text = smtp.getreply()
        except (OSError, smtplib.SMTPException) as error:
            raise NoAnswer(
                f"{self._where} had the whole mail and did not answer ({type(error).__name__}): "
                "it may have been sent"
            ) from None
        self._expect((code, text), _MESSAGE)
        return f"{code} {_clean(text)}"

    def _refusal(self, code: int, text: bytes | str, step: str) -> Transient | Terminal:
        words = _clean(text)  # without the recipient, whose address may hold any word
        said = f"{self._where} answered {step} with {code} {words}"
        if code in _STANDING:
            return Transient(f"{said}: {_STANDING[code]}")
        if not 500 <= code <= 599:
            return Transient(said)
        if speaks_of_the_mail(step, words):
            return Terminal(said)
        return Transient(f"{said}; this concerns the sending side: check the server and {_OURS}")

    def _compose(self, mail: Mail, reference: str, utf8: bool) -> bytes:
        policy = SMTPUTF8_POLICY if utf8 else SMTP_POLICY.clone(cte_type="7bit")
        message = EmailMessage(policy=policy)
        message["From"] = self.sender
        message["To"] = [mailbox(address) for address in mail.to]
        message["Subject"] = mail.subject
        message["Date"] = formatdate(localtime=False)
        digest = hashlib.sha256(f"{self.parts.handler}\n{reference}".encode()).hexdigest()
        message["Message-ID"] = f"<{digest[:40]}@{self.sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(mail.text)
        return message.as_bytes()


class Conversation(smtplib.SMTP):
    """smtplib with one deadline for the whole conversation, not one per read."""

    def __init__(self, deadline: Deadline, ehlo_name: str) -> None:
        super().__init__(local_hostname=ehlo_name)
        self._deadline = deadline

    def open(self, host: str, port: int, tls: ssl.SSLContext | None) -> tuple[int, bytes]:
        """Connect and read the greeting; ``tls``: for a server that begins with TLS."""
        self._host = host  # smtplib checks the certificate of STARTTLS against it
        connection = _connect(host, port, self._left)
        self.sock = tls.wrap_socket(connection, server_hostname=host) if tls else connection
        return self.getreply()

    def send(self, s: Any) -> None:
        if self.sock is not None:
            self.sock.settimeout(self._left())
        super().send(s)

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Lines(self.sock, self._left)
        return super().getreply()

    def _left(self) -> float:
        left = self._deadline.remaining()
        if left <= 0:
            raise TimeoutError("the deadline of the call has passed")
        return left


class _Lines:
    """The lines of a socket; no read may last beyond the deadline, however slowly bytes drip."""

    def __init__(self, sock: socket.socket, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left
        self._buffer = b""

    def readline(self, limit: int) -> bytes:
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            self._sock.settimeout(self._left())
            data = self._sock.recv(8192)
            if not data:
                return b""  # half a line is no answer
            self._buffer += data
        end = self._buffer.find(b"\n") + 1 or limit
        line, self._buffer = self._buffer[:end], self._buffer[end:]
        return line

    def close(self) -> None:
        """The socket is closed by its owner."""


def _connect(host: str, port: int, left: Callable[[], float]) -> socket.socket:
    """The first address of the host that answers, within what is left of the deadline."""
    error: OSError = OSError("the host has no address")
    for family, kind, protocol, _, address in socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM
    ):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(left())
            connection.connect(address)
            return connection
        except OSError as failed:
            connection.close()
            error = failed
    raise error


def _dotted(mail: bytes) -> bytes:
    """A message as it goes after DATA: lines end in CRLF, dots doubled, the final dot last."""
    lines = re.sub(rb"\r\n|\r|\n", b"\r\n", mail)
    lines = re.sub(rb"(?m)^\.", b"..", lines)
    return lines + (b"" if lines.endswith(b"\r\n") else b"\r\n") + b".\r\n"


# --- texts ---------------------------------------------------------------------------------------


_EMPTY: Mapping[Block, Any] = {
    Block.ACCOUNT_INFO: AccountInfo(),
    Block.SIM_INFO: SimInfo(),
    Block.PREV_SIM_INFO: SimInfo(),
    Block.ACCESS_POLICY_INFO: AccessPolicyInfo(),
    Block.PRODUCT_INFO: ProductInfo(),
    Block.FULL_VD_COUNTER_INFO: (),
    Block.CUSTOMER_INFO: CustomerInfo(),
}


_MSISDN_BLOCKS = frozenset({Block.ACCOUNT_INFO.value, Block.SIM_INFO.value})


def _names(event: Enriched, blocks: Iterable[Block]) -> Mapping[str, Any]:
    """What a template may name; a block of something that is gone has every member empty.

    Raises BlockNotRead.
    """
    named = {block.value: event.pb.content(block) or _EMPTY[block] for block in blocks}
    number = (msisdn(event.pb) or "") if named.keys() >= _MSISDN_BLOCKS else ""
    return {
        "event_type": event.event.event_type,
        "variables": event.event.variables,
        "msisdn": number,
        **named,
    }


@lru_cache(maxsize=256)
def _named_in(*sources: str) -> frozenset[Block]:
    """The blocks that these templates name."""
    names = {
        name for each in sources for name in meta.find_undeclared_variables(_jinja.parse(each))
    }
    names |= _MSISDN_BLOCKS if "msisdn" in names else frozenset()
    return frozenset(block for block in Block if block in names)


def _render(what: str, source: str, names: Mapping[str, Any]) -> str:
    try:
        return _compiled(source).render(names)
    except TemplateError as error:
        raise Terminal(f"template {what}: {error}; correct the handler's settings") from None
    except Exception as error:
        # A template is a small program: it can divide by zero. The value at fault is not shown.
        raise Terminal(
            f"template {what} fails with {type(error).__name__}; correct the handler's settings"
        ) from None


def _masked(to: tuple[str, ...]) -> str:
    """Addresses for the history: enough to recognise one, not enough to write to."""
    first = f"{to[0][:1]}***@{to[0].rpartition('@')[2]}"
    return first if len(to) == 1 else f"{first} and {len(to) - 1} more"


def _clean(reply: bytes | str) -> str:
    """A server's words for operators: one line, bounded, without addresses."""
    text = reply.decode("utf-8", "replace") if isinstance(reply, bytes) else reply
    return shortened(_ADDRESS.sub("<address>", one_line(text)), 300)
