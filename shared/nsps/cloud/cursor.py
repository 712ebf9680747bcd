"""Where a page of documents ended, as a text that a link can carry: ``MOMENT~ID``."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any


def write(moment: datetime, ident: str) -> str:
    """The cursor after a document. ``moment``: of the field that the list is in order of."""
    return f"{moment.astimezone(UTC).isoformat()}~{ident}"


def read(field: str, text: str) -> dict[str, Any] | None:
    """A position for ``start_after``: of the field and the document's name; None for no text.

    Raises ValueError.
    """
    if not text:
        return None
    moment, _, ident = text.partition("~")
    if not ident or "/" in ident:
        raise ValueError(f"{text!r} is no page: take the `next` of the page before")
    at = datetime.fromisoformat(moment)
    return {field: at if at.tzinfo else at.replace(tzinfo=UTC), "__name__": ident}
