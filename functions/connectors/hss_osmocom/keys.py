"""The SIMs' keys in the words of OsmoHLR: ``aud2g`` and ``aud3g``."""

from __future__ import annotations

from collections.abc import Mapping

from nsps.connector.credentials import Credential
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

_ALGORITHMS_2G = ("comp128v1", "comp128v2", "comp128v3", "xor")

Keys = dict[str, SecretValue | None]
"""``aud2g`` and ``aud3g`` (None: no such keys), as CTRL writes them."""


def supplied_keys(sim: Credential) -> Keys:
    """The keys that the deployment supplies. Raises Transient."""
    algorithm = sim.text("algorithm") or ("milenage" if sim.has("opc") else "comp128v3")
    ki = sim.key("ki").reveal()
    if algorithm in _ALGORITHMS_2G:
        return {"aud2g": SecretValue(f"{algorithm},{ki}"), "aud3g": None}
    if algorithm != "milenage":
        raise Transient(
            f'{sim.where}: "algorithm" of the SIM is unknown: write milenage or one of '
            + ", ".join(_ALGORITHMS_2G)
        )
    return {"aud2g": None, "aud3g": SecretValue(f"milenage,{ki},OPC,{sim.key('opc').reveal()}")}


def held_keys(fields: Mapping[str, str]) -> Keys:
    """The keys in OsmoHLR's answer, in the form in which they are written."""
    aud2g = aud3g = None
    if "aud2g.algo" in fields:
        aud2g = SecretValue(f"{fields['aud2g.algo']},{fields.get('aud2g.ki', '')}".lower())
    if "aud3g.algo" in fields:
        kind = "opc" if "aud3g.opc" in fields else "op"
        start = f"{fields['aud3g.algo']},{fields.get('aud3g.k', '')}".lower()
        aud3g = SecretValue(f"{start},{kind.upper()},{fields.get(f'aud3g.{kind}', '').lower()}")
    return {"aud2g": aud2g, "aud3g": aud3g}
