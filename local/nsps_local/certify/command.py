"""The command's options, and what it prints."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from nsps.domain.routing import check_pattern, matches
from rich.console import Console
from rich.text import Text

from nsps_local.certify import report
from nsps_local.certify.address import Address, CannotCertify
from nsps_local.certify.case import Case, Level, Result, State, Way, level_of
from nsps_local.certify.cases import DOCUMENTED, all_cases
from nsps_local.certify.run import Run
from nsps_local.certify.samples import Samples
from nsps_local.certify.send import Sender
from nsps_local.certify.system import System
from nsps_local.cli.printable import safe_console

DESCRIPTION = (
    "Sends a connector the events of the published NSPS connector contract and judges its answers. "
    "The events are of subscribers that do not exist, but the connector carries them out: point it "
    "at a test system. Exit status: 0 the level is reached, 1 it is not, 2 it cannot be tried."
)
TOKEN_VARIABLE = "NSPS_CERTIFY_TOKEN"  # noqa: S105 (the name of a variable)
_MARK = {
    State.PASSED: ("✓", "green"),
    State.FAILED: ("✗", "red"),
    State.SKIPPED: ("-", "bright_black"),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="the connector's URL, as in the handler's configuration")
    parser.add_argument(
        "--token", help=f"the Bearer token that it expects (or in ${TOKEN_VARIABLE})"
    )
    parser.add_argument("--health", metavar="PATH", help="its health page; /health beside the URL")
    parser.add_argument(
        "--events",
        metavar="PATTERN,...",
        help="the event types that its handler receives, such as 'SIM/*'; all documented ones",
    )
    parser.add_argument(
        "--system",
        metavar="LISTEN=TARGET",
        help="HOST:PORT=HOST:PORT; set the connector to reach its (test) system TARGET at LISTEN, "
        "and it is seen what the connector does when the system is away or hangs",
    )
    parser.add_argument(
        "--pid", type=int, help="the connector's process on this machine: stopped at the end"
    )
    parser.add_argument(
        "--messages",
        action="store_true",
        help="the connector sends a message for each event and keeps no state to be overwritten",
    )
    parser.add_argument(
        "--ca", type=Path, metavar="FILE", help="the authority of its certificate, in PEM"
    )
    parser.add_argument(
        "--level",
        type=Level,
        choices=list(Level),
        default=Level.CONTRACT,
        help="what exit status 0 stands for (contract)",
    )
    parser.add_argument("--dry-run", action="store_true", help="show the requests; send nothing")
    parser.add_argument("--json", action="store_true", help="everything, as JSON")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit XML for a CI")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a report to read")
    parser.add_argument("--wrong", action="store_true", help="print only what is not well")


def main(arguments: Sequence[str] | None = None) -> int:
    """``python -m nsps_local.certify``; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m nsps_local.certify", description=DESCRIPTION, allow_abbrev=False
    )
    add_options(parser)
    try:
        return certify(parser.parse_args(arguments))
    except CannotCertify as error:
        sys.stderr.write(f"certify: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def certify(options: argparse.Namespace) -> int:
    """Carry the command out. Raises CannotCertify."""
    sender = _checked(options)
    started = datetime.now(UTC)
    cases = all_cases(Samples(started), _event_types(options.events))
    if options.dry_run:
        _show_requests(cases, sender, options)
        return 0
    system = System.parse(options.system) if options.system else None
    run = Run(sender, system, options.pid, keeps_state=not options.messages)
    console = safe_console()
    results: list[Result] = []
    try:
        for result in run.results(cases):
            results.append(result)
            if not options.json and not (options.wrong and result.state is not State.FAILED):
                _show(console, result)
    finally:
        if system:
            system.close()
    found = report.document(results, sender, started)
    _write(options, found)
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        console.print(_summary(found), soft_wrap=True)
    reached = level_of(results)
    levels = list(Level)
    return 0 if reached and levels.index(reached) >= levels.index(options.level) else 1


def _checked(options: argparse.Namespace) -> Sender:
    """Refuses what is wrong with the options before anything is sent."""
    token = options.token or os.environ.get(TOKEN_VARIABLE, "")
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise CannotCertify(f"name the connector's token (ASCII): --token, or ${TOKEN_VARIABLE}")
    if options.pid is not None and options.pid < 2:
        raise CannotCertify(f"--pid {options.pid}: name the connector's process, a number above 1")
    if options.pid is not None and not options.system:
        raise CannotCertify("--pid: name --system too; events are held there while it is stopped")
    for file in (options.junit, options.html):
        if file and (file.is_dir() or not file.parent.is_dir()):
            raise CannotCertify(f"{file}: name a file in a folder that is there")
    return Sender(Address.of(options.url, options.health, options.ca), token)


def _event_types(patterns: str | None) -> Sequence[str]:
    if patterns is None:
        return DOCUMENTED
    wanted = [each.strip() for each in patterns.split(",")]
    chosen: dict[str, None] = {}
    for pattern in wanted:
        try:
            check_pattern(pattern)
        except ValueError as error:
            raise CannotCertify(f"--events {pattern}: {error}") from None
        known = [each for each in DOCUMENTED if matches(pattern, each)]
        if not known and "*" in pattern:
            raise CannotCertify(f"--events {pattern}: no documented event type is like that")
        chosen |= dict.fromkeys(known or [pattern])
    return list(chosen)


def _show_requests(cases: Sequence[Case], sender: Sender, options: argparse.Namespace) -> None:
    shown = [
        {"case": case.name, "way": case.way.value, **report.sent(request, sender)}
        for case in cases
        if _would_be_sent(case, options)
        for request in case.send
    ]
    if options.json:
        sys.stdout.write(json.dumps(shown, indent=1) + "\n")
        return
    console = safe_console()
    for each in shown:
        headers = "\n".join(f"{name}: {value}" for name, value in each["headers"].items())
        console.print(Text(f"# {each['case']}: {each['what']}", style="bold"), soft_wrap=True)
        console.print(Text(f"{each['method']} {each['url']}\n{headers}\n"), soft_wrap=True)
        console.print(Text(f"{each['body']}\n"), soft_wrap=True)
    console.print(f"{len(shown)} requests; nothing was sent.")


def _would_be_sent(case: Case, options: argparse.Namespace) -> bool:
    if case.way is Way.STOPPING:
        return options.pid is not None
    return not case.needs_system or options.system is not None


def _show(console: Console, result: Result) -> None:
    mark, style = _MARK[result.state]
    case = result.case
    line = Text(f"{mark} ", style=style).append(case.title, style="bold")
    console.print(line.append(f"  {case.name} ({case.level})", style="not bold"), soft_wrap=True)
    if result.state is State.SKIPPED:
        missing = "; ".join(each.text for each in result.complaints)
        console.print(Text(f"    {missing}", style="bright_black"))
    if result.state is not State.FAILED:
        return
    for complaint in result.complaints[: report.SHOWN]:
        console.print(Text(f"    {complaint.text}"), soft_wrap=True)
    if len(result.complaints) > report.SHOWN:
        console.print(f"    and {len(result.complaints) - report.SHOWN} more")
    for word, text in report.explained(case).items():
        console.print(Text(f"    {word}: {text}"), soft_wrap=True)


def _summary(found: dict[str, Any]) -> Text:
    lines = list(_lines(found))
    return Text("\n" + "\n".join(lines))


def _lines(found: dict[str, Any]) -> Iterator[str]:
    for level, counts in found["levels"].items():
        tried = counts["passed"] + counts["failed"]
        skipped = f", {counts['skipped']} not tried" if counts["skipped"] else ""
        yield f"{level}: {counts['passed']} of {tried} passed{skipped}"
    yield f"Level: {found['level']}" if found["level"] else "The contract is not kept."
    if found["counts"]["failed"]:
        yield "Each request and answer in full: --html FILE, or --json."


def _write(options: argparse.Namespace, found: dict[str, Any]) -> None:
    file: Path = options.junit or options.html
    try:
        if options.junit:
            options.junit.write_bytes(report.junit(found))
        if options.html:
            file = options.html
            file.write_text(report.page(found), encoding="utf-8")
    except OSError as error:
        raise CannotCertify(f"{file}: cannot be written: {error}") from None
