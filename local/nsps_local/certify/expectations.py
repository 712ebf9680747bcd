"""What a case can expect of the answers."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from nsps_local.certify.case import Answer, Exchange, Expectation, Observed

MAY_TRY_AGAIN = frozenset({429, *range(500, 600)})
TYPES = frozenset(
    f"{word}_ERROR"
    for word in ("VALIDATION", "AUTHENTICATION", "SERVICE", "CONNECTION", "RATE_LIMIT", "INTERNAL")
)
_SHOWN = 200


def status(*codes: int) -> Expectation:
    """Each request is answered with one of these."""
    words = " or ".join(str(code) for code in codes)
    return _codes(f"each is answered {words}", set(codes))


def processed(*others: int) -> Expectation:
    """Each request is answered 2xx, or with one of the others."""
    words = "".join(f" or {code}" for code in others)
    return _codes(f"each is answered 2xx{words}", {*range(200, 300), *others})


def later() -> Expectation:
    """Not processed, and to be sent again."""
    return _codes("each is answered 503, another 5xx, or 429: send it again", MAY_TRY_AGAIN)


def not_processed() -> Expectation:
    return _codes("each is answered, and not with 2xx", set(range(300, 600)))


def no_fault_of_its_own() -> Expectation:
    """No 5xx, no hang-up."""
    return _codes("each is answered, and not with 5xx", set(range(200, 500)))


def _codes(text: str, wanted: Collection[int]) -> Expectation:
    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is None or each.answer.status not in wanted:
                yield f"{each.request.what}: {each.came}{_said(each)}"

    return Expectation(text, complaints)


def at_least_one_processed() -> Expectation:
    def complaints(seen: Observed) -> Iterator[str]:
        if not any(each.answer and each.answer.processed for each in seen.exchanges):
            yield f"none of {len(seen.exchanges)} was processed"

    return Expectation("at least one is answered 2xx", complaints)


def error_bodies() -> Expectation:
    """Every error has a JSON body that says what it is, in any of the published forms."""

    def complaints(seen: Observed) -> Iterator[str]:
        for each in _errors(seen):
            assert each.answer is not None
            problem = _body_problem(each.answer)
            if problem:
                yield f"{each.request.what}: {each.came} {problem}{_said(each)}"

    return Expectation("each error has a JSON body with message, error and type", complaints)


def _body_problem(answer: Answer) -> str:
    document = answer.json()
    if not isinstance(document, dict):
        return "has no JSON object as its body"
    inner = document.get("detail", document)
    if isinstance(inner, list | str) and inner:
        return ""  # FastAPI's own: a list of what is wrong, or a sentence
    if not isinstance(inner, Mapping) or not any(inner.get(k) for k in ("message", "error")):
        return "says neither message nor error"
    kind = inner.get("type")
    if kind is not None and str(kind).upper() not in TYPES:
        return f"has the type {str(kind)[:40]!r}, which the contract does not know"
    return ""


def error_form(kinds: Mapping[int, str]) -> Expectation:
    """The errors are exactly the table's: three texts, and the type of their code."""

    def complaints(seen: Observed) -> Iterator[str]:
        for each in _errors(seen):
            assert each.answer is not None
            document: Any = each.answer.json()
            if not isinstance(document, dict) or not all(
                isinstance(document.get(name), str) and document[name]
                for name in ("message", "error", "type")
            ):
                yield f"{each.request.what}: message, error and type are not all texts{_said(each)}"
            elif document["type"] != kinds.get(each.answer.status, document["type"]):
                wanted = kinds[each.answer.status]
                yield f"{each.request.what}: type is {document['type'][:40]}, not {wanted}"

    return Expectation("message, error and type, as in the contract's table", complaints)


def header(code: int, name: str, value: str = "") -> Expectation:
    """Answers of this code carry the header (which begins with the value)."""

    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is None or each.answer.status != code:
                continue
            given = each.answer.headers.get(name.lower())
            if given is None or not given.lower().startswith(value.lower()):
                yield f"{each.request.what}: {code} without {name}{': ' if value else ''}{value}"

    return Expectation(f"{code} carries {name}{': ' if value else ''}{value}", complaints)


def nothing_repeated() -> Expectation:
    """No answer holds a private value of its request."""

    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is None:
                continue
            text = each.answer.body.decode("utf-8", "replace")
            text += " ".join(each.answer.headers.values())
            found = sorted(value for value in each.request.private if value and value in text)
            if found:
                yield f"{each.request.what}: {each.came} repeats {', '.join(found)}"

    return Expectation("no answer holds the token, a key, or who the subscriber is", complaints)


def within(seconds: float) -> Expectation:
    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is None or each.seconds > seconds:
                came = f"took {each.seconds:.1f} s" if each.answer else each.trouble
                yield f"{each.request.what}: {came}"

    return Expectation(f"each is answered within {seconds:g} s", complaints)


def stays_open() -> Expectation:
    """The connection is kept for the next request."""

    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is None:
                yield f"{each.request.what}: {each.trouble}"
            elif each.answer.headers.get("connection", "").lower() == "close":
                yield f"{each.request.what}: the connector closes the connection"

    return Expectation("every request is answered over the one connection", complaints)


def nothing_to_system() -> Expectation:
    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.to_system:
                yield f"{each.request.what}: {len(each.to_system)} bytes went to the system"

    return Expectation("nothing is sent to the system behind it", complaints)


def something_to_system() -> Expectation:
    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is not None and each.answer.processed and not each.to_system:
                yield f"{each.request.what}: {each.came}, but nothing went to the system"

    return Expectation("it goes to the system", complaints)


def older_not_written(newer: str, older: str) -> Expectation:
    """The last request's value never reaches the system, where its wire can be read."""

    def complaints(seen: Observed) -> Iterator[str]:
        first, *_, last = seen.exchanges
        if newer.encode() in first.to_system and older.encode() in last.to_system:
            yield f"{last.request.what}: its data went to the system, over those of the newer event"

    return Expectation("the older event's data are not sent to the system", complaints)


def fewer_connections_than_requests() -> Expectation:
    def complaints(seen: Observed) -> Iterator[str]:
        if seen.given_up >= len(seen.exchanges):
            yield f"{len(seen.exchanges)} events opened {seen.given_up} connections to the system"

    return Expectation("connections to the system are used again", complaints)


def none_cut() -> Expectation:
    """What was taken is answered; what was never taken NSPS sends again by itself."""

    def complaints(seen: Observed) -> Iterator[str]:
        for each in seen.exchanges:
            if each.answer is None and not each.never_sent:
                yield f"{each.request.what}: {each.trouble}"

    return Expectation("each request that was taken is answered", complaints)


def _errors(seen: Observed) -> Iterator[Exchange]:
    for each in seen.exchanges:
        if each.answer is not None and each.answer.status >= 400 and each.request.method != "HEAD":
            yield each


def _said(each: Exchange) -> str:
    if each.answer is None or not each.answer.body:
        return ""
    return f" - {' '.join(each.answer.body[:_SHOWN].decode('utf-8', 'replace').split())}"
