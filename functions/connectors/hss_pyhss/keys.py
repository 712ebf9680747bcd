"""The SIMs' keys in the words of PyHSS: ``ki`` and ``opc`` of an AUC."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nsps.connector.credentials import Credential
from nsps.runtime.secrets import SecretValue

NAMES = ("ki", "opc")
_MAYBE_KEYS = re.compile(r"[0-9A-Fa-f]{32,}")

Keys = dict[str, SecretValue]
"""``ki`` and ``opc``; empty where the deployment supplies none."""


def supplied_keys(sim: Credential) -> Keys:
    """The keys that the deployment supplies. Raises Transient."""
    return {name: sim.key(name) for name in NAMES}


def held_keys(auc: Mapping[str, Any]) -> Keys:
    """The keys in an AUC of PyHSS, as far as it shows them."""
    shown = {name: auc.get(name) for name in NAMES}
    return {name: SecretValue(key.lower()) for name, key in shown.items() if isinstance(key, str)}


def without_keys(text: str) -> str:
    """The text without anything that may be a key: PyHSS quotes them in its errors."""
    return _MAYBE_KEYS.sub("***", text)
