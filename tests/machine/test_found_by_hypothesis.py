"""A long run: Hypothesis itself finds the rules left out that are not rare.

    NSPS_MACHINE_MUTANTS=60 .venv/bin/python -m pytest tests/machine/test_found_by_hypothesis.py -s

looks at so many histories at most for each. Without the variable it is not collected.
"""

from __future__ import annotations

import os

import pytest
from hypothesis.errors import HypothesisException

from tests.machine.cloud import Cloud
from tests.machine.histories import HISTORIES
from tests.machine.mutants import mutated
from tests.machine.rules import play, played

MOST = int(os.environ.get("NSPS_MACHINE_MUTANTS", "60"))


@pytest.mark.timeout(300 + 20 * MOST)
@pytest.mark.parametrize(
    "rule", sorted({each.without for each in HISTORIES.values() if each.common})
)
def test_hypothesis_finds_it(cloud: Cloud, rule: str) -> None:
    played.clear()
    with mutated(rule):
        try:
            play(cloud, MOST, shrink=False)
        except HypothesisException:
            raise
        except AssertionError as error:
            said = str(error).partition("\n")[0]
            print(f"\n{rule}: {played['histories']} histories, {said}")
            return
    pytest.fail(f"{played['histories']} histories, and nobody missed: {rule}")
