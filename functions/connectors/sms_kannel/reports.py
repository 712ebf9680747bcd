"""Kannel's delivery reports: the address that it calls for one, and what it says there.

(Kannel 1.4.5 user's guide, "Delivery Reports"; the texts as Kannel was seen to send them.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import urlencode

from nsps.connector.base import Answer, AnswerState, CallbackInvalid

DELIVERED, NOT_DELIVERED, BUFFERED, TAKEN, NOT_TAKEN = 1, 2, 4, 8, 16
MASK = DELIVERED | NOT_DELIVERED | NOT_TAKEN
"""Which reports are asked for: those that decide."""

_SMPP = re.compile(r"stat:(\w+)(?:.*?err:(\w+))?")
_REFUSED = re.compile(r"NACK/[\w/ -]{0,80}")


def address(url: str, name: str, proof: str) -> str:
    """Where Kannel reports on a message; it puts what it has to say in place of %d and %A."""
    return f"{url}?{urlencode({'id': name, 'proof': proof})}&type=%d&said=%A"


def read(query: Mapping[str, str]) -> Answer:
    """The report in a call of the address. Raises CallbackInvalid."""
    kind = query.get("type", "")
    if not (kind.isascii() and kind.isdigit() and len(kind) <= 3):
        raise CallbackInvalid("type is no number: call the address as it stands in dlr-url")
    name, said, bits = query.get("id", ""), _said(query.get("said", "")), int(kind)
    if bits & DELIVERED:
        return Answer(name, AnswerState.DONE, said)
    if bits & (NOT_DELIVERED | NOT_TAKEN):
        return Answer(name, AnswerState.FAILED, said or "the network did not deliver it")
    if bits & (BUFFERED | TAKEN):
        return Answer(name, AnswerState.PROGRESS, said)
    raise CallbackInvalid(f"type {bits} is none of Kannel's delivery reports")


def _said(text: str) -> str:
    """The status and error in the network's words; the rest holds the text of the message."""
    if found := _SMPP.search(text):
        return f"the network says {found[1]}" + (f", error {found[2]}" if found[2] else "")
    refused = _REFUSED.match(text)
    return f"the network refused it: {refused[0]}" if refused else ""
