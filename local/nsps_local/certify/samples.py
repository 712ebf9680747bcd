"""Events as NSPS sends them, about subscribers that do not exist.

Identities are of a run's own, so that a second run is not taken for a repetition of the first:
IMSIs of the test network 001-01, numbers of +999, which no country has.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from nsps_local.certify.case import Request

FIRST_NAME, LAST_NAME = "Zebulonia", "Quackenbush-Probe"
EMAIL = "certify-probe@subscriber.invalid"


@dataclass(frozen=True, slots=True)
class Subscriber:
    """One of the run's subscribers."""

    i_account: int
    imsi: str
    msisdn: str
    iccid: str

    @property
    def private(self) -> frozenset[str]:
        as_number = self.imsi.lstrip("0")
        return frozenset({as_number, self.msisdn, self.iccid, FIRST_NAME, LAST_NAME, EMAIL})


class Samples:
    """The events of one run."""

    def __init__(self, started: datetime) -> None:
        self._started = started
        self._stamp = int(started.timestamp())
        self._events = 0
        self._subscribers = 0

    def subscriber(self) -> Subscriber:
        """Another one."""
        self._subscribers += 1
        number = f"{self._stamp % 10**7:07}{self._subscribers:03}"
        return Subscriber(
            i_account=900_000_000 + int(number) % 10**8,
            imsi=f"00101{number}",
            msisdn=f"999{number}",
            iccid=f"8999901{number}00",
        )

    def document(
        self,
        who: Subscriber,
        event_type: str = "SIM/Updated",
        *,
        age: float = 0.0,
        variables: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A whole event of the contract. ``age``: seconds before the run that it was enriched."""
        self._events += 1
        i_event = self._stamp % 10**6 * 1000 + self._events
        enriched = self._started - timedelta(seconds=age)
        return {
            "event_id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"certify/{self._stamp}/{i_event}")),
            "data": {
                "event_type": event_type,
                "variables": {"i_env": 3, "i_event": i_event, "i_account": who.i_account}
                | dict(variables or {}),
            },
            "pb_data": pb_data(who),
            "handler_id": "certify",
            "status": "queued",
            "created_at": (enriched - timedelta(seconds=1)).isoformat(timespec="microseconds"),
            "updated_at": enriched.isoformat(timespec="microseconds"),
        }

    def request(self, what: str, who: Subscriber, document: Any = None, **more: Any) -> Request:
        """An event to send; ``document``: not the usual one, but this (bytes as they are)."""
        content = self.document(who) if document is None else document
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        return Request(what=what, body=body, private=who.private, **more)


def pb_data(who: Subscriber) -> dict[str, Any]:
    """Every block that the contract knows, filled as in its samples."""
    return {
        "account_info": {
            "bill_status": "open",
            "billing_model": "credit_account",
            "blocked": False,
            "email": EMAIL,
            "firstname": FIRST_NAME,
            "lastname": LAST_NAME,
            "i_account": who.i_account,
            "i_customer": 6392,
            "i_product": 3774,
            "id": f"{who.msisdn}@msisdn",
            "phone1": "",
            "product_name": "Pay as you go",
            "status": "active",
            "time_zone_name": "Europe/Prague",
            "zip": "110 00",
            "assigned_addons": [addon(3775)],
            "service_features": [
                {
                    "name": "netaccess_policy",
                    "effective_flag_value": "Y",
                    "attributes": [{"name": "access_policy", "effective_value": "179"}],
                }
            ],
        },
        "sim_info": {
            "i_account": who.i_account,
            "i_sim_card": who.i_account,
            "iccid": who.iccid,
            "imsi": who.imsi,
            "msisdn": who.msisdn,
            "status": "used",
        },
        "access_policy_info": {
            "i_access_policy": 179,
            "name": "Certify",
            "attributes": [
                {"group_name": "lte.wtl", "name": "cs_profile", "value": "cs-default"},
                {"group_name": "lte.wtl", "name": "eps_profile", "value": "eps-default"},
            ],
        },
        "product_info": {
            "name": "Pay as you go",
            "description": "",
            "i_product": 3774,
            "i_vd_plan": 1591,
            "addon_priority": 0,
        },
        "full_vd_counter_info": [
            {
                "service_name": "Internet access",
                "vdp_name": "1 GB a month",
                "dg_name": "RG100",
                "discount_info": "0..1024 - 100%",
                "i_service": 106,
                "i_vd_plan": 1591,
                "i_dest_group": 2650,
                "i_vd_dg": 283,
                "addon_priority": 10,
                "remaining": 1024,
                "unit": "megabyte",
                "allocated_amount": 2048.0,
            }
        ],
    }


def addon(i_product: int) -> dict[str, Any]:
    return {
        "addon_effective_from": "2025-05-16T12:59:46",
        "addon_effective_to": "2035-05-16T12:59:46",
        "addon_priority": 10,
        "description": "",
        "i_product": i_product,
        "i_product_group": 7,
        "i_vd_plan": 1591,
        "name": "Youtube UHD",
    }
