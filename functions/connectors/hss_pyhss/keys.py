"""The SIMs' keys: from the secret ``auc`` of the deployment, IMSI -> {"ki": ..., "opc": ...}."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nsps.connector.base import Context
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

NAMES = ("ki", "opc")
_KEY = re.compile(r"[0-9A-Fa-f]{32}")
_MAYBE_KEYS = re.compile(r"[0-9A-Fa-f]{32,}")

Keys = dict[str, SecretValue]
"""``ki`` and ``opc``; empty where the deployment supplies none."""


class SimKeys:
    """The keys that the deployment supplies."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._read: tuple[SecretValue, Mapping[str, Any]] | None = None

    def of(self, imsi: str) -> Keys:
        """The keys of the SIM. Raises Transient if they are wrong: an operator can correct them."""
        if not self._context.has_secret("auc"):
            return {}
        secret = self._context.secret("auc")
        read = self._read
        if read is None or read[0] != secret:
            self._read = read = (secret, secret.json())
        if imsi not in read[1]:
            return {}
        entry = read[1][imsi]
        found = held_keys(entry if isinstance(entry, Mapping) else {})
        for name in NAMES:
            if name not in found or not _KEY.fullmatch(found[name].reveal()):
                raise Transient(
                    f'secret auc: "{name}" of the SIM is not 32 hexadecimal digits: correct it'
                )
        return found


def held_keys(entry: Mapping[str, Any]) -> Keys:
    """The keys in an AUC of PyHSS or in an entry of the secret, as far as they are told."""
    told = {name: entry.get(name) for name in NAMES}
    return {name: SecretValue(key.lower()) for name, key in told.items() if isinstance(key, str)}


def without_keys(text: str) -> str:
    """The text without anything that may be a key: PyHSS quotes them in its errors."""
    return _MAYBE_KEYS.sub("***", text)
