"""Histories by hand: each is the shortest that a rule is there for.

Every one of them keeps all promises; without its rule it breaks one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.machine.steps import Go
from tests.machine.world import ATTEMPTS, World


@dataclass(frozen=True)
class History:
    """``without``: the rule (of ``mutants``) without which it breaks a promise."""

    without: str
    handler: str
    play: Callable[[World], None]

    @property
    def common(self) -> bool:
        """Whether Hypothesis comes upon such a history soon, too."""
        return self.without in _COMMON


_COMMON = frozenset(
    {
        "a message that was sent is sent again",
        "a plain cache of PortaBilling",
        "a replay marks only its own delivery",
        "an older snapshot is written",
        "ledger: lease",
        "posted whatever was noted since",
        "the lease is given back without an answer",
        "two orders at once for a SIM card",
        "who waits behind an order is forgotten",
    }
)


def _two(world: World, first: str = "assign", second: str = "block") -> None:
    """Two changes of one account, each with an event that is enriched before the next."""
    world.change(first)
    world.send_through()
    world.change(second)
    world.send_through()


def _publish_fails(world: World) -> None:
    world.change("assign")
    world.send(0)
    world.hurt(0, Go.FAIL)
    world.run(0)


def _swapped_within_the_cache(world: World) -> None:
    _two(world, "assign", "swap")
    world.change("swap", 0, 1)
    world.send_through()


def _replayed_after_a_change(world: World) -> None:
    _two(world)
    world.deliver(0, stops=99)
    world.deliver(0, stops=99)
    world.replay(0, 0)


def _replayed_before_it_is_enriched(world: World) -> None:
    world.change("assign")
    world.replay_unread(0)


def _newest_first(world: World) -> None:
    _two(world)
    world.deliver(1, stops=99)
    world.deliver(0, stops=99)


def _slow_writer(world: World) -> None:
    _two(world)
    world.deliver(0)
    world.until(0, "calls sims")
    world.deliver(0, 1, stops=99)
    world.run(0)


def _write_lands_late(world: World) -> None:
    _two(world)
    world.deliver(0)
    world.until(0, "calls sims")
    world.hurt(0, Go.LATE)
    world.run(0)
    world.deliver(0, 1, stops=99)
    world.land(0)


def _answer_lost_then_undone(world: World) -> None:
    _two(world)
    world.change("unblock")
    world.send_through()
    world.deliver(0, stops=99)
    world.deliver(0)
    world.until(0, "called sims")
    world.hurt(0, Go.LOST)
    world.run(0)
    world.advance(31.0)
    world.deliver(0, 1, stops=99)


def _session_is_not_told(world: World) -> None:
    """The card is written, what has to follow is not done; the retry finds the card as wanted."""
    world.change("assign")
    world.send_through()
    world.deliver(0)
    world.until(0, "follows up sims")
    world.hurt(0, Go.FAIL)
    world.run(0)
    world.deliver(0, stops=99)


def _claim_of_a_former_owner(world: World) -> None:
    world.change("assign", 0, 0)
    world.send_through()
    world.change("move", 1, 0)
    world.send_through()
    world.deliver(2, stops=99)
    world.deliver(0, stops=99)


def _stalled_before_it_records(world: World) -> None:
    """X's write is done and not recorded; its lease runs out, and Y writes. X frees no lease."""
    world.change("assign", 0, 0)
    world.send_through()
    world.change("move", 1, 0)
    world.send_through()
    world.change("block", 1)
    world.send_through()
    world.deliver(0)
    world.until(0, "records")
    world.advance(31.0)
    world.deliver(1, 1)
    world.until(1, "calls sims")
    world.run(0)
    world.deliver(1, stops=99)
    world.run(0)


def _brought_twice(world: World) -> None:
    world.change("assign")
    world.send_through()
    world.deliver(0, twice=True, stops=99)
    world.deliver(0, stops=99)


def _ignored_event_is_newer(world: World) -> None:
    """A block and a swap, of different types; who heeds the one may ignore the other."""
    _two(world)
    world.change("swap", 0, 1)
    world.send_through()
    world.deliver(0, stops=99)
    world.deliver(1, stops=99)
    world.deliver(0, stops=99)


def _older_is_refused_later(world: World) -> None:
    _two(world)
    world.trouble(0, "refuse")
    world.deliver(0)
    world.until(0, "calls letters")
    world.deliver(0, 1, stops=99)
    world.run(0)


def _noted_while_another_posts(world: World) -> None:
    _two(world)
    world.deliver(0)
    world.until(0, "posts")
    world.trouble(0, "refuse")
    world.deliver(0, 1, stops=99)
    world.run(0)


def _down_for_hours(world: World) -> None:
    world.change("assign")
    world.send_through()
    world.trouble(0, "down")
    for _ in range(ATTEMPTS + 1):
        world.deliver(0, stops=99)
    world.advance(3700.0)
    world.advance(3700.0)
    world.tick(stops=99)
    for _ in range(ATTEMPTS + 1):
        world.deliver(0, stops=99)


def _changed_while_an_order_is_open(world: World) -> None:
    _two(world)
    world.deliver(0, stops=99)
    world.deliver(0, stops=99)


HISTORIES: Mapping[str, History] = {
    "publish fails": History("200 before Pub/Sub has confirmed", "sims", _publish_fails),
    "swapped within the cache's time": History(
        "a plain cache of PortaBilling", "sims", _swapped_within_the_cache
    ),
    "replayed after a change": History(
        "a replay sends what was read then", "sims", _replayed_after_a_change
    ),
    "replayed before it is enriched": History(
        "a replay marks only its own delivery", "sims", _replayed_before_it_is_enriched
    ),
    "newest first": History("an older snapshot is written", "sims", _newest_first),
    "a slow writer": History("ledger: lease", "sims", _slow_writer),
    "a write lands late": History(
        "the lease is given back without an answer", "sims", _write_lands_late
    ),
    "an answer is lost, the change undone": History(
        "ledger: dirty", "sims", _answer_lost_then_undone
    ),
    "what follows a write fails": History("ledger: owed", "sims", _session_is_not_told),
    "a former owner's claim comes last": History(
        "ledger: claim_t", "sims", _claim_of_a_former_owner
    ),
    "stalled before it records": History("ledger: token", "sims", _stalled_before_it_records),
    "a message is brought twice": History(
        "a message that was sent is sent again", "letters", _brought_twice
    ),
    "the newer event is one that is ignored": History(
        "another type's message takes no event's place", "partner", _ignored_event_is_newer
    ),
    "the older one is refused later": History(
        "a status in any order", "letters", _older_is_refused_later
    ),
    "noted while another posts": History(
        "posted whatever was noted since", "letters", _noted_while_another_posts
    ),
    "down for hours": History("a parked event is forgotten once sent", "sims", _down_for_hours),
    "changed while an order is open": History(
        "two orders at once for a SIM card", "orders", _changed_while_an_order_is_open
    ),
    "changed while an order is open, and told": History(
        "who waits behind an order is forgotten", "orders", _changed_while_an_order_is_open
    ),
}
