"""``nsps replay``, ``nsps reconcile``, ``nsps jobs``: long work, watched while it goes on."""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from nsps.domain.printable import printable
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from nsps_local.cli.errors import CommandError
from nsps_local.cli.remote import Remote, add_console
from nsps_local.cli.show import asked_for, console, span

LOOK_SECONDS = 0.5
SHOWN, JSON_SHOWN, MAX_SHOWN = 10, 100, 1000
"""Findings that a finished job prints; `nsps jobs show` prints more."""
NOT_CLEAN = frozenset(
    {"missing", "different", "left over", "unrecorded", "foreign", "rejected", "unread"}
)
MANY_SINGLY = 1000
"""So many accounts read one by one take a time that wants a reason."""
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLOURS = {
    "same": "green",
    "missing": "red",
    "different": "yellow",
    "left over": "magenta",
    "foreign": "magenta",
    "unrecorded": "cyan",
    "rejected": "red",
    "unread": "red",
    "waiting": "yellow",
}


def add_to(commands: Any) -> None:
    _add_replay(commands)
    _add_reconcile(commands)
    parser = commands.add_parser(
        "jobs",
        description="nsps jobs; nsps jobs show JOB; nsps jobs stop JOB --reason ...",
    )
    parser.add_argument(
        "what",
        nargs="?",
        choices=("show", "watch", "stop", "resume"),
        help="show what it found; watch it; stop it after the page it is at; resume it there",
    )
    parser.add_argument("job", nargs="?", metavar="JOB", help="as `nsps jobs` lists it, or last")
    parser.add_argument(
        "--limit", type=int, metavar="N", default=20, help="how many (default: %(default)s)"
    )
    parser.add_argument("--reason", default="", help="of stop or resume, for the audit trail")
    parser.add_argument("--json", action="store_true", help="what is shown, as JSON")
    add_console(parser)
    parser.set_defaults(run=_jobs)


def _add_replay(commands: Any) -> None:
    parser = commands.add_parser(
        "replay",
        description="nsps replay EVENT, or nsps replay --handler hss --outcome rejected --since 2h."
        " What is written is what PortaBilling has now, never what it had then.",
    )
    parser.add_argument("event", nargs="?", help="an event_id, or an i_event")
    parser.add_argument("--handler", help="only for this handler")
    parser.add_argument("--event-type", metavar="PATTERN", help="for example SIM/*")
    parser.add_argument("--account", type=int, metavar="I_ACCOUNT", help="only of this account")
    parser.add_argument(
        "--outcome",
        metavar="WORD",
        action="append",
        default=[],
        help="only what came to this: rejected, expired, retrying, parked, delivered, ...",
    )
    parser.add_argument("--since", metavar="WHEN", help="2026-11-21T10:00Z, or 90m, 2h, 3d ago")
    parser.add_argument("--until", metavar="WHEN", help="the same")
    parser.add_argument(
        "--dry-run", action="store_true", help="show what would be written; write nothing"
    )
    _add_job_options(parser)
    add_console(parser)
    parser.set_defaults(run=_replay)


def _add_reconcile(commands: Any) -> None:
    parser = commands.add_parser(
        "reconcile",
        description="Compares, and touches nothing without --fix. Exit status 1 if something is "
        "not as PortaBilling says, 2 if it could not be compared to the end.",
    )
    parser.add_argument("handler", metavar="HANDLER", help="its name: `nsps handlers` lists them")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--account", type=int, metavar="I_ACCOUNT", help="one account")
    whom.add_argument("--customer", type=int, metavar="I_CUSTOMER", help="with all its accounts")
    whom.add_argument("--all", action="store_true", help="every account of PortaBilling")
    parser.add_argument("--fix", action="store_true", help="send an event for each that is wrong")
    _add_job_options(parser)
    add_console(parser)
    parser.set_defaults(run=_reconcile)


def _add_job_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate",
        type=float,
        metavar="R",
        default=20.0,
        help="events sent a second, at most 1000 (default: %(default)g)",
    )
    parser.add_argument("--reason", default="", help="why, for the audit trail")
    parser.add_argument("--detach", action="store_true", help="do not wait; see `nsps jobs`")
    parser.add_argument("--json", action="store_true", help="the finished job as JSON")


# ---- commands ----------------------------------------------------------------------------------


def _replay(options: argparse.Namespace) -> int:
    remote = Remote(options)
    now = datetime.now(UTC)
    outcomes = [word for text in options.outcome for word in text.split(",") if word]
    body = {
        "event": options.event,
        "handler": options.handler,
        "event_type": options.event_type,
        "outcomes": outcomes,
        "account": options.account,
        "since": _when(options.since, now),
        "until": _when(options.until, now),
        "dry_run": options.dry_run,
        "rate": options.rate,
        "reason": options.reason,
    }
    return _follow(remote, remote.post("replays", body)["job"], options)


def _reconcile(options: argparse.Namespace) -> int:
    remote = Remote(options)
    body = {
        "handler": options.handler,
        "account": options.account,
        "customer": options.customer,
        "all": options.all,
        "fix": options.fix,
        "rate": options.rate,
        "reason": options.reason,
    }
    return _follow(remote, remote.post("reconciles", body)["job"], options)


def _jobs(options: argparse.Namespace) -> int:
    remote = Remote(options)
    if options.what is None:
        jobs = remote.get("jobs", limit=options.limit)["jobs"]
        _print_jobs(jobs, as_json=options.json)
        return 0
    if options.job is None:
        raise CommandError(f"write nsps jobs {options.what} JOB: `nsps jobs` lists them")
    if options.job == "last":
        options.job = _last(remote)
    if options.what in ("stop", "resume"):
        remote.post(f"jobs/{options.job}/{options.what}", {"reason": options.reason})
        done = "stops after the page it is at" if options.what == "stop" else "goes on where it was"
        console.print(f"job {options.job} {done}: nsps jobs show {options.job}", soft_wrap=True)
        return 0
    if options.what == "watch":
        _watch(remote, options.job)
    return _print_result(remote, options.job, options.limit, as_json=options.json)


def _last(remote: Remote) -> str:
    """The newest job's id."""
    for job in remote.get("jobs", limit=1)["jobs"]:
        return str(job["id"])
    raise CommandError("there is no job yet: `nsps replay` and `nsps reconcile` begin one")


# ---- watching ----------------------------------------------------------------------------------


def _follow(remote: Remote, job: str, options: argparse.Namespace) -> int:
    if options.detach:
        said = f"job {job} has begun: nsps jobs watch {job}, or stop"
        print(json.dumps({"job": job}) if options.json else said)
        return 0
    try:
        _watch(remote, job)
    except KeyboardInterrupt:
        console.print(f"job {job} goes on without you: `nsps jobs stop {job}` ends it")
        return 130
    return _print_result(remote, job, JSON_SHOWN if options.json else SHOWN, as_json=options.json)


def _watch(remote: Remote, job: str) -> None:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[about]}"),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(job, total=None, about="")
        error = None
        while True:
            now = remote.get(f"jobs/{job}", limit=1)
            progress.update(task, completed=now["done"], total=now["total"], about=_about(now))
            if now["error"] and now["error"] != error:
                print(f"job {job} waits: {printable(now['error'])}", file=sys.stderr)
            error = now["error"]
            if now["state"] != "running":
                return
            time.sleep(LOOK_SECONDS)


def _about(job: Mapping[str, Any]) -> str:
    parts = [f"{count} {word}" for word, count in sorted(job["found"].items())]
    if job["eta"]:
        parts.append(f"until about {_clock(job['eta'])}")
    if job["error"]:
        parts.append(f"waits: {job['error']}")
    return ", ".join(parts)


def _print_result(remote: Remote, job: str, limit: int, *, as_json: bool) -> int:
    """Print what a job found, so many findings; the exit status: 2 if it did not come to its end,
    for then what it did not find may be there."""
    done = remote.get(f"jobs/{job}", limit=min(limit + 1, MAX_SHOWN))
    if as_json:
        print(json.dumps(done, indent=1))
    else:
        for finding in done["findings"][:limit]:
            _print_finding(finding)
        if len(done["findings"]) > limit:
            console.print(f"and more: nsps jobs show {job} --limit {MAX_SHOWN}")
        console.print(_summary(done), soft_wrap=True)
    if done["state"] in ("failed", "stopped"):
        return 2
    wrong = any(done["found"].get(word) for word in NOT_CLEAN)
    return 1 if done["kind"] == "reconcile" and wrong and not done["fix"] else 0


def _print_finding(finding: Mapping[str, Any]) -> None:
    title = Text(finding.get("owner") or "", style="bold")
    if finding.get("event_type"):
        title.append(f"  {finding['event_type']} {finding.get('i_event') or ''}", "not bold")
        title.append(f"  for {finding['handler']}", "not bold")
    if finding.get("run"):
        title.append(f"  sent again (replay {finding['run']})", "green")
    if finding.get("message"):
        title.append(f"  would send: {finding['message']}", "not bold")
    if title:  # what nobody owns has none
        console.print(title)
    for each in finding.get("resources", []):
        line = Text("  ")
        line.append(each["what"], _COLOURS.get(each["what"], "")).append(f"  {each['key']}  ")
        line.append(", ".join(_fields(each))).append(f"  {each['reason']}", "bright_black")
        console.print(line)


def _fields(resource: Mapping[str, Any]) -> Iterator[str]:
    """What it should have; and what it has, where the system has it at all."""
    for name, change in sorted(resource["fields"].items()):
        has, should = _value(change["from"]), _value(change["to"])
        yield f"{name} {should}" if resource["what"] == "missing" else f"{name}: {has} → {should}"


def _value(value: Any) -> str:
    return "nothing" if value is None else str(value)


def _summary(job: Mapping[str, Any]) -> Text:
    took = _seconds(job["created_at"], job["ended_at"])
    text = Text(f"{job['kind']} {job['id']}: {job['state']}", style="bold")
    text.append(f"; {_progress(job)} looked at", "not bold")
    for word, count in sorted(job["found"].items()):
        text.append(f", {count} ", "not bold").append(word, _COLOURS.get(word, "not bold"))
    singly = job.get("singly", {})
    if sum(singly.values()) >= MANY_SINGLY:
        why = ", ".join(f"{count} because {reason}" for reason, count in sorted(singly.items()))
        text.append(f"; read one by one: {why}", "not bold")
    if took is not None:
        text.append(f"; {span(timedelta(seconds=took))}", "not bold")
    if job["eta"]:
        text.append(f"; until about {_clock(job['eta'])}", "not bold")
    if job["dry_run"]:
        text.append("; nothing was written", "not bold")
    if job["error"]:
        text.append(f"; {job['error']}", "red")
    if job["stop"]:
        text.append(f"; stopped by {job['stop']['by']}", "not bold")
        text.append(f": {job['stop']['reason']}" if job["stop"]["reason"] else "", "not bold")
    return text


def _progress(job: Mapping[str, Any]) -> str:
    whole = job["total"] and job["done"] != job["total"]
    return f"{job['done']} of {job['total']}" if whole else f"{job['done']}"


def _print_jobs(jobs: Sequence[Mapping[str, Any]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(jobs, indent=1))
        return
    if not jobs:
        console.print("No replay and no reconcile in the last 3 months.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("job", "what", "state", "looked at", "found", "until"):
        table.add_column(column, no_wrap=column in ("job", "until"), overflow="fold")
    for job in jobs:
        what = f"{job['kind']} {asked_for(job['kind'], job['spec'])}"
        what += " dry run" * job["dry_run"] + " fix" * job["fix"]
        found = ", ".join(f"{count} {word}" for word, count in sorted(job["found"].items()))
        until = _clock(job["ended_at"] or job["eta"])
        table.add_row(job["id"], what, job["state"], _progress(job), found, until)
    console.print(table)


# ---- times -------------------------------------------------------------------------------------


def _when(text: str | None, now: datetime) -> str | None:
    """A moment as ISO 8601: given so, or as a time ago."""
    if text is None:
        return None
    ago = re.fullmatch(r"(\d{1,6})([smhd])", text)
    if ago:
        return (now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})).isoformat()
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise CommandError(f"{text!r}: write 2026-11-21T10:00Z, or 90m, 2h, 3d") from None
    return (moment if moment.tzinfo else moment.astimezone()).isoformat()


def _clock(text: str | None) -> str:
    return f"{datetime.fromisoformat(text).astimezone():%d %b %H:%M:%S}" if text else ""


def _seconds(begun: str, ended: str | None) -> float | None:
    if ended is None:
        return None
    return (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
