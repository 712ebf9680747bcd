"""Mail that comes back: each mail has a return path of its own, by which its bounce is found.

(RFC 3464 for a delivery status notification; it is addressed to the return path of the mail.)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from email import message_from_bytes
from email.message import Message

from nsps.connector.base import AnswerState
from nsps.runtime.redact import shortened

LOCAL_MAX = 15
"""Characters of the mailbox's local part: with ``+`` and the two of ``_HALF`` it must fit in 64."""
_HALF = 24
_TAG = re.compile(rf"\+([0-9a-f]{{{_HALF}}})([0-9a-f]{{{_HALF}}})@")
_ADDRESS = re.compile(r"[^\s<>,;:]+@[^\s<>,;:]+")
_TEXT_MAX = 300


@dataclass(frozen=True, slots=True)
class Bounce:
    """What a notification says of the mail of this name; ``proof`` stood beside the name."""

    name: str
    proof: str
    state: AnswerState
    text: str


def name(long: str) -> str:
    """As much of a name as a return path has room for."""
    return long[:_HALF]


def return_path(mailbox: str, name: str, proof: str) -> str:
    local, _, domain = mailbox.rpartition("@")
    return f"{local}+{name}{proof}@{domain}"


def read(mail: bytes) -> Bounce | None:
    """The notification in a mail; None if it is another mail, or about none of ours."""
    message = message_from_bytes(mail)
    tag = _TAG.search(" ".join(map(str, message.get_all("To", []))).lower())
    recipients = list(_recipients(message))
    if tag is None or not recipients:
        return None
    failed = next((each for each in recipients if _field(each, "Action").lower() == "failed"), None)
    named = failed or recipients[0]
    words = f"{_field(named, 'Status')} {_field(named, 'Diagnostic-Code')}"
    if failed is None:  # delayed, or news of a mail on its way
        return Bounce(tag[1], tag[2], AnswerState.PROGRESS, _shown(words))
    return Bounce(tag[1], tag[2], AnswerState.FAILED, f"the mail came back: {_shown(words)}")


def _recipients(message: Message) -> Iterator[Message]:
    """The fields of each recipient; those of the whole message stand before them."""
    for part in message.walk():
        blocks = part.get_payload()
        if part.get_content_type() == "message/delivery-status" and isinstance(blocks, list):
            yield from (each for each in blocks if isinstance(each, Message) and each["Action"])


def _field(block: Message, name: str) -> str:
    return str(block.get(name, "")).strip()


def _shown(words: str) -> str:
    """In one line, without addresses."""
    return shortened(" ".join(_ADDRESS.sub("(address)", words).split()), _TEXT_MAX)
