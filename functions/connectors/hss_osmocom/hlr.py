"""OsmoHLR's variables, and what its answers mean."""

from __future__ import annotations

import re
from typing import Any

from nsps.connector.base import Call
from nsps.domain.outcome import DeliveryError, Terminal, Transient, Unclear
from nsps.runtime.secrets import SecretValue

from .protocol import CtrlClient, CtrlRefused

IMSI = re.compile(r"[0-9]{6,15}")

# What OsmoHLR's errors mean; whatever else it says can be put right by an operator.
EXISTS = "Subscriber already exists."
ABSENT = ("No such subscriber.", "Subscriber doesn't exist.")
_UNCLEAR = "An error has occurred."  # what SET of cs-enabled says of an unknown subscriber
_MSISDN_TAKEN = "Update MSISDN failed"
_FOR_GOOD = (
    "Invalid IMSI value.",
    "Invalid value part of 'by-xxx-value' selector.",
    "Value failed verification.",
)

TAKEN = "another subscriber still has the MSISDN: tried again until that one gives it back"


class Hlr:
    """One OsmoHLR. Its errors are those that a connector raises."""

    def __init__(self, host: str, port: int) -> None:
        self._ctrl = CtrlClient(host, port)

    def close(self) -> None:
        self._ctrl.close()

    def find(self, variable: str, call: Call) -> str | None:
        """What OsmoHLR holds; None if there is no such subscriber."""
        try:
            return self._ctrl.get(variable, call)
        except CtrlRefused as refusal:
            if refusal.text in ABSENT:
                return None
            raise _error(refusal) from None

    def set(self, variable: str, value: str, call: Call, done: tuple[str, ...] = ()) -> None:
        """``done``: what OsmoHLR says where it is so already."""
        try:
            self._ctrl.set(variable, value, call)
        except CtrlRefused as refusal:
            if refusal.text not in done:
                raise _error(refusal) from None


def checked_imsi(key: str) -> str:
    if not IMSI.fullmatch(key):
        raise Terminal("the resource's key is not an IMSI (6 to 15 digits)")
    return key


def variable(imsi: str, name: str) -> str:
    return f"subscriber.by-imsi-{checked_imsi(imsi)}.{name}"


def setting(imsi: str, name: str, value: Any) -> tuple[str, str]:
    """The CTRL variable and the text that give a field of the state its value."""
    if name in ("cs", "ps"):
        return variable(imsi, f"{name}-enabled"), "1" if value else "0"
    if isinstance(value, SecretValue):
        value = value.reveal()
    return variable(imsi, name), "none" if value is None else value


def _error(refusal: CtrlRefused) -> DeliveryError:
    if refusal.text in _FOR_GOOD:
        return Terminal(f"OsmoHLR refused a value: {refusal.shown}")
    if refusal.text == _MSISDN_TAKEN:
        return Transient(TAKEN)
    if refusal.text in (*ABSENT, _UNCLEAR):
        return Unclear(f"the subscriber was removed, or cannot be written: {refusal.shown}")
    return Transient(f"OsmoHLR refused the request: {refusal.shown}: see its log")
