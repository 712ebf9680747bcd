"""The machine proves what it says: leave a rule out of the product, and a promise is broken."""

from __future__ import annotations

import pytest

from tests.machine.cloud import Cloud
from tests.machine.histories import HISTORIES
from tests.machine.mutants import mutated
from tests.machine.world import Unsettled, Violated, World


def _played(cloud: Cloud, name: str) -> World:
    """The history of this name, at its end."""
    world = World(cloud, (HISTORIES[name].handler,))
    try:
        HISTORIES[name].play(world)
        world.judge()
    except AssertionError:
        print("\n".join(world.history))
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
