"""What PortaBilling and every system say of one subscriber at this moment; nothing is written."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from nsps.console.handlers import Handlers
from nsps.domain.event import Owner
from nsps.domain.outcome import DeliveryError
from nsps.domain.snapshot import Block
from nsps.portabilling.reader import Reader
from nsps.runtime.redact import Redactor

AT_ONCE = 8
_ALWAYS = frozenset({Block.ACCOUNT_INFO, Block.SIM_INFO})


@dataclass(frozen=True, slots=True)
class Now:
    """Asks; safe to share between threads."""

    handlers: Handlers
    reader: Callable[[], Reader]
    redactor: Callable[[], Redactor]

    def of(self, owner: Owner) -> dict[str, Any]:
        """{"portabilling": {"says", "error"}, "handlers": [{"name", "resources", "error"}]}.

        Never raises: what cannot be asked says why.
        """
        names = [
            name for name, each in sorted(self.handlers.by_name.items()) if each.kind != "message"
        ]
        with ThreadPoolExecutor(AT_ONCE) as pool:
            compared = pool.map(lambda name: self._compare(name, owner), names)
            return {"portabilling": self._read(owner), "handlers": list(compared)}

    def _read(self, owner: Owner) -> dict[str, Any]:
        wanted = {block for each in self.handlers.by_name.values() for block in each.requires}
        try:
            found = self.reader().read_owner(owner, frozenset(wanted) | _ALWAYS)
        except DeliveryError as error:
            return {"says": None, "error": self.redactor().text_for_store(str(error))}
        return {"says": self.redactor().for_store(found.to_contract()), "error": None}

    def _compare(self, name: str, owner: Owner) -> dict[str, Any]:
        try:
            answer = self.handlers.ask(name, "/compare", {"owners": [str(owner)]})
        except DeliveryError as error:
            return {"name": name, "resources": [], "error": str(error)}
        (compared,) = answer["owners"]
        return {"name": name, "resources": compared["resources"], "error": None}
