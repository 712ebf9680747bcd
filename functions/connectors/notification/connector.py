"""E-mail to the subscriber (or to whom the settings say) when something happens to an account.

How a mail is handed over, and what the server's replies mean, is in nsps.transport.smtp.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nsps.connector.base import (
    Answer,
    AnswersLater,
    AnswerState,
    Call,
    CallbackRequest,
    Context,
    Enriched,
    Message,
    MessageConnector,
    Receipt,
)
from nsps.connector.proof import check_proof, is_proof, proof_of
from nsps.connector.wording import Wordings, blocks_in, check_template, names_of, render
from nsps.domain.outcome import Transient
from nsps.domain.snapshot import Block
from nsps.runtime.secrets import SecretValue
from nsps.transport.smtp import SmtpServer, SmtpSettings, single_line
from pydantic import Field, field_validator, model_validator

from . import bounces
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
    bounces_to: str | None = Field(
        default=None,
        description="The mailbox to which mail comes back, as local@domain, where the mail server "
        "hands it on to the callbacks function. OK then means that none came back within "
        "answer_within_hours; unless given, that the server took the mail.",
    )

    _to = field_validator("to")(check_template)

    @model_validator(mode="after")
    def _sender_is_an_address(self) -> Settings:
        if not mailbox(self.sender).username.isascii():
            raise ValueError("the sender's local part must be ASCII: not every server takes others")
        return self

    @model_validator(mode="after")
    def _bounces_have_room_for_a_name(self) -> Settings:
        local = mailbox(self.bounces_to).username if self.bounces_to else ""
        if not local.isascii() or "+" in local or len(local) > bounces.LOCAL_MAX:
            most = bounces.LOCAL_MAX
            raise ValueError(f"bounces_to: at most {most} ASCII characters before @, and no +")
        return self

    @staticmethod
    def sources(wording: Wording) -> tuple[str, ...]:
        return wording.subject, wording.text


class NotificationConnector(MessageConnector[Settings], AnswersLater):
    """Sends one e-mail per event, by SMTP, and takes the reports of those that come back."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._sender = mailbox(settings.sender)
        self._server = SmtpServer(settings, self._sender.addr_spec, context.optional)

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

    def send(self, message: Message, call: Call) -> str | Receipt:
        mail: Mail = message.content
        name, path = self.context.name_of(call), self._sender.addr_spec
        bounced = bounces.name(name)
        if self.settings.bounces_to:
            secrets = self._callback_secrets()
            if not secrets:
                raise Transient("the handler has no secret callback: bounces_to needs one")
            path = bounces.return_path(
                self.settings.bounces_to, bounced, proof_of(bounced, secrets[0])
            )
        handed = self._server.send(mail.envelope(self._sender, name, path), call.deadline)
        said = handed.reply
        if handed.refused:
            said += f"; {len(handed.refused)} of {len(mail.to)} addresses refused"
        return Receipt(bounced, said) if self.settings.bounces_to else said

    @property
    def silence(self) -> AnswerState:
        """A mail that does not come back has arrived, as far as anybody can tell."""
        return AnswerState.DONE

    def authenticate(self, request: CallbackRequest) -> None:
        check_proof("bearer", request, self._callback_secrets())

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        """Anybody may write to the return path: what is no bounce of ours holds no answer."""
        found = bounces.read(request.body)
        if found is None or not is_proof(found.proof, found.name, self._callback_secrets()):
            return []
        return [Answer(found.name, found.state, found.text)]

    def _callback_secrets(self) -> list[SecretValue]:
        secrets = (self.context.optional(name) for name in ("callback", "callback_next"))
        return [each for each in secrets if each is not None]
