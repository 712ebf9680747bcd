"""``nsps cost``: dollars per million events and per month, from what is deployed."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from nsps_local.cli.errors import CommandError
from nsps_local.cli.show import console
from nsps_local.cost import model
from nsps_local.cost.model import Counts, Line, Prices
from nsps_local.recording import ConfigurationRejected, RecordingFailed, Topology, record
from nsps_local.stack.stack import ROOT

DEFAULT_CONFIG = ROOT / "infra" / "Pulumi.local.yaml"
PUBLISHED = {1: 9.0, 3: 16.0}
"""Dollars per million events as published for a tuned system, without the history's storage."""


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "cost",
        description="nsps cost --config infra/Pulumi.acme.yaml --subscribers 200000 --events 5",
    )
    parser.add_argument(
        "--config", type=Path, default=DEFAULT_CONFIG, help="a stack's Pulumi.<stack>.yaml"
    )
    parser.add_argument("--subscribers", type=int, default=100_000, help="(default: %(default)s)")
    parser.add_argument(
        "--events", type=float, default=5, help="of one subscriber a month (default: %(default)s)"
    )
    parser.add_argument("--rate", type=float, help="events a second, instead of the mean of these")
    parser.add_argument(
        "--handlers", type=int, help="that want an event (default: as many as the stack has)"
    )
    parser.add_argument("--multi-region", action="store_true", help="Firestore in several regions")
    parser.add_argument("--json", action="store_true", help="the same as JSON")
    parser.set_defaults(run=_cost)


def _cost(options: argparse.Namespace) -> int:
    for name in ("subscribers", "events", "rate", "handlers"):
        value = getattr(options, name)
        if value is not None and value <= 0:
            raise CommandError(f"--{name} {value:g}: write a number above 0")
    topology = _recorded(options.config)
    listed, counts = model.read_prices(), model.read_counts()
    if options.multi_region:
        listed = listed.in_several_regions()
    prices = listed.of(topology.region)
    monthly = options.subscribers * options.events
    rate = options.rate or monthly / model.MONTH_SECONDS
    own = sum("NSPS_HANDLER" in function.env for function in topology.functions)
    handlers = options.handlers or max(1, own)
    each = model.per_million(topology, counts, prices, rate, handlers)
    fixed = model.per_month(topology, counts, prices)
    month = model.total(each) * monthly / model.MILLION + model.total(fixed)
    if options.json:
        document = {
            "handlers": handlers,
            "events_a_second": rate,
            "per_million": [asdict(line) for line in each],
            "per_month": [asdict(line) for line in fixed],
            "million": model.total(each),
            "month": month,
            "counted": counts.date,
            "prices": prices.date,
        }
        print(json.dumps(document, indent=1))
        return 0
    title = f"A million events at {rate:.3g} a second, each for {handlers} handlers"
    console.print(_table(title, each))
    console.print(_table("A month, whatever comes", fixed))
    console.print(
        f"{options.subscribers:,} subscribers with {options.events:g} events a month: "
        f"[bold]${month:,.0f} a month[/]\n"
    )
    console.print(_beside(topology, counts, listed))
    console.print(_footnote(topology, counts, prices))
    return 0


def _recorded(config: Path) -> Topology:
    if not config.is_file():
        raise CommandError(f"--config {config}: there is no such file")
    try:
        return record(config)
    except (ConfigurationRejected, RecordingFailed) as error:
        raise CommandError(str(error)) from error


def _table(title: str, lines: list[Line]) -> Table:
    table = Table(title=title, title_justify="left", box=None, header_style="bold")
    table.add_column("")
    table.add_column("$", justify="right")
    table.add_column("of what")
    for line in lines:
        table.add_row(line.part, f"{line.dollars:,.2f}", line.why)
    table.add_row("together", f"{model.total(lines):,.2f}", "", style="bold")
    return table


def _beside(topology: Topology, counts: Counts, prices: Prices) -> Table:
    """Beside the published figures, which hold for that pace and for a tier-1 region."""
    table = Table(
        title="Dollars per million events at 40 a second, in a tier-1 region",
        title_justify="left",
        box=None,
        header_style="bold",
    )
    for column in ("handlers", "ours", "of it Firestore", "published"):
        table.add_column(column, justify="right")
    for handlers, published in PUBLISHED.items():
        lines = model.per_million(topology, counts, prices, 40, handlers)
        firestore = next(line.dollars for line in lines if line.part == "Firestore")
        whole = f"{model.total(lines):,.2f}"
        table.add_row(str(handlers), whole, f"{firestore:,.2f}", f"about {published:g}")
    return table


def _footnote(topology: Topology, counts: Counts, prices: Prices) -> str:
    text = (
        f"Operations counted on {counts.date}, list prices of {prices.date}, without free "
        f"allowances. Firestore as in us-west1: {topology.region} may cost more. Not in it: "
        "traffic to the internet and through the NAT, metrics and alerts, builds, backups."
    )
    if prices.guessed:
        text += f" To be checked before quoting: {', '.join(prices.guessed)}."
    return f"[bright_black]{text}[/]"
