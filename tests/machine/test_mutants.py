"""The machine proves what it says: leave a rule out of the product, and it finds a broken history.

    NSPS_MACHINE_MUTANTS=200 .venv/bin/python -m pytest tests/machine/test_mutants.py -s

tries every rule, with so many histories each; without it only those that are found at once.
"""

from __future__ import annotations

import os

import pytest
from hypothesis.errors import HypothesisException

from tests.machine.cloud import Cloud
from tests.machine.mutants import AT_ONCE, NAMES, mutated
from tests.machine.rules import play, played

HISTORIES = int(os.environ.get("NSPS_MACHINE_MUTANTS", "0"))
FEW = 15


@pytest.mark.timeout(300 + 10 * HISTORIES)
@pytest.mark.parametrize("name", NAMES if HISTORIES else AT_ONCE)
def test_a_rule_left_out_is_noticed(cloud: Cloud, name: str) -> None:
    played.clear()
    with mutated(name):
        try:
            play(cloud, HISTORIES or FEW, shrink=False)
        except HypothesisException:
            raise
        except AssertionError as error:
            said = str(error).partition("\n")[0]
            print(f"\n{name}: {played['histories']} histories, {said}")
            return
    pytest.fail(f"{played['histories']} histories, and nobody missed: {name}")
