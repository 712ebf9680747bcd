"""A double of a network element that speaks ETSI TS 103 221-1 X1, with its unpleasant sides."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from nsps.portabilling.errors import NotFound, Reading
from nsps_testing.faults import Reply, Seen

X1 = "{http://uri.etsi.org/03221/X1/2017/10}"
TYPE = "{http://www.w3.org/2001/XMLSchema-instance}type"
ADMF, NE = "nsps-admf", "ne-1"
ORDER = ["xId", "targetIdentifiers", "deliveryType", "listOfDIDs", "listOfMediationDetails"]


class NetworkElement:
    """Answers as the standard says. ``odd``: operation -> what it answers instead: an error code, a
    whole body, or a function of the usual body."""

    def __init__(self) -> None:
        self.tasks: dict[str, ElementTree.Element] = {}
        self.operations: list[str] = []
        self.odd: dict[str, int | str | Callable[[str], str]] = {}
        self._lock = threading.Lock()

    def identities(self, xid: str) -> dict[str, str]:
        targets = self.tasks[xid].iterfind(f"{X1}targetIdentifiers/{X1}targetIdentifier")
        return {each[0].tag.removeprefix(X1): each[0].text or "" for each in targets}

    def __call__(self, seen: Seen) -> Reply:
        root = ElementTree.fromstring(seen.body)
        (message,) = root
        operation = message.get(TYPE, "").removeprefix("x1:").removesuffix("Request")
        assert root.tag == f"{X1}X1Request" and message.tag == f"{X1}x1RequestMessage"
        names = [each.tag.removeprefix(X1) for each in message]
        assert names[:5] == [
            "admfIdentifier", "neIdentifier", "messageTimestamp", "version", "x1TransactionId",
        ]  # fmt: skip
        with self._lock:
            self.operations.append(operation)
            odd = self.odd.get(operation)
            if isinstance(odd, str):
                return Reply(200, odd)
            done = odd if isinstance(odd, int) else self._do(operation, message)
        body = self._body(operation, message, done)
        return Reply(200, odd(body) if callable(odd) else body)

    def _do(self, operation: str, message: ElementTree.Element) -> int | str:
        if message.findtext(f"{X1}admfIdentifier") != ADMF:
            return 1040
        details = message.find(f"{X1}taskDetails")
        holder = message if details is None else details
        xid = holder.findtext(f"{X1}xId") or ""
        match operation:
            case "Ping":
                return "<oK>AcknowledgedAndCompleted</oK>"
            case "ListAllDetails":
                listed = "".join(f"<xId>{each}</xId>" for each in self.tasks)
                return f"<listOfXIDs>{listed}</listOfXIDs><listOfDIDs/>"
            case "ActivateTask" if xid in self.tasks:
                return 2010
            case "GetTaskDetails" | "ModifyTask" | "DeactivateTask" if xid not in self.tasks:
                return 2020
            case "GetTaskDetails":
                shown = ElementTree.tostring(self.tasks[xid], "unicode")
                return f"<taskResponseDetails>{shown}</taskResponseDetails>"
            case "DeactivateTask":
                del self.tasks[xid]
            case "ActivateTask" | "ModifyTask" if details is not None:
                there = [each.tag.removeprefix(X1) for each in details]
                if there != ORDER[: len(there)] or not details.findall(f"{X1}targetIdentifiers/*"):
                    return 1010
                self.tasks[xid] = details
            case _:
                return 1080
        return "<oK>AcknowledgedAndCompleted</oK>"

    def _body(self, operation: str, message: ElementTree.Element, done: int | str) -> str:
        kind, content = f"{operation}Response", done
        if isinstance(done, int):
            kind = "ErrorResponse"
            content = (
                f"<requestMessageType>{operation}</requestMessageType><errorInformation>"
                f"<errorCode>{done}</errorCode><errorDescription>{self._gossip(message)}"
                "</errorDescription></errorInformation>"
            )
        transaction = message.findtext(f"{X1}x1TransactionId")
        return (
            '<?xml version="1.0" encoding="UTF-8"?>'
            '<X1Response xmlns="http://uri.etsi.org/03221/X1/2017/10" '
            'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
            f'<x1ResponseMessage xsi:type="{kind}"><admfIdentifier>{ADMF}</admfIdentifier>'
            f"<neIdentifier>{NE}</neIdentifier><messageTimestamp>2026-11-21T02:10:03.000000Z"
            f"</messageTimestamp><version>v1.6.1</version><x1TransactionId>{transaction}"
            f"</x1TransactionId>{content}</x1ResponseMessage></X1Response>"
        )

    def _gossip(self, message: ElementTree.Element) -> str:
        """What a network element may say of a failure: all that it was asked."""
        return escape(" ".join(message.itertext()))


class PortaBillingDouble:
    """As much of the client as the connector calls. ``error``: raised instead of any answer."""

    def __init__(self) -> None:
        self.accounts: dict[int, dict[str, Any]] = {}
        self.sims: dict[int, dict[str, Any]] = {}
        self.error: Exception | None = None

    class services:  # noqa: N801
        account_info, sim_card_info = "Account/get_account_info", "SIMCard/get_card_info"
        account_list = "Account/get_account_list"

    def call(self, what: str, params: dict[str, Any], *, within: float | None = None) -> Reading:
        if self.error:
            raise self.error
        match what:
            case "account_list":
                found = [each for each in self.accounts.values() if each["id"] == params["id"]]
                return Reading({"account_list": found})
            case "account_info":
                known = self.accounts
            case _:
                known = self.sims
        if params["i_account"] not in known:
            raise NotFound(f"there is no {what}", "not_found")
        name = "account_info" if what == "account_info" else "card_info"
        return Reading({name: known[params["i_account"]]})
