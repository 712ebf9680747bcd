"""The console's addresses: one pattern of the API and of the pages."""

from __future__ import annotations

import re


def name_in(path: str, pattern: str) -> str | None:
    """What stands for ``{name}`` of the pattern, empty where it has none; None if it is another
    path."""
    found = re.fullmatch(re.escape(pattern).replace(r"\{name\}", "([^/]+)"), path)
    if found is None:
        return None
    return found[1] if found.groups() else ""
