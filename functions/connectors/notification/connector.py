"""E-mail to the subscriber (or to whom the settings say) when something happens to an account.

How a mail is handed over, and what the server's replies mean, is in nsps.transport.smtp.
"""

from __future__ import annotations

from collections.abc import Iterator

from nsps.connector.base import Call, Context, Enriched, Message, MessageConnector
from nsps.connector.wording import Wordings, blocks_in, check_template, names_of, render
from nsps.domain.snapshot import Block
from nsps.runtime.secrets import SecretValue
from nsps.transport.smtp import SmtpServer, SmtpSettings, single_line
from pydantic import Field, field_validator, model_validator

from .mail import Mail, mailbox, masked, recipients
from .wording import DEFAULT_WORDING, TEXT_MAX, Wording

_SUBJECT_MAX = 200


class Settings(SmtpSettings, Wordings[Wording]):
    """The mail server, who writes to whom, and the wording."""

    sender: str = Field(
        description="The sender, as local@domain or Name <local@domain>.",
    )
    to: str = Field(
        default="{{ account_info.email }}",
        description="Jinja2 template of the recipients, commas between several; empty means "
        "nothing to send.",
    )
    _to = field_validator("to")(check_template)

    @model_validator(mode="after")
    def _sender_is_an_address(self) -> Settings:
        if not mailbox(self.sender).username.isascii():
            raise ValueError("the sender's local part must be ASCII: not every server takes others")
        return self

    @staticmethod
    def sources(wording: Wording) -> tuple[str, ...]:
        return wording.subject, wording.text


class NotificationConnector(MessageConnector[Settings]):
    """Sends one e-mail per event, by SMTP."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._sender = mailbox(settings.sender)
        self._server = SmtpServer(settings, self._sender.addr_spec, self._secret)

    @classmethod
    def reads(cls, settings: Settings) -> Iterator[tuple[str, Block]]:
        yield from (("to", block) for block in blocks_in(settings.to))
        yield from settings.reads()

    def check(self, call: Call) -> None:
        self._server.check(call.deadline)

    def message(self, event: Enriched) -> Message | None:
        found = self.settings.chosen(event, DEFAULT_WORDING)
        if found is None:
            return None
        pattern, wording = found
        names = names_of(event, blocks_in(self.settings.to, *self.settings.sources(wording)))
        to = recipients(render("the setting to", self.settings.to, names))
        if not to:
            return None
        subject = single_line(render(f"subject of {pattern}", wording.subject, names))
        text = render(f"text of {pattern}", wording.text, names)
        mail = Mail(to, subject[:_SUBJECT_MAX], text[:TEXT_MAX])
        return Message(f"e-mail {pattern} to {masked(to)}", mail)

    def send(self, message: Message, call: Call) -> str:
        mail: Mail = message.content
        envelope = mail.envelope(self._sender, f"{self.context.handler}\n{call.reference}")
        handed = self._server.send(envelope, call.deadline)
        if not handed.refused:
            return handed.reply
        return f"{handed.reply}; {len(handed.refused)} of {len(mail.to)} addresses refused"

    def _secret(self, name: str) -> SecretValue | None:
        return self.context.secret(name) if self.context.has_secret(name) else None
