"""How a text travels as SMS: its alphabet, and how many parts it takes.

GSM 7 where its default alphabet has every character (those of the extension table count twice),
else UCS-2. (3GPP TS 23.038, sections 6.2.1 and 6.2.3; TS 23.040, section 9.2.3.24.1.)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

_BASIC = frozenset(
    "@£$¥èéùìòÇ\nØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENSION = frozenset("^{}\\[~]|€")
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]+")


@dataclass(frozen=True, slots=True)
class Text:
    """A text and the value of Kannel's ``coding`` for it: 0 for GSM 7, 2 for UCS-2."""

    text: str
    coding: int
    parts: int


def coded(rendered: str) -> Text | None:
    """The text as it is sent, line ends and spaces tidied; None where nothing is left of it."""
    text = _CONTROL.sub(" ", rendered.replace("\r\n", "\n")).strip()
    if not text:
        return None
    if _BASIC.union(_EXTENSION).issuperset(text):
        septets = [2 if each in _EXTENSION else 1 for each in text]
        return Text(text, 0, _parts(septets, 160, 153))
    # Kannel cuts UCS-2 by its length alone; a phone puts the halves of a character together again.
    units = [1] * (len(text.encode("utf-16-be")) // 2)
    return Text(text, 2, _parts(units, 70, 67))


def _parts(sizes: Sequence[int], alone: int, each: int) -> int:
    """How many parts hold these, none of them cut: one of ``alone``, else several of ``each``."""
    if sum(sizes) <= alone:
        return 1
    parts, used = 1, 0
    for size in sizes:
        if used + size > each:
            parts, used = parts + 1, 0
        used += size
    return parts
