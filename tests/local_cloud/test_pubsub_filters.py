"""The filter language: documented examples, refusals, random filters against a second reading."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nsps_local.pubsub.filters import MAX_BYTES, FilterError, parse

EXAMPLES = [
    ("", {}, True),
    ("  ", {"a": "b"}, True),
    ("attributes:domain", {"domain": ""}, True),
    ("attributes:domain", {"Domain": ""}, False),
    ('attributes:"iana.org/language_tag"', {"iana.org/language_tag": "en"}, True),
    ('attributes.domain = "com"', {"domain": "com"}, True),
    ('attributes.domain="com"', {"domain": "COM"}, False),
    ('attributes.domain = "com"', {}, False),
    ('attributes.domain != "com"', {"domain": "org"}, True),
    ('attributes.domain != "com"', {}, True),
    ('attributes.domain != "com"', {"domain": "com"}, False),
    ('attributes."a b" = "c"', {"a b": "c"}, True),
    ('hasPrefix(attributes.domain, "co")', {"domain": "com"}, True),
    ('hasPrefix ( attributes . domain , "co" )', {"domain": "org"}, False),
    ('hasPrefix(attributes.domain, "")', {}, False),
    ("attributes:my-key_1", {"my-key_1": ""}, True),
    ("NOT attributes:a", {}, True),
    ("-attributes:a", {"a": ""}, False),
    ("NOT NOT attributes:a", {"a": ""}, True),
    ("NOT attributes:a AND attributes:b", {"b": ""}, True),
    ("NOT attributes:a AND attributes:b", {}, False),
    ("attributes:a OR attributes:b OR attributes:c", {"c": ""}, True),
    ("attributes:a AND (attributes:b OR attributes:c)", {"a": "", "c": ""}, True),
    ("attributes:a AND (attributes:b OR attributes:c)", {"a": ""}, False),
    ("NOT (attributes:a OR attributes:b)", {"b": ""}, False),
    ("attributes:NOT", {"NOT": ""}, True),
    ("attributes:AND AND attributes:hasPrefix", {"AND": "", "hasPrefix": ""}, True),
    (r'attributes.a = "\"\\\n\u00e9\x41\101"', {"a": '"\\\néAA'}, True),
    ('attributes.a = "ü (AND"', {"a": "ü (AND"}, True),
    ("(" * 50 + "attributes:a" + ")" * 50, {"a": ""}, True),
]


@pytest.mark.parametrize(("text", "attributes", "wanted"), EXAMPLES)
def test_examples(text: str, attributes: dict[str, str], wanted: bool) -> None:
    assert parse(text)(attributes) is wanted


@pytest.mark.parametrize(
    "text",
    [
        "attributes",
        "attributes:",
        "attributes.a",
        "attributes.a = b",
        "attributes.a = 'b'",
        'attributes.a == "b"',
        'attributes.a > "b"',
        'attributes.a = "b',
        'attributes.a = "\\q"',
        'attributes.a = "\\ud800"',
        'attributes.a.b = "c"',
        "attributes:a.b",
        "attributes:a/b",
        "attributes:a attributes:b",
        "attributes:a and attributes:b",
        "attributes:a AND",
        "AND attributes:a",
        "attributes:a AND attributes:b OR attributes:c",
        "(attributes:a",
        "attributes:a)",
        "()",
        "NOT",
        'hasSuffix(attributes.a, "b")',
        'hasPrefix(attributes.a "b")',
        'hasPrefix("a", "b")',
        'data = "x"',
        "attributes:" + "a" * (MAX_BYTES - 10),
        "(" * 256,
        "-" * 256,
    ],
)
def test_refusals_say_why(text: str) -> None:
    with pytest.raises(FilterError, match=r"ilter"):
        parse(text)


def test_the_limit_is_in_bytes() -> None:
    assert not parse('attributes.a = "' + "x" * (MAX_BYTES - 17) + '"')({})
    with pytest.raises(FilterError, match="256"):
        parse('attributes.a = "' + "ü" * (MAX_BYTES - 17) + '"')


# -- random filters, read a second time


@dataclass(frozen=True)
class Reading:
    """A filter's text and, in another way, what it means."""

    text: str
    kind: str
    key: str = ""
    value: str = ""
    parts: tuple[Reading, ...] = ()

    def holds(self, attributes: dict[str, str]) -> bool:
        if self.kind in {"AND", "OR"}:
            votes = [part.holds(attributes) for part in self.parts]
            return sum(votes) == len(votes) if self.kind == "AND" else sum(votes) > 0
        if self.kind == "NOT":
            return not self.parts[0].holds(attributes)
        there = [v for k, v in attributes.items() if k == self.key]
        return {
            ":": len(there) == 1,
            "=": there == [self.value],
            "!=": there != [self.value],
            "prefix": len(there) == 1 and there[0][: len(self.value)] == self.value,
        }[self.kind]


KEYS = st.sampled_from(["a", "b-c", "d_1", "e.f/g", 'h"i', "NOT", "é"])
VALUES = st.sampled_from(["", "x", "xy", 'q"uote', "back\\slash", "new\nline", "é(AND)"])


def _key(key: str) -> str:
    bare = key.replace("-", "").replace("_", "")
    return key if bare.isascii() and bare.isalnum() else _quoted(key)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


@st.composite
def comparisons(draw: st.DrawFn) -> Reading:
    kind, key, value = draw(st.sampled_from([":", "=", "!=", "prefix"])), draw(KEYS), draw(VALUES)
    text = {
        ":": f"attributes:{_key(key)}",
        "prefix": f"hasPrefix(attributes.{_key(key)},{_quoted(value)})",
    }.get(kind, f"attributes.{_key(key)} {kind} {_quoted(value)}")
    return Reading(text, kind, key, value)


def compounds(inner: st.SearchStrategy[Reading]) -> st.SearchStrategy[Reading]:
    def joined(operator: str, parts: list[Reading]) -> Reading:
        text = f" {operator} ".join(f"({part.text})" for part in parts)
        return Reading(text, operator, parts=tuple(parts))

    def negated(sign: str, part: Reading) -> Reading:
        return Reading(f"{sign}({part.text})", "NOT", parts=(part,))

    some = st.lists(inner, min_size=2, max_size=3)
    return st.builds(joined, st.sampled_from(["AND", "OR"]), some) | st.builds(
        negated, st.sampled_from(["NOT ", "-"]), inner
    )


READINGS = st.recursive(comparisons(), compounds, max_leaves=5)


@given(READINGS.filter(lambda r: len(r.text.encode()) <= MAX_BYTES), st.dictionaries(KEYS, VALUES))
def test_means_what_it_says(reading: Reading, attributes: dict[str, str]) -> None:
    assert parse(reading.text)(attributes) is reading.holds(attributes)


WORDS = ["attributes", "hasPrefix", "AND", "OR", "NOT", "a", '"v"', "é", " "]
PIECES = st.sampled_from([*WORDS, *':.=()-,"\\', "!="])


@given(st.lists(PIECES, max_size=40).map("".join) | st.text(max_size=60))
@example('attributes.a = "\\U99999999"')
def test_anything_is_accepted_or_refused(text: str) -> None:
    try:
        verdict = parse(text)({"a": "v"})
    except FilterError as error:
        assert str(error)
    else:
        assert verdict in {True, False}
