"""What an HTTP answer means, by a table of rules: as data, so that tests can read them too.

A system that behaves well needs none: ``DEFAULTS`` say what each status means. What a system does
otherwise is one rule each, the connector's before the defaults, an operation's before both:

    AnswerRule(Meaning.ABSENT, status="200", is_value=None)  # 200 with "null" for what is not there
    AnswerRule(Meaning.EXISTS, status="400", text="UNIQUE constraint")
    AnswerRule(Meaning.REFUSED, status="200", member="result", equals=False)
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from nsps.transport.http import Answer

WORDS_SHOWN = 300
_BODY_READ = 65_536
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_ANY = object()


class Meaning(StrEnum):
    """What an answer says of the request."""

    DONE = "done"
    ABSENT = "absent"  # the object is not there
    EXISTS = "exists"  # the object is there already
    LATER = "later"  # nothing was changed; the same request may succeed later
    UNCLEAR = "unclear"  # answered, but not whether it took effect
    REFUSED = "refused"  # the same request will never be taken
    SIGN_IN = "sign in"  # who we are is not, or no longer, accepted


class AnswerRule(BaseModel):
    """One row of the table: an answer of ``status`` whose body fits means ``meaning``.

    ``status``: "404", "5xx", or several with commas; empty for any. The body fits if all that is
    given holds: ``text`` (one, or all of several) occurs in it in any case, it ``is_value`` as
    JSON, its ``member`` (a path with dots) ``equals`` a value or, without one, is there.
    """

    # People write status: 404, and YAML makes a number of it.
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    meaning: Meaning
    status: str = Field(default="", pattern=r"^([1-5](\d\d|xx)(,[1-5](\d\d|xx))*)?$")
    text: str | tuple[str, ...] = ""
    is_value: Any = None
    member: str = ""
    equals: Any = None
    hint: str = ""
    """What an operator should look at."""

    def __init__(self, meaning: Meaning | str | None = None, **members: Any) -> None:
        if meaning is not None:
            members["meaning"] = meaning
        super().__init__(**members)

    @model_validator(mode="after")
    def _says_when(self) -> Self:
        if not (self.status or self.text or self.member or "is_value" in self.model_fields_set):
            raise ValueError("fits every answer: write status, text, is_value or member")
        if "equals" in self.model_fields_set and not self.member:
            raise ValueError("equals: write the member that must equal it")
        return self

    def fits(self, answer: Answer) -> bool:
        return self._status_fits(answer.status) and self._body_fits(answer)

    def _status_fits(self, status: int) -> bool:
        wanted = self.status.split(",") if self.status else []
        return not wanted or any(each in (str(status), f"{status // 100}xx") for each in wanted)

    def _body_fits(self, answer: Answer) -> bool:
        texts = (self.text,) if isinstance(self.text, str) else self.text
        if any(each.lower() not in answer.text.lower() for each in texts):
            return False
        given = self.model_fields_set
        if "is_value" in given and _json(answer) != self.is_value:
            return False
        if not self.member:
            return True
        value = member_of(_json(answer), self.member)
        return value is not _ANY and ("equals" not in given or value == self.equals)


_CERT = "is the secret client_certificate the one that the system takes?"
DEFAULTS: Sequence[AnswerRule] = (
    AnswerRule(Meaning.DONE, status="2xx"),
    AnswerRule(Meaning.SIGN_IN, status="401", hint="are the credentials the system's?"),
    # nginx's own, for a client certificate that it does not take.
    AnswerRule(Meaning.SIGN_IN, status="400", text=("<title>400 ", "SSL certificate"), hint=_CERT),
    AnswerRule(Meaning.SIGN_IN, status="495,496", hint=_CERT),
    AnswerRule(Meaning.LATER, status="403", hint="may this user do that?"),
    AnswerRule(Meaning.ABSENT, status="404,410"),
    AnswerRule(Meaning.EXISTS, status="409"),
    AnswerRule(Meaning.LATER, status="408,425,429,503"),
    AnswerRule(Meaning.LATER, status="405,501", hint="is the address the API's?"),
    AnswerRule(Meaning.LATER, status="3xx", hint="redirects are not followed: correct the address"),
    AnswerRule(Meaning.REFUSED, status="4xx"),
    AnswerRule(Meaning.UNCLEAR, status="1xx,5xx"),
)
"""A well-behaved API. What speaks of our set-up is tried again: an operator can correct it."""


@dataclass(frozen=True, slots=True)
class AnswerRules:
    """A table of rules, the first that fits counts; the defaults come last."""

    rules: tuple[AnswerRule, ...] = ()

    def before(self, rules: Iterable[AnswerRule]) -> AnswerRules:
        """With rules that come before these: an operation's before its connector's."""
        return AnswerRules((*rules, *self.rules))

    def read(self, answer: Answer) -> AnswerRule:
        """The rule that says what the answer means."""
        return next(rule for rule in (*self.rules, *DEFAULTS) if rule.fits(answer))


def member_of(document: Any, path: str) -> Any:
    """The member at a path with dots, numbers for places in lists; a marker if there is none."""
    value = document
    for part in path.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            return _ANY
    return value


def is_there(value: Any) -> bool:
    """Whether ``member_of`` found something."""
    return value is not _ANY


# --- what a body says, for people ---------------------------------------------------------------


def words_of(body: bytes, hide: Callable[[str], str] = str) -> str:
    """What a body says, in one bounded line: its message, error, detail or reason; else its text.

    Never raises: what cannot be read is shown as it came. ``hide`` takes secrets out, before the
    line is cut off.
    """
    text = body[:_BODY_READ].decode("utf-8", "replace")
    try:
        words = _words(json.loads(text))
    except (ValueError, RecursionError):
        words = ""
    return _line(hide(words or text))


_NAMES = ("title", "reason", "message", "msg", "error", "description", "detail", "details")
_KIND = re.compile(r"\w{1,40}")


def _words(document: Any) -> str:
    """``message: error [type]``, each item of a list, with the place that a validation names."""
    if isinstance(document, str):
        return document
    if isinstance(document, list):
        return "; ".join(filter(None, map(_words, document[:5])))
    if not isinstance(document, Mapping):
        return ""
    members = {str(name).lower(): value for name, value in document.items()}
    words = [_words(members[name]) for name in _NAMES if name in members]
    words = [each for each in dict.fromkeys(words) if each]
    if not words:
        return ""
    place = members.get("loc")
    if isinstance(place, list):
        words.insert(0, ".".join(str(part) for part in place))
    kind = members.get("type")
    named = isinstance(kind, str) and _KIND.fullmatch(kind)
    return ": ".join(words) + (f" [{str(kind).lower()}]" if named else "")


def _line(text: str) -> str:
    line = " ".join(_CONTROL.sub(" ", text).split())
    return line if len(line) <= WORDS_SHOWN else f"{line[: WORDS_SHOWN - 1]}…"


def _json(answer: Answer) -> Any:
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        return _ANY
