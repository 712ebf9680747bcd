"""What messages say: Jinja2 templates in a sandbox, by type of event and by language.

A connector that uses it lists Jinja2 in its requirements.txt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Generic, TypeVar

from jinja2 import StrictUndefined, Template, TemplateError, meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import BaseModel, Field, field_validator

from nsps.connector.base import Enriched
from nsps.domain.outcome import Terminal
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

W = TypeVar("W")

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


class Wordings(BaseModel, Generic[W]):
    """The part of a connector's settings that says what its messages say; ``W`` is one wording."""

    templates: dict[str, W] = Field(
        default_factory=dict,
        description="Event type pattern to wording, of Jinja2 templates; the first pattern that "
        "matches is used.",
    )
    default_templates: bool = Field(
        default=True,
        description="Whether the built-in wording serves the events that no template of yours "
        "matches.",
    )
    languages: dict[str, dict[str, W]] = Field(
        default_factory=dict,
        description="Language to what templates would be in it; what it lacks is taken from "
        "templates.",
    )
    language: str = Field(
        default="",
        description="Jinja2 template of the recipient's language: a name in languages; any other "
        "means templates.",
    )

    _language = field_validator("language")(check_template)

    @field_validator("templates")
    @classmethod
    def _patterns(cls, templates: dict[str, W]) -> dict[str, W]:
        for pattern in templates:
            check_pattern(pattern)
        return templates

    @field_validator("languages")
    @classmethod
    def _patterns_of_each(cls, languages: dict[str, dict[str, W]]) -> dict[str, dict[str, W]]:
        for templates in languages.values():
            cls._patterns(templates)
        return languages

    @staticmethod
    def sources(wording: Any) -> tuple[str, ...]:
        """The templates that a wording consists of."""
        return (wording,)

    def reads(self) -> Iterator[tuple[str, Block]]:
        """The blocks that the templates name, as Connector.reads has them."""
        yield from (("language", block) for block in blocks_in(self.language))
        tables = {f"languages.{name}": table for name, table in self.languages.items()}
        for where, table in {"templates": self.templates, **tables}.items():
            for pattern, wording in table.items():
                for block in blocks_in(*self.sources(wording)):
                    yield f"{where}.{pattern}", block

    def chosen(self, event: Enriched, built_in: Mapping[str, W]) -> tuple[str, W] | None:
        """Pattern and wording for an event; None if it has none. Raises Terminal, BlockNotRead."""
        names = names_of(event, blocks_in(self.language))
        language = render("language", self.language, names).strip()
        tables: list[Mapping[str, W]] = [self.languages.get(language, {}), self.templates]
        tables += [built_in] if self.default_templates else []
        for pattern, wording in (each for table in tables for each in table.items()):
            if matches(pattern, event.event.event_type):
                return pattern, wording
        return None
