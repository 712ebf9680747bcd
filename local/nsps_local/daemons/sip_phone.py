"""A SIP phone, as far as it registers: REGISTER over UDP with a digest (RFC 3261, RFC 2617)."""

from __future__ import annotations

import hashlib
import re
import socket
import uuid
from dataclasses import dataclass


@dataclass(frozen=True)
class Phone:
    """A phone that knows one password. ``registrar``: host and UDP port."""

    registrar: tuple[str, int]
    user: str
    domain: str
    password: str

    def register(self) -> int:
        """The registrar's last word: 200, or 401, 403 although the password was shown."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as link:
            link.connect(self.registrar)
            first, call = self._message(link, 1), uuid.uuid4().hex
            answer = _answer(link, first.format(call=call, credentials=""))
            if _status(answer) != 401:
                return _status(answer)
            shown = self._message(link, 2).format(call=call, credentials=self._digest(answer))
            return _status(_answer(link, shown))

    def _message(self, link: socket.socket, number: int) -> str:
        host, port = link.getsockname()
        address = f"<sip:{self.user}@{self.domain}>"
        lines = [
            f"REGISTER sip:{self.domain} SIP/2.0",
            f"Via: SIP/2.0/UDP {host}:{port};branch=z9hG4bK{uuid.uuid4().hex}",
            f"From: {address};tag={uuid.uuid4().hex}",
            f"To: {address}",
            "Call-ID: {call}",
            f"CSeq: {number} REGISTER",
            f"Contact: <sip:{self.user}@{host}:{port}>",
            "Max-Forwards: 70",
            "Expires: 600",
            "{credentials}Content-Length: 0",
        ]
        return "\r\n".join([*lines, "", ""])

    def _digest(self, challenge: str) -> str:
        asked = dict(re.findall(r'(realm|nonce)="([^"]*)"', challenge))
        uri = f"sip:{self.domain}"
        ha1 = _md5(f"{self.user}:{asked['realm']}:{self.password}")
        response = _md5(f"{ha1}:{asked['nonce']}:{_md5(f'REGISTER:{uri}')}")
        return (
            f'Authorization: Digest username="{self.user}", realm="{asked["realm"]}", '
            f'nonce="{asked["nonce"]}", uri="{uri}", response="{response}"\r\n'
        )


def _answer(link: socket.socket, message: str) -> str:
    """The final answer; the message is sent again as UDP demands."""
    link.settimeout(0.5)
    for _ in range(20):
        link.send(message.encode())
        try:
            answer = link.recv(65536).decode()
            while _status(answer) < 200:
                answer = link.recv(65536).decode()
        except (TimeoutError, ConnectionRefusedError):
            continue
        return answer
    raise AssertionError("the registrar does not answer")


def _status(answer: str) -> int:
    return int(answer.split(" ", 2)[1])


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()
