"""What PortaBilling says of one owner at one time: ``pb_data`` of the NSPS contract. Pure.

A block that was read of something that is gone is None. One that was not read is not there at all:
to look at it is an error, so that "not asked" is never taken for "gone". All readers are lenient
(numbers may come as numeric strings) and total: a value of the wrong kind reads as None, it never
raises. What a block does not name is not carried: no secret gets in. The reprs show ids only, so
that no log line shows a subscriber by accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Generic, TypedDict, TypeVar, Unpack

from nsps.domain.event import storable
from nsps.domain.outcome import Transient

_Read = Callable[[object], Any]


class Block(StrEnum):
    """The parts of pb_data that a handler may require."""

    ACCOUNT_INFO = "account_info"
    SIM_INFO = "sim_info"
    PREV_SIM_INFO = "prev_sim_info"
    ACCESS_POLICY_INFO = "access_policy_info"
    PRODUCT_INFO = "product_info"
    FULL_VD_COUNTER_INFO = "full_vd_counter_info"
    CUSTOMER_INFO = "customer_info"


# --- how one value is read -----------------------------------------------------------------------


def as_integer(value: object) -> int | None:
    """An id or a count: a whole number, or its decimal text; anything else is None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    if isinstance(value, float):
        return int(value) if math.isfinite(value) and value == int(value) else None
    if isinstance(value, str):
        text = value.strip()
        digits = text.removeprefix("-")
        return int(text) if digits.isascii() and digits.isdigit() and len(digits) <= 18 else None
    return None


def as_text(value: object) -> str | None:
    """Text as it is; a number as its text (the API is not strict); anything else is None.

    Half of a character (a name that a database cut by bytes) becomes a question mark.
    """
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return str(value) if isinstance(value, int) or math.isfinite(value) else None


def as_flag(value: object) -> bool | None:
    """true/false, "Y"/"N" or 1/0; anything else is None: unknown, not false."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str | int):
        return _FLAGS.get(str(value).strip().upper())
    return None


_FLAGS = {"Y": True, "N": False, "1": True, "0": False, "TRUE": True, "FALSE": False}


def as_amount(value: object) -> float | None:
    """A finite number, or its text; anything else is None."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return None
    return amount if math.isfinite(amount) else None


def as_remaining(value: object) -> int | float | str | None:
    """What a counter has left: a number, or a text such as ``N/A``, as the API gave it."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    return value if isinstance(value, float) and math.isfinite(value) else None


def integer() -> Any:
    return field(default=None, metadata={"read": as_integer})


def text() -> Any:
    return field(default=None, metadata={"read": as_text})


def flag() -> Any:
    return field(default=None, metadata={"read": as_flag})


def amount() -> Any:
    return field(default=None, metadata={"read": as_amount})


def remaining() -> Any:
    return field(default=None, metadata={"read": as_remaining})


def several(part: type[Part]) -> Any:
    """A list of parts: () when absent; items that are not objects are left out."""
    return field(default=(), metadata={"read": lambda value: parts_of(part, value), "of": part})


# --- the blocks ----------------------------------------------------------------------------------


class Part:
    """One object of pb_data. Its repr shows ids only."""

    __slots__ = ()

    def __repr__(self) -> str:
        ids = ", ".join(
            f"{name}={value}"
            for name, _ in readers(type(self))
            if name.startswith("i_") and (value := getattr(self, name)) is not None
        )
        return f"{type(self).__name__}({ids})"


AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True, slots=True, repr=False)
class AssignedAddon(Part):
    addon_effective_from: str | None = text()
    addon_effective_to: str | None = text()
    addon_priority: int | None = integer()
    description: str | None = text()
    i_product: int | None = integer()
    i_product_group: int | None = integer()
    i_vd_plan: int | None = integer()
    name: str | None = text()


@dataclass(frozen=True, slots=True, repr=False)
class ServiceFeatureAttribute(Part):
    name: str | None = text()
    effective_value: str | None = text()  # comma-joined where there are several


@dataclass(frozen=True, slots=True, repr=False)
class ServiceFeature(Part):
    name: str | None = text()
    effective_flag_value: str | None = text()  # Y, N, or a letter or digit of the feature's own
    attributes: tuple[ServiceFeatureAttribute, ...] = several(ServiceFeatureAttribute)


@dataclass(frozen=True, slots=True, repr=False)
class AccountInfo(Part):
    bill_status: str | None = text()  # open, suspended, inactive, terminated
    billing_model: str | None = text()
    blocked: bool | None = flag()  # true: barred
    email: str | None = text()
    firstname: str | None = text()
    i_account: int | None = integer()
    i_customer: int | None = integer()
    i_master_account: int | None = integer()
    i_product: int | None = integer()
    i_vd_plan: int | None = integer()
    id: str | None = text()  # what is charged, for example 79123456789@msisdn
    lastname: str | None = text()
    phone1: str | None = text()
    product_name: str | None = text()
    status: str | None = text()
    time_zone_name: str | None = text()
    zip: str | None = text()
    assigned_addons: tuple[AssignedAddon, ...] = several(AssignedAddon)
    service_features: tuple[ServiceFeature, ...] = several(ServiceFeature)

    def feature(self, name: str) -> ServiceFeature | None:
        return next((each for each in self.service_features if each.name == name), None)


@dataclass(frozen=True, slots=True, repr=False)
class SimInfo(Part):
    i_account: int | None = integer()
    i_sim_card: int | None = integer()
    iccid: str | None = text()
    imsi: str | None = text()
    msisdn: str | None = text()
    status: str | None = text()


@dataclass(frozen=True, slots=True, repr=False)
class PolicyAttribute(Part):
    group_name: str | None = text()
    name: str | None = text()
    value: str | None = text()  # comma-joined where there are several


@dataclass(frozen=True, slots=True, repr=False)
class AccessPolicyInfo(Part):
    i_access_policy: int | None = integer()
    name: str | None = text()
    attributes: tuple[PolicyAttribute, ...] = several(PolicyAttribute)

    def value(self, name: str, group_name: str | None = None) -> str | None:
        """The value of an attribute, of any group unless one is given."""
        for each in self.attributes:
            if each.name == name and group_name in (None, each.group_name):
                return each.value
        return None


@dataclass(frozen=True, slots=True, repr=False)
class ProductInfo(Part):
    name: str | None = text()
    description: str | None = text()
    i_product: int | None = integer()
    i_vd_plan: int | None = integer()
    addon_priority: int | None = integer()  # 0 main product, 10 low ... 30 high


@dataclass(frozen=True, slots=True, repr=False)
class VdCounter(Part):
    service_name: str | None = text()
    vdp_name: str | None = text()
    i_vd_plan: int | None = integer()
    i_dest_group: int | None = integer()
    addon_priority: int | None = integer()
    i_vd_dg: int | None = integer()
    remaining: int | float | str | None = remaining()
    i_service: int | None = integer()
    dg_name: str | None = text()
    discount_info: str | None = text()
    unit: str | None = text()
    allocated_amount: float | None = amount()


@dataclass(frozen=True, slots=True, repr=False)
class CustomerInfo(Part):
    """Not in the published contract: what a CRM or a notification needs of the customer."""

    i_customer: int | None = integer()
    name: str | None = text()
    bill_status: str | None = text()  # open, suspended, closed, exported, deactivated
    blocked: bool | None = flag()
    status: str | None = text()
    companyname: str | None = text()
    firstname: str | None = text()
    lastname: str | None = text()
    email: str | None = text()
    phone1: str | None = text()
    baddr1: str | None = text()
    city: str | None = text()
    state: str | None = text()
    zip: str | None = text()
    country: str | None = text()
    time_zone_name: str | None = text()
    i_customer_class: int | None = integer()
    i_customer_type: int | None = integer()
    iso_4217: str | None = text()


class BlockNotRead(Transient):
    """A block is needed that nobody asked PortaBilling for: it says nothing, and least "gone"."""

    def __init__(self, block: Block) -> None:
        super().__init__(
            f"{block} was not read from PortaBilling for this event: add {block} to the handler's "
            "requires; what was enriched before that is read anew by nsps replay"
        )


class Blocks(TypedDict, total=False):
    """The blocks that were read; None for what PortaBilling does not have."""

    account_info: AccountInfo | None
    sim_info: SimInfo | None
    prev_sim_info: SimInfo | None
    access_policy_info: AccessPolicyInfo | None
    product_info: ProductInfo | None
    full_vd_counter_info: tuple[VdCounter, ...] | None
    customer_info: CustomerInfo | None


_Content = TypeVar("_Content")


class _ReadBlock(Generic[_Content]):
    """A member of PbData: what is in a block that was read."""

    def __init__(self, block: Block) -> None:
        self._block = block

    def __get__(self, pb: PbData, _: type[PbData]) -> _Content | None:
        content: _Content | None = pb.content(self._block)
        return content


class PbData:
    """The blocks that were read: those that are given, be it as None. Immutable.

    To look at any other block raises BlockNotRead.
    """

    __slots__ = ("_blocks", "damaged")

    account_info = _ReadBlock[AccountInfo](Block.ACCOUNT_INFO)
    sim_info = _ReadBlock[SimInfo](Block.SIM_INFO)
    prev_sim_info = _ReadBlock[SimInfo](Block.PREV_SIM_INFO)
    access_policy_info = _ReadBlock[AccessPolicyInfo](Block.ACCESS_POLICY_INFO)
    product_info = _ReadBlock[ProductInfo](Block.PRODUCT_INFO)
    full_vd_counter_info = _ReadBlock[tuple[VdCounter, ...]](Block.FULL_VD_COUNTER_INFO)
    customer_info = _ReadBlock[CustomerInfo](Block.CUSTOMER_INFO)

    def __init__(self, **blocks: Unpack[Blocks]) -> None:
        self._blocks: Mapping[Block, Any] = {Block(name): each for name, each in blocks.items()}
        self.damaged: frozenset[str] = frozenset()
        """Calls of PortaBilling in whose answers a text could not be read; in no message."""

    @property
    def read(self) -> frozenset[Block]:
        """The blocks that were read, whether there is anything in them or not."""
        return frozenset(self._blocks)

    def content(self, block: Block) -> Any:
        """What is in a block; None if PortaBilling has none. Raises BlockNotRead."""
        if block not in self._blocks:
            raise BlockNotRead(block)
        return self._blocks[block]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PbData) and self._blocks == other._blocks

    def __hash__(self) -> int:
        return hash(frozenset(self._blocks.items()))

    def __repr__(self) -> str:
        shown = [
            str(block) if self._blocks[block] is not None else f"no {block}"
            for block in Block
            if block in self._blocks
        ]
        return f"PbData({', '.join(shown)})"

    def trim(self, blocks: Iterable[Block]) -> PbData:
        """Only these of the blocks that were read: what one handler required of what was read
        for all."""
        return self._with({block: self._blocks[block] for block in self.read.intersection(blocks)})

    def read_as(self, blocks: Iterable[Block]) -> PbData:
        """These blocks and no others as read; None is in those of which nothing was found."""
        return self._with({block: self._blocks.get(block) for block in blocks})

    def with_blocks(self, **blocks: Unpack[Blocks]) -> PbData:
        """With these blocks as well, or instead."""
        return self._with({**self._blocks, **PbData(**blocks)._blocks})

    def with_damage(self, calls: Iterable[str]) -> PbData:
        """With calls in whose answers a text could not be read, beside those that there are."""
        made = self._with(self._blocks)
        made.damaged = self.damaged.union(calls)
        return made

    def _with(self, blocks: Mapping[Block, Any]) -> PbData:
        made = PbData()
        made._blocks, made.damaged = blocks, self.damaged
        return made

    def to_contract(self) -> dict[str, Any]:
        """The JSON object of the published contract. Members without a value are left out."""
        return {
            block.value: self.in_contract(block)
            for block in Block
            if self._blocks.get(block) is not None
        }

    def in_contract(self, block: Block) -> Any:
        """One block as JSON of the contract; None if PortaBilling has none. Raises BlockNotRead."""
        return written(self.content(block))

    @classmethod
    def from_contract(cls, document: object, read: Iterable[Block] | None = None) -> PbData:
        """The pb_data of a message. Members that it does not know are ignored.

        ``read``: the blocks that were read, where the document does not hold those that are gone;
        without it, those that the document names.
        """
        given = document if isinstance(document, Mapping) else {}
        blocks = [block for block in Block if block in given] if read is None else read
        return cls()._with({block: _BLOCK_READERS[block](given.get(block)) for block in blocks})


# --- reading and writing parts -------------------------------------------------------------------


_READERS: dict[type, tuple[tuple[str, _Read], ...]] = {}


def readers(part: type) -> tuple[tuple[str, _Read], ...]:
    """The members of a part, each with the function that reads it."""
    known = _READERS.get(part)
    if known is None:
        known = tuple((each.name, each.metadata["read"]) for each in fields(part))
        _READERS[part] = known
    return known


def several_of(part: type, member: str) -> type[Part] | None:
    """What the items of a member are, where it is a list; else None."""
    found = (each.metadata.get("of") for each in fields(part) if each.name == member)
    return next(found, None)


def part_of(part: type[AnyPart], document: object) -> AnyPart | None:
    """Read one part; None if there is none. A list stands for its first item, as one table of
    the published contract has it for access_policy_info."""
    if isinstance(document, list) and document:
        document = document[0]
    if not isinstance(document, Mapping):
        return None
    return part(**{name: read(document.get(name)) for name, read in readers(part)})


def parts_of(part: type[AnyPart], documents: object) -> tuple[AnyPart, ...]:
    """Read a list of parts; () if it is not a list."""
    if not isinstance(documents, list | tuple):
        return ()
    read = (part_of(part, each) for each in documents if isinstance(each, Mapping))
    return tuple(each for each in read if each is not None)


_BLOCK_READERS: Mapping[Block, _Read] = {
    Block.ACCOUNT_INFO: lambda value: part_of(AccountInfo, value),
    Block.SIM_INFO: lambda value: part_of(SimInfo, value),
    Block.PREV_SIM_INFO: lambda value: part_of(SimInfo, value),
    Block.ACCESS_POLICY_INFO: lambda value: part_of(AccessPolicyInfo, value),
    Block.PRODUCT_INFO: lambda value: part_of(ProductInfo, value),
    Block.FULL_VD_COUNTER_INFO: lambda value: None if value is None else parts_of(VdCounter, value),
    Block.CUSTOMER_INFO: lambda value: part_of(CustomerInfo, value),
}


def written(value: Any) -> Any:
    """A block, or anything in one, as JSON of the published contract."""
    if isinstance(value, tuple):
        return [written(each) for each in value]
    if not isinstance(value, Part):
        return value
    whole = {name: written(getattr(value, name)) for name, _ in readers(type(value))}
    return {name: each for name, each in whole.items() if each is not None}
