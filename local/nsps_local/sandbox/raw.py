"""How PortaBilling writes its answers: "Y"/"N", dates without a zone, keys left out when unset,
secrets included.

A receiver must take what it needs and let the rest go: h323_password, Ki, OPc, PIN and PUK are in
the raw answers of a real PortaBilling too. Where the real shape is not public (card_info,
access_policy_info, the counters), it is the most likely one: the keys NSPS publishes, written in
the raw way, among others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nsps_local.sandbox.features import OFF, ON
from nsps_local.sandbox.store import Row

ACCOUNT_ROLE_MOBILE = 8


def account_info(account: Row, customer: Row, product: Row) -> dict[str, Any]:
    """The account itself; without "status" while nothing is wrong with it."""
    info: dict[str, Any] = {
        "i_account": account["i_account"],
        "id": account["id"],
        "bill_status": account["bill_status"],
        "blocked": account["blocked"],
        "billing_model": account["billing_model"],
        "i_customer": account["i_customer"],
        "customer_name": customer["name"],
        "i_product": account["i_product"],
        "product_name": product["name"],
        "i_account_role": ACCOUNT_ROLE_MOBILE,
        "time_zone_name": "Europe/Madrid",
        "activation_date": account["activation_date"],
        "issue_date": account["activation_date"],
        "expiration_date": None,
        "first_usage": None,
        "balance": account["balance"],
        "credit_limit": None,
        "customer_bill_status": customer["bill_status"],
        "customer_blocked": customer["blocked"],
        "customer_bill_suspended": int(customer["bill_status"] == "S"),
        "customer_credit_exceed": 0,
        "phone1": "",
        "companyname": customer["companyname"] or "",
        "iso_4217": "EUR",
        "i_acl": 155,
        "i_lang": "en",
        "h323_password": account["h323_password"],
        "has_custom_fields": 0,
        "is_active": int(account["bill_status"] == "O"),
    }
    word = status(account, customer)
    if word:
        info["status"] = word
    optional = ("firstname", "lastname", "email", "zip", "i_vd_plan", "i_master_account")
    info.update({key: account[key] for key in optional if account[key] is not None})
    return info


def status(account: Row, customer: Row) -> str | None:
    """The status word of an account; None while it is fine."""
    checks = (
        (account["bill_status"] == "C", "closed"),
        (account["bill_status"] == "S", "suspended"),
        (account["blocked"] == "Y", "blocked"),
        (customer["bill_status"] == "S", "customer_suspended"),
        (customer["blocked"] == "Y", "customer_blocked"),
    )
    return next((word for applies, word in checks if applies), None)


def assigned_addon(addon: Row, product: Row, plan_name: str | None) -> dict[str, Any]:
    return {
        "i_product": product["i_product"],
        "name": product["name"],
        "description": product["description"],
        "addon_priority": product["addon_priority"],
        "addon_effective_from": addon["effective_from"],
        "addon_effective_to": addon["effective_to"],
        "i_product_group": product["i_product_group"],
        "i_vd_plan": product["i_vd_plan"],
        "volume_discount_plan_name": plan_name,
        "i_customer_class": None,
        "maintenance_period": "M",
        "allow_to_remove_anytime": "Y",
        "product_subscription": {
            "i_subscription": 7000 + product["i_product"],
            "name": f"{product['name']} fee",
            "effective_fee": "9.99000",
        },
    }


def service_features(account: Row, product: Row) -> list[dict[str, Any]]:
    """All features of an account; the access policy of its product is the last one's attribute."""
    overrides: dict[str, Any] = json.loads(account["features"])
    features = [_feature(name, "N", []) for name in OFF]
    features += [_feature(name, "Y", attributes) for name, attributes in ON.items()]
    features.append(_feature("default_action", "7", []))
    features.append(_feature("netaccess_static_addresses", None, []))
    policy = product["i_access_policy"]
    policy_id = None if policy is None else str(policy)
    flag = "N" if policy is None else "Y"
    features.append(_feature("netaccess_policy", flag, [("access_policy", policy_id)]))
    return _overridden(features, overrides)


def _feature(
    name: str, effective: str | None, attributes: Sequence[tuple[str, str | None]]
) -> dict[str, Any]:
    return {
        "name": name,
        "flag_value": "~",
        "effective_flag_value": effective,
        "locked": 0,
        "locks": ["user"],
        "attributes": [
            {"name": attribute, "values": [None], "effective_values": [value]}
            for attribute, value in attributes
        ],
    }


def _overridden(features: list[dict[str, Any]], overrides: dict[str, Any]) -> list[dict[str, Any]]:
    known = {feature["name"]: feature for feature in features}
    for name, override in overrides.items():
        feature = known.get(name) or _feature(name, "N", [])
        feature["flag_value"] = feature["effective_flag_value"] = override["flag"]
        kept = [a for a in feature["attributes"] if a["name"] not in override["attributes"]]
        own = [
            {"name": attribute, "values": [value], "effective_values": [value]}
            for attribute, value in override["attributes"].items()
        ]
        feature["attributes"] = kept + own
        known[name] = feature
    return list(known.values())


def customer_info(customer: Row) -> dict[str, Any]:
    info: dict[str, Any] = {
        "i_customer": customer["i_customer"],
        "name": customer["name"],
        "bill_status": customer["bill_status"],
        "blocked": customer["blocked"],
        "balance": customer["balance"],
        "credit_limit": customer["credit_limit"],
        "creation_date": customer["creation_date"],
        "i_customer_type": 1,
        "i_customer_class": 3,
        "iso_4217": "EUR",
        "i_time_zone": 363,
        "opening_balance": 0,
        "bcc": "",
    }
    word = {"C": "closed", "S": "suspended"}.get(customer["bill_status"])
    word = word or ("blocked" if customer["blocked"] == "Y" else None)
    if word:
        info["status"] = word
    optional = ("companyname", "firstname", "lastname", "email", "phone1", "zip")
    info.update({key: customer[key] for key in optional if customer[key] is not None})
    return info


def product_info(product: Row) -> dict[str, Any]:
    info = {
        "i_product": product["i_product"],
        "name": product["name"],
        "description": product["description"],
        "addon_priority": product["addon_priority"],
        "i_product_group": product["i_product_group"],
        "i_account_role": ACCOUNT_ROLE_MOBILE,
        "iso_4217": "EUR",
        "hidden": "N",
        "is_archived": "N",
    }
    if product["i_vd_plan"] is not None:
        info["i_vd_plan"] = product["i_vd_plan"]
    return info


def card_info(card: Row) -> dict[str, Any]:
    """A SIM card with its secrets; without i_account while it is in the inventory."""
    return {key: value for key, value in card.items() if value is not None}


def access_policy_info(policy: Row) -> dict[str, Any]:
    return {
        "i_access_policy": policy["i_access_policy"],
        "name": policy["name"],
        "in_use": 1,
        "attributes": json.loads(policy["attributes"]),
    }


def vd_counter(bundle: Row, used: float, topped_up: float, addon_priority: int) -> dict[str, Any]:
    """One counter of a bundle; remaining is "N/A" when the bundle has no limit."""
    allocated = bundle["allocated"]
    counter: dict[str, Any] = {
        "i_vd_counter": 50_000 + bundle["i_vd_plan"],
        "i_vd_plan": bundle["i_vd_plan"],
        "vdp_name": bundle["name"],
        "i_vd_dg": 100 + bundle["i_vd_plan"],
        "dg_name": f"{bundle['service_name']} destinations",
        "i_dest_group": 300 + bundle["i_vd_plan"],
        "i_service": bundle["i_service"],
        "service_name": bundle["service_name"],
        "unit": bundle["unit"],
        "addon_priority": addon_priority,
        "discount_info": "",
        "remaining": "N/A",
    }
    if allocated is not None:
        total = allocated + topped_up
        counter["allocated_amount"] = total
        counter["remaining"] = max(0.0, total - used)
        counter["discount_info"] = f"0..{total:g} - 100%"
    return counter
