"""The wording of mails, and what is built in."""

from __future__ import annotations

from collections.abc import Mapping

from nsps.connector.wording import check_template
from pydantic import BaseModel, ConfigDict, Field, field_validator

TEXT_MAX = 100_000


class Wording(BaseModel):
    """Subject and text of the mail for some event types; both are Jinja2 templates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    subject: str = Field(min_length=1, max_length=1000)
    text: str = Field(min_length=1, max_length=TEXT_MAX)

    _templates = field_validator("subject", "text")(check_template)


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
