"""Histories in which a promise was broken once; and how histories are written down."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.machine.cloud import Cloud
from tests.machine.world import HANDLERS, Violated, World


@contextmanager
def history(cloud: Cloud, *handlers: str) -> Iterator[World]:
    """A history to be played by hand; judged at its end."""
    world = World(cloud, handlers or HANDLERS)
    try:
        yield world
        world.judge()
    except AssertionError as error:
        raise Violated("\n".join([*world.history, str(error)])) from None
    finally:
        world.close()


def test_a_quiet_history(cloud: Cloud) -> None:
    with history(cloud) as world:
        world.change("assign", 0, 0)
        world.change("block", 0)
        world.change("move", 1, 0)
        world.send_through()


def test_a_status_that_is_posted_after_its_lease_has_run_out(cloud: Cloud) -> None:
    """The older letter is recorded, with the lease of its post, and its instance stalls. The lease
    runs out; the newer letter is refused, and FAILED is posted. Then the older OK is posted."""
    with history(cloud, "letters") as world:
        world.change("assign", 0, 0)
        world.send_through()
        world.change("block", 0)
        world.send_through()
        world.deliver(0, 0, stops=4)
        assert world.attempts[0].at == "wrote"
        world.advance(31.0)
        world.trouble(0, "refuse")
        world.deliver(0, 1, stops=99)
        world.run(0)
