"""Texts with places for fields' values: ``{name}``, or ``{name:format}``. There is no more to it.

``{*}`` stands for a map of all fields that the system returns, but for the key.
A text that is one place alone takes the value as it is, with its type. Any other becomes a text,
or nothing (None) where a value that it needs is missing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from nsps.domain.outcome import Terminal

ALL = "*"
MAPS = ("{*}", "{*:text}")
_PLACE = re.compile(r"\{([a-z_][a-z0-9_]*|\*)(?::([a-z0-9_]+))?\}")


def word(value: Any) -> str:
    """A value as it stands in a text: true, false and null as in JSON."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def _digits(text: str) -> str:
    digits = text.removeprefix("+")
    if not (digits.isascii() and digits.isdigit()):
        raise Terminal("a value that is to be written as a number is none: map another source")
    return digits


FORMATS: Mapping[str, Callable[[str], str]] = {
    "text": str,
    "lower": str.lower,
    "upper": str.upper,
    "e164": lambda text: f"+{_digits(text)}",
    "reversed_digits": lambda text: ".".join(reversed(_digits(text))),
}
"""``reversed_digits``: 3.0.0.7, as the names of ENUM (RFC 6116) are made."""


FORMATS_OF_ALL: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "text": lambda fields: {n: "" if v is None else word(v) for n, v in fields.items()},
    "names": ",".join,
}
"""``text``: all as texts, an empty one for a missing value; ``names``: the fields' names."""


def formatted(value: Any, form: str | None) -> Any:
    """The value in a format; as it is without one. Raises Terminal."""
    if form and isinstance(value, Mapping):
        return FORMATS_OF_ALL[form](value)
    return value if value is None or not form else FORMATS[form](word(value))


def places(template: Any) -> Iterator[tuple[str, str | None]]:
    """The (name, format) of every place in a template, however deep."""
    for text in _texts(template):
        yield from ((found[1], found[2]) for found in _PLACE.finditer(text))


def _texts(template: Any) -> Iterator[str]:
    if isinstance(template, str):
        yield template
    elif isinstance(template, Mapping):
        for each in template.values():
            yield from _texts(each)
    elif isinstance(template, list | tuple):
        for each in template:
            yield from _texts(each)


def check_places(template: Any, known: Mapping[str, Any] | set[str]) -> None:
    """Raises ValueError, with what to write, for a place that names no known field or format."""
    for name, form in places(template):
        if name not in known:
            raise ValueError(
                f"{{{name}}} cannot be filled in here: write {{NAME}} with one of "
                f"{', '.join(sorted(known))}"
            )
        formats = FORMATS_OF_ALL if name == ALL else FORMATS
        if form and form not in formats:
            raise ValueError(
                f"{{{name}:{form}}}: there is no such format: write one of {', '.join(formats)}"
            )
    for text in _texts(template):
        if text not in MAPS and any(place in text for place in MAPS):
            raise ValueError(f"{text}: {{*}} is a map: write it alone, or {{*:names}}")


def filled(template: Any, values: Mapping[str, Any]) -> Any:
    """The template with the values. Raises Terminal where a value has not the format's form."""
    if isinstance(template, Mapping):
        return {name: filled(each, values) for name, each in template.items()}
    if isinstance(template, list | tuple):
        return [filled(each, values) for each in template]
    if not isinstance(template, str):
        return template
    whole = _PLACE.fullmatch(template)
    if whole:
        return formatted(values[whole[1]], whole[2])
    found = {place: formatted(values[place[0]], place[1]) for place in places(template)}
    if any(value is None for value in found.values()):
        return None
    return _PLACE.sub(lambda place: word(found[place[1], place[2]]), template)


def filled_path(template: str, values: Mapping[str, Any]) -> str:
    """The path with the values, each within its own segment. Raises Terminal for one that would
    lead elsewhere: to delete ``parties/`` is not to delete a party."""

    def segment(place: re.Match[str]) -> str:
        text = word(formatted(values[place[1]], place[2]))
        if values[place[1]] is None or text.strip() in ("", ".", ".."):
            raise Terminal(f"{place[1]} has no value that can stand in an address")
        return quote(text, safe="")

    return _PLACE.sub(segment, template)
