"""A client of a REST API: base address, authentication, and answers read by a table of rules.

    api = Rest(http, "https://crm.acme.example/api", Bearer(secret), rules)
    api.get("parties/7", call)            # the document; None if it is not there
    api.create("parties", call, body)     # the document; None if it was there already
    api.change("parties/7", call, body)   # raises Unclear if it is not there any more
    api.delete("parties/7", call)         # False if it was not there

Errors are those of ``nsps.domain.outcome``: they name the request without query, say what the
system said, bounded and without the credentials, and what to look at. A request that was carried
out is noted in ``call.wrote``.
"""

from __future__ import annotations

import base64
import json
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from nsps.domain.outcome import DeliveryError, Terminal, Transient, Unclear
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning, member_of, words_of
from nsps.transport.call import Call
from nsps.transport.http import Answer, Client
from nsps.transport.transcript import Exchange, current

READING = frozenset({"GET", "HEAD", "OPTIONS"})
_PAGES = 10_000


class Form(dict[str, Any]):
    """A body that is sent as a form instead of JSON; a list is given value by value."""


class Authentication(Protocol):
    """How the system knows us; shared between threads."""

    def headers(self, call: Call) -> Mapping[str, str]:
        """What a request shows. Raises Transient while there is nothing to show."""

    def renewed(self, refused: Mapping[str, str], call: Call) -> Mapping[str, str] | None:
        """What to show after those headers were refused; None if there is nothing else."""

    def hide(self, text: str) -> str:
        """The text without what was shown."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Safe to share between threads. ``rules``: the connector's, before the defaults.

    A write is answered with a JSON object, or with 202 or 204 and nothing: anything else did not
    come from the API. ``any_body``: this API answers a write with what it likes. ``hide``: takes
    further secrets, besides those of the authentication, out of what the system says.
    """

    http: Client
    url: str
    authentication: Authentication
    rules: AnswerRules = field(default_factory=AnswerRules)
    headers: Mapping[str, str] = field(default_factory=dict)
    any_body: bool = False
    hide: Callable[[str], str] = str

    def get(
        self, path: str, call: Call, rules: Sequence[AnswerRule] = (), **query: Any
    ) -> Mapping[str, Any] | None:
        """The JSON object at a path; None if it is not there. Raises Transient if it is none."""
        answer = self.request("GET", path, call, rules=rules, query=query)
        return answer.object() if answer.is_done(Meaning.ABSENT) else None

    def create(
        self,
        path: str,
        call: Call,
        body: Any,
        *,
        method: str = "POST",
        rules: Sequence[AnswerRule] = (),
    ) -> Mapping[str, Any] | None:
        """Make something; the object in the answer, or None if it was there already."""
        answer = self.request(method, path, call, body=body, rules=rules)
        return answer.written(any_body=self.any_body) if answer.is_done(Meaning.EXISTS) else None

    def change(
        self,
        path: str,
        call: Call,
        body: Any,
        *,
        method: str = "PUT",
        rules: Sequence[AnswerRule] = (),
    ) -> Mapping[str, Any]:
        """Change what is there; the object in the answer. Raises Unclear if it is not there."""
        answer = self.request(method, path, call, body=body, rules=rules)
        answer.is_done()
        return answer.written(any_body=self.any_body)

    def delete(self, path: str, call: Call, rules: Sequence[AnswerRule] = (), **query: Any) -> bool:
        """Remove what is at the path; False if it was not there."""
        answer = self.request("DELETE", path, call, rules=rules, query=query)
        return answer.is_done(Meaning.ABSENT)

    def pages(
        self,
        path: str,
        call: Call,
        items: str = "",
        following: Callable[[Any, int], Mapping[str, Any] | None] = lambda _page, _number: None,
        **query: Any,
    ) -> Iterator[Any]:
        """The items of a list, page after page.

        ``items``: the member that holds them, where a page is no list itself. ``following``: the
        query of the page after this one (the page, its number from 0), None at the last.
        """
        for number in range(_PAGES):
            answer = self.request("GET", path, call, query=query)
            answer.is_done()
            page = answer.document()
            found = member_of(page, items) if items else page
            if not isinstance(found, list):
                raise Transient(f"GET {self.url}/{path}: the answer is no list of what was asked")
            yield from found
            more = following(page, number)
            if more is None:
                return
            query = {**query, **more}
        raise Transient(f"GET {self.url}/{path}: there are pages without end")

    def request(
        self,
        method: str,
        path: str,
        call: Call,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        rules: Sequence[AnswerRule] = (),
        repeatable: bool = False,
        reads: bool = False,
    ) -> RestAnswer:
        """One request, with another try where our credentials had changed meanwhile.

        ``repeatable``: a write that does no harm twice, so that a kept connection which turns out
        dead is replaced at once. ``reads``: a POST that changes nothing (JSON-RPC, a search).
        """
        reads = reads or method in READING
        content = {"data": body} if isinstance(body, str | bytes | Form) else {"json": body}

        url = f"{self.url.rstrip('/')}/{path.lstrip('/')}" if path else self.url

        def send(shown: Mapping[str, str]) -> RestAnswer:
            exchange, transcript = Exchange(method, url, dict(query or {}), body), current()
            if transcript is not None:
                transcript.add(exchange, reads=reads)
            answer = self.http.request(
                method,
                url,
                deadline=call.deadline,
                headers={**self._headers(call, reads), **shown},
                params=query or None,
                idempotent=repeatable or reads,
                **content,
            )
            rule = self.rules.before(rules).read(answer)
            hide = partial(self._hidden, shown=shown)
            exchange.answered(answer.status, hide(answer.text), rule.meaning)
            return RestAnswer(method, answer, rule, hide, reads)

        shown = self.authentication.headers(call)
        answer = send(shown)
        if answer.rule.meaning is Meaning.SIGN_IN:
            renewed = self.authentication.renewed(shown, call)
            if self.http.renew_certificates() or renewed is not None:
                answer = send(renewed or shown)
        if answer.rule.meaning is Meaning.DONE and not reads:
            call.wrote = True
        return answer

    def _headers(self, call: Call, reads: bool) -> dict[str, str]:
        headers = {"Accept": "application/json", **self.headers}
        if call.trace_id:
            headers["x-b3-traceid"] = call.trace_id
        if call.request_id:
            headers["x-request-id"] = call.request_id
        if not reads:
            headers["Idempotency-Key"] = call.reference
        return headers

    def _hidden(self, text: str, shown: Mapping[str, str]) -> str:
        """The text without secrets; without what was shown, too, should it be another by now."""
        forms = (form for value in shown.values() for form in (value, value.rpartition(" ")[2]))
        return self.hide(self.authentication.hide(without(text, *forms)))


@dataclass(frozen=True, slots=True)
class RestAnswer:
    """An answer with the rule that reads it."""

    method: str
    answer: Answer
    rule: AnswerRule
    hide: Callable[[str], str]
    reads: bool
    """Whether the request changes nothing."""

    def is_done(self, otherwise: Meaning | None = None) -> bool:
        """True for a request that was carried out, False for ``otherwise``; else the error."""
        if self.rule.meaning is Meaning.DONE:
            return True
        if self.rule.meaning is otherwise:
            return False
        raise self.error()

    def document(self) -> Any:
        """The body as JSON; None for an empty one. Raises NoAnswer if it is no JSON."""
        return self.answer.json() if self.answer.body.strip() else None

    def object(self) -> Mapping[str, Any]:
        """The body as a JSON object. Raises Transient, NoAnswer if it is none."""
        document = self.document()
        if not isinstance(document, Mapping):
            raise Transient(f"{self.method} {self.answer.url}: the answer is no JSON object")
        return document

    def written(self, *, any_body: bool = False) -> Mapping[str, Any]:
        """The object in the answer to a write; {} where it may be answered without one."""
        if self.answer.status in (202, 204) and not self.answer.body.strip():
            return {}
        try:
            return self.object()
        except Transient as error:
            if any_body:
                return {}
            raise Unclear(str(error)) from None

    @property
    def text(self) -> str:
        """The status and what the body says, in one line for the history, without secrets."""
        return f"{self.answer.status} {words_of(self.answer.body, self.hide)}".rstrip()

    def error(self) -> DeliveryError:
        """What the answer is where it is not what was asked for."""
        meaning, reads = self.rule.meaning, self.reads
        text = f"{self.method} {self.answer.url} answered {self.text}"
        if self.rule.hint:
            text += f" ({self.rule.hint})"
        if meaning is Meaning.REFUSED and not reads:
            return Terminal(text)
        if meaning in (Meaning.ABSENT, Meaning.EXISTS, Meaning.UNCLEAR) and not reads:
            return Unclear(text, self.answer.retry_after())
        return Transient(text, self.answer.retry_after())


# ---- authentication ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NoAuthentication:
    """The system asks for no credentials."""

    def headers(self, call: Call) -> Mapping[str, str]:
        return {}

    def renewed(self, refused: Mapping[str, str], call: Call) -> None:
        return None

    def hide(self, text: str) -> str:
        return text


def basic(user_and_password: str) -> str:
    """``USER:PASSWORD`` as the header has it."""
    return f"Basic {base64_of(user_and_password)}"


def base64_of(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def without(text: str, *forms: str) -> str:
    """The text with stars in place of each of these."""
    for form in forms:
        text = text.replace(form, "***") if form else text
    return text


def without_secret(text: str, secret: SecretValue) -> str:
    """The text without the secret, its base64, and its parts: the password of a USER:PASSWORD, the
    texts of a JSON object."""
    value = secret.reveal()
    return without(text, value, base64_of(value), *_parts(value))


def _parts(secret: str) -> list[str]:
    try:
        members = json.loads(secret)
    except (ValueError, RecursionError):
        return secret.split(":", 1)[1:]
    # Shorter ones are words, such as an algorithm's name.
    texts = members.values() if isinstance(members, Mapping) else ()
    return [each for each in texts if isinstance(each, str) and len(each) >= 6]


@dataclass(frozen=True, slots=True)
class SecretHeader:
    """One secret, shown in one header: a bearer token, a user and password, an API key.

    ``written``: how the secret's text is written in the header. ``again``: reads the secret anew
    because it was refused.
    """

    secret: Callable[[], SecretValue]
    again: Callable[[], SecretValue]
    header: str = "Authorization"
    written: Callable[[str], str] = "Bearer {}".format

    def headers(self, call: Call) -> Mapping[str, str]:
        return {self.header: self.written(self.secret().reveal())}

    def renewed(self, refused: Mapping[str, str], call: Call) -> Mapping[str, str] | None:
        known = self.headers(call)
        if known == refused:  # else another thread has read it anew meanwhile
            known = {self.header: self.written(self.again().reveal())}
        return known if known != refused else None

    def hide(self, text: str) -> str:
        return without_secret(text, self.secret())


class SignedIn:
    """A token that the system gives for a while, for a session or by OAuth2.

    ``sign_in`` asks for one: the token and for how many seconds it counts (None: until it is
    refused). One thread asks, the others wait for it.
    """

    def __init__(
        self,
        sign_in: Callable[[Call], tuple[SecretValue, float | None]],
        written: Callable[[str], Mapping[str, str]],
        clock: Callable[[], float],
    ) -> None:
        self._sign_in, self._written, self._clock = sign_in, written, clock
        self._lock = threading.Lock()
        self._token: SecretValue | None = None
        self._ends = float("inf")
        self._given: deque[SecretValue] = deque(maxlen=3)
        """The newest tokens: an answer may quote one that it refuses."""

    def headers(self, call: Call) -> Mapping[str, str]:
        with self._lock:
            if self._token is None or self._clock() >= self._ends:
                self._token, seconds = self._sign_in(call)
                self._given.append(self._token)
                # Used up a little early: the request takes a moment to get there.
                self._ends = self._clock() + (seconds * 0.9 if seconds else float("inf"))
            return self._written(self._token.reveal())

    def renewed(self, refused: Mapping[str, str], call: Call) -> Mapping[str, str]:
        with self._lock:  # unless another thread has signed in meanwhile
            if self._token is not None and self._written(self._token.reveal()) == refused:
                self._token = None
        return self.headers(call)

    def hide(self, text: str) -> str:
        for token in tuple(self._given):
            text = without(text, token.reveal())
        return text
