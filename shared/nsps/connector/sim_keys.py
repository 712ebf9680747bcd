"""The SIMs' keys as a deployment supplies them: the secret ``auc``, IMSI -> {"ki", "opc", ...}."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nsps.connector.base import Context
from nsps.domain.outcome import Transient
from nsps.runtime.secrets import SecretValue

SECRET = "auc"  # noqa: S105 a secret's name
_KEY = re.compile(r"[0-9A-Fa-f]{32}")


@dataclass(frozen=True, slots=True)
class SimKeys:
    """One SIM's entry. ``algorithm``: in small letters; empty where the entry names none."""

    members: Mapping[str, Any]

    @property
    def algorithm(self) -> str:
        return str(self.members.get("algorithm") or "").lower()

    def has(self, name: str) -> bool:
        """Whether the entry says anything of ``ki`` or ``opc``."""
        return self.members.get(name) is not None

    def key(self, name: str) -> SecretValue:
        """``ki`` or ``opc`` in small letters. Raises Transient if it is none: an operator can
        correct the secret."""
        key = self.members.get(name)
        if not (isinstance(key, str) and _KEY.fullmatch(key)):
            raise Transient(
                f'secret {SECRET}: "{name}" of the SIM is not 32 hexadecimal digits: correct it'
            )
        return SecretValue(key.lower())


class SimKeySecret:
    """The secret ``auc`` of a handler that has one; safe to share between threads."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._read: tuple[SecretValue, Mapping[str, Any]] | None = None

    def of(self, imsi: str) -> SimKeys | None:
        """The SIM's entry; None if the deployment supplies none. Raises Transient."""
        if not self._context.has_secret(SECRET):
            return None
        secret, read = self._context.secret(SECRET), self._read
        if read is None or read[0] != secret:
            self._read = read = (secret, secret.json())
        entry = read[1].get(imsi)
        if entry is None:
            return None
        return SimKeys(entry if isinstance(entry, Mapping) else {})
