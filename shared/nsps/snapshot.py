"""What PortaBilling says of one owner at one time: ``pb_data`` of the NSPS contract. Pure.

Every member is optional: a block that was not read, or of something that is gone, is None. All
readers are lenient (numbers may come as numeric strings) and total: a value of the wrong kind
reads as None, it never raises. What a block does not name is not carried: no secret gets in.
The reprs show ids only, so that no log line shows a subscriber by accident.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, TypeVar

from nsps.event import storable

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
    if isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
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
    return field(default=(), metadata={"read": lambda value: parts_of(part, value)})


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


@dataclass(frozen=True, slots=True, repr=False)
class PbData:
    """The blocks that were read. ``full_vd_counter_info``: None not read, () read, none there."""

    account_info: AccountInfo | None = None
    sim_info: SimInfo | None = None
    prev_sim_info: SimInfo | None = None
    access_policy_info: AccessPolicyInfo | None = None
    product_info: ProductInfo | None = None
    full_vd_counter_info: tuple[VdCounter, ...] | None = None
    customer_info: CustomerInfo | None = None

    def __repr__(self) -> str:
        present = [str(block) for block in Block if getattr(self, block) is not None]
        return f"PbData({', '.join(present)})"

    def trim(self, blocks: Iterable[Block]) -> PbData:
        """Only these blocks: what one handler required of what was read for all."""
        return PbData(**{block.value: getattr(self, block) for block in set(blocks)})

    def to_contract(self) -> dict[str, Any]:
        """The JSON object of the published contract. Members without a value are left out."""
        whole = {block.value: _written(getattr(self, block)) for block in Block}
        return {name: value for name, value in whole.items() if value is not None}

    @classmethod
    def from_contract(cls, document: object) -> PbData:
        """Read pb_data of a message. Members it does not know are ignored; null reads as empty."""
        if not isinstance(document, Mapping):
            return cls()
        counters = document.get(Block.FULL_VD_COUNTER_INFO)
        return cls(
            account_info=part_of(AccountInfo, document.get(Block.ACCOUNT_INFO)),
            sim_info=part_of(SimInfo, document.get(Block.SIM_INFO)),
            prev_sim_info=part_of(SimInfo, document.get(Block.PREV_SIM_INFO)),
            access_policy_info=part_of(AccessPolicyInfo, document.get(Block.ACCESS_POLICY_INFO)),
            product_info=part_of(ProductInfo, document.get(Block.PRODUCT_INFO)),
            full_vd_counter_info=None if counters is None else parts_of(VdCounter, counters),
            customer_info=part_of(CustomerInfo, document.get(Block.CUSTOMER_INFO)),
        )


# --- reading and writing parts -------------------------------------------------------------------


_READERS: dict[type, tuple[tuple[str, _Read], ...]] = {}


def readers(part: type) -> tuple[tuple[str, _Read], ...]:
    """The members of a part, each with the function that reads it."""
    known = _READERS.get(part)
    if known is None:
        known = tuple((each.name, each.metadata["read"]) for each in fields(part))
        _READERS[part] = known
    return known


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


def _written(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_written(each) for each in value]
    if not isinstance(value, Part):
        return value
    whole = {name: _written(getattr(value, name)) for name, _ in readers(type(value))}
    return {name: each for name, each in whole.items() if each is not None}
