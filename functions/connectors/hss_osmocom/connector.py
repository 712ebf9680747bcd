"""OsmoHLR: subscribers over its CTRL interface, one per IMSI.

A resource's key is the IMSI. Its state: ``msisdn`` (digits or None), ``cs`` and ``ps`` (whether
voice and data are allowed) and, where the deployment supplies the SIM's keys, ``aud2g`` and
``aud3g`` (SecretValue or None), written as CTRL writes them.

OsmoHLR takes each field by a request of its own, so an attempt may stop half way. A subscriber is
therefore barred before anything else and allowed after everything else, and every step can be
repeated. (Source: OsmoHLR 1.5, its CTRL commands; PortaOne docs, sample HSS connector.)

A CTRL frame is ``>HBB`` (length of what follows the first three bytes, 0xEE, 0x00) and the text
``GET|SET <id> <variable> [<value>]``; the answer is ``GET_REPLY|SET_REPLY <id> <variable> <value>``
or ``ERROR <id> <text>``. ``TRAP`` messages may come between them at any time.
"""

from __future__ import annotations

import re
import select
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nsps.connector.base import Call, Enriched, Parts, State, StateConnector
from nsps.domain.outcome import DeliveryError, NoAnswer, Terminal, Transient, Unclear, Unreachable
from nsps.domain.subscriber import is_open, is_served, msisdn
from nsps.runtime.secrets import SecretValue
from nsps.transport.http import Deadline
from pydantic import BaseModel, ConfigDict, Field

_IMSI = re.compile(r"[0-9]{6,15}")
_KEY = re.compile(r"[0-9A-Fa-f]{32}")
_ALGORITHMS_2G = ("comp128v1", "comp128v2", "comp128v3", "xor")

_EXISTS = "Subscriber already exists."
_ABSENT = ("No such subscriber.", "Subscriber doesn't exist.")
_UNCLEAR = "An error has occurred."  # what SET of cs-enabled says of an unknown subscriber
_MSISDN_TAKEN = "Update MSISDN failed"
_FOR_GOOD = (
    "Invalid IMSI value.",
    "Invalid value part of 'by-xxx-value' selector.",
    "Value failed verification.",
)

_TAKEN = "another subscriber still has the MSISDN: tried again until that one gives it back"


class Settings(BaseModel):
    """Where OsmoHLR's CTRL interface is."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = Field(min_length=1, description="Host name or address of OsmoHLR's CTRL interface.")
    port: int = Field(
        default=4259,
        ge=1,
        le=65535,
        description="TCP port of the CTRL interface; OsmoHLR 1.5 uses 4259 and no other.",
    )


class OsmoHlr(StateConnector[Settings]):
    """Subscribers of an OsmoHLR."""

    settings_model = Settings

    def __init__(self, settings: Settings, parts: Parts) -> None:
        super().__init__(settings, parts)
        self._ctrl = CtrlClient(settings.host, settings.port)
        self._auc: tuple[SecretValue, Mapping[str, Any]] | None = None

    def close(self) -> None:
        self._ctrl.close()

    def check(self, call: Call) -> None:
        try:
            self._ctrl.get(_variable("000000", "info"), call.deadline)
        except CtrlRefused as refusal:
            if refusal.text not in _ABSENT:
                raise _error(refusal) from None

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One subscriber: the account's SIM. None without an account or without a SIM.

        Voice and data are allowed while the account is served. The MSISDN is given back when the
        account is no longer open: OsmoHLR holds a number once, and another subscriber may have it
        by then. An open account keeps its number while it is barred.
        """
        account, sim = event.pb.account_info, event.pb.sim_info
        if account is None or sim is None or not (sim.imsi or sim.iccid or sim.i_sim_card):
            return {}
        imsi = sim.imsi or ""
        if not _IMSI.fullmatch(imsi):
            raise Terminal("sim_info.imsi is not an IMSI (6 to 15 digits): correct the SIM card")
        served = is_served(account)
        state: dict[str, Any] = {
            "msisdn": msisdn(event.pb) if is_open(account) else None,
            "cs": served,
            "ps": served,
        }
        return {imsi: state | self._keys(imsi)}

    def read(self, key: str, call: Call) -> State | None:
        keys = self._keys(_imsi(key))
        try:
            told = self._ctrl.get(_variable(key, "info-all" if keys else "info"), call.deadline)
        except CtrlRefused as refusal:
            if refusal.text in _ABSENT:
                return None
            raise _error(refusal) from None
        fields = dict(line.split("\t", 1) for line in told.splitlines() if "\t" in line)
        if fields.get("imsi") != key:
            raise Unclear("OsmoHLR answered about another subscriber, or not at all: read again")
        state: dict[str, Any] = {
            "msisdn": fields.get("msisdn"),
            "cs": fields.get("nam_cs") == "1",
            "ps": fields.get("nam_ps") == "1",
        }
        return state | (_told_keys(fields) if keys else {})

    def create(self, key: str, state: State, call: Call) -> None:
        self._assert_free(key, state, call)
        try:
            self._ctrl.set("subscriber.create", _imsi(key), call.deadline)
        except CtrlRefused as refusal:
            if refusal.text != _EXISTS:
                raise _error(refusal) from None
        try:
            held = self.read(key, call)
        except Transient as error:
            raise _partly(error) from None
        if held is None:
            raise Unclear("the subscriber was removed while it was being created: create it again")
        self._write(key, state, held, call, begun=True)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        held = self.read(key, call)
        if held is None:
            self.create(key, state, call)
            return
        if state.get("msisdn") != held.get("msisdn"):
            self._assert_free(key, state, call)
        self._write(key, state, held, call, begun=False)

    def delete(self, key: str, call: Call) -> None:
        try:
            self._ctrl.set("subscriber.delete", _imsi(key), call.deadline)
        except CtrlRefused as refusal:
            if refusal.text not in _ABSENT:
                raise _error(refusal) from None

    def _write(self, key: str, state: State, was: State, call: Call, *, begun: bool) -> None:
        """Write each field that differs; barring comes first, allowing last.

        ``begun``: something was written already; then no error says "nothing was changed".
        """
        served = bool(state["cs"] or state["ps"])
        names = [name for name in ("aud2g", "aud3g", "msisdn") if name in state]
        for name in (*names, "cs", "ps") if served else ("cs", "ps", *names):
            if name not in was or was[name] != state[name]:
                try:
                    self._ctrl.set(*_setting(key, name, state[name]), call.deadline)
                except (CtrlRefused, Transient) as error:
                    raise _partly(error) if begun else _error(error) from None
                begun = True

    def _assert_free(self, key: str, state: State, call: Call) -> None:
        """Raise Transient if another subscriber has the MSISDN: before anything is written."""
        if state["msisdn"] is None:
            return
        variable = f"subscriber.by-msisdn-{state['msisdn']}.info"
        try:
            told = self._ctrl.get(variable, call.deadline)
        except CtrlRefused as refusal:
            if refusal.text not in _ABSENT:
                raise _error(refusal) from None
            return
        if f"imsi\t{key}" not in told.splitlines():
            raise Transient(_TAKEN)

    def _keys(self, imsi: str) -> dict[str, SecretValue | None]:
        """``aud2g`` and ``aud3g`` of the SIM from the secret ``auc``; {} if it does not say."""
        if not self.parts.has_secret("auc"):
            return {}
        secret = self.parts.secret("auc")
        if self._auc is None or self._auc[0] != secret:
            self._auc = (secret, secret.json())
        entry = self._auc[1].get(imsi)
        return {} if entry is None else _keys_of(entry)


def _imsi(key: str) -> str:
    if not _IMSI.fullmatch(key):
        raise Terminal("the resource's key is not an IMSI (6 to 15 digits)")
    return key


def _variable(imsi: str, name: str) -> str:
    return f"subscriber.by-imsi-{_imsi(imsi)}.{name}"


def _setting(imsi: str, name: str, value: Any) -> tuple[str, str]:
    """The CTRL variable and the text that give a field of the state its value."""
    if name in ("cs", "ps"):
        return _variable(imsi, f"{name}-enabled"), "1" if value else "0"
    if isinstance(value, SecretValue):
        value = value.reveal()
    return _variable(imsi, name), "none" if value is None else value


def _keys_of(entry: object) -> dict[str, SecretValue | None]:
    """What an entry of the secret ``auc`` means in CTRL's words.

    Raises Transient if it is wrong: an operator can correct the secret.
    """
    members = entry if isinstance(entry, Mapping) else {}
    ki, opc = members.get("ki"), members.get("opc")
    algorithm = str(members.get("algorithm") or ("milenage" if opc else "comp128v3")).lower()
    if not (isinstance(ki, str) and _KEY.fullmatch(ki)):
        raise Transient('secret auc: "ki" of the SIM is not 32 hexadecimal digits: correct it')
    if algorithm in _ALGORITHMS_2G:
        return {"aud2g": SecretValue(f"{algorithm},{ki.lower()}"), "aud3g": None}
    if algorithm != "milenage":
        raise Transient(
            'secret auc: "algorithm" of the SIM is unknown: write milenage or one of '
            + ", ".join(_ALGORITHMS_2G)
        )
    if not (isinstance(opc, str) and _KEY.fullmatch(opc)):
        raise Transient('secret auc: "opc" of the SIM is not 32 hexadecimal digits: correct it')
    return {"aud2g": None, "aud3g": SecretValue(f"milenage,{ki.lower()},OPC,{opc.lower()}")}


def _told_keys(fields: Mapping[str, str]) -> dict[str, SecretValue | None]:
    """The keys as OsmoHLR tells them, in the form in which they are written."""
    aud2g = aud3g = None
    if "aud2g.algo" in fields:
        aud2g = SecretValue(f"{fields['aud2g.algo']},{fields.get('aud2g.ki', '')}".lower())
    if "aud3g.algo" in fields:
        kind = "opc" if "aud3g.opc" in fields else "op"
        start = f"{fields['aud3g.algo']},{fields.get('aud3g.k', '')}".lower()
        aud3g = SecretValue(f"{start},{kind.upper()},{fields.get(f'aud3g.{kind}', '').lower()}")
    return {"aud2g": aud2g, "aud3g": aud3g}


def _error(error: CtrlRefused | Transient) -> DeliveryError:
    """How a refusal is to be read; a lost connection stays what it is."""
    if isinstance(error, Transient):
        return error
    if error.text in _FOR_GOOD:
        return Terminal(f"OsmoHLR refused a value: {error.shown}")
    if error.text == _MSISDN_TAKEN:
        return Transient(_TAKEN)
    if error.text in (*_ABSENT, _UNCLEAR):
        return Unclear(f"the subscriber was removed, or cannot be written: {error.shown}")
    return Transient(f"OsmoHLR refused the request: {error.shown}: see its log")


def _partly(error: CtrlRefused | Transient) -> DeliveryError:
    """The same after part of the subscriber was written: then something did change."""
    reason = _error(error)
    if isinstance(reason, Terminal | NoAnswer):
        return reason
    return Unclear(f"the subscriber is written in part: {reason}")


# --- the CTRL protocol ---------------------------------------------------------------------------

_HEADER = struct.Struct(">HBB")
_OSMO, _IPA, _CTRL = 0xEE, 0xFE, 0x00
_MAX_FRAMES = 1000
"""TRAPs and others that may come before an answer; a system that sends more is not well."""


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
    """Connections to one CTRL server, shared by threads: each request has one to itself."""

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._idle: list[socket.socket] = []
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"CtrlClient({self._where})"

    @property
    def _where(self) -> str:
        return "{}:{}".format(*self._address)

    def get(self, variable: str, deadline: Deadline) -> str:
        """The variable's value. Raises CtrlRefused, Transient (not reached) or NoAnswer."""
        return self._request("GET", variable, deadline)

    def set(self, variable: str, value: str, deadline: Deadline) -> str:
        """Give the variable a value; returns the reply's value. Raises as ``get``."""
        return self._request("SET", f"{variable} {value}", deadline)

    def close(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def _request(self, verb: str, rest: str, deadline: Deadline) -> str:
        connection = self._pooled() or self._connect(deadline)
        try:
            reply = self._exchange(connection, verb, rest, deadline)
        except BaseException:
            connection.close()  # its answer may still come: never mistake it for another's
            raise
        with self._lock:
            self._idle.append(connection)
        kind, _, said = reply.partition(" ")
        if kind == "ERROR":
            raise CtrlRefused(said)
        return said

    def _pooled(self) -> socket.socket | None:
        """An idle connection that the server has not closed meanwhile."""
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection = self._idle.pop()
            if _is_open(connection):
                return connection
            connection.close()

    def _connect(self, deadline: Deadline) -> socket.socket:
        left = deadline.remaining()
        if left <= 0:
            raise Transient(f"CTRL {self._where}: no time left to connect")
        try:
            connection = socket.create_connection(self._address, timeout=left)
        except OSError as error:
            reason = error.strerror or "timed out"
            raise Unreachable(f"CTRL {self._where} cannot be reached: {reason}") from None
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _exchange(self, connection: socket.socket, verb: str, rest: str, deadline: Deadline) -> str:
        """``<kind> <value or text>`` of the answer to one request."""
        if deadline.remaining() <= 0:
            raise Transient(f"CTRL {self._where}: no time left for the request")
        message = f"{verb} 1 {rest}".encode("ascii")
        frame = _HEADER.pack(len(message) + 1, _OSMO, _CTRL) + message
        try:
            connection.settimeout(deadline.remaining())
            connection.sendall(frame)
            for _ in range(_MAX_FRAMES):
                answer = _answer(_frame(connection, deadline))
                if answer is not None:
                    return answer
        except TimeoutError:
            raise NoAnswer(f"CTRL {self._where} did not answer in time") from None
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise NoAnswer(f"CTRL {self._where}: connection lost: {reason}") from None
        raise NoAnswer(f"CTRL {self._where} sends messages without end, and no answer")


def _is_open(connection: socket.socket) -> bool:
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return True
    connection.settimeout(0)
    with suppress(OSError):
        return connection.recv(1, socket.MSG_PEEK) != b""  # a TRAP may be waiting there
    return False


def _frame(connection: socket.socket, deadline: Deadline) -> bytes:
    """The text of the next CTRL frame; frames of other protocols are passed over.

    Raises ValueError if this is no such protocol, OSError if the connection is gone.
    """
    while True:
        length, protocol, extension = _HEADER.unpack(_exactly(connection, _HEADER.size, deadline))
        if length < 1 or protocol not in (_OSMO, _IPA):
            raise ValueError("the answer is not CTRL: check host and port")
        body = _exactly(connection, length - 1, deadline)
        if (protocol, extension) == (_OSMO, _CTRL):
            return body


def _exactly(connection: socket.socket, count: int, deadline: Deadline) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        left = deadline.remaining()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        data = connection.recv(count - len(parts))
        if not data:
            raise ValueError("closed by the other side")
        parts += data
    return bytes(parts)


def _answer(body: bytes) -> str | None:
    """``ERROR <text>`` or ``<kind> <value>``; None for a message that answers nothing (TRAP)."""
    text = body.decode("utf-8", "replace")
    kind, _, rest = text.partition(" ")
    ident, _, rest = rest.partition(" ")
    if kind == "ERROR" and ident in ("1", "err"):
        return f"ERROR {rest}"
    if kind in ("GET_REPLY", "SET_REPLY") and ident == "1":
        return f"{kind} {rest.partition(' ')[2]}"
    if kind not in ("TRAP", "ERROR", "GET_REPLY", "SET_REPLY"):
        raise ValueError("the answer is not CTRL: check host and port")
    return None
