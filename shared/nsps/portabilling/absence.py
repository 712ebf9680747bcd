"""Which answers say that the object asked for is not there. Everything else is an error.

What is absent is removed from the external systems, so absence is only what PortaBilling says of
the object that was asked for: a fault that names it (``account_not_found`` when an account was
asked for), or its member in the answer, null or empty. A fault that names something else
(``Method.not_found``), and an answer without the member, come from a wrong service path, user or
release. Which codes a release uses is not published: what else means absence there is configured.
Why: docs/decisions/0014-absence.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

EMPTY = "empty"
"""In the configuration, beside fault codes: an answer without any member, ``{}`` or ``null``."""

_SUFFIX = "_not_found"
_SIM_CARD = ("card", "sim", "sim_card", "simcard")
_NUMBER = ("number", "did", "did_number")
_POLICY = ("access_policy", "policy")
_COUNTER = ("counter", "vd_counter", "full_vd_counter")

# How a fault may name the object that a call reads, or that one of its parameters names.
_READ_BY: Mapping[str, tuple[str, ...]] = {
    "account_info": ("account",),
    "sim_card_info": _SIM_CARD,
    "access_policy_info": _POLICY,
    "product_info": ("product",),
    "full_vd_counter_info": _COUNTER,
    "customer_info": ("customer",),
    "number_info": _NUMBER,
    "invoice_info": ("invoice",),
}
_NAMED_BY: Mapping[str, tuple[str, ...]] = {
    "i_account": ("account",),
    "id": ("account",),
    "i_sim_card": _SIM_CARD,
    "iccid": _SIM_CARD,
    "imsi": _SIM_CARD,
    "i_access_policy": _POLICY,
    "i_product": ("product",),
    "i_customer": ("customer",),
    "number": _NUMBER,
    "i_invoice": ("invoice",),
}


@dataclass(frozen=True, slots=True)
class Absence:
    """What means "not there" in the answers to one call.

    ``objects``: as a fault may name them; ``configured``: codes, and perhaps EMPTY; ``setting``:
    where more is configured.
    """

    objects: frozenset[str] = frozenset()
    configured: frozenset[str] = frozenset()
    setting: str = ""

    def said_by_fault(self, code: str) -> bool:
        """Whether a fault code says that one of the objects asked for does not exist."""
        if code in self.configured:
            return True
        name = code.rpartition(".")[2].lower()
        return name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in self.objects

    @property
    def said_by_empty_answer(self) -> bool:
        """Whether an answer without any member says so."""
        return EMPTY in self.configured

    def hint(self, answer: str) -> str:
        """What to configure where such an answer does mean absence; empty for a call of a list."""
        if not self.setting:
            return ""
        return f"; if it means absence in your release, add {answer} to {self.setting}"


NEVER = Absence()


def absence_of(
    what: str, params: Mapping[str, object], configured: Mapping[str, frozenset[str]]
) -> Absence:
    """What means absence when ``what`` (a name of ServicePaths) is called with ``params``."""
    objects = set(_READ_BY.get(what, ()))
    for name in params:
        objects.update(_NAMED_BY.get(name, ()))
    setting = f"nsps:portabilling.absence.{what}" if what in _READ_BY else ""
    return Absence(frozenset(objects), configured.get(what, frozenset()), setting)
