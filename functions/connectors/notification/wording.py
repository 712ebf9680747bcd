"""The wording of mails: Jinja2 templates in a sandbox, and those that are built in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from nsps.connector.base import Enriched
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import (
    AccessPolicyInfo,
    AccountInfo,
    Block,
    CustomerInfo,
    ProductInfo,
    SimInfo,
)
from nsps.domain.subscriber import msisdn
from pydantic import BaseModel, ConfigDict, Field, field_validator

TEXT_MAX = 100_000
_NAMES = frozenset({"event_type", "variables", "msisdn", *(block.value for block in Block)})


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


def check_template(source: str) -> str:
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


def names_of(event: Enriched, blocks: Iterable[Block]) -> Mapping[str, Any]:
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
def blocks_in(*sources: str) -> frozenset[Block]:
    """The blocks that these templates name."""
    names = {
        name for each in sources for name in meta.find_undeclared_variables(_jinja.parse(each))
    }
    names |= _MSISDN_BLOCKS if "msisdn" in names else frozenset()
    return frozenset(block for block in Block if block in names)


def render(what: str, source: str, names: Mapping[str, Any]) -> str:
    try:
        return _compiled(source).render(names)
    except TemplateError as error:
        raise Terminal(f"template {what}: {error}; correct the handler's settings") from None
    except Exception as error:
        # A template is a small program: it can divide by zero. The value at fault is not shown.
        raise Terminal(
            f"template {what} fails with {type(error).__name__}; correct the handler's settings"
        ) from None
