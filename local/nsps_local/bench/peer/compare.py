"""NSPS and the peer in turns: the same PortaBilling, external system and load, round by round."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from statistics import median

from nsps_local.bench import flow
from nsps_local.bench.figures import Aim, Section, percentile
from nsps_local.bench.peer import running
from nsps_local.bench.world import FAKES, World

RATE = 20
Events = Iterator[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often and how long; seconds. ``paces``: tried in turn until one does not last."""

    count: int
    seconds: float
    paces: tuple[float, ...]
    pace_seconds: float

    @property
    def events(self) -> int:
        """How many events are sent at most, by both."""
        once = RATE * self.seconds + sum(self.paces) * self.pace_seconds
        return round(2 * self.count * once) + 200


@dataclass(frozen=True, slots=True)
class Measured:
    """One turn. ``steady``: at RATE events a second; ``lasting``: the highest pace that lasts."""

    steady: flow.Step
    lasting: float

    def took(self, share: float) -> float:
        return percentile([each * 1000 for each in self.steady.provisioned], share)

    @property
    def processor(self) -> float:
        """Milliseconds an event, of all processes but the fakes and the load client."""
        return sum(spent for part, spent in self.steady.cost.items() if part not in FAKES)

    @property
    def lost(self) -> int:
        return self.steady.events - len(self.steady.provisioned)


FIGURES: Mapping[str, tuple[Callable[[Measured], float], str, Aim | None]] = {
    f"{RATE} events/s, median": (lambda m: m.took(0.5), "ms", Aim("at_most", 1.0)),
    f"{RATE} events/s, 99th percentile": (lambda m: m.took(0.99), "ms", Aim("at_most", 1.0)),
    "processor time an event": (lambda m: m.processor, "ms", Aim("at_most", 1.0)),
    "the pace that lasts": (lambda m: m.lasting, "events/s", Aim("at_least", 1.3)),
    "events that did not arrive": (lambda m: m.lost, "", None),
}


def measure(world: World, rounds: Rounds, events: Events, say: Callable[[str], None]) -> Section:
    """Both in turns, so that what else the machine does meets both."""
    ours: list[Measured] = []
    theirs: list[Measured] = []
    with running.running(world.description["portabilling"], world.system_port) as peer:
        drives = (
            ("NSPS", flow.Flow(world, events), ours),
            ("the peer", flow.Flow(peer, events), theirs),
        )
        for _, drive, _ in drives:
            drive.step(RATE, 3)  # threads, connections and logins are made
        for number in range(rounds.count):
            for name, drive, measured in drives:
                say(f"round {number + 1} of {rounds.count}: {name}")
                measured.append(_turn(drive, rounds))
    return section(ours, theirs)


def section(ours: list[Measured], theirs: list[Measured]) -> Section:
    """Medians of the rounds, and the median of their ratios."""
    made = Section(f"Beside FastAPI, Celery, Redis and PostgreSQL: medians of {len(ours)} rounds")
    for name, (value, unit, aim) in FIGURES.items():
        pairs = [(value(one), value(other)) for one, other in zip(ours, theirs, strict=True)]
        made.add(f"{name}: NSPS", median(one for one, _ in pairs), unit)
        made.add(f"{name}: the peer", median(other for _, other in pairs), unit)
        ratios = [one / other for one, other in pairs if other]
        if ratios and aim is not None:
            made.add(f"{name}: ratio", median(ratios), "", aim)
    return made


def _turn(drive: flow.Flow, rounds: Rounds) -> Measured:
    steady, lasting = drive.step(RATE, rounds.seconds), 0.0
    for pace in rounds.paces:
        if not drive.step(pace, rounds.pace_seconds).lasts:
            break
        lasting = pace
    return Measured(steady, lasting)
