"""The machine proves what it says: leave a rule out of the product, and a promise is broken.

    NSPS_MACHINE_MUTANTS=60 .venv/bin/python -m pytest tests/machine/test_mutants.py -s

lets Hypothesis look for those that are not rare, in at most so many histories; without it only the
histories by hand are played.
"""

from __future__ import annotations

import os

import pytest
from hypothesis.errors import HypothesisException

from tests.machine.cloud import Cloud
from tests.machine.histories import HISTORIES
from tests.machine.mutants import mutated
from tests.machine.rules import play, played
from tests.machine.world import Unsettled, Violated, World

MOST = int(os.environ.get("NSPS_MACHINE_MUTANTS", "0"))


def _played(cloud: Cloud, name: str) -> World:
    """The history of this name, at its end."""
    world = World(cloud, (HISTORIES[name].handler,))
    try:
        HISTORIES[name].play(world)
        world.judge()
    except AssertionError:
        print("\n".join(world.story))
        raise
    finally:
        world.close()
    return world


@pytest.mark.parametrize("name", HISTORIES)
def test_a_history_keeps_every_promise(cloud: Cloud, name: str) -> None:
    assert _played(cloud, name).accepted


@pytest.mark.parametrize("name", HISTORIES)
def test_without_its_rule_it_breaks_one(cloud: Cloud, name: str) -> None:
    with mutated(HISTORIES[name].without):
        with pytest.raises((Violated, Unsettled)) as broken:
            _played(cloud, name)
    print(f"{name}: {broken.value}")


@pytest.mark.skipif(not MOST, reason="a long run: NSPS_MACHINE_MUTANTS says how many histories")
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
