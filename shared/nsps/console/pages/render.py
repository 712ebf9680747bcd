"""HTML from templates. Every value is escaped, and what is invisible is made visible."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from nsps.console.explanation.naming import value_words
from nsps.domain.printable import bounded, printable
from nsps.domain.retry_table import duration

HERE = Path(__file__).resolve().parent
PALETTE = HERE / "static" / "palette.css"
"""The colours, also of the pages that only this machine has."""
KINDS = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
COLOURS = {
    **dict.fromkeys(
        ("delivered", "unchanged", "done", "OK", "in service", "same", "sent", "taken"), "ok"
    ),
    **dict.fromkeys(
        ("retrying", "waiting", "parked", "RETRY", "paused", "coming back", "stopped", "not taken"),
        "wait",
    ),
    **dict.fromkeys(("rejected", "expired", "FAILED", "down", "failed", "missing"), "bad"),
    **dict.fromkeys(("different", "left over"), "bad"),
    "PortaBilling not read": "wait",
    **dict.fromkeys(("accepted", "IN_PROGRESS", "running"), "run"),
}
"""How an outcome or state is coloured; others are grey."""


class Static:
    """The files beside the templates, each under an address that changes with its content."""

    def __init__(self) -> None:
        files = sorted((HERE / "static").iterdir())
        content = {file.name: file.read_bytes() for file in files if file.is_file()}
        self._found = {
            f"/files/{hashlib.sha256(each).hexdigest()[:16]}/{name}": each
            for name, each in content.items()
        }
        self._addresses = {path.rpartition("/")[2]: path for path in self._found}

    def address(self, name: str) -> str:
        """Where a file is."""
        return self._addresses[name]

    def get(self, path: str) -> tuple[bytes, str] | None:
        """A file and its kind; None if there is none."""
        found = self._found.get(path)
        return (found, KINDS[path.rpartition(".")[2]]) if found is not None else None


class Templates:
    """Renders; safe to share between threads. All are compiled at once: no visitor waits for it."""

    def __init__(self, static: Static, deployment: str) -> None:
        self._environment = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            finalize=visible,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.filters.update(
            moment=moment,
            timed=timed,
            utc=utc,
            span=span,
            short=lambda value: bounded(value_words(value), 120),
            colour=lambda word: COLOURS.get(str(word), ""),
            plain=lambda value: str(value or "waiting").replace("_", " "),
            pretty=lambda value: json.dumps(value, indent=1, ensure_ascii=False, sort_keys=True),
        )
        self._environment.globals.update(static=static.address, deployment=deployment)
        self._compiled = {
            name: self._environment.get_template(name)
            for name in self._environment.list_templates()
        }

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        return self._compiled[template].render(values)


def visible(value: Any) -> Any:
    """A value as a page shows it: nothing for None, no character that acts or hides."""
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return printable(value)
    return value


def utc(value: str | datetime | None) -> str:
    """``2026-11-30 02:49:36 UTC``."""
    at = read_time(value)
    return f"{at:%Y-%m-%d %H:%M:%S} UTC" if at else ""


def moment(value: str | datetime | None, form: str = "full") -> Markup:
    """A time: UTC as it is sent, the reader's own zone once the script has run.

    ``form``: full (with the day), time (of the day only), day.
    """
    at = read_time(value)
    if at is None:
        return Markup("")
    shown = {"full": "%d %b %H:%M:%S", "time": "%H:%M:%S", "day": "%d %b %H:%M"}[form]
    return _TIME.format(at.isoformat(), utc(at), form, at.strftime(shown))


_TIME = Markup('<time datetime="{}" title="{}" data-form="{}">{}</time>')


def timed(text: str | None) -> Markup:
    """A sentence: each time in it (``2026-11-30 02:49 UTC``) as ``moment`` shows it."""
    parts = _UTC.split(printable(text or ""))
    return Markup("").join(
        _moment_of(part) if _UTC.fullmatch(part) else escape(part) for part in parts
    )


_UTC = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)? UTC)")


def _moment_of(utc: str) -> Markup:
    at, seconds = utc.removesuffix(" UTC"), utc.count(":") > 1
    return moment(f"{at}+00:00", "full" if seconds else "day") or escape(utc)


def read_time(value: str | datetime | None) -> datetime | None:
    """A moment of an answer; None for anything else."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    return value.astimezone(UTC) if value is not None else None


def span(milliseconds: float | None) -> str:
    """How long: ``70 ms``, ``6.8 s``, ``2 min``."""
    if milliseconds is None:
        return ""
    if milliseconds < 1000:
        return f"{milliseconds:.0f} ms"
    if milliseconds < 10_000:
        return f"{milliseconds / 1000:.1f} s"
    return duration(timedelta(milliseconds=milliseconds))
