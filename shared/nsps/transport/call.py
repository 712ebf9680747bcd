"""One call of an external system, as its connector is given it."""

from __future__ import annotations

from dataclasses import dataclass

from nsps.transport.deadline import Deadline


@dataclass(slots=True)
class Call:
    """One call of the external system: its deadline, and the ids to pass on.

    ``deadline`` is for the whole call; hand it to every request (it refuses one that would come
    too late). ``reference`` is the same for each repetition of the same call: an idempotency key.
    """

    deadline: Deadline
    reference: str
    event_id: str = ""
    trace_id: str = ""
    request_id: str = ""
    wrote: bool = False
    """Whether a changing request of this call was carried out. The transports say so; from then on
    the kit takes no error of the call for "nothing was changed"."""
