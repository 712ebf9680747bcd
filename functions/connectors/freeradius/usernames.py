"""The names under which a subscriber logs in."""

from __future__ import annotations

import re
from collections.abc import Iterator

from nsps.domain.fields import Fields
from nsps.domain.snapshot import Block, PbData

from .settings import Settings

# For other characters FreeRADIUS's SQL module asks the database in an encoded form.
_NAME = re.compile(r"[A-Za-z0-9@._:/-]([A-Za-z0-9@._:/ -]{0,251}[A-Za-z0-9@._:/-])?")
_NAI = re.compile(r"[^@]+@[^@]+")

REMEDY = (
    "the account has no user name that FreeRADIUS can look up (letters, digits and @ . _ : / -; "
    "for wimax USER@REALM): correct it, or the setting usernames"
)


class Usernames:
    """The settings ``usernames`` and ``realm``."""

    def __init__(self, settings: Settings) -> None:
        sources = {each: each for each in settings.username_sources}
        self._sources = Fields.parse("usernames", sources)
        self._realm = settings.realm
        self._form = _NAI if settings.profile == "wimax" else _NAME

    def reads(self) -> Iterator[tuple[str, Block]]:
        return self._sources.reads()

    def of(self, pb: PbData) -> list[str]:
        """Without those that no login could have; two sources may give the same."""
        found = [str(each) for each in self._sources.values(pb).values() if each is not None]
        realm = f"@{self._realm}" if self._realm else ""
        names = (each if "@" in each else f"{each}{realm}" for each in found)
        return [each for each in names if _NAME.fullmatch(each) and self._form.fullmatch(each)]
