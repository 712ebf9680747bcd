"""A mail: its recipients, and its form on the wire."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from email.policy import SMTPUTF8 as SMTPUTF8_POLICY
from email.utils import formatdate

import idna
from nsps.domain.outcome import Terminal
from nsps.transport.smtp import CONTROL, Envelope

_LOCAL = re.compile(r"[^\s@<>()\[\],;:\\\"]{1,64}")


@dataclass(frozen=True, slots=True)
class Mail:
    """What is to be sent; ``to`` are addresses as they go on the wire."""

    to: tuple[str, ...]
    subject: str
    text: str

    def envelope(self, sender: Address, name: str, return_path: str) -> Envelope:
        """``name``: the same for each repetition, which so has the same Message-ID."""
        international = not all(address.isascii() for address in self.to)
        policy = SMTPUTF8_POLICY if international else SMTP_POLICY.clone(cte_type="7bit")
        message = EmailMessage(policy=policy)
        message["From"] = sender
        message["To"] = [mailbox(address) for address in self.to]
        message["Subject"] = self.subject
        message["Date"] = formatdate(localtime=False)
        message["Message-ID"] = f"<{name}@{sender.domain}>"
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(self.text)
        return Envelope(return_path, self.to, message.as_bytes())


def mailbox(text: str) -> Address:
    """``Name <local@domain>`` or ``local@domain``, its domain in IDNA form. Raises ValueError."""
    if CONTROL.search(text):
        raise ValueError("an e-mail address holds a control character")
    match = re.fullmatch(r"\s*(?:(?P<name>[^<>]*?)\s*<(?P<in>[^<>]+)>|(?P<bare>[^<>]+?))\s*", text)
    spec = (match["in"] or match["bare"]).strip() if match else ""
    local, at, domain = spec.rpartition("@")
    if not (match and at and _LOCAL.fullmatch(local)):
        raise ValueError("not an e-mail address: write local@domain or Name <local@domain>")
    name = (match["name"] or "").strip().strip('"')
    return Address(display_name=name, username=local, domain=_wire_domain(domain))


def recipients(rendered: str) -> tuple[str, ...]:
    """The addresses in the rendered ``to``, commas or semicolons between them; () if none.

    Raises Terminal if one of them is not an address.
    """
    found = (part for part in re.split(r"[,;]", rendered) if part.strip())
    try:
        return tuple(dict.fromkeys(mailbox(part).addr_spec for part in found))
    except ValueError as error:
        raise Terminal(f"the recipient is {error}; correct it in PortaBilling") from None


def masked(to: tuple[str, ...]) -> str:
    """Addresses for the history: enough to recognise one, not enough to write to."""
    first = f"{to[0][:1]}***@{to[0].rpartition('@')[2]}"
    return first if len(to) == 1 else f"{first} and {len(to) - 1} more"


def _wire_domain(domain: str) -> str:
    if domain.isascii():
        if not re.fullmatch(r"[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?", domain):
            raise ValueError("the domain of an e-mail address is not one")
        return domain
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError:
        raise ValueError("the domain of an e-mail address is not one") from None
