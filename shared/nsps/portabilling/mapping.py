"""Raw answers of the PortaBilling API -> the blocks of pb_data. Pure and total: garbage gives None.

Only what a block names is taken (an allow-list), so h323_password, Ki, PIN and the like never get
in; attributes of open lists (service features, access policies) are left out when their name says
that they are secret. Codes that are not known are passed through as they came, so that they can be
seen. Why each choice was made: docs/decisions/0002-pb-data.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.domain.snapshot import (
    AccessPolicyInfo,
    AccountInfo,
    AssignedAddon,
    CustomerInfo,
    PolicyAttribute,
    ProductInfo,
    ServiceFeature,
    ServiceFeatureAttribute,
    SimInfo,
    VdCounter,
    as_flag,
    as_integer,
    as_text,
    part_of,
)
from nsps.domain.subscriber import allows_service

ACCOUNT_BILL_STATUS = {"O": "open", "S": "suspended", "I": "inactive", "C": "terminated"}
CUSTOMER_BILL_STATUS = {
    "O": "open",
    "S": "suspended",
    "C": "closed",
    "E": "exported",
    "D": "deactivated",
}
BILLING_MODEL = {
    "-1": "debit_account",
    "0": "recharge_voucher",
    "1": "credit_account",
    "2": "alias",
    "4": "beneficiary",
}
STATUS_MEMBERS = (
    "status",
    "blocked",
    "bill_status",
    "customer_blocked",
    "customer_bill_status",
    "activation_date",
    "expiration_date",
)
"""The members of a raw account that its ``status`` is made of; any other field is one member."""
ACCESS_POLICY_FEATURE = "netaccess_policy"
ACCESS_POLICY_ATTRIBUTE = "access_policy"

_API_TIME = re.compile(r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.\d+)?(?:Z|\+00:?00)?")
_SECRET_WORDS = re.compile(
    r"(^|[._-])(ki|k|opc?|pin\d?|puk\d?|adm\d?|key|secret|token|passwd|password|pwd"
    r"|(unblock|access|activation|auth)_code)([._-]|$)",
    re.IGNORECASE,
)


def account_info(raw: object, now: datetime) -> AccountInfo | None:
    """The ``account_info`` of Account/get_account_info; None if it is not an object or empty.

    ``now``: when it was read (with a zone), for an activation or expiration date that has not come
    or has passed.
    """
    if not isinstance(raw, Mapping) or not raw:
        return None
    bill_status = _word(raw.get("bill_status"), ACCOUNT_BILL_STATUS)
    blocked = as_flag(raw.get("blocked"))
    known = {
        **raw,
        "bill_status": bill_status,
        "billing_model": _word(raw.get("billing_model"), BILLING_MODEL),
        "blocked": blocked,
        "status": _stopped(raw, now) or _status(raw.get("status"), bill_status, blocked),
        "assigned_addons": [],
        "service_features": [],
    }
    account = part_of(AccountInfo, known)
    if account is None:
        return None
    return replace(
        account,
        assigned_addons=tuple(_addon(each) for each in _objects(raw.get("assigned_addons"))),
        service_features=service_features(raw.get("service_features")),
    )


def service_features(raw: object) -> tuple[ServiceFeature, ...]:
    """The features whose state is known. One that is off keeps its name and N, no attributes."""
    features = (_feature(each) for each in _objects(raw))
    return tuple(each for each in features if each is not None)


def access_policy_id(account: AccountInfo | None) -> int | None:
    """The access policy that is in force for an account: the first of its netaccess_policy."""
    feature = account.feature(ACCESS_POLICY_FEATURE) if account else None
    if feature is None or feature.effective_flag_value != "Y":
        return None
    for attribute in feature.attributes:
        if attribute.name == ACCESS_POLICY_ATTRIBUTE and attribute.effective_value:
            return as_integer(attribute.effective_value.split(",", 1)[0])
    return None


def sim_info(raw: object) -> SimInfo | None:
    """The ``card_info`` of SIMCard/get_card_info. PIN, PUK, Ki and the like are not taken."""
    if not isinstance(raw, Mapping) or not raw:
        return None
    digits = {name: _stripped(raw.get(name)) for name in ("iccid", "imsi", "msisdn", "status")}
    return part_of(SimInfo, {**raw, **digits})


def access_policy_info(raw: object) -> AccessPolicyInfo | None:
    """The ``access_policy_info`` of get_access_policy_info; values joined with commas."""
    if not isinstance(raw, Mapping) or not raw:
        return None
    policy = part_of(AccessPolicyInfo, {**raw, "attributes": []})
    if policy is None:
        return None
    attributes = (
        PolicyAttribute(as_text(each.get("group_name")), as_text(each.get("name")), _joined(each))
        for each in _objects(raw.get("attributes"))
        if not _secret(each.get("name"))
    )
    return replace(policy, attributes=tuple(attributes))


def product_info(raw: object) -> ProductInfo | None:
    """The ``product_info`` of Product/get_product_info."""
    return part_of(ProductInfo, raw) if isinstance(raw, Mapping) and raw else None


def vd_counters(raw: object) -> tuple[VdCounter, ...]:
    """The list of get_full_vd_counter_info: bundles, with what is left of each."""
    counters = (part_of(VdCounter, each) for each in _objects(raw))
    return tuple(each for each in counters if each is not None)


def customer_info(raw: object) -> CustomerInfo | None:
    """The ``customer_info`` of Customer/get_customer_info."""
    if not isinstance(raw, Mapping) or not raw:
        return None
    bill_status = _word(raw.get("bill_status"), CUSTOMER_BILL_STATUS)
    blocked = as_flag(raw.get("blocked"))
    status = _status(raw.get("status"), bill_status, blocked)
    known = {**raw, "bill_status": bill_status, "blocked": blocked, "status": status}
    return part_of(CustomerInfo, known)


def iso_time(value: object) -> str | None:
    """``2025-05-16 12:59:46`` (UTC, as the API writes it) -> ``2025-05-16T12:59:46``.

    A plain date and anything that is not understood stay as they are.
    """
    given = _stripped(value)
    match = _API_TIME.fullmatch(given) if given else None
    return f"{match[1]}T{match[2]}" if match else given


def _addon(raw: Mapping[str, Any]) -> AssignedAddon:
    known = {
        **raw,
        "addon_effective_from": iso_time(raw.get("addon_effective_from")),
        "addon_effective_to": iso_time(raw.get("addon_effective_to")),
    }
    return part_of(AssignedAddon, known) or AssignedAddon()


def _feature(raw: Mapping[str, Any]) -> ServiceFeature | None:
    name = as_text(raw.get("name"))
    effective = _stripped(raw.get("effective_flag_value"))
    if not name or not effective:
        return None
    if effective == "N":
        return ServiceFeature(name, effective)
    attributes = (
        ServiceFeatureAttribute(as_text(each.get("name")), _joined(each))
        for each in _objects(raw.get("attributes"))
        if not _secret(each.get("name"))
    )
    known = tuple(each for each in attributes if each.name and each.effective_value is not None)
    return ServiceFeature(name, effective, known)


def _joined(raw: Mapping[str, Any]) -> str | None:
    """The values of an attribute without nulls, joined with commas; None if there are none."""
    for member in ("effective_values", "effective_value", "values", "value"):
        values = raw.get(member)
        if values is None:
            continue
        listed = values if isinstance(values, list) else [values]
        texts = [each for each in (as_text(value) for value in listed) if each is not None]
        return ",".join(texts) if texts else None
    return None


def _stopped(raw: Mapping[str, Any], now: datetime) -> str | None:
    """The status word for what stops the service although ``status`` does not say so.

    PortaBilling shows one word, the first of a list in which limits and screening come before a
    customer's block; and not every release shows one. None if nothing else stops the service.
    """
    word = _stripped(raw.get("status"))
    if not allows_service(word):
        return None
    if as_flag(raw.get("customer_blocked")):
        return "customer_blocked"
    customer = _word(raw.get("customer_bill_status"), CUSTOMER_BILL_STATUS)
    if customer == "suspended" and word != "customer_suspension_delayed":
        return "customer_suspended"
    if customer == "deactivated":
        return "customer_provisionally_terminated"
    return _outside_dates(raw, now)


def _outside_dates(raw: Mapping[str, Any], now: datetime) -> str | None:
    """``expired`` or ``not_yet_active``, where the dates leave no doubt in any time zone.

    The time zone of a plain date is not documented: a day begins 14 hours before it does in UTC at
    the earliest, and ends 12 hours after at the latest.
    """
    expiration, activation = raw.get("expiration_date"), raw.get("activation_date")
    day_after = _moment(expiration, timedelta(days=1, hours=12))
    if day_after is not None and now >= day_after:
        return "expired"
    first_day = _moment(activation, timedelta(hours=-14))
    if first_day is not None and now < first_day:
        return "not_yet_active"
    return None


def _moment(value: object, of_a_day: timedelta) -> datetime | None:
    """A time of the API (UTC); for a plain date, its midnight and ``of_a_day``. None if neither."""
    text = iso_time(value) or ""
    try:
        if len(text) == len("2025-05-16"):
            return datetime.fromisoformat(text).replace(tzinfo=UTC) + of_a_day
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def _status(raw: object, bill_status: str | None, blocked: bool | None) -> str | None:
    """The API leaves ``status`` out where nothing is wrong: that is said as ``active``."""
    word = _stripped(raw)
    if word:
        return word
    if blocked is False and bill_status == "open":
        return "active"
    return "blocked" if blocked else None


def _word(raw: object, words: Mapping[str, str]) -> str | None:
    """The word for a code; a code that is not known stays as it is, an empty one is None."""
    code = _stripped(raw)
    return words.get(code.upper(), code) if code else None


def _stripped(raw: object) -> str | None:
    given = as_text(raw)
    return given.strip() if given is not None else None


def _secret(name: object) -> bool:
    return isinstance(name, str) and _SECRET_WORDS.search(name) is not None


def _objects(raw: object) -> Sequence[Mapping[str, Any]]:
    return [each for each in raw if isinstance(each, Mapping)] if isinstance(raw, list) else []
