"""What PortaBilling calls a change: the ESPF event vocabularies.

A change has one kind. Most kinds are PortaBilling's own detailed ("version 1") event types; those
whose detailed name is not public (the SIM inventory, bundles, a customer's e-mail) have a lower-
case name of ours and exist only in the aggregating vocabularies:

* ``v1``: the kind itself (``Account/Blocked``);
* ``v2``: four groups, ``Subscriber/…``, ``Customer/…``, ``DID/…``, ``Invoice/…``, each Created,
Updated or Deleted;
* ``sim``: ``SIM/Created|Updated|Deleted|Replaced``.

Source: PortaOne docs "Provisioning via webhooks" (v2), NSPS docs "Event types" (sim), list of ESPF
events of Release 80 with the later renamings (v1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SIM_CREATED = "sim/created"
SIM_DELETED = "sim/deleted"
SIM_STATUS = "sim/status_changed"
BUNDLE_TOPPED_UP = "bundle/topped_up"
CUSTOMER_CONTACT = "customer/contact_changed"
SIM_ASSIGNMENT = "Account/SIMCardAssignment"

# When several of these wait for one account or customer, only the latest is processed.
COALESCED = frozenset(
    {
        "Account/ProductAddon/Changed",
        "Account/ProductAddon/Deleted",
        "Account/Service/QuotaExceeded",
        "Account/Service/Msg/QuotaExceeded",
        "Account/Service/Netaccess/QuotaExceeded",
        "Account/Service/QuotaExpired",
        "Account/Service/Msg/QuotaExpired",
        "Account/Service/Netaccess/QuotaExpired",
        "Customer/Status/Limited",
        "Customer/Status/Suspend",
        "Customer/Status/Suspended",
    }
)

# "May alter the state of the network". Quotas of messaging and Internet, names and addresses are
# not among them.
SIM_UPDATED = frozenset(
    {
        "Account/Id/Changed",
        "Account/Blocked",
        "Account/Unblocked",
        "Account/Product/Changed",
        "Account/ProductAddon/Inserted",
        "Account/ProductAddon/Changed",
        "Account/ProductAddon/Deleted",
        "Account/AccessPolicy/Changed",
        "Account/ServiceAttribute/Changed",
        "Account/Service/QuotaExceeded",
        "Account/Service/QuotaAvailable",
        "Account/Status/Closed",
        "Account/Status/Suspended",
        "Account/Status/SuspensionRemoved",
        BUNDLE_TOPPED_UP,
        SIM_STATUS,
    }
)

_SIM = {SIM_CREATED: "SIM/Created", SIM_DELETED: "SIM/Deleted", SIM_ASSIGNMENT: "SIM/Replaced"}
_SIM.update(dict.fromkeys(SIM_UPDATED, "SIM/Updated"))

_V2_GROUP = {"Account": "Subscriber", "Subscriber": "Subscriber"}
_V2_GROUP.update({"bundle": "Subscriber", "customer": "Customer"})
_V2_GROUP.update({group: group for group in ("Customer", "DID", "Invoice")})
_CREATED = frozenset({"Account/New", "Customer/New", "DID/New", "Invoice/New"})
_DELETED = frozenset({"Account/Status/Closed", "Customer/Status/Closed", "DID/Deleted"})

VOCABULARIES = ("v1", "v2", "sim")


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that happened: its kind, the ids of whom it concerns, and what else the event
    carries.
    """

    kind: str
    ids: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def entity(self) -> str:
        """Whose event it is, for coalescing: ``i_account=277001``."""
        return next(f"{name}={value}" for name, value in self.ids.items())


@dataclass(frozen=True, slots=True)
class Form:
    """How events are written: which vocabularies, and what the variables look like.

    vocabulary: some of ``v1``, ``v2``, ``sim``, each whole or one group of it (``v2/Customer``).
    """

    vocabulary: Sequence[str]
    i_env: int | None = 1
    event_time: bool = True
    ids_as_strings: bool = False
    sim_ids: bool = False


def event_types(change: Change, vocabulary: Sequence[str]) -> list[str]:
    """The events one change becomes, in the order of the vocabulary; one type never twice."""
    types: list[str] = []
    for item in vocabulary:
        name, _, group = item.partition("/")
        event_type = _translate(change.kind, name)
        wanted = event_type is not None and (not group or event_type.startswith(group + "/"))
        if event_type is not None and wanted and event_type not in types:
            types.append(event_type)
    return types


def _translate(kind: str, vocabulary: str) -> str | None:
    if vocabulary == "sim":
        return _SIM.get(kind)
    group = kind.partition("/")[0]
    if vocabulary == "v1":
        return kind if group[0].isupper() else None
    if group not in _V2_GROUP:
        return None
    action = "Created" if kind in _CREATED else "Deleted" if kind in _DELETED else "Updated"
    return f"{_V2_GROUP[group]}/{action}"


def variables(change: Change, event_type: str, form: Form, happened: str) -> dict[str, Any]:
    """The variables of an event, all but i_event (known only when the row is written)."""
    ids = dict(change.ids)
    if event_type.startswith("SIM/") and "i_account" in ids and not form.sim_ids:
        # An event about a subscriber's card names the account alone, as in every published sample.
        ids = {"i_account": ids["i_account"]}
    elif not event_type.startswith("SIM/"):
        ids = {name: value for name, value in ids.items() if "sim_card" not in name}
    if form.i_env is not None:
        ids = {"i_env": form.i_env, **ids}
    if form.ids_as_strings:
        ids = {name: str(value) for name, value in ids.items()}
    extra = change.extra if event_type.startswith("SIM/") else {}
    # No published sample has both a time and the two status words.
    time = {"event_time": happened} if form.event_time and not extra else {}
    return {**ids, **extra, **time}
