"""What the deployment reaches, looked at when somebody asks: PortaBilling, and every system.

The console asks with its own account and its own secret; each handler's function asks its system
with the handler's.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from nsps.console.handlers import Handlers
from nsps.domain.outcome import DeliveryError

AT_ONCE = 8


class Groups(Protocol):
    """What is needed of ESPF's status API."""

    def groups(self) -> set[str]: ...


@dataclass(frozen=True, slots=True)
class Health:
    """Looks; safe to share between threads. ``espf`` makes (or gives) the status API."""

    handlers: Handlers
    espf: Callable[[], Groups]

    def look(self) -> dict[str, Any]:
        """{"portabilling": why not, "handlers": [{"name", "group", "registered", "system": why
        not}]}; what is well is None, ``registered`` too where it is not known. Never raises.
        """
        with ThreadPoolExecutor(AT_ONCE) as pool:
            names = sorted(self.handlers.by_name)
            systems = pool.map(self.handlers.probe, names)
            wrong, groups = self._portabilling()
            return {
                "portabilling": wrong,
                "handlers": [
                    {**self._group(name, groups), "system": system}
                    for name, system in zip(names, systems, strict=True)
                ],
            }

    def of(self, handler: str) -> dict[str, Any]:
        """One handler's system and its group, see ``look``. Never raises."""
        _, groups = self._portabilling()
        return {**self._group(handler, groups), "system": self.handlers.probe(handler)}

    def _portabilling(self) -> tuple[str | None, set[str] | None]:
        """Why there is no login, or the groups that are registered."""
        try:
            return None, self.espf().groups()
        except DeliveryError as error:
            return str(error), None

    def _group(self, name: str, groups: set[str] | None) -> dict[str, Any]:
        group = self.handlers.by_name[name].group
        known = None if group is None or groups is None else group in groups
        return {"name": name, "group": group, "registered": known}
