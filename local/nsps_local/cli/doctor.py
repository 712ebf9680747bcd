"""``nsps doctor``: what is wrong, and what to do."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.text import Text

from nsps_local.cli.errors import CommandError
from nsps_local.cli.handlers import portabilling_said
from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.running import Running
from nsps_local.cli.show import console
from nsps_local.doctor import checks, limits
from nsps_local.doctor.finding import Finding, State, bad, good, unknown
from nsps_local.doctor.secrets import SecretVersions
from nsps_local.recording import ConfigurationRejected, RecordingFailed, Topology, record

_MARK = {State.GOOD: ("✓", "green"), State.BAD: ("✗", "red"), State.UNKNOWN: ("?", "yellow")}


def add_to(commands: Any) -> None:
    parser = commands.add_parser(
        "doctor",
        description="Of the stack on this machine; with --outputs or --console, of a deployed one "
        "(and with --config, whether its secrets are there and may be read).",
    )
    parser.add_argument(
        "--outputs", type=Path, metavar="FILE", help="of `pulumi stack output --json`"
    )
    parser.add_argument(
        "--config", type=Path, help="also check the limits that this Pulumi.<stack>.yaml runs into"
    )
    parser.add_argument(
        "--register-groups", action="store_true", help="register missing ESPF groups (local stack)"
    )
    parser.add_argument("--wrong", action="store_true", help="say only what is not well")
    parser.add_argument("--json", action="store_true", help="what is found, as JSON")
    add_console(parser)
    parser.set_defaults(run=_doctor)


def _doctor(options: argparse.Namespace) -> int:
    found = []
    for finding in _findings(options):
        found.append(finding)
        if not (options.json or (options.wrong and finding.state is State.GOOD)):
            _show(finding)
    if options.json:
        print(json.dumps([asdict(finding) for finding in found], indent=1))
    wrong = sum(finding.state is State.BAD for finding in found)
    if not options.json:
        verb = "is" if wrong == 1 else "are"
        said = f"{wrong} of {len(found)} {verb} wrong" if wrong else "All is well."
        console.print(said if options.wrong and not wrong else f"\n{said}")
    return 1 if wrong else 0


def _findings(options: argparse.Namespace) -> Iterator[Finding]:
    elsewhere = options.outputs or options.console
    if options.config:
        topology = _recorded(options.config)
        yield from limits.findings(topology)
        if elsewhere:
            yield from SecretVersions(topology).findings()
    if options.outputs:
        yield from checks.deployed(_outputs(options.outputs))
    if options.console:
        yield from _switches(options)
        yield from _reached(options)
    if elsewhere:
        return
    description = Running(options.state).description
    topology = _recorded(
        Path(description["config"]),
        port_base=int(description["callbacks"]["url"].rpartition(":")[2]),  # the first by name
        portabilling_url=description["portabilling"]["url"],
        state=Path(description["state"]),
    )
    yield from checks.LocalStack(description, topology).findings(options.register_groups)
    if not options.config:
        yield from limits.findings(topology)


def _switches(options: argparse.Namespace) -> Iterator[Finding]:
    """What a deployed console says of its handlers."""
    answer = Remote(options).get("handlers")
    for said in portabilling_said(answer["portabilling"]):
        yield bad("PortaBilling's breaker", said, "see how PortaBilling answers")
    for handler in answer["handlers"]:
        what, switch = handler["name"], handler["switch"]
        if handler.get("off") or switch.get("pause"):
            why = str(handler.get("why") or "switched off")
            yield bad(what, why, f"nsps resume {what}, or look after its system")
        else:
            yield good(what, "is in service")


def _reached(options: argparse.Namespace) -> Iterator[Finding]:
    """What a deployed console finds when it looks."""
    try:
        health = Remote(options).get("health")
    except CommandError as error:
        yield unknown("PortaBilling and the systems", str(error), "ask as an operator")
        return
    yield from checks.reached(health)


def _outputs(file: Path) -> dict[str, str]:
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CommandError(f"--outputs {file}: cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise CommandError(f"--outputs {file}: write the output of `pulumi stack output --json`")
    return {str(name): str(value) for name, value in document.items()}


def _recorded(config: Path, **where: Any) -> Topology:
    if not config.is_file():
        raise CommandError(f"{config}: there is no such file")
    try:
        return record(config, **where)
    except (ConfigurationRejected, RecordingFailed) as error:
        raise CommandError(str(error)) from error


def _show(finding: Finding) -> None:
    mark, style = _MARK[finding.state]
    line = Text(f"{mark} ", style=style).append(finding.what, style="bold")
    console.print(line.append(f"  {finding.said}", style="not bold default"), soft_wrap=True)
    if finding.state is not State.GOOD and finding.do:
        console.print(Text(f"    → {finding.do}"), soft_wrap=True)
