"""CoA-Request and Disconnect-Request to a RADIUS client (RFC 5176): a live session is changed, or
ended.

    radius = RadiusClient(dictionary)
    nas = Nas("192.0.2.1", 3799, context.secret("coa_secret"))
    radius.disconnect(nas, {"User-Name": "alice", "Acct-Session-Id": "4F2"}, call.deadline)

Packets are pyrad's. A request is sent again, unchanged, until an answer comes or the deadline is
over. Each message names packet and address, and shows neither a secret nor an attribute's value.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from pyrad.dictionary import Dictionary
from pyrad.packet import CoAPacket, CoARequest, DisconnectRequest, PacketError

from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unclear, Unreachable
from nsps.runtime.secrets import SecretValue
from nsps.transport.connection import reason_of, resolve
from nsps.transport.deadline import Deadline

DYNAMIC_AUTHORIZATION_PORT = 3799
_MAX_PACKET = 4096
_MAX_WAIT = 16.0  # RFC 5080, section 2.2.1: no longer between two transmissions
_EVENT_TIMESTAMP, _ERROR_CAUSE = 55, 101
_NAMES = {CoARequest: "CoA-Request", DisconnectRequest: "Disconnect-Request"}

Attributes = Mapping[str, str | int | Sequence[str | int]]
"""Attribute -> value as the dictionary's type wants it, or several."""


@dataclass(frozen=True, slots=True)
class Nas:
    """Where a RADIUS client takes CoA and Disconnect, and the secret that it shares with us."""

    host: str
    port: int
    secret: SecretValue


@dataclass(frozen=True, slots=True)
class _Cause:
    """What an Error-Cause of a NAK means. ``hint``: what an operator looks at."""

    name: str
    hint: str = ""
    final: bool = False  # the same request will never be taken


# 503: the NAS has no such session (any more). 507: it asks the RADIUS server anew, by itself.
_NOTHING_TO_DO = (503, 507)
# RFC 5176, section 3.5. What an operator can correct is tried again.
_CAUSES: Mapping[int, _Cause] = {
    401: _Cause("Unsupported Attribute", "the NAS does not take one of the attributes"),
    402: _Cause("Missing Attribute", "the NAS identifies its sessions by another attribute"),
    403: _Cause("NAS Identification Mismatch", "another NAS answers at this address"),
    404: _Cause("Invalid Request", final=True),
    405: _Cause("Unsupported Service", final=True),
    406: _Cause("Unsupported Extension", "the NAS, or a proxy, does not take this kind of request"),
    407: _Cause("Invalid Attribute Value", final=True),
    501: _Cause("Administratively Prohibited", "the NAS's configuration forbids it"),
    502: _Cause("Request Not Routable", "the proxy knows no way to the NAS"),
    504: _Cause("Session Context Not Removable"),
    505: _Cause("Other Proxy Processing Error"),
    506: _Cause("Resources Unavailable"),
    508: _Cause("Multiple Session Selection Unsupported", "the attributes fit several sessions"),
}


class RadiusClient:
    """Sends CoA and Disconnect; each request has a socket of its own, so threads may share it.

    ``dictionary``: the attributes that are sent. ``first_wait``: seconds until the request is sent
    again for the first time; each further wait is twice as long.
    """

    def __init__(self, dictionary: Dictionary, *, first_wait: float = 1.0) -> None:
        self._dictionary = dictionary
        self._first_wait = first_wait

    def change(self, nas: Nas, attributes: Attributes, deadline: Deadline) -> bool:
        """Let a session have these attributes from now on (CoA-Request).

        ``attributes``: what identifies the session, and what is to hold for it. Returns whether the
        NAS has such a session. Raises Transient, Terminal (both: nothing was changed), NoAnswer.
        """
        return self._request(CoARequest, nas, attributes, deadline)

    def disconnect(self, nas: Nas, attributes: Attributes, deadline: Deadline) -> bool:
        """End a session (Disconnect-Request); otherwise as ``change``."""
        return self._request(DisconnectRequest, nas, attributes, deadline)

    def _request(self, code: int, nas: Nas, attributes: Attributes, deadline: Deadline) -> bool:
        where = f"RADIUS {_NAMES[code]} to {nas.host}:{nas.port}"
        packet = self._packet(code, nas, attributes, where)
        with _socket(nas, where, deadline) as link:
            reply = self._exchange(packet, link, where, deadline)
        if reply.code == code + 1:  # the ACK
            return True
        if reply.code != code + 2:  # the NAK
            raise Unclear(f"{where}: answered by a packet of code {reply.code}: no ACK, no NAK")
        return _read_nak(reply, where)

    def _packet(self, code: int, nas: Nas, attributes: Attributes, where: str) -> CoAPacket:
        secret = nas.secret.reveal().encode()
        if not secret:
            raise Transient(f"{where}: the shared secret is empty: correct it; nothing was sent")
        packet = CoAPacket(code=code, secret=secret, dict=self._dictionary)
        packet.id = packet.CreateID()
        packet.add_message_authenticator()
        packet[_EVENT_TIMESTAMP] = [struct.pack("!I", int(time.time()))]  # against replays
        for name, value in attributes.items():
            try:
                packet.AddAttribute(name, value)
                packet.RequestPacket()  # an attribute that is too long is noticed only here
            except KeyError:
                raise Terminal(f"{where}: the dictionary has no attribute {name}") from None
            except (ValueError, TypeError, struct.error):
                kind = self._dictionary[name].type
                raise Terminal(
                    f"{where}: {name} does not take its value: it is no {kind}"
                ) from None
        return packet

    def _exchange(
        self, packet: CoAPacket, link: socket.socket, where: str, deadline: Deadline
    ) -> CoAPacket:
        """Send the request until its answer comes: the same bytes from the same port each time, so
        that a NAS which has acted already recognises it, and only answers again."""
        data = packet.RequestPacket()
        if len(data) > _MAX_PACKET:
            raise Terminal(f"{where}: {len(data)} bytes of attributes do not fit into a packet")
        wait, once, forged = self._first_wait, True, False
        while not deadline.expired:
            try:
                link.send(data)
                for raw in _received(link, deadline.at_most(wait)):
                    reply = _verified(packet, raw)
                    if reply is not None:
                        return reply
                    forged = True
            except OSError as error:
                if once:  # the network reports that the NAS did not get it
                    raise Unreachable(f"{where}: {reason_of(error)}; nothing was sent") from None
                raise NoAnswer(f"{where}: {reason_of(error)}") from None
            wait, once = min(2 * wait, _MAX_WAIT), False
        hint = "; what came is not signed with the shared secret: compare it with the NAS's"
        raise NoAnswer(f"{where}: no answer within {deadline.seconds:g} s{hint if forged else ''}")


def _socket(nas: Nas, where: str, deadline: Deadline) -> socket.socket:
    """A UDP socket that takes datagrams of the NAS's address alone."""
    if deadline.expired:
        raise Transient(f"{where}: no time left for the request; nothing was sent")
    try:
        family, _, _, _, address = resolve(nas.host, nas.port, deadline.time_left())[0]
        link = socket.socket(family, socket.SOCK_DGRAM)
        try:
            link.connect(address)
        except BaseException:
            link.close()
            raise
    except OSError as error:
        raise Unreachable(f"{where}: {reason_of(error)}; nothing was sent") from None
    return link


def _received(link: socket.socket, until: Deadline) -> Iterator[bytes]:
    """The datagrams that come by then."""
    while not until.expired:
        link.settimeout(until.remaining() or 0.001)
        try:
            yield link.recv(_MAX_PACKET)
        except TimeoutError:
            return


def _verified(packet: CoAPacket, raw: bytes) -> CoAPacket | None:
    """The answer to the request; None if it is none, or is not signed with the secret."""
    try:
        reply = packet.CreateReply(packet=raw)
        return reply if packet.VerifyReply(reply, raw) else None
    except (PacketError, ValueError, struct.error):
        return None


def _read_nak(reply: CoAPacket, where: str) -> bool:
    """False: there is no such session (any more). Raises what another NAK means."""
    given = reply.get(_ERROR_CAUSE, [b""])[0]
    number = int.from_bytes(given) if len(given) == 4 else 0
    if number in _NOTHING_TO_DO:
        return False
    cause = _CAUSES.get(number, _Cause("no cause that is known"))
    hint = f": {cause.hint}" if cause.hint else ""
    text = f"{where}: refused, Error-Cause {number} ({cause.name}){hint}"
    raise Terminal(text) if cause.final else Transient(text)
