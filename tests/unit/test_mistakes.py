"""Pydantic's mistakes as sentences: where, what, what to write, and never the value."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from nsps.runtime.mistakes import mistakes, sentences
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator


class Port(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(default="a", pattern="^[a-z]+$")
    number: int = Field(default=1, ge=1)
    mode: Literal["one", "two"] = "one"
    hosts: tuple[str, ...] = Field(default=("a",), min_length=1)
    inner: list[Port] = []
    even: int = 2

    @field_validator("even")
    @classmethod
    def _even(cls, value: int) -> int:
        if value % 2:
            raise ValueError("odd: write an even number")
        return value


def refused(**values: Any) -> ValidationError:
    with pytest.raises(ValidationError) as error:
        Port.model_validate_json(json.dumps(values), strict=True)
    return error.value


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"name": 7}, "name: not a text"),
        ({"name": "A-CANARY"}, "name: must match pattern '^[a-z]+$'"),
        ({"number": "canary"}, "number: not a whole number"),
        ({"number": 0}, "number: must be greater than or equal to 1"),
        ({"mode": "canary"}, "mode: must be 'one' or 'two'"),
        ({"hosts": "canary"}, "hosts: not a list"),
        ({"hosts": []}, "hosts: has too few entries"),
        ({"other": "canary"}, "other: unknown key"),
        ({"even": 1}, "even: odd: write an even number"),
        ({"inner": ["canary"]}, "inner[0]: not a map"),
        ({"inner": [{}, {"number": 0}]}, "inner[1].number: must be greater than or equal to 1"),
        ({"name": 7, "number": 0}, "name: not a text; number: must be greater than or equal to 1"),
    ],
)
def test_a_mistake_says_where_and_what_and_not_the_value(
    values: dict[str, Any], sentence: str
) -> None:
    assert sentences(refused(**values)) == sentence


def test_what_to_write_is_added_unless_it_is_said_already() -> None:
    [pattern] = mistakes(refused(name="A"))
    assert pattern.text("small letters") == "not written as it must be: write small letters"
    assert pattern.text() == "must match pattern '^[a-z]+$'"
    [number] = mistakes(refused(number=0))
    assert number.text("a port") == "must be greater than or equal to 1: write a port"
    [even] = mistakes(refused(even=1))
    assert even.text("a number") == "odd: write an even number"


def test_a_list_with_wrong_entries_is_not_called_too_short() -> None:
    [entry] = mistakes(refused(hosts=[7]))
    assert entry.where == "hosts[0]"


def test_a_document_that_is_none_has_no_place() -> None:
    with pytest.raises(ValidationError) as error:
        Port.model_validate("canary")
    assert "canary" not in sentences(error.value)
    assert not mistakes(error.value)[0].where
