"""ETSI TS 103 221-1, interface X1, on the side of the ADMF: its messages, and how answers are read.

One XML message per HTTP POST. A failure comes as an ErrorResponse in a 200, with a code of the
standard's table 6.7-3. What a network element writes beside the code is never repeated: it may name
a target.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from xml.etree import ElementTree

from defusedxml.ElementTree import fromstring
from nsps.connector.base import Call
from nsps.domain.outcome import Terminal, Transient, Unclear
from nsps.transport.answers import Meaning
from nsps.transport.http import Answer, Http

X1 = "http://uri.etsi.org/03221/X1/2017/10"
XSI = "http://www.w3.org/2001/XMLSchema-instance"
ElementTree.register_namespace("x1", X1)
ElementTree.register_namespace("xsi", XSI)

CODES: Mapping[int, tuple[Meaning, str]] = {
    1000: (Meaning.LATER, "a generic error: its own log says why"),
    1010: (Meaning.REFUSED, "it does not take the message's form: see the setting version"),
    1020: (Meaning.LATER, "it has another version of X1: correct the setting version"),
    1030: (Meaning.LATER, "the setting admf is not in our certificate: correct one of them"),
    1040: (Meaning.LATER, "it does not know this ADMF: correct the setting admf"),
    1060: (Meaning.LATER, "it is another network element: correct the setting ne"),
    1080: (Meaning.REFUSED, "it does not know this request"),
    2010: (Meaning.EXISTS, "the task is there already"),
    2020: (Meaning.ABSENT, "the task is not there"),
    2040: (Meaning.LATER, "it does not know a destination: create it there"),
    3000: (Meaning.REFUSED, "it cannot activate the task"),
    3001: (Meaning.REFUSED, "it cannot modify the task"),
    3050: (Meaning.REFUSED, "it does not support this kind of service"),
}
"""Error code -> what it means, and what an operator should know. Any other is tried later."""

_DONE = ("AcknowledgedAndCompleted", "Acknowledged")


@dataclass(frozen=True, slots=True)
class Mediation:
    """For a mediation function: the warrant's identifier, and its time."""

    liid: str
    delivery: str
    start: datetime | None
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Task:
    """What a network element is to do, or does. ``identities``: (element, value)."""

    xid: str
    identities: frozenset[tuple[str, str]]
    delivery: str
    destinations: frozenset[str]
    mediation: Mediation | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """How both sides name themselves, and the version they speak (like v1.6.1)."""

    admf: str
    ne: str
    version: str


class X1Client:
    """Speaks to one network element; safe to share between threads."""

    def __init__(self, http: Http, url: str, names: Names) -> None:
        self._http, self._url, self._names = http, url, names

    def ping(self, call: Call) -> None:
        """Whether it is well. Raises Transient."""
        try:
            self._ask("Ping", call)
        except Terminal as error:  # about us, not about a task: it can be corrected
            raise Transient(str(error)) from None

    def held(self, call: Call) -> frozenset[str]:
        """The identifiers of all tasks that it has. Raises Transient, Terminal."""
        said = self._ask("ListAllDetails", call)
        if isinstance(said, Meaning) or said.find(_x1("listOfXIDs")) is None:
            raise Unclear("X1 ListAllDetails: the answer holds no listOfXIDs")
        return frozenset(each.lower() for each in _texts(said, "listOfXIDs", "xId"))

    def task(self, xid: str, call: Call) -> Task | None:
        """A task as it is there. Raises Transient, Terminal."""
        said = self._ask("GetTaskDetails", call, [_element("xId", xid)], Meaning.ABSENT)
        if isinstance(said, Meaning):
            return None
        details = said.find(f"{_x1('taskResponseDetails')}/{_x1('taskDetails')}")
        if details is None or (details.findtext(_x1("xId")) or "").strip().lower() != xid:
            raise Unclear("X1 GetTaskDetails: the answer is of another task, or of none")
        return _task(xid, details)

    def activate(self, task: Task, call: Call) -> None:
        """Create the task; one that is there is modified. Raises Transient, Terminal."""
        if self._ask("ActivateTask", call, [_details(task)], Meaning.EXISTS) is Meaning.EXISTS:
            self._ask("ModifyTask", call, [_details(task)])

    def modify(self, task: Task, call: Call) -> bool:
        """Change the task; False where it is not there. Raises Transient, Terminal."""
        said = self._ask("ModifyTask", call, [_details(task)], Meaning.ABSENT)
        return said is not Meaning.ABSENT

    def deactivate(self, xid: str, call: Call) -> None:
        """End the task; done, too, where it is not there. Raises Transient, Terminal."""
        self._ask("DeactivateTask", call, [_element("xId", xid)], Meaning.ABSENT)

    def _ask(
        self,
        operation: str,
        call: Call,
        content: Sequence[ElementTree.Element] = (),
        also: Meaning | None = None,
    ) -> ElementTree.Element | Meaning:
        """The answer's message; or ``also``, where an error says that. Raises for any other."""
        transaction = str(uuid.uuid4())
        answer = self._http.request(
            "POST",
            self._url,
            deadline=call.deadline,
            headers={"Content-Type": "application/xml; charset=utf-8"},
            data=self._request(operation, transaction, content),
        )
        said = self._message(operation, answer)
        kind = said.get(f"{{{XSI}}}type", "").rpartition(":")[2]
        if kind == "ErrorResponse":
            return _refused(operation, said, also)
        if kind != f"{operation}Response":
            raise Unclear(f"X1 {operation}: the answer is of another kind")
        if (said.findtext(_x1("x1TransactionId")) or "").strip() != transaction:
            raise Unclear(f"X1 {operation}: the answer is to another request")
        changes = operation.endswith("Task") or operation == "Ping"
        if changes and (said.findtext(_x1("oK")) or "").strip() not in _DONE:
            raise Unclear(f"X1 {operation}: the answer does not say that it was done")
        return said

    def _request(
        self, operation: str, transaction: str, content: Sequence[ElementTree.Element]
    ) -> bytes:
        root = ElementTree.Element(_x1("X1Request"))
        message = ElementTree.SubElement(root, _x1("x1RequestMessage"))
        message.set(f"{{{XSI}}}type", f"x1:{operation}Request")
        for name, text in (
            ("admfIdentifier", self._names.admf),
            ("neIdentifier", self._names.ne),
            ("messageTimestamp", _written(datetime.now(UTC))),
            ("version", self._names.version),
            ("x1TransactionId", transaction),
        ):
            message.append(_element(name, text))
        message.extend(content)
        written: bytes = ElementTree.tostring(root, "utf-8", xml_declaration=True)
        return written

    def _message(self, operation: str, answer: Answer) -> ElementTree.Element:
        """The one message of an answer. A document with a DTD or entities is none."""
        if not answer.ok:
            where = f"X1 {operation}: HTTP {answer.status}"
            if answer.status in (429, 503):
                raise Transient(f"{where}: it asks to wait", answer.retry_after())
            if answer.status >= 500:
                raise Unclear(f"{where}: an error of its own")
            raise Transient(f"{where}: is url the address of X1, and our certificate known?")
        try:
            root: ElementTree.Element = fromstring(answer.body, forbid_dtd=True)
        except (ElementTree.ParseError, ValueError, LookupError):
            raise Unclear(f"X1 {operation}: the answer is not XML that may be read") from None
        messages = root.findall(_x1("x1ResponseMessage"))
        if root.tag != _x1("X1Response") or len(messages) != 1:
            raise Unclear(f"X1 {operation}: the answer is not one message of X1")
        if (messages[0].findtext(_x1("neIdentifier")) or "").strip() != self._names.ne:
            raise Unclear(f"X1 {operation}: another network element answers: see the setting ne")
        return messages[0]


def _refused(operation: str, said: ElementTree.Element, also: Meaning | None) -> Meaning:
    text = said.findtext(f"{_x1('errorInformation')}/{_x1('errorCode')}") or ""
    code = int(text) if text.strip().isascii() and text.strip().isdigit() else 0
    meaning, hint = CODES.get(code, (Meaning.LATER, "see the network element's own log"))
    if meaning is also:
        return meaning
    error = f"X1 {operation}: error {code}: {hint}"
    raise Terminal(error) if meaning is Meaning.REFUSED else Transient(error)


# ---- tasks ---------------------------------------------------------------------------------------


def _details(task: Task) -> ElementTree.Element:
    """Elements in the order of the standard's schema."""
    identities = [
        _element("targetIdentifier", children=[_element(*each)]) for each in sorted(task.identities)
    ]
    destinations = [_element("dId", each) for each in sorted(task.destinations)]
    parts = [
        _element("xId", task.xid),
        _element("targetIdentifiers", children=identities),
        _element("deliveryType", task.delivery),
        _element("listOfDIDs", children=destinations),
    ]
    if task.mediation is not None:
        given = task.mediation
        mediation = [
            _element("LIID", given.liid),
            _element("deliveryType", given.delivery),
            _element("StartTime", _written(given.start)),
            _element("EndTime", _written(given.end)),
        ]
        one = _element("mediationDetails", children=mediation)
        parts.append(_element("listOfMediationDetails", children=[one]))
    return _element("taskDetails", children=parts)


def _task(xid: str, details: ElementTree.Element) -> Task:
    identities = (
        (child.tag.removeprefix(f"{{{X1}}}"), (child.text or "").strip())
        for target in details.iterfind(f"{_x1('targetIdentifiers')}/{_x1('targetIdentifier')}")
        for child in target
    )
    one = details.find(f"{_x1('listOfMediationDetails')}/{_x1('mediationDetails')}")
    mediation = None
    if one is not None:
        liid, kind, start, end = (
            (one.findtext(_x1(name)) or "").strip()
            for name in ("LIID", "deliveryType", "StartTime", "EndTime")
        )
        mediation = Mediation(liid, kind, _moment(start), _moment(end))
    return Task(
        xid,
        frozenset(identities),
        (details.findtext(_x1("deliveryType")) or "").strip(),
        frozenset(each.lower() for each in _texts(details, "listOfDIDs", "dId")),
        mediation,
    )


def _texts(element: ElementTree.Element, outer: str, inner: str) -> Iterator[str]:
    return ((each.text or "").strip() for each in element.iterfind(f"{_x1(outer)}/{_x1(inner)}"))


def _element(
    name: str, text: str | None = None, children: Sequence[ElementTree.Element] = ()
) -> ElementTree.Element:
    made = ElementTree.Element(_x1(name))
    made.text = text
    made.extend(children)
    return made


def _written(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ") if moment else None


def _moment(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except ValueError:
        return None


def _x1(name: str) -> str:
    return f"{{{X1}}}{name}"
