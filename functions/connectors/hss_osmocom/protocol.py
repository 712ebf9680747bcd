"""CTRL, the control interface of Osmocom's programs.

A frame is ``>HBB`` (length of what follows the first three bytes, 0xEE, 0x00) and the text
``GET|SET <id> <variable> [<value>]``; the answer is ``GET_REPLY|SET_REPLY <id> <variable> <value>``
or ``ERROR <id> <text>``. ``TRAP`` messages may come between them at any time. (OsmoHLR 1.5.)
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

from nsps.connector.base import Call
from nsps.transport.connection import Connection
from nsps.transport.tcp import BadFrame, TcpPool

_HEADER = struct.Struct(">HBB")
_OSMO, _IPA, _CTRL = 0xEE, 0xFE, 0x00
_NOT_CTRL = "the answer is not CTRL: check host and port"


class CtrlRefused(Exception):
    """The system answered ERROR; ``text`` is what it said. It may hold subscriber data."""

    def __init__(self, text: str) -> None:
        super().__init__("the CTRL request was refused")
        self.text = text

    @property
    def shown(self) -> str:
        """What it said, fit for operators: numbers and keys are left out."""
        return re.sub(r"[0-9A-Fa-f]{5,}", "***", self.text)[:120]


class CtrlClient:
    """One CTRL server, for all threads. Raises CtrlRefused, and what TcpPool raises."""

    def __init__(self, host: str, port: int) -> None:
        self._pool = TcpPool("CTRL", host, port, read_frame)

    def get(self, variable: str, call: Call) -> str:
        """The variable's value."""
        return self._request(f"GET 1 {variable}", call)

    def set(self, variable: str, value: str, call: Call) -> None:
        """Give the variable a value."""
        self._request(f"SET 1 {variable} {value}", call)
        call.wrote = True

    def close(self) -> None:
        self._pool.close()

    def _request(self, text: str, call: Call) -> str:
        answer = self._pool.request(frame(text), answer_of, call.deadline)
        if answer.refused:
            raise CtrlRefused(answer.text)
        return answer.text


@dataclass(frozen=True, slots=True)
class Answer:
    """The value in a reply, or the text of an error."""

    refused: bool
    text: str


def frame(text: str) -> bytes:
    """A CTRL message as it goes on the wire."""
    body = text.encode("ascii")
    return _HEADER.pack(len(body) + 1, _OSMO, _CTRL) + body


def read_frame(connection: Connection) -> str | None:
    """The text of the next message; None for one of another protocol on the same connection."""
    length, protocol, extension = _HEADER.unpack(connection.exactly(_HEADER.size))
    if length < 1 or protocol not in (_OSMO, _IPA):
        raise BadFrame(_NOT_CTRL)
    body = connection.exactly(length - 1)
    return body.decode("utf-8", "replace") if (protocol, extension) == (_OSMO, _CTRL) else None


def answer_of(message: str | None) -> Answer | None:
    """The answer to the request; None for a message that answers something else (a TRAP)."""
    if message is None:
        return None
    kind, _, rest = message.partition(" ")
    ident, _, rest = rest.partition(" ")
    if kind == "ERROR" and ident in ("1", "err"):
        return Answer(True, rest)
    if kind in ("GET_REPLY", "SET_REPLY") and ident == "1":
        return Answer(False, rest.partition(" ")[2])
    if kind not in ("TRAP", "ERROR", "GET_REPLY", "SET_REPLY"):
        raise BadFrame(_NOT_CTRL)
    return None
