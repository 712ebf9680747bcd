"""Histories from Hypothesis, over the real functions on the embedded cloud.

    NSPS_MACHINE_HISTORIES=2000 .venv/bin/python -m pytest tests/machine/test_machine.py -s

plays that many, others each time; without it a few, always the same.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.machine.cloud import Cloud
from tests.machine.rules import play, played

HISTORIES = int(os.environ.get("NSPS_MACHINE_HISTORIES", "0"))
FEW = 50


@pytest.mark.timeout(300 + 10 * HISTORIES)
def test_every_promise_is_kept_in_every_history(cloud: Cloud) -> None:
    played.clear()
    began = time.monotonic()
    play(cloud, HISTORIES or FEW, dice=HISTORIES > 0)
    counts = ", ".join(f"{count} {what}" for what, count in played.items())
    print(f"\n{counts} in {time.monotonic() - began:.0f} s")
