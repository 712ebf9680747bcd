"""What is left of a subscriber's volume discount plans. Pure."""

from __future__ import annotations

from nsps.domain.snapshot import PbData, as_amount


def amount_left(pb: PbData, service: str, group: str | None = None) -> float | None:
    """What is left, in the counter's unit, in all counters of the service (and of the destination
    group, ``dg_name``, if given); not below 0. None where nothing is limited: there is no such
    counter, or one of them has no limit (N/A). Raises BlockNotRead."""
    found = [
        as_amount(each.remaining)
        for each in pb.full_vd_counter_info or ()
        if each.service_name == service and group in (None, each.dg_name)
    ]
    known = [each for each in found if each is not None]
    if not known or len(known) < len(found):
        return None
    return max(0.0, sum(known))
