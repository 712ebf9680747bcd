"""Every case, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Sequence

from nsps_local.certify.case import Case
from nsps_local.certify.cases import authentication, bodies, delivery, errors, events, system
from nsps_local.certify.samples import Samples

DOCUMENTED = events.DOCUMENTED


def all_cases(samples: Samples, event_types: Sequence[str] = DOCUMENTED) -> list[Case]:
    """The cases of one run. ``event_types``: those that the connector's handler receives."""
    return [
        *events.health(),
        *authentication.cases(samples),
        *events.cases(samples, event_types),
        *bodies.cases(samples),
        *delivery.cases(samples),
        *system.cases(samples),
        *errors.cases(samples),
        *events.at_the_end(samples),
        *system.at_the_very_end(samples),
    ]
