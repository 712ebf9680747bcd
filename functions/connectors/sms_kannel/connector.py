"""Text messages to the subscriber (or to whom the settings say) through Kannel's sendsms.

Kannel takes a message at once and reports later, by a call of the address that came with it, what
became of it. (Kannel 1.4.5 user's guide, "Using the HTTP interface to send SMS messages".)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from nsps.connector.base import (
    Answer,
    AnswersLater,
    Call,
    CallbackRefused,
    CallbackRequest,
    Context,
    Enriched,
    Message,
    MessageConnector,
    Ordering,
    Receipt,
)
from nsps.connector.proof import is_proof, proof_of
from nsps.connector.wording import blocks_in, names_of, render
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import as_msisdn
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.rest import Rest

from . import reports
from .settings import DEFAULT_TEXTS, Settings
from .text import Text, coded

ANSWERS = AnswerRules(
    (
        AnswerRule(Meaning.DONE, status="202", text="Accepted for delivery"),
        AnswerRule(Meaning.DONE, status="202", text="Queued for later delivery"),
        AnswerRule(Meaning.UNCLEAR, status="2xx", hint="is the setting url Kannel's sendsms?"),
        AnswerRule(
            Meaning.SIGN_IN, status="401,403", hint="are user and password Kannel's sendsms-user?"
        ),
        AnswerRule(Meaning.REFUSED, status="400", text="denied by white- and/or black-lists"),
        AnswerRule(Meaning.LATER, status="4xx", hint="check the settings url, sender and smsc"),
    )
)
CHECK_ANSWERS = (AnswerRule(Meaning.DONE, status="400", text="Missing receiver"),)
_CALLBACK_SECRETS = ("callback", "callback_next")


@dataclass(frozen=True, slots=True)
class Sms:
    """What is to be sent, to a number of digits only."""

    to: str
    text: Text


class SmsConnector(MessageConnector[Settings], AnswersLater):
    """One text message per event, and what the phone's network reports of it."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        password = context.secret_header("password", "X-Kannel-Password", str)
        hide = context.hide(*_CALLBACK_SECRETS)
        self._kannel = Rest(context.http, settings.url, password, ANSWERS, hide=hide)

    @property
    def ordering(self) -> Ordering:
        """A text may say a state: one that was overtaken is written anew, of the newest data."""
        return Ordering.NEWEST

    @classmethod
    def reads(cls, settings: Settings) -> Iterator[tuple[str, Block]]:
        yield from (("to", block) for block in blocks_in(settings.to))
        yield from settings.reads()

    def message(self, event: Enriched) -> Message | None:
        found = self.settings.chosen(event, DEFAULT_TEXTS)
        if found is None:
            return None
        pattern, template = found
        names = names_of(event, blocks_in(self.settings.to, template))
        to = render("the setting to", self.settings.to, names).strip()
        text = coded(render(f"text of {pattern}", template, names))
        if not to or text is None:
            return None
        number = as_msisdn(to)
        if number is None:
            raise Terminal("the recipient is no number in international form: correct it, or to")
        if text.parts > self.settings.max_parts:
            raise Terminal(
                f"the text of {pattern} takes {text.parts} parts, and max_parts is "
                f"{self.settings.max_parts}: shorten the template, or allow more"
            )
        return Message(f"SMS {pattern} to ...{number[-3:]}, parts: {text.parts}", Sms(number, text))

    def send(self, message: Message, call: Call) -> Receipt:
        sms: Sms = message.content
        name = self.context.name_of(call)
        headers = {
            "X-Kannel-To": f"+{sms.to}",
            "X-Kannel-Coding": str(sms.text.coding),
            "X-Kannel-Validity": str(self.settings.valid_minutes),
            "X-Kannel-DLR-Mask": str(reports.MASK),
            "X-Kannel-DLR-Url": reports.address(
                self.settings.reports_url, name, proof_of(name, self._secrets()[0])
            ),
        }
        said = self._post(sms.text.text, headers, call)
        return Receipt(name, said)

    def check(self, call: Call) -> None:
        """A message without a number: Kannel checks user and password before it misses that."""
        self._post("", {}, call, CHECK_ANSWERS)

    def _post(
        self, text: str, headers: dict[str, str], call: Call, rules: Sequence[AnswerRule] = ()
    ) -> str:
        headers |= {
            "Content-Type": "text/plain; charset=UTF-8",
            "X-Kannel-Username": self.settings.user,
            "X-Kannel-From": self.settings.sender,
        }
        if self.settings.smsc:
            headers["X-Kannel-SMSC"] = self.settings.smsc
        api = replace(self._kannel, headers=headers)
        answer = api.request("POST", "", call, body=text.encode(), rules=rules)
        answer.is_done()
        return answer.text

    def authenticate(self, request: CallbackRequest) -> None:
        name, proof = (request.query.get(each, "") for each in ("id", "proof"))
        if not is_proof(proof, name, self._secrets()):
            raise CallbackRefused("the address is not one that we gave out, or its secret is gone")

    def parse_callback(self, request: CallbackRequest) -> Sequence[Answer]:
        return [reports.read(request.query)]

    def _secrets(self) -> list[SecretValue]:
        return [self.context.secret(n) for n in _CALLBACK_SECRETS if self.context.has_secret(n)]
