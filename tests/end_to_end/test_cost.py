"""The operations that ``nsps cost`` reckons with are those that an event makes."""

from __future__ import annotations

import pytest
from nsps_local.cost.count import count
from nsps_local.cost.model import Operations, read_counts

pytestmark = pytest.mark.timeout(180)


def test_what_was_counted_still_holds() -> None:
    """If this fails, the code does more or less than before: python -m nsps_local.cost.count."""
    one, tick = count(1, events=6)
    kept = read_counts()
    assert one.writes == kept.one.writes
    assert one.deletes == kept.one.deletes
    assert one.reads == pytest.approx(kept.one.reads, abs=1)
    _near(one, kept.one)
    assert tick.writes == kept.tick.writes
    assert tick.reads == pytest.approx(kept.tick.reads, abs=1)


def _near(found: Operations, kept: Operations) -> None:
    for name in ("published_bytes", "pushed_bytes", "log_bytes", "stored"):
        assert getattr(found, name) == pytest.approx(getattr(kept, name), rel=0.1), name
