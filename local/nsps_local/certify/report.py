"""What a run came to: as a document, as JUnit XML, and as a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader

from nsps_local.certify.case import (
    Case,
    Exchange,
    Level,
    Request,
    Result,
    State,
    Trouble,
    Way,
    level_of,
)
from nsps_local.certify.send import Sender

SHOWN = 5
"""So many of a case's complaints are shown where room is short."""
EXPLAINED = ("sent", "expected", "why", "mend")
_BODY_SHOWN = 2000
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(results: Sequence[Result], sender: Sender, started: datetime) -> dict[str, Any]:
    """Everything, without the token: what ``--json`` prints and the other reports show."""
    reached = level_of(results)
    counts = {state.value: sum(each.state is state for each in results) for state in State}
    return {
        "url": sender.address.url(Request(what="").target),
        "started": started.isoformat(timespec="seconds"),
        "level": reached.value if reached else None,
        "levels": {level.value: _count(results, level) for level in Level},
        "counts": counts,
        "cases": [_case(result, sender) for result in results],
    }


def _count(results: Sequence[Result], level: Level) -> dict[str, int]:
    of_level = [each for each in results if each.case.level is level]
    return {state.value: sum(each.state is state for each in of_level) for state in State}


def _case(result: Result, sender: Sender) -> dict[str, Any]:
    case = result.case
    wrong = [each.about for each in result.complaints]
    return {
        "name": case.name,
        "level": case.level.value,
        "title": case.title,
        "state": result.state.value,
        "complaints": [each.text for each in result.complaints],
        **explained(case),
        "judges": list(case.judges),
        "seconds": round(result.seconds, 3),
        "exchanges": [
            {**_exchange(each, sender), "wrong": each in wrong} for each in result.exchanges
        ],
    }


def explained(case: Case) -> dict[str, str]:
    """What was sent, what was expected, why, and how to mend it: in this order in all reports."""
    return {
        "sent": _what_was_sent(case),
        "expected": "; ".join(each.text for each in case.expect),
        "why": case.why,
        "mend": case.mend,
    }


def _what_was_sent(case: Case) -> str:
    if not case.send:
        cases = ", ".join(case.judges).replace("*", "every case")
        return f"nothing more; this is about the answers of {cases}"
    one = len(case.send) == 1
    words = "1 request" if one else f"{len(case.send)} requests"
    if not (one and case.way is Way.IN_TURN):
        words += f", {case.way.value}"
    if case.trouble is not Trouble.NONE:
        words += f"; the system behind the connector: {case.trouble.value}"
    return words


def _exchange(each: Exchange, sender: Sender) -> dict[str, Any]:
    came: dict[str, Any] = {"trouble": each.trouble}
    if each.answer is not None:
        came |= {
            "status": each.answer.status,
            "headers": {
                name: value.replace(sender.token, "***")
                for name, value in each.answer.headers.items()
            },
            "body": _text(each.answer.body, sender.token),
        }
    return {
        "sent": sent(each.request, sender),
        "came": came,
        "seconds": round(each.seconds, 3),
    }


def sent(request: Request, sender: Sender) -> dict[str, Any]:
    """A request as a report shows it."""
    return {
        "what": request.what,
        "method": request.method,
        "url": sender.address.url(request.target),
        "headers": {
            name: value.replace(sender.token, "***")
            for name, value in sender.headers(request).items()
        },
        "body": "" if request.method == "GET" else _text(request.body, sender.token),
    }


def _text(body: bytes, token: str) -> str:
    text = body.decode("utf-8", "replace").replace(token, "***")
    if len(text) <= _BODY_SHOWN:
        return text
    return f"{text[:_BODY_SHOWN]} ... ({len(body)} bytes)"


def junit(found: dict[str, Any]) -> bytes:
    """JUnit XML; a suite per level."""
    suites = ElementTree.Element("testsuites", name=f"nsps certify {_xml(found['url'])}")
    for level, counts in found["levels"].items():
        cases = [each for each in found["cases"] if each["level"] == level]
        suite = ElementTree.SubElement(
            suites,
            "testsuite",
            name=level,
            tests=str(len(cases)),
            failures=str(counts["failed"]),
            skipped=str(counts["skipped"]),
            errors="0",
            timestamp=found["started"],
            time=f"{sum(each['seconds'] for each in cases):.3f}",
        )
        for each in cases:
            _junit_case(suite, each)
    written: bytes = ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)
    return written


def _junit_case(suite: ElementTree.Element, each: dict[str, Any]) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        classname=f"certify.{each['level']}",
        name=each["name"],
        time=f"{each['seconds']:.3f}",
    )
    if each["state"] == State.SKIPPED.value:
        ElementTree.SubElement(case, "skipped", message=_xml("; ".join(each["complaints"])))
    elif each["state"] == State.FAILED.value:
        failure = ElementTree.SubElement(case, "failure", message=_xml(each["title"]))
        lines = [*each["complaints"], *(f"{word}: {each[word]}" for word in EXPLAINED)]
        wrong = [exchange for exchange in each["exchanges"] if exchange["wrong"]]
        failure.text = _xml("\n".join([*lines, *map(_as_text, wrong[:SHOWN])]))


def _as_text(exchange: dict[str, Any]) -> str:
    """A request and its answer as they were sent, for reports that are read as text."""
    given, came = exchange["sent"], exchange["came"]
    status = came.get("status", came["trouble"])
    return (
        f"\n{given['what']}:\n{given['method']} {given['url']}\n{given['body']}"
        f"\n\n{status}\n{came.get('body', '')}"
    )


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold, escaped or not."""
    return _NOT_XML.sub("�", text)


def page(found: dict[str, Any]) -> str:
    """An HTML page of its own: no scripts, nothing loaded. Everything is escaped."""
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    return environment.get_template("report.html").render(found=found)
