"""Log lines: one JSON object each, with the ids that Cloud Logging and PortaOne's tools know."""

from __future__ import annotations

import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nsps.runtime import log, trace
from nsps.runtime.redact import Redactor
from nsps.runtime.secrets import SecretValue

TRACE = trace.Trace("0af7651916cd43dd8448eb211c80319c", "req-1")
IMSI = "250011234567890"


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    root = logging.getLogger()
    before = (root.handlers[:], root.level, sys.excepthook, threading.excepthook)
    redactor = Redactor(b"key")
    redactor.register(SecretValue("open sesame"))
    log.configure(project="demo", redactor=redactor)
    yield lambda: [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    root.handlers[:], root.level = before[0], before[1]
    sys.excepthook, threading.excepthook = before[2], before[3]
    logging.captureWarnings(False)


def test_a_line_has_the_members_of_cloud_logging(lines: Any) -> None:
    with trace.use(TRACE), log.fields(event_id="e-1", handler="hss"):
        log.get("nsps.test").info(
            "delivered", outcome="delivered", ms=31, i_account=277147, reason=None
        )
    (line,) = lines()
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "severity": "INFO",
        "message": "delivered",
        "logger": "nsps.test",
        "logging.googleapis.com/trace": "projects/demo/traces/0af7651916cd43dd8448eb211c80319c",
        "request_id": TRACE.trace_id,
        "unique_id": "req-1",
        "event_id": "e-1",
        "handler": "hss",
        "outcome": "delivered",
        "ms": 31,
        "i_account": 277147,
    }


def test_everything_is_redacted(lines: Any) -> None:
    try:
        raise RuntimeError(f"HSS said: imsi {IMSI} ki=465B5CE8 'open sesame'")
    except RuntimeError as error:
        log.get("x").error(f"no {IMSI}", error=error, imsi=IMSI, state={"ki": "465B5CE8"})
    logging.getLogger("some.library").warning("GET /imsi/%s?token=%s", IMSI, "465B5CE8")
    warnings.warn(f"about {IMSI}", stacklevel=1)
    shown = lines()
    assert [line["severity"] for line in shown] == ["ERROR", "WARNING", "WARNING"]
    text = json.dumps(shown)
    assert not any(canary in text for canary in (IMSI, "465B5CE8", "open sesame"))
    assert "RuntimeError: HSS said" in shown[0]["stack_trace"]


def test_a_line_that_cannot_be_made_shows_nothing(lines: Any, capsys: Any) -> None:
    wrong = logging.LogRecord("some.library", 30, "", 0, "%d of %s", ("ki", "465B5CE8"), None)
    logging.getLogger().handlers[0].handle(wrong)  # not pytest's own handlers, which raise
    (line,) = lines()
    assert line["message"] == "a line could not be written (TypeError)"
    assert capsys.readouterr().err == ""


def test_libraries_speak_from_warning_up(lines: Any) -> None:
    logging.getLogger("urllib3").info("chatter")
    log.get("nsps.x").debug("chatter")
    assert lines() == []


def test_what_nobody_caught_is_redacted_too(lines: Any, capsys: Any) -> None:
    def fail() -> None:
        raise ValueError(f"password=hunter2 {IMSI}")

    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    (line,) = lines()
    assert line["severity"] == "CRITICAL"
    assert IMSI not in json.dumps(line)
    assert "hunter2" not in json.dumps(line)
    assert capsys.readouterr().err == ""


def test_fields_end_with_their_block(lines: Any) -> None:
    with log.fields(handler="hss"):
        with log.fields(event_id="e"):
            pass
        log.get("x").info("inside")
    log.get("x").info("outside")
    inside, outside = lines()
    assert inside["handler"] == "hss"
    assert "event_id" not in inside
    assert "handler" not in outside


@given(st.text(max_size=60), st.text(max_size=60), st.text(max_size=60), st.text(max_size=60))
def test_a_trace_is_made_of_any_headers(one: str, two: str, three: str, four: str) -> None:
    made = trace.from_headers(
        {"traceparent": one, "x-cloud-trace-context": two, "x-b3-traceid": three}
        | {"x-request-id": four}
    )
    assert len(made.trace_id) == 32
    assert int(made.trace_id, 16)
    assert trace.from_attributes(made.attributes()) == made
    assert trace.from_headers(made.headers()) == made


@pytest.mark.parametrize(
    ("headers", "trace_id"),
    [
        ({"traceparent": f"00-{TRACE.trace_id}-00f067aa0ba902b7-01"}, TRACE.trace_id),
        ({"x-cloud-trace-context": f"{TRACE.trace_id}/123;o=1"}, TRACE.trace_id),
        ({"x-b3-traceid": TRACE.trace_id.upper()}, TRACE.trace_id),
        ({"x-b3-traceid": "8448eb211c80319c"}, "0" * 16 + "8448eb211c80319c"),
        ({"x-b3-traceid": "0af76519-16cd-43dd-8448-eb211c80319c"}, TRACE.trace_id),
        ({"traceparent": "nonsense", "x-b3-traceid": TRACE.trace_id}, TRACE.trace_id),
    ],
)
def test_known_headers_are_heard(headers: dict[str, str], trace_id: str) -> None:
    assert trace.from_headers(headers).trace_id == trace_id
