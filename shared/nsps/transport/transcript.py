"""What was asked of a system and what it answered, written down for ``nsps try``.

Only while a Transcript is open in this thread (``writing``); no delivery has one.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any

from nsps.domain.outcome import Transient

_SHOWN = 2000
"""Characters of an answer."""


class NotSent(Transient):
    """The request would change something, and nothing is to be sent."""


@dataclass(slots=True)
class Exchange:
    """One request; ``status`` is None while there is no answer, or where it was not sent."""

    method: str
    url: str
    query: dict[str, Any]
    body: Any
    sent: bool = True
    status: int | None = None
    answer: str = ""
    meaning: str = ""

    def answered(self, status: int, text: str, meaning: str) -> None:
        self.status, self.answer, self.meaning = status, text[:_SHOWN], meaning


@dataclass(slots=True)
class Transcript:
    """``send``: whether requests that change something go out."""

    send: bool
    exchanges: list[Exchange] = field(default_factory=list)

    def add(self, exchange: Exchange, *, reads: bool) -> None:
        """Write a request down before it is made. Raises NotSent if it is not to be."""
        self.exchanges.append(exchange)
        exchange.sent = reads or self.send
        if not exchange.sent:
            raise NotSent(f"{exchange.method} {exchange.url}: not sent")

    def to_json(self) -> list[dict[str, Any]]:
        return [asdict(each) for each in self.exchanges]


_open: ContextVar[Transcript | None] = ContextVar("transcript", default=None)


def current() -> Transcript | None:
    """The transcript that is being written in this thread."""
    return _open.get()


@contextmanager
def writing(transcript: Transcript) -> Iterator[Transcript]:
    """Write down what is asked until the block ends."""
    token = _open.set(transcript)
    try:
        yield transcript
    finally:
        _open.reset(token)
