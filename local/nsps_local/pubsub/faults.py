"""Faults on demand: how the broker is told to misbehave, per topic or subscription.

Of a topic:         publish_unavailable   refused with UNAVAILABLE, nothing is kept
                    publish_answer_lost   kept and delivered, yet the client sees UNAVAILABLE
Of a subscription:  duplicate             delivered twice at once
                    lose_acks             acknowledged, and yet delivered again
                    lose_late_acks        acknowledged after the deadline: does not count
                    reorder               held back (`seconds`, 1 by default) while others pass
                    delay                 every delivery is `seconds` later
                    push_drop_before      the connection breaks before the endpoint hears of it
                    push_drop_after       the endpoint answers, the answer is lost: counts as nack
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

TOPIC_FAULTS = frozenset({"publish_unavailable", "publish_answer_lost"})
SUBSCRIPTION_FAULTS = frozenset(
    {
        "duplicate",
        "lose_acks",
        "lose_late_acks",
        "reorder",
        "delay",
        "push_drop_before",
        "push_drop_after",
    }
)
EVERYWHERE = "*"


@dataclass(slots=True)
class Fault:
    """How often (0..1), how many times yet (None: without end), and how long in seconds."""

    probability: float = 1.0
    times: int | None = None
    seconds: float = 1.0

    def shown(self) -> dict[str, float | None]:
        return {"probability": self.probability, "times": self.times, "seconds": self.seconds}


class Faults:
    """The switches. Everything is off until `set` turns it on."""

    def __init__(self, chance: random.Random | None = None) -> None:
        self._chance = chance or random.Random()  # noqa: S311 (misbehaviour, not secrets)
        self._targets: dict[str, dict[str, Fault]] = {}

    def set(self, target: str, faults: Mapping[str, object]) -> None:
        """Replace the faults of one topic or subscription ("*": of all). No faults: all off.

        A value is a probability (for `delay`: seconds), or {"probability", "times", "seconds"}.
        Raises ValueError, with the reason, and changes nothing.
        """
        parsed = {name: _fault(name, value) for name, value in faults.items()}
        if not parsed and target == EVERYWHERE:
            self._targets.clear()
        elif parsed:
            self._targets[target] = parsed
        else:
            self._targets.pop(target, None)

    def shown(self) -> dict[str, dict[str, dict[str, float | None]]]:
        return {
            target: {name: fault.shown() for name, fault in faults.items()}
            for target, faults in self._targets.items()
        }

    def strike(self, target: str, name: str) -> Fault | None:
        """The fault, if this is one of the times at which it happens."""
        if not self._targets:
            return None
        for key in (target, EVERYWHERE):
            fault = self._targets.get(key, {}).get(name)
            if fault and fault.times != 0 and self._chance.random() < fault.probability:
                if fault.times is not None:
                    fault.times -= 1
                return fault
        return None


def _fault(name: str, value: object) -> Fault:
    if name not in TOPIC_FAULTS | SUBSCRIPTION_FAULTS:
        known = ", ".join(sorted(TOPIC_FAULTS | SUBSCRIPTION_FAULTS))
        raise ValueError(f"There is no fault {name!r}. Known: {known}.")
    given = value if isinstance(value, Mapping) else {_MAIN.get(name, "probability"): value}
    unknown = set(given) - {"probability", "times", "seconds"}
    if unknown:
        raise ValueError(f"Fault {name}: {sorted(unknown)} is not probability, times or seconds.")
    times = given.get("times")
    if times is not None and (isinstance(times, bool) or not isinstance(times, int) or times < 1):
        raise ValueError(f"Fault {name}: times must be a whole number above 0, not {times!r}.")
    return Fault(
        _number(name, "probability", given.get("probability", 1.0), 1.0),
        times,
        _number(name, "seconds", given.get("seconds", 1.0), 86400.0),
    )


_MAIN = {"delay": "seconds"}


def _number(name: str, what: str, value: object, largest: float) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= largest:
        return float(value)
    raise ValueError(f"Fault {name}: {what} must be from 0 to {largest:g}, not {value!r}.")
