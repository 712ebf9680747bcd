"""The JSON of PortaBilling's answers, also where a text in it is damaged.

Names come from imports, other databases and people: some are Latin-1, cut in the middle of a
letter, or hold a raw line end. Such an answer is read all the same, with U+FFFD for what cannot
be: a name must not keep an account from being barred.
"""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any

LOST = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Body:
    """The document of an answer's body. ``damaged``: it is no clean UTF-8 or no strict JSON."""

    document: Any
    damaged: bool = False


def parsed(body: bytes) -> Body:
    """Read a body; ValueError or RecursionError if it is no JSON at all."""
    text = body.removeprefix(codecs.BOM_UTF8)
    try:
        return Body(json.loads(text.decode()))
    except ValueError:
        return Body(json.loads(text.decode("utf-8", "replace"), strict=False), damaged=True)
