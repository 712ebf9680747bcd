"""One JSON line per record on standard output, as Cloud Logging reads it, redacted by default.

    log.configure(project="my-project", redactor=redactor)
    _log = log.get(__name__)
    with log.fields(event_id=ident, handler="hss"):
        _log.info("delivered", outcome="delivered", ms=31)

Libraries log through the same formatter, from WARNING up. Lines are paid for by the byte: what
Cloud Logging knows by itself (which function wrote it), and what has no value, is not in them.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import TracebackType
from typing import Any

from nsps.runtime import trace
from nsps.runtime.redact import Redactor

_SEVERITY = {
    logging.DEBUG: "DEBUG",
    logging.INFO: "INFO",
    logging.WARNING: "WARNING",
    logging.ERROR: "ERROR",
    logging.CRITICAL: "CRITICAL",
}
# Ids that NSPS makes itself; what a request brings in these fields is checked where it comes in.
_OWN_IDS = frozenset({"event_id", "message_id", "subscription", "topic", "handler"})

_fields: ContextVar[dict[str, Any]] = ContextVar("nsps_log_fields", default={})  # noqa: B039


class Log:
    """A logger with fields by keyword: ``log.info("delivered", outcome="delivered", ms=31)``."""

    __slots__ = ("_logger",)

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def debug(self, message: str, **fields: Any) -> None:
        self._write(logging.DEBUG, message, None, fields)

    def info(self, message: str, **fields: Any) -> None:
        self._write(logging.INFO, message, None, fields)

    def warning(self, message: str, **fields: Any) -> None:
        self._write(logging.WARNING, message, None, fields)

    def error(self, message: str, *, error: BaseException | None = None, **fields: Any) -> None:
        """``error``: the exception, whose redacted stack goes into the line."""
        self._write(logging.ERROR, message, error, fields)

    def _write(
        self, level: int, message: str, error: BaseException | None, fields: dict[str, Any]
    ) -> None:
        self._logger.log(level, "%s", message, exc_info=error, extra={"nsps_fields": fields})


def get(name: str) -> Log:
    """The logger of a module: ``log.get(__name__)``."""
    full = name if name == "nsps" or name.startswith("nsps.") else f"nsps.{name}"
    return Log(logging.getLogger(full))


@contextmanager
def fields(**more: Any) -> Iterator[None]:
    """Fields for every line that is logged inside, in this thread."""
    token = _fields.set({**_fields.get(), **more})
    try:
        yield
    finally:
        _fields.reset(token)


def configure(*, project: str, redactor: Redactor) -> None:
    """Send every log line of the process through one redacting formatter to standard output."""
    handler = _StandardOutput()
    handler.setFormatter(JsonFormatter(project, redactor))
    root = logging.getLogger()
    for old in list(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    logging.getLogger("nsps").setLevel(logging.INFO)
    logging.captureWarnings(True)
    # A stack printed on standard error would be the one way around the redaction.
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda given: _log_uncaught(
        given.exc_type, given.exc_value or given.exc_type(), given.exc_traceback
    )


class _StandardOutput(logging.Handler):
    """Writes to standard output as it is now: web servers and tests put another in its place."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # a library's own mistake; its arguments are not shown
            line = json.dumps(
                {
                    "severity": "ERROR",
                    "message": f"a line could not be written ({type(error).__name__})",
                    "logger": record.name,
                }
            )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON with the members that Cloud Logging knows."""

    def __init__(self, project: str, redactor: Redactor) -> None:
        super().__init__()
        self._project = project
        self._redactor = redactor

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "severity": _SEVERITY.get(record.levelno, "DEFAULT"),
            "message": self._redactor.text_for_log(record.getMessage()),
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "logger": record.name,
        }
        current = trace.current()
        if current is not None:
            line["logging.googleapis.com/trace"] = (
                f"projects/{self._project}/traces/{current.trace_id}"
            )
            line["request_id"] = current.trace_id
            line["unique_id"] = current.request_id
        given = {**_fields.get(), **getattr(record, "nsps_fields", {})}
        given = {key: value for key, value in given.items() if value is not None}
        own = {key: given.pop(key) for key in list(given) if key in _OWN_IDS}
        line |= self._redactor.for_log(given)
        line |= {key: str(value) for key, value in own.items()}
        if record.exc_info and record.exc_info[1] is not None:
            stack = "".join(traceback.format_exception(record.exc_info[1]))
            line["stack_trace"] = self._redactor.text_for_log(stack)
        return json.dumps(line, ensure_ascii=False, default=str)


def _log_uncaught(
    kind: type[BaseException], error: BaseException, stack: TracebackType | None
) -> None:
    logging.getLogger("nsps").critical("uncaught %s", kind.__name__, exc_info=(kind, error, stack))
