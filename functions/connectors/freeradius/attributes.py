"""The attributes that FreeRADIUS knows, and the values that it takes for them.

A row with a name or value that FreeRADIUS cannot read makes it refuse the subscriber's login, so
each is checked before it is written: what the settings say with the configuration, what comes from
PortaBilling with its event.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Sequence
from pathlib import Path

from pyrad.dictionary import Attribute, Dictionary, ParseError
from pyrad.tools import EncodeAttr

_SHIPPED = Path(__file__).with_name("dictionary")
_VENDOR = re.compile(r"^\s*VENDOR\s+(\S+)\s+(\S+)\s+format=(\S+)", re.IGNORECASE)
_MAX_BYTES = 240
_NUMBER = re.compile(r"-?[0-9]{1,20}")
_OCTETS = re.compile(r"0x(?:[0-9a-fA-F]{2})+")
_NUMBERS = ("integer", "short", "byte", "integer64", "date", "signed")
_WRITE = {
    **dict.fromkeys(_NUMBERS, "a whole number that fits"),
    "octets": "0x and an even number of hexadecimal digits",
    "ipaddr": "an IPv4 address",
    "ipv6addr": "an IPv6 address",
    "ipv6prefix": "an IPv6 prefix",
    "string": f"1 to {_MAX_BYTES} bytes without a backslash, %{{ or a quote at the beginning",
}
# FreeRADIUS takes a value in quotes for a text to expand, in backticks for a program to run, and
# reads a backslash as an escape.
_UNSAFE = re.compile(r"""^["'`]|\\|%\{|[\x00-\x1f\x7f]""")


class Attributes:
    """The shipped dictionary and ``more`` lines in the same syntax. Raises ValueError."""

    def __init__(self, more: Sequence[str] = ()) -> None:
        self._other_format: set[str] = set()
        self.dictionary = Dictionary()
        self._read(_SHIPPED.read_text(encoding="utf-8").splitlines())
        self._read(more)

    def _read(self, lines: Sequence[str]) -> None:
        if any(line.lstrip().startswith("$") for line in lines):
            raise ValueError("other files are not included: write their lines here")
        plain = "\n".join(map(self._without_format, lines))
        try:
            self.dictionary.ReadDictionary(io.StringIO(plain))
        except ParseError as error:
            raise ValueError(
                f"line {error.line}: {error.msg}: write it as FreeRADIUS's own"
            ) from None

    def _without_format(self, line: str) -> str:
        """pyrad skips the attributes of a vendor with a format of its own (WiMAX); here they are
        known by name and type, and not sent."""
        found = _VENDOR.match(line)
        if found is None or found[3] == "1,1":
            return line
        self._other_format.add(found[1])
        return f"VENDOR {found[1]} {found[2]}"

    def check_name(self, name: str) -> Attribute:
        """Raises ValueError for a name that FreeRADIUS would not know."""
        plain, _, tag = name.partition(":")
        found = self.dictionary.attributes.get(plain)
        if found is None:
            raise ValueError(
                f"{name}: no such attribute: correct the name, or declare it in dictionary as "
                f'FreeRADIUS has it, such as "ATTRIBUTE {plain} 1 string VENDOR"'
            )
        if found.type == "tlv":
            raise ValueError(f"{name}: holds other attributes: write those")
        if tag and not (found.has_tag and tag.isdecimal() and int(tag) < 32):
            raise ValueError(f"{name}: takes no such tag: leave :{tag} out")
        return found

    def check(self, name: str, value: str) -> None:
        """Raises ValueError for a value that FreeRADIUS would not take. It is not quoted."""
        found = self.check_name(name)
        if found.values.HasForward(value) or is_valid(found.type, value):
            return
        names = ", ".join(sorted(found.values.forward))
        write = _WRITE.get(found.type, f"one of the type {found.type}")
        raise ValueError(
            f"{name} takes no such value: write {write}{f', or one of {names}' if names else ''}"
        )

    def can_be_sent(self, name: str) -> bool:
        """Whether a CoA can carry the attribute."""
        return self.check_name(name).vendor not in self._other_format


def is_valid(kind: str, value: str) -> bool:
    """Whether FreeRADIUS takes the text for an attribute of this type, and as it is."""
    if not value or _UNSAFE.search(value) or len(value.encode()) > _MAX_BYTES:
        return False
    if kind in _NUMBERS and not _NUMBER.fullmatch(value):
        return False
    if kind == "octets" and not _OCTETS.fullmatch(value):
        return False
    try:
        EncodeAttr(kind, int(value) if kind in _NUMBERS else value)
    except (ValueError, TypeError, struct.error):
        return False
    return True
