"""Cloud Logging's filters, as far as our metrics use them, held against the lines of a stack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

_CLAUSE = re.compile(r'(?P<field>[a-zA-Z_.]+)(?P<how>=~|>=|=)(?P<value>\(.*?\)|"[^"]*"|[0-9.]+)$')


def entries(deployment: str, logs: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """The lines that functions wrote, as Cloud Logging keeps them.

    What it takes for itself (severity, time, trace) is no part of the payload.
    """
    for part, text in logs.items():
        for line in text.splitlines():
            if not line.startswith("{"):
                continue
            payload = json.loads(line)
            severity = payload.pop("severity", "DEFAULT")
            payload.pop("time", None)
            yield {
                "severity": severity,
                "resource": {
                    "type": "cloud_run_revision",
                    "labels": {"service_name": f"{deployment}-{part}"},
                },
                "jsonPayload": payload,
            }


def matches(entry: Mapping[str, Any], text: str) -> bool:
    """Whether an entry passes a filter of clauses joined by AND."""
    return all(_holds(entry, clause) for clause in _clauses(text))


def extract(entry: Mapping[str, Any], extractor: str) -> Any:
    """What EXTRACT(path) gives; None for a field that is not there."""
    return _field(entry, extractor.removeprefix("EXTRACT(").removesuffix(")"))


def _clauses(text: str) -> list[str]:
    return re.split(r" AND (?=[a-zA-Z_.]+(?:=~|>=|=))", text)


def _holds(entry: Mapping[str, Any], clause: str) -> bool:
    found = _CLAUSE.match(clause)
    assert found, f"not a clause that this knows: {clause}"
    value = _field(entry, found["field"])
    wanted = [text.strip('"') for text in found["value"].strip("()").split(" OR ")]
    if found["how"] == ">=":
        return isinstance(value, int | float) and value >= float(found["value"])
    if found["how"] == "=~":
        return value is not None and re.search(found["value"].strip('"'), str(value)) is not None
    return value is not None and str(value) in wanted


def _field(entry: Mapping[str, Any], path: str) -> Any:
    value: Any = entry
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
