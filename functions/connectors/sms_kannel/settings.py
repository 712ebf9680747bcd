"""What a deployment can say of its Kannel and of its messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from nsps.connector.wording import Wordings, check_template
from nsps.transport.address import HttpSettings, check_web_address
from pydantic import AfterValidator, Field, field_validator, model_validator

Template = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(check_template)]

_SIM = (
    "{% if sim_info.iccid %}The SIM card of your account is now the one whose number ends in "
    "{{ sim_info.iccid[-4:] }}.{% else %}Your account no longer has a SIM card.{% endif %} "
    "Please contact us at once if you did not ask for this."
)

DEFAULT_TEXTS: Mapping[str, str] = {
    "Account/Blocked": "{% if account_info.blocked %}Your account has been blocked. "
    "Please contact us if you did not expect this.{% endif %}",
    "Account/Unblocked": "{% if not account_info.blocked %}"
    "Your account is active again.{% endif %}",
    "SIM/Replaced": _SIM,
    "Account/SIMCardAssignment": _SIM,
}
"""Each says a state only while it is so: nothing is left of it where the state has changed."""


class Settings(Wordings[Template], HttpSettings):
    url: str = Field(
        description="Kannel's sendsms, for example https://HOST:13013/cgi-bin/sendsms."
    )
    user: str = Field(
        pattern=r"^[!-~]+$", description="The username of Kannel's group sendsms-user."
    )
    sender: str = Field(
        pattern=r"^(\+?[0-9]{3,15}|[A-Za-z0-9 .&_-]{1,11})$",
        description="Whom a phone shows as sender: a number, or a name of up to 11 letters.",
    )
    reports_url: str = Field(
        pattern=r"^[^?]*$",
        description="This handler at the callbacks function, CALLBACKS_URL/HANDLER; Kannel calls "
        "it with its delivery reports.",
    )
    to: str = Field(
        default="{{ msisdn }}",
        description="Jinja2 template of the recipient's number, in international form; empty "
        "means nothing to send.",
    )
    smsc: str | None = Field(
        default=None,
        pattern=r"^[!-~]+$",
        description="Through which of Kannel's SMSCs (smsc-id); Kannel chooses unless given.",
    )
    max_parts: int = Field(
        default=3,
        ge=1,
        le=10,
        description="How many parts a text may take; at most Kannel's max-messages.",
    )
    valid_minutes: int = Field(
        default=1440,
        ge=1,
        le=10_080,
        description="How long the network tries to deliver a message.",
    )

    _to = field_validator("to")(check_template)

    @model_validator(mode="after")
    def _other_address(self) -> Settings:
        check_web_address("reports_url", self.reports_url, self.allow_http)
        return self
