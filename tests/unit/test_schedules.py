"""Each tick calls the handlers that have a schedule, and no others."""

from __future__ import annotations

from typing import Any

from nsps.domain.outcome import Transient
from nsps.flows.schedules import Schedules
from nsps.runtime.settings import HandlerSummary


class Functions:
    """Handlers' functions, of which one is away."""

    def __init__(self) -> None:
        scheduled = {"li": True, "li-2": True, "hss": False}
        self.by_name = {
            name: HandlerSummary(name=name, connector="x", events=("SIM/*",), scheduled=each)
            for name, each in scheduled.items()
        }
        self.asked: list[tuple[str, str]] = []

    def ask(self, name: str, path: str, body: object) -> dict[str, Any]:
        self.asked.append((name, path))
        if name == "li":
            raise Transient("its function cannot be asked")
        return {}


def test_one_that_fails_is_logged_and_stops_no_other(caplog: Any) -> None:
    functions: Any = Functions()
    Schedules(functions).tick()
    assert sorted(functions.asked) == [("li", "/scheduled"), ("li-2", "/scheduled")]
    (line,) = caplog.records
    assert line.levelname == "ERROR" and line.getMessage() == "the schedule was not kept"
