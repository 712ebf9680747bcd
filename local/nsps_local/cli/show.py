"""How histories are shown to a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from nsps.delivery.timeline import Delivered, EventHistory
from nsps.domain.event import MESSAGE_KEY, RECONCILE
from nsps.domain.printable import bounded, one_line
from nsps.domain.retry_table import duration
from rich.table import Table
from rich.text import Text

from nsps_local.cli.printable import safe_console

COLOURS = {
    "delivered": "green",
    "unchanged": "green",
    "accepted": "cyan",
    "superseded": "bright_black",
    "retrying": "yellow",
    "waiting": "yellow",
    "parked": "yellow",
    "rejected": "red",
    "expired": "red",
}

console = safe_console()

_VALUE_WIDTH = 60
"""What a table's column shows of a value that comes from outside."""


def asked_for(kind: str, spec: Mapping[str, Any]) -> str:
    """A job's specification, for people."""
    words = [f"{name}={_spoken(name, value)}" for name, value in sorted(spec.items()) if value]
    if kind == "reconcile" and not (spec.get("account") or spec.get("customer")):
        words.append("all")
    return " ".join(words)


def _spoken(name: str, value: Any) -> str:
    if name in ("since", "until"):
        return f"{datetime.fromisoformat(value).astimezone():%Y-%m-%dT%H:%M}"
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def coloured(outcome: str | None) -> Text:
    word = (outcome or "waiting").replace("_", " ")
    return Text(word, style=COLOURS.get(outcome or "waiting", ""))


def events_table(histories: Iterable[EventHistory]) -> Table:
    """One line an event."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("received", "i_event", "event type", "owner", "became", "took"):
        whole = column != "became"
        justify: Literal["left", "right"] = "right" if column == "took" else "left"
        table.add_column(column, justify=justify, no_wrap=whole, overflow="fold")
    for history in histories:
        table.add_row(
            _date(history.received_at or history.opened_at),
            "" if history.event_type == RECONCILE else bounded(history.i_event or "", _VALUE_WIDTH),
            bounded(history.event_type, _VALUE_WIDTH),
            bounded(history.owner, _VALUE_WIDTH),
            _became(history),
            _took(history),
        )
    return table


def _became(history: EventHistory) -> Text:
    """What became of an event, the handlers of like outcome together, what is not well first."""
    text, shown = Text(), history.deliveries
    if history.unread or not shown:
        state = "not enriched" if history.retry else history.state
        text.append(state, style="yellow" if history.retry else "bright_black")
        shown = tuple(each for each in shown if each.begun_at or each.run)
    handlers: dict[str, list[str]] = {}
    for each in shown:
        run = f" (replay {each.run})" if each.run else ""
        handlers.setdefault(each.outcome or "waiting", []).append(each.handler + run)
    for outcome in sorted(handlers, key=_URGENCY.index):
        text.append("; " if text else "").append_text(coloured(outcome))
        text.append(f" {', '.join(handlers[outcome])}")
    return text


_URGENCY = (
    "expired",
    "rejected",
    "parked",
    "retrying",
    "waiting",
    "accepted",
    "delivered",
    "unchanged",
    "superseded",
)


def headline(history: EventHistory) -> Text:
    """Which event it is."""
    title = Text(f"{history.event_type}", style="bold")
    number = "" if history.event_type == RECONCILE else f"  i_event {history.i_event}"
    return title.append(f"{number}  {history.owner}  {history.event_id}", style="not bold")


def timeline(history: EventHistory) -> Table:
    """An event's way, line by line, with how long each part took."""
    table = Table(
        title=headline(history),
        title_justify="left",
        box=None,
        pad_edge=False,
        show_header=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column(justify="right", style="bright_black", no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    start = _moment(history.received_at) or _moment(history.opened_at)
    table.add_row(_clock(history.received_at), "received", "published, and ESPF answered 200")
    if history.state == "unhandled":
        table.add_row(_since(start, history.opened_at), "recorded", "no handler wants this event")
    if history.enriched_at:
        told = (
            f"PortaBilling read in {history.read_ms:g} ms" if history.read_ms else "no read needed"
        )
        table.add_row(_since(start, history.enriched_at), "enriched", told)
    if history.retry:
        table.add_row("", Text("failed", style="yellow"), f"{history.retry['error']}")
    for each in history.deliveries:
        name = f"{each.handler} (replay {each.run})" if each.run else each.handler
        table.add_row(_since(start, each.last_at), name, _delivered(each))
        heard = _heard(each)
        if heard is not None:
            told_at = None if _knew(each) else (each.espf or {}).get("told_at")
            table.add_row(_since(start, told_at), "", heard)
    return table


def explained(words: Mapping[str, Any]) -> Text:
    """What the console says in plain words."""
    text = Text()
    for line in words["happened"]:
        text.append(f"{_date(line['at']):<17}", "bright_black")
        text.append(f"{one_line(line['text'])}\n")
    if words["waiting"]:
        text.append("\nWaits:\n", "bold yellow")
        for each in words["waiting"]:
            text.append(f"  {one_line(each)}\n")
    if words["advice"]:
        text.append("\nYou can:\n", "bold")
        for each in words["advice"]:
            text.append(f"  {one_line(each['text'])}:\n      ")
            text.append(f"{one_line(each['command'])}\n", "cyan")
    return text


def _date(text: str | None) -> str:
    moment = _moment(text)
    return moment.astimezone().strftime("%d %b %H:%M:%S") if moment else ""


def _delivered(each: Delivered) -> Text:
    text = coloured(each.outcome)
    for result in each.results:
        text.append(f"  {_result(result)}")
    if each.summary:
        text.append(f"  {each.summary}")
    if each.outcome == "superseded" and each.superseded_by:
        text.append(f"  by {each.superseded_by}")
    for error in each.errors:
        text.append(f"  {error}")
    if each.retry:
        text.append(f"  {each.retry['error']}")
    elif each.failures:
        text.append(f"  before: {each.failures[-1]['error']}", style="bright_black")
    if each.attempts > 1:
        text.append(f"  ({each.attempts} attempts)", style="bright_black")
    return text


def _result(result: Mapping[str, Any]) -> str:
    key = str(result.get("key", ""))
    words = f"{'message' if key.startswith(MESSAGE_KEY) else key} {result.get('result', '')}"
    fields = result.get("fields") or {}
    if fields:
        changes = (f"{name} {_change(each)}" for name, each in sorted(fields.items()))
        words += f" ({', '.join(changes)})"
    if result.get("order"):
        words += f" as {result['order']}"
    if result.get("took_ms") is not None:
        words += f" in {result['took_ms']:g} ms"
    if result.get("answer"):
        words += f': "{result["answer"]}"'
    return words


def _change(change: Mapping[str, Any]) -> str:
    before, after = change["from"], change["to"]
    return f"{after}" if before is None else f"{before} → {after}"


def _heard(each: Delivered) -> Text | None:
    espf = each.espf
    if espf is None or espf.get("status") is None or each.begun_at is None:
        return None
    if not espf["of_this"]:
        return Text(f"PortaBilling heard of a newer one ({espf['group']})", style="bright_black")
    if espf.get("refused"):
        return Text(f"PortaBilling refused the status: {espf['refused']}", style="red")
    if not espf["told"]:
        return Text(f"PortaBilling is to hear {espf['status']} ({espf['group']})", style="yellow")
    style = "red" if espf["status"] == "FAILED" else "green"
    heard = "has" if _knew(each) else "heard"
    return Text(f"PortaBilling {heard} {espf['status']} ({espf['group']})", style=style)


def _knew(each: Delivered) -> bool:
    """Whether PortaBilling had this very status before: it is not told the same again."""
    told, begun = _moment((each.espf or {}).get("told_at")), _moment(each.begun_at)
    return told is not None and begun is not None and told < begun


def _took(history: EventHistory) -> str:
    ends = [moment for each in history.deliveries if (moment := _moment(each.finished_at))]
    start = _moment(history.received_at)
    if not ends or start is None or not history.final:
        return ""
    return span(max(ends) - start)


def _since(start: datetime | None, text: str | None) -> str:
    moment = _moment(text)
    if moment is None or start is None:
        return ""
    return f"+{span(moment - start)}"


def span(passed: timedelta) -> str:
    """How long something took: in milliseconds below ten seconds."""
    seconds = passed.total_seconds()
    return f"{seconds * 1000:.0f} ms" if abs(seconds) < 10 else duration(passed)


def _clock(text: str | None) -> str:
    moment = _moment(text)
    return moment.astimezone().strftime("%H:%M:%S") if moment else ""


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None
