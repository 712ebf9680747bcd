"""Subscription filters: the language of Pub/Sub's `filter` field, parsed and evaluated.

    attributes:key                       the message has the attribute
    attributes.key = "v"   != "v"        its value is (is not, or it is absent) v
    hasPrefix(attributes.key, "v")       its value begins with v
    NOT x, -x   x AND y   x OR y   (x)   AND and OR are mixed only with parentheses

Keys of letters, digits, hyphens and underscores stand bare; any other key is a string literal.
Source: Pub/Sub docs, "Filter messages from a subscription".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

MAX_BYTES = 256
Predicate = Callable[[Mapping[str, str]], bool]

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*")|(?P<word>[A-Za-z0-9_][A-Za-z0-9_-]*)"""
    r"""|(?P<op>!=|[=:.,()-]))""",
    re.DOTALL,
)
_ESCAPE = re.compile(
    r"\\(?:u(?P<u4>[0-9A-Fa-f]{4})|U(?P<u8>[0-9A-Fa-f]{8})|[xX](?P<hex>[0-9A-Fa-f]{2})"
    r"|(?P<oct>[0-3][0-7]{2})|(?P<char>.))",
    re.DOTALL,
)
_SIMPLE = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LITERAL = frozenset("\"'\\?`")


class FilterError(ValueError):
    """The filter is not one that Pub/Sub accepts; the text says where and why."""


def parse(text: str) -> Predicate:
    """Compile a filter to a predicate over a message's attributes; "" matches everything.

    Raises FilterError for a filter over 256 bytes or outside the documented syntax.
    """
    if len(text.encode()) > MAX_BYTES:
        raise FilterError(f"The filter is longer than {MAX_BYTES} bytes; shorten it.")
    if not text.strip():
        return lambda _attributes: True
    return _Parser(text).whole()


class _Parser:
    """Recursive descent over the tokens; each rule returns a predicate."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._next = 0

    def whole(self) -> Predicate:
        result = self._condition()
        if self._take():
            raise self._error("the end, AND or OR")
        return result

    def _condition(self) -> Predicate:
        terms = [self._term()]
        operator = self._peek()
        if operator not in {"AND", "OR"}:
            return terms[0]
        while self._peek() == operator:
            self._take()
            terms.append(self._term())
        if self._peek() in {"AND", "OR"}:
            raise FilterError(
                f"Filter {self._text!r} mixes AND and OR: put one of them in parentheses."
            )
        fold = all if operator == "AND" else any
        return lambda attributes: fold(term(attributes) for term in terms)

    def _term(self) -> Predicate:
        negated = False
        while self._peek() in {"NOT", "-"}:
            self._take()
            negated = not negated
        inner = self._primary()
        return (lambda attributes: not inner(attributes)) if negated else inner

    def _primary(self) -> Predicate:
        opening = self._take()
        if opening == "(":
            inner = self._condition()
            self._expect(")")
            return inner
        if opening == "hasPrefix":
            return self._has_prefix()
        if opening == "attributes":
            return self._comparison()
        raise self._error("attributes, hasPrefix, NOT or (")

    def _has_prefix(self) -> Predicate:
        for token in ("(", "attributes", "."):
            self._expect(token)
        key = self._key()
        self._expect(",")
        prefix = self._string()
        self._expect(")")
        return lambda attributes: attributes.get(key, "").startswith(prefix) and key in attributes

    def _comparison(self) -> Predicate:
        if self._peek() == ":":
            self._take()
            present = self._key()
            return lambda attributes: present in attributes
        self._expect(".")
        key = self._key()
        operator = self._take()
        if operator not in {"=", "!="}:
            raise self._error("= or !=")
        value = self._string()
        if operator == "=":
            return lambda attributes: attributes.get(key) == value
        return lambda attributes: attributes.get(key) != value

    def _key(self) -> str:
        token = self._take()
        if token.startswith('"'):
            return _unquote(token)
        if re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", token):
            return token
        raise self._error("an attribute's key")

    def _string(self) -> str:
        token = self._take()
        if token.startswith('"'):
            return _unquote(token)
        raise self._error('a "string"')

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise self._error(repr(token))

    def _peek(self) -> str | None:
        return self._tokens[self._next] if self._next < len(self._tokens) else None

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token or ""

    def _error(self, wanted: str) -> FilterError:
        """What was taken last is not what was wanted."""
        found = self._tokens[self._next - 1 : self._next]
        where = repr(found[0]) if found else "the end"
        return FilterError(f"Filter {self._text!r}: expected {wanted}, found {where}.")


def _tokens(text: str) -> list[str]:
    tokens, position = [], 0
    end = len(text.rstrip())
    while position < end:
        match = _TOKEN.match(text, position)
        if match is None:
            raise FilterError(f"Filter {text!r}: nothing can be read at character {position + 1}.")
        tokens.append(match.group().strip() if match["string"] is None else match["string"])
        position = match.end()
    return tokens


def _unquote(token: str) -> str:
    return _ESCAPE.sub(_unescape, token[1:-1])


def _unescape(match: re.Match[str]) -> str:
    for group, base in (("u4", 16), ("u8", 16), ("hex", 16), ("oct", 8)):
        if match[group] is not None:
            code = int(match[group], base)
            if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
                raise FilterError(f"{match.group()!r} in the filter is not a character.")
            return chr(code)
    char = match["char"]
    if char in _SIMPLE:
        return _SIMPLE[char]
    if char in _LITERAL:
        return str(char)
    raise FilterError(f"{match.group()!r} in the filter is not a known escape.")
