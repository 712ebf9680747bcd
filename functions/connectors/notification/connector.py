"""E-mail to the subscriber (or to whom the settings say) when something happens to an account.

How a mail is handed over, and what the server's replies mean, is in nsps.transport.smtp.
"""

from __future__ import annotations

from collections.abc import Iterator

from nsps.connector.base import Call, Context, Enriched, Message, MessageConnector
from nsps.domain.routing import check_pattern, matches
from nsps.domain.snapshot import Block
from nsps.runtime.secrets import SecretValue
from nsps.transport.smtp import SmtpServer, SmtpSettings, single_line
from pydantic import Field, field_validator, model_validator

from .mail import Mail, mailbox, masked, recipients
from .wording import (
    DEFAULT_WORDING,
    TEXT_MAX,
    Wording,
    blocks_in,
    check_template,
    names_of,
    render,
)

_SUBJECT_MAX = 200


class Settings(SmtpSettings):
    """The mail server, who writes to whom, and the wording."""

    sender: str = Field(
        description="The sender, as local@domain or Name <local@domain>.",
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

    _to = field_validator("to")(check_template)

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
        for pattern, wording in settings.templates.items():
            for block in blocks_in(wording.subject, wording.text):
                yield f"templates.{pattern}", block

    def check(self, call: Call) -> None:
        self._server.check(call.deadline)

    def message(self, event: Enriched) -> Message | None:
        found = self.settings.wording(event.event.event_type)
        if found is None:
            return None
        pattern, wording = found
        names = names_of(event, blocks_in(self.settings.to, wording.subject, wording.text))
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
