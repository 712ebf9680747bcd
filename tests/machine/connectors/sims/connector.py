"""A connector of kind state, for a system in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nsps.connector.base import Call, Enriched, State, StateConnector

from tests.machine.connectors.settings import SystemSettings, sim_of
from tests.machine.systems import SYSTEMS


class Sims(StateConnector[SystemSettings]):
    """A state per SIM card, and a session that has to be told of each write."""

    settings_model = SystemSettings
    listable = True

    def check(self, call: Call) -> None:
        SYSTEMS[self.settings.system].check()

    def desired(self, event: Enriched) -> Mapping[str, State]:
        return sim_of(event)

    def read(self, key: str, call: Call) -> State | None:
        system = SYSTEMS[self.settings.system]
        system.check()
        return system.states.get(key)

    def keys(self, after: str, limit: int, call: Call) -> Sequence[str]:
        keys = sorted(SYSTEMS[self.settings.system].states)
        return [key for key in keys if key > after][:limit]

    def create(self, key: str, state: State, call: Call) -> None:
        SYSTEMS[self.settings.system].write(key, state, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        SYSTEMS[self.settings.system].delete(key, call)

    def after_write(self, key: str, state: State | None, was: State | None, call: Call) -> None:
        SYSTEMS[self.settings.system].follow(key, state, call)
