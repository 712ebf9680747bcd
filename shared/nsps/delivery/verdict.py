"""What a handler's function answers to the push, or the partner, that brought the event."""

from __future__ import annotations

from dataclasses import dataclass

from nsps.domain.outcome import Outcome


@dataclass(frozen=True, slots=True)
class Verdict:
    """``ack``: the message is done with (final, or somebody else is responsible for it).

    Without ``ack`` it comes again; ``retry_after`` seconds is when that makes sense, if known.
    ``held``: the handler is switched off, and nothing was tried. ``read_again``: its data is older
    than what was sent; send the event through enrichment again, then the message is done with.
    """

    ack: bool
    outcome: Outcome
    reason: str = ""
    retry_after: float | None = None
    error: BaseException | None = None
    held: bool = False
    read_again: bool = False
