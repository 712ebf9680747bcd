"""``nsps events`` and ``nsps explain``: what happened."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

from nsps.outcome import Transient
from nsps.timeline import Story

from nsps_local.cli.errors import CommandError
from nsps_local.cli.running import Running, add_state
from nsps_local.cli.show import console, events_table, timeline


def add_to(commands: Any) -> None:
    listing = commands.add_parser("events", help="the newest events and what became of them")
    add_state(listing)
    listing.add_argument("--limit", type=int, default=20, help="how many (default: %(default)s)")
    listing.add_argument("--account", type=int, metavar="I_ACCOUNT", help="only of this account")
    listing.add_argument("--json", action="store_true", help="what the table shows, as JSON")
    listing.set_defaults(run=_list)
    explain = commands.add_parser("explain", help="one event's way, step by step")
    add_state(explain)
    explain.add_argument("event", help="an event_id, or an i_event")
    explain.add_argument("--wait", type=float, default=0, metavar="S", help="until it is finished")
    explain.add_argument("--json", action="store_true", help="what is shown, as JSON")
    explain.set_defaults(run=_explain)


def _list(options: argparse.Namespace) -> int:
    if not 1 <= options.limit <= 1000:
        raise CommandError(f"--limit {options.limit}: write a number from 1 to 1000")
    reader = Running(options.state).timeline
    try:
        if options.account is not None:
            stories = reader.where("i_account", options.account, options.limit)
        else:
            stories = reader.latest(options.limit)
    except Transient as error:
        raise CommandError(f"the history cannot be read: {error}") from error
    if options.json:
        print(json.dumps([as_json(story) for story in stories], indent=1))
    elif not stories:
        console.print("No events yet. Send one: nsps send SIM/Updated i_account=1 i_event=1")
    else:
        console.print(events_table(stories))
    return 0


def _explain(options: argparse.Namespace) -> int:
    stories = _wait(Running(options.state), options.event, options.wait)
    if not stories:
        raise CommandError(
            f"no event {options.event} in the history: `nsps events` lists the newest"
        )
    if options.json:
        print(json.dumps([as_json(story) for story in stories], indent=1))
    else:
        for story in stories:
            console.print(timeline(story))
            console.print()
    return 0


def _wait(running: Running, name: str, seconds: float) -> list[Story]:
    ends = time.monotonic() + seconds
    try:
        while True:
            stories = running.timeline.find(name)
            if (stories and all(s.final for s in stories)) or time.monotonic() >= ends:
                return stories
            time.sleep(0.1)
    except Transient as error:
        raise CommandError(f"the history cannot be read: {error}") from error


def as_json(story: Story) -> dict[str, Any]:
    """A story as JSON: the members of nsps.timeline.Story, and ``final``."""
    document = asdict(story) | {"final": story.final}
    for each, delivered in zip(document["deliveries"], story.deliveries, strict=True):
        each["final"] = delivered.final
    return document
