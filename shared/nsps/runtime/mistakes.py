"""What pydantic finds wrong, as sentences: where it is, what is wrong, what to write.

A value is never quoted: it may be a secret. (What a validator of ours says is taken as it is.)
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

_OURS = "Value error, "

_WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "missing",
    "string_type": "not a text",
    "string_too_short": "empty",
    "string_too_long": "too long",
    "bool_type": "not true or false",
    "int_type": "not a whole number",
    "float_type": "not a number",
    "tuple_type": "not a list",
    "list_type": "not a list",
    "dict_type": "not a map",
    "model_type": "not a map",
    "too_short": "has too few entries",
    "too_long": "has too many entries",
}
"""Pydantic's kinds of mistakes, in words that do not speak of Python."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """``path``: the keys and positions that lead to it. ``kind``: pydantic's name for it."""

    path: tuple[int | str, ...]
    kind: str
    what: str

    @property
    def where(self) -> str:
        """The path as people write it: events[1].name."""
        steps = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path)
        return "".join(steps).removeprefix(".")

    def text(self, write: str = "") -> str:
        """What is wrong and, unless that says it already, what to write."""
        if not write or "write " in self.what:
            return self.what
        hidden = self.kind == "string_pattern_mismatch"  # a pattern says less than ``write``
        return f"{'not written as it must be' if hidden else self.what}: write {write}"

    def __str__(self) -> str:
        return f"{self.where}: {self.what}" if self.path else self.what


def mistakes(error: ValidationError) -> list[Mistake]:
    """Every mistake; not "too few entries" for a list whose entries are wrong themselves."""
    found = [
        Mistake(tuple(each["loc"]), each["type"], _what(each["type"], each["msg"]))
        for each in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return [one for one in found if one.kind != "too_short" or not _entries_wrong(one, found)]


def sentences(error: ValidationError) -> str:
    """All of them in one line."""
    return "; ".join(map(str, mistakes(error)))


def _what(kind: str, message: str) -> str:
    if kind in _WORDS:
        return _WORDS[kind]
    if message.startswith(_OURS):
        return message.removeprefix(_OURS)
    what = message.replace("Input should be", "must be").replace("String should", "must")
    return what[:1].lower() + what[1:]


def _entries_wrong(one: Mistake, found: list[Mistake]) -> bool:
    return any(other.path[: len(one.path)] == one.path and other is not one for other in found)
