"""A mobile network behind Kannel: an SMSC that speaks SMPP 3.4, and what its phones show.

What becomes of a message, and when the network says so, is the caller's to decide. (SMPP v3.4,
sections 4.1, 4.4 and 4.6, and appendix B for the text of a delivery receipt.)
"""

from __future__ import annotations

import io
import itertools
import socket
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass

BIND_TRANSCEIVER, SUBMIT, DELIVER, UNBIND, ENQUIRE_LINK = 0x09, 0x04, 0x05, 0x06, 0x15
_ANSWER = 0x80000000
_RECEIPT, _HAS_HEADER = 0x04, 0x40
_UCS2 = 0x08


@dataclass(frozen=True)
class Submitted:
    """A part of a message as the network got it."""

    ident: str
    sender: tuple[int, str]
    """The type of number, as SMPP has it, and the number or name."""
    to: tuple[int, str]
    header: bytes
    """The user data header: which part of how many."""
    coding: int
    data: bytes
    validity: str

    @property
    def text(self) -> str:
        return self.data.decode("utf-16-be") if self.coding == _UCS2 else _gsm7(self.data)


class SmsNetwork:
    """Listens on a port of loopback while it is entered."""

    def __init__(self) -> None:
        self.submitted: list[Submitted] = []
        self.refuses: int | None = None
        """The SMPP status with which every message is refused."""
        self.at_once: str | None = None
        """What is reported of a message as soon as it is there."""
        self.bound = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._bound: socket.socket | None = None
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()

    def __enter__(self) -> SmsNetwork:
        threading.Thread(target=self._serve, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (self._listener, self._bound):
            if each is not None:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
                each.close()

    def parts(self, number: str) -> list[Submitted]:
        """What was sent to a phone, in the order in which it came."""
        return [each for each in self.submitted if each.to[1] == number]

    def report(self, part: Submitted, stat: str, error: int = 0) -> None:
        """Say what became of a part: DELIVRD, UNDELIV, EXPIRED, REJECTD, ..."""
        text = (
            f"id:{part.ident} sub:001 dlvrd:{int(stat == 'DELIVRD'):03} submit date:2611292300 "
            f"done date:2611292301 stat:{stat} err:{error:03} text:{part.text[:20]}"
        ).encode("latin-1", "replace")
        body = b"\0" + _written(part.to) + _written(part.sender) + bytes([_RECEIPT, 0, 0])
        body += b"\0\0" + bytes([0, 0, 0, 0, len(text)]) + text  # when, until, and five octets
        assert self._bound is not None
        self._write(self._bound, DELIVER, 0, next(self._numbers), body)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                self._bound, _ = self._listener.accept()
                threading.Thread(target=self._session, args=(self._bound,), daemon=True).start()

    def _session(self, link: socket.socket) -> None:
        with suppress(OSError, EOFError), link:
            while True:
                length, command, _, number = struct.unpack(">IIII", _exactly(link, 16))
                body = _exactly(link, length - 16)
                if command == SUBMIT:
                    self._submit(link, number, body)
                elif command == BIND_TRANSCEIVER:
                    self._write(link, command | _ANSWER, 0, number, b"network\0")
                    self.bound.set()
                elif command in (ENQUIRE_LINK, UNBIND):
                    self._write(link, command | _ANSWER, 0, number)

    def _submit(self, link: socket.socket, number: int, body: bytes) -> None:
        if self.refuses is not None:
            self._write(link, SUBMIT | _ANSWER, self.refuses, number)
            return
        ident = str(next(self._numbers))
        part = _submitted(ident, body)
        self._write(link, SUBMIT | _ANSWER, 0, number, ident.encode() + b"\0")
        self.submitted.append(part)
        if self.at_once:
            self.report(part, self.at_once)

    def _write(
        self, link: socket.socket, command: int, status: int, number: int, body: bytes = b""
    ) -> None:
        with self._lock:
            link.sendall(struct.pack(">IIII", 16 + len(body), command, status, number) + body)


def _submitted(ident: str, body: bytes) -> Submitted:
    read = io.BytesIO(body)
    _text(read)  # service_type
    sender, to = _address(read), _address(read)
    esm_class = read.read(3)[0]  # protocol_id and priority after it
    _text(read)  # when to send it
    validity = _text(read)
    coding, length = read.read(5)[2::2]  # receipt wanted, replace, coding, default message, length
    data = read.read(length)
    header = data[: data[0] + 1] if esm_class & _HAS_HEADER else b""
    return Submitted(ident, sender, to, header, coding, data[len(header) :], validity)


def _address(read: io.BytesIO) -> tuple[int, str]:
    return read.read(2)[0], _text(read)


def _text(read: io.BytesIO) -> str:
    return b"".join(iter(lambda: read.read(1), b"\0")).decode("latin-1")


def _written(address: tuple[int, str]) -> bytes:
    return bytes([address[0], 1]) + address[1].encode("latin-1") + b"\0"


def _exactly(link: socket.socket, count: int) -> bytes:
    data = link.recv(count, socket.MSG_WAITALL) if count else b""
    if len(data) < count:
        raise EOFError
    return data


def _gsm7(data: bytes) -> str:
    """Septets, one in an octet each, as GSM 03.38 has them."""
    octets = iter(data)
    return "".join(_EXTENDED[next(octets)] if each == _ESCAPE else _GSM7[each] for each in octets)


_ESCAPE = 0x1B
_GSM7 = (
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞ\x1bÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
_EXTENDED = {
    0x14: "^", 0x28: "{", 0x29: "}", 0x2F: "\\", 0x3C: "[", 0x3D: "~", 0x3E: "]", 0x40: "|",
    0x65: "€",
}  # fmt: skip
