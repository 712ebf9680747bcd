"""The SIMs' keys: from the secret ``auc`` of the deployment, in the words of OsmoHLR."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nsps.connector.base import Context
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

_KEY = re.compile(r"[0-9A-Fa-f]{32}")
_ALGORITHMS_2G = ("comp128v1", "comp128v2", "comp128v3", "xor")

Keys = dict[str, SecretValue | None]
"""``aud2g`` and ``aud3g`` (None: no such keys), as CTRL writes them."""


class SimKeys:
    """The keys that the deployment supplies."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._read: tuple[SecretValue, Mapping[str, Any]] | None = None

    def of(self, imsi: str) -> Keys:
        """The keys of the SIM; {} if the deployment supplies none. Raises Transient."""
        if not self._context.has_secret("auc"):
            return {}
        secret = self._context.secret("auc")
        if self._read is None or self._read[0] != secret:
            self._read = (secret, secret.json())
        entry = self._read[1].get(imsi)
        return {} if entry is None else _supplied(entry)


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


def _supplied(entry: object) -> Keys:
    """What an entry of the secret means.

    Raises Transient if it is wrong: an operator can correct the secret.
    """
    members = entry if isinstance(entry, Mapping) else {}
    ki, opc = members.get("ki"), members.get("opc")
    algorithm = str(members.get("algorithm") or ("milenage" if opc else "comp128v3")).lower()
    if not (isinstance(ki, str) and _KEY.fullmatch(ki)):
        raise Transient('secret auc: "ki" of the SIM is not 32 hexadecimal digits: correct it')
    if algorithm in _ALGORITHMS_2G:
        return {"aud2g": SecretValue(f"{algorithm},{ki.lower()}"), "aud3g": None}
    if algorithm != "milenage":
        raise Transient(
            'secret auc: "algorithm" of the SIM is unknown: write milenage or one of '
            + ", ".join(_ALGORITHMS_2G)
        )
    if not (isinstance(opc, str) and _KEY.fullmatch(opc)):
        raise Transient('secret auc: "opc" of the SIM is not 32 hexadecimal digits: correct it')
    return {"aud2g": None, "aud3g": SecretValue(f"milenage,{ki.lower()},OPC,{opc.lower()}")}
