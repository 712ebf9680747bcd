"""What a case can expect of the answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

from nsps_local.certify.case import Answer, Complaint, Exchange, Expectation, Observed, Target

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


def processed_or_later() -> Expectation:
    return _codes(
        "each is answered 2xx, or 429 or 5xx: send it again", {*range(200, 300), *MAY_TRY_AGAIN}
    )


def not_processed() -> Expectation:
    return _codes("each is answered, and not with 2xx", set(range(300, 600)))


def no_fault_of_its_own() -> Expectation:
    """No 5xx, no hang-up."""
    return _codes("each is answered, and not with 5xx", set(range(200, 500)))


def _codes(text: str, wanted: Collection[int]) -> Expectation:
    def problem(each: Exchange) -> str:
        right = each.answer is not None and each.answer.status in wanted
        return "" if right else f"{each.came}{_said(each)}"

    return _each(text, problem)


def _each(text: str, problem: Callable[[Exchange], str]) -> Expectation:
    """``problem``: what is wrong with one exchange; "" if nothing is."""

    def complaints(seen: Observed) -> Iterator[Complaint]:
        for each in seen.exchanges:
            if wrong := problem(each):
                yield Complaint(f"{each.request.what}: {wrong}", each)

    return Expectation(text, complaints)


def at_least_one_processed() -> Expectation:
    def complaints(seen: Observed) -> Iterator[Complaint]:
        if not any(each.answer and each.answer.processed for each in seen.exchanges):
            yield Complaint(f"none of {len(seen.exchanges)} was processed")

    return Expectation("at least one is answered 2xx", complaints)


def error_bodies() -> Expectation:
    """Every error has a JSON body that says what it is, in any of the published forms."""

    def problem(each: Exchange) -> str:
        wrong = _body_problem(each.answer) if each.answer and _is_error(each) else ""
        return wrong and f"{each.came} {wrong}{_said(each)}"

    return _each("each error has a JSON body with message, error and type", problem)


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

    def problem(each: Exchange) -> str:
        if each.answer is None or not _is_error(each):
            return ""
        document = each.answer.json()
        if not isinstance(document, dict) or not all(
            isinstance(document.get(name), str) and document[name]
            for name in ("message", "error", "type")
        ):
            return f"message, error and type are not all texts{_said(each)}"
        wanted = kinds.get(each.answer.status, document["type"])
        return (
            "" if document["type"] == wanted else f"type is {document['type'][:40]}, not {wanted}"
        )

    return _each("message, error and type, as in the contract's table", problem)


def header(code: int, name: str, value: str = "") -> Expectation:
    """Answers of this code carry the header (which begins with the value)."""
    shown = f"{name}: {value}" if value else name

    def problem(each: Exchange) -> str:
        if each.answer is None or each.answer.status != code:
            return ""
        given = each.answer.headers.get(name.lower())
        right = given is not None and given.lower().startswith(value.lower())
        return "" if right else f"{code} without {shown}"

    return _each(f"{code} carries {shown}", problem)


def nothing_repeated() -> Expectation:
    """No answer holds a private value of its request."""

    def problem(each: Exchange) -> str:
        if each.answer is None:
            return ""
        text = each.answer.body.decode("utf-8", "replace")
        text += " ".join(each.answer.headers.values())
        found = sorted(value for value in each.request.private if value and value in text)
        return f"{each.came} repeats {', '.join(found)}" if found else ""

    return _each("no answer holds the token, a key, or who the subscriber is", problem)


def within(seconds: float, target: Target = Target.SERVICE) -> Expectation:
    """Each is answered in time; ``target``: those that were sent there."""

    def problem(each: Exchange) -> str:
        if each.request.target is not target or (each.answer and each.seconds <= seconds):
            return ""
        return f"took {each.seconds:.1f} s" if each.answer else each.trouble

    whose = "each" if target is Target.SERVICE else target.value
    return _each(f"{whose} is answered within {seconds:g} s", problem)


def stays_open() -> Expectation:
    """The connection is kept for the next request."""

    def problem(each: Exchange) -> str:
        if each.answer is None:
            return each.trouble
        closed = each.answer.headers.get("connection", "").lower() == "close"
        return "the connector closes the connection" if closed else ""

    return _each("every request is answered over the one connection", problem)


def nothing_to_system() -> Expectation:
    def problem(each: Exchange) -> str:
        return f"{len(each.to_system)} bytes went to the system" if each.to_system else ""

    return _each("nothing is sent to the system behind it", problem)


def something_to_system() -> Expectation:
    def problem(each: Exchange) -> str:
        if each.answer is None or not each.answer.processed or each.to_system:
            return ""
        return f"{each.came}, but nothing went to the system"

    return _each("it goes to the system", problem)


def older_not_written(newer: str, older: str) -> Expectation:
    """The last request's value never reaches the system, where its wire can be read."""

    def complaints(seen: Observed) -> Iterator[Complaint]:
        first, *_, last = seen.exchanges
        if newer.encode() in first.to_system and older.encode() in last.to_system:
            wrong = "its data went to the system, over those of the newer event"
            yield Complaint(f"{last.request.what}: {wrong}", last)

    return Expectation("the older event's data are not sent to the system", complaints)


def fewer_connections_than_requests() -> Expectation:
    def complaints(seen: Observed) -> Iterator[Complaint]:
        events = len(seen.exchanges)
        if seen.given_up >= events:
            yield Complaint(f"{events} events opened {seen.given_up} connections to the system")

    return Expectation("connections to the system are used again", complaints)


def none_cut() -> Expectation:
    """What was taken is answered; what was never taken NSPS sends again by itself."""

    def problem(each: Exchange) -> str:
        return each.trouble if each.answer is None and not each.never_sent else ""

    return _each("each request that was taken is answered", problem)


def _is_error(each: Exchange) -> bool:
    return each.answer is not None and each.answer.status >= 400 and each.request.method != "HEAD"


def _said(each: Exchange) -> str:
    if each.answer is None or not each.answer.body:
        return ""
    return f" - {' '.join(each.answer.body[:_SHOWN].decode('utf-8', 'replace').split())}"
