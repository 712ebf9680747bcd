"""What was asked, checked: bodies, queries, numbers, cursors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nsps.console.api.context import ConsoleRequest
from nsps.console.requests import MAX_LIMIT
from nsps.runtime.mistakes import sentences

M = TypeVar("M", bound=BaseModel)
T = TypeVar("T")


class BadRequest(Exception):
    """What was asked cannot be understood; the message says what to write."""


def body_of(request: ConsoleRequest, model: type[M]) -> M:
    try:
        document = json.loads(request.body or b"{}")
    except (ValueError, RecursionError):
        raise BadRequest("the body is not JSON: write an object") from None
    return _validated(model, document)


def checked(model: type[M], query: Mapping[str, str]) -> M:
    """What was asked for in the address; what is empty was not."""
    return _validated(model, {name: text for name, text in query.items() if text.strip()})


def _validated(model: type[M], document: object) -> M:
    try:
        return model.model_validate(document)
    except ValidationError as error:
        raise BadRequest(sentences(error)) from None


def limit_of(query: Mapping[str, str], usual: int) -> int:
    limit = number_of("limit", query.get("limit", str(usual)))
    if not 1 <= limit <= MAX_LIMIT:
        raise BadRequest(f"limit: write a number from 1 to {MAX_LIMIT}")
    return limit


def number_of(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequest(f"{name}: {text!r} is not a number")
    return int(text)


def at_cursor(read: Callable[[], T]) -> T:
    """A page at the cursor that was given."""
    try:
        return read()
    except ValueError as error:
        raise BadRequest(f"after: {error}") from None


def without(document: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in document.items() if key != name}
