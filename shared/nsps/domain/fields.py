"""Where a field of an external system gets its value: one language for all connectors. Pure.

A deployment writes a setting such as ``columns: {imsi: sim_info.imsi, plan: product_info.name}``;
``Fields.parse`` reads it, and ``Source.parse`` one value of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from nsps.domain.snapshot import (
    AccessPolicyInfo,
    AccountInfo,
    Block,
    CustomerInfo,
    Part,
    PbData,
    ProductInfo,
    SimInfo,
    as_amount,
    as_flag,
    as_integer,
    as_text,
    readers,
    several_of,
    written,
)
from nsps.domain.subscriber import is_served, msisdn, service_word

Kind = Literal["text", "integer", "flag", "amount", "list"]

READ: Mapping[Kind, Callable[[object], Any]] = {
    "text": as_text,
    "integer": as_integer,
    "flag": as_flag,
    "amount": as_amount,
}
"""How a single value of a kind is read, also where an external system gives it back."""

_KINDS: Mapping[Any, Kind] = {read: kind for kind, read in READ.items()}

# Not prev_sim_info: it tells of one event, and no state may be derived from it (decision 10).
_BLOCKS: Mapping[str, type[Part]] = {
    "account_info": AccountInfo,
    "sim_info": SimInfo,
    "access_policy_info": AccessPolicyInfo,
    "product_info": ProductInfo,
    "customer_info": CustomerInfo,
}

FORMS = "BLOCK.MEMBER, BLOCK.LIST.NAME.MEMBER, feature.NAME or policy.NAME"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value comes from. ``blocks``: what it looks at, the one it mainly is about first."""

    text: str
    kind: Kind
    blocks: tuple[Block, ...]
    value: Callable[[PbData], Any]
    """The value in the snapshot, as the published contract writes it; None where there is none.
    Raises BlockNotRead."""

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read one of ``FORMS``, or a name such as ``msisdn``. Raises ValueError.

        BLOCK.LIST.NAME.MEMBER is a member of the item of that name, and BLOCK.LIST the whole list
        for a system that takes lists.
        """
        if text in _NAMED:
            return cls(text, *_NAMED[text])
        head, _, rest = text.partition(".")
        if head == "feature" and rest:
            return cls(text, "text", (Block.ACCOUNT_INFO,), lambda pb: _feature(pb, rest))
        if head == "policy" and rest:
            return cls(text, "text", (Block.ACCESS_POLICY_INFO,), lambda pb: _policy(pb, rest))
        path = rest.split(".")
        kind = _kind_of(_BLOCKS[head], path) if head in _BLOCKS else None
        if kind is None:
            raise ValueError(_remedy(text))
        block = Block(head)
        return cls(text, kind, (block,), lambda pb: written(_member(pb.content(block), path)))

    def has_block(self, pb: PbData) -> bool:
        """Whether PortaBilling has anything in the main block. Raises BlockNotRead."""
        part = pb.content(self.blocks[0])
        return part is not None and any(
            getattr(part, name) not in (None, ()) for name, _ in readers(type(part))
        )


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields that a setting lists, each with its source."""

    setting: str
    sources: Mapping[str, Source]

    @classmethod
    def parse(cls, setting: str, texts: Mapping[str, str], *, lists: bool = False) -> Fields:
        """``lists``: whether the system takes lists as values. Raises ValueError with field and
        remedy."""
        sources = {}
        for name, text in texts.items():
            try:
                source = sources[name] = Source.parse(text)
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            if source.kind == "list" and not lists:
                raise ValueError(
                    f"{name}: {text!r} is a list: name one value of it, {text}.NAME.MEMBER"
                )
        return cls(setting, sources)

    def reads(self) -> Iterator[tuple[str, Block]]:
        """What a connector's ``reads`` says of the setting."""
        for name, source in self.sources.items():
            yield from ((f"{self.setting}.{name} ({source.text})", each) for each in source.blocks)

    def values(self, pb: PbData) -> dict[str, Any]:
        """Field -> value; None where the snapshot has none. Raises BlockNotRead."""
        return {name: source.value(pb) for name, source in self.sources.items()}


def _kind_of(part: type[Part], path: Sequence[str]) -> Kind | None:
    """The kind of the member that the path leads to; None if it leads nowhere."""
    member, *rest = path
    items = several_of(part, member)
    if items is not None and not rest:
        return "list"
    if items is None:
        return None if rest else _KINDS.get(dict(readers(part)).get(member))
    named = any(name == "name" for name, _ in readers(items))
    return _kind_of(items, rest[1:]) if named and rest[0] and len(rest) > 1 else None


def _member(part: Any, path: Sequence[str]) -> Any:
    """The member that the path leads to; ``_kind_of`` has checked that it can."""
    member, *rest = path
    value = getattr(part, member, None)
    if not rest or value is None:
        return value
    name, *rest = rest
    return _member(next((item for item in value if item.name == name), None), rest)


def _remedy(text: str) -> str:
    if text.partition(".")[0] == Block.PREV_SIM_INFO:
        return f"{text!r}: what a SIM card was before is no state: write sim_info.MEMBER"
    return (
        f"{text!r} names no value: write {FORMS}, where BLOCK is one of {', '.join(_BLOCKS)} (for "
        f"example account_info.email), or one of {', '.join(_NAMED)}"
    )


# --- values with a name of their own -------------------------------------------------------------


def _name(pb: PbData) -> str | None:
    account = pb.account_info
    parts = [account.firstname, account.lastname] if account else []
    return " ".join(part.strip() for part in parts if part and part.strip()) or None


def _status(pb: PbData) -> str | None:
    return service_word(pb.account_info) if pb.account_info else None


def _addons(pb: PbData) -> str | None:
    """The names of the assigned add-ons, sorted, with commas between."""
    addons = pb.account_info.assigned_addons if pb.account_info else ()
    return ",".join(sorted({addon.name for addon in addons if addon.name})) or None


def _imsi(pb: PbData) -> str | None:
    return pb.sim_info.imsi if pb.sim_info else None


def _feature(pb: PbData, name: str) -> str | None:
    feature = pb.account_info.feature(name) if pb.account_info else None
    return feature.effective_flag_value if feature else None


def _policy(pb: PbData, name: str) -> str | None:
    return pb.access_policy_info.value(name) if pb.access_policy_info else None


_ACCOUNT = (Block.ACCOUNT_INFO,)
_NAMED: Mapping[str, tuple[Kind, tuple[Block, ...], Callable[[PbData], Any]]] = {
    "name": ("text", _ACCOUNT, _name),
    "msisdn": ("text", (Block.ACCOUNT_INFO, Block.SIM_INFO), msisdn),
    "imsi": ("text", (Block.SIM_INFO,), _imsi),
    "status": ("text", _ACCOUNT, _status),
    "service_granted": ("flag", _ACCOUNT, lambda pb: is_served(pb.account_info)),
    "addons": ("text", _ACCOUNT, _addons),
    "full_vd_counter_info": (
        "list",
        (Block.FULL_VD_COUNTER_INFO,),
        lambda pb: written(pb.full_vd_counter_info),
    ),
}
