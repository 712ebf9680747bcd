"""TCP connections that are made and read in time, for HTTP, framed protocols and SMTP.

``time_left`` stands for the deadline of the call: seconds left, or TimeoutError when it is over.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

from urllib3.util.connection import allowed_gai_family

from nsps.domain.outcome import Transient
from nsps.transport.tls import refusal

MAX_MESSAGE_BYTES = 1_000_000
_CHUNK = 65_536

TimeLeft = Callable[[], float]
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

# Outside of the link-local networks: Google's and Amazon's over IPv6.
_METADATA_SERVERS = (
    ipaddress.ip_address("fd20:ce::254"),
    ipaddress.ip_address("fd00:ec2::254"),
)


class AddressRefused(Transient):
    """The host is at an address that is never called; nothing was sent."""


def resolve(host: str, port: int, timeout: float, *, metadata_server: bool = False) -> list[Any]:
    """The addresses of a host, looked up within ``timeout`` seconds.

    Link-local addresses are left out: the metadata servers of clouds, which hand out credentials,
    are there, and no system that NSPS is to call (decision 21). Raises OSError, AddressRefused.
    """
    found = _look_up(host, port, timeout)
    allowed = [each for each in found if metadata_server or _may_be_called(each[4][0])]
    if found and not allowed:
        raise AddressRefused(
            f"{host} is at {found[0][4][0]}, an address for a cloud's metadata server, which is "
            "never called: correct the host in the handler's settings; nothing was sent"
        )
    return allowed


def _may_be_called(address: str) -> bool:
    ip = _ipv4_inside(ipaddress.ip_address(address.partition("%")[0]))
    return not ip.is_link_local and ip not in _METADATA_SERVERS


def _ipv4_inside(ip: IpAddress) -> IpAddress:
    """The IPv4 address inside an IPv6 one (mapped, NAT64, 6to4), or the address itself."""
    if isinstance(ip, ipaddress.IPv4Address):
        return ip
    if ip in ipaddress.ip_network("64:ff9b::/96"):
        return ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    return ip.ipv4_mapped or ip.sixtofour or ip


def _look_up(host: str, port: int, timeout: float) -> list[Any]:
    """socket.getaddrinfo, which knows no time-out, for at most ``timeout`` seconds."""
    try:
        ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    else:
        return socket.getaddrinfo(host, port, 0, socket.SOCK_STREAM)
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.append(socket.getaddrinfo(host, port, allowed_gai_family(), socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            found.append(error)

    thread = threading.Thread(target=look_up, name="look-up", daemon=True)
    thread.start()
    thread.join(timeout)
    if not found:
        raise TimeoutError("timed out looking up the name")
    if isinstance(found[0], Exception):
        raise socket.gaierror("the name is not known") from found[0]
    return list(found[0])


def connect(addresses: Iterable[Any], time_left: TimeLeft, options: Any = ()) -> socket.socket:
    """Connect to the first of the addresses (as ``resolve`` gives them) that answers.

    Raises OSError; for want of addresses, too.
    """
    failure: OSError = OSError("the name has no address")
    for family, kind, protocol, _, address in addresses:
        connection = socket.socket(family, kind, protocol)
        try:
            for option in options or ():
                connection.setsockopt(*option)
            connection.settimeout(time_left())
            connection.connect(address)
            return connection
        except OSError as error:
            connection.close()
            failure = error
    raise failure


def reason_of(error: Exception) -> str:
    """Why a connection failed, for operators."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {refusal(error) or f'failed ({error.reason or type(error).__name__})'}"
    if isinstance(error, socket.gaierror):
        return "the name is not known"
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, OSError):
        return (error.strerror or str(error) or type(error).__name__).lower()
    return type(error).__name__


class Connection:
    """The reading and writing side of a connected socket, plain or TLS, for one user at a time."""

    def __init__(self, sock: socket.socket, time_left: TimeLeft) -> None:
        self._sock = sock
        self._buffer = bytearray()
        self.time_left = time_left
        """Of the call that uses the connection now."""

    def send(self, data: bytes) -> None:
        """Raises OSError (TimeoutError when no time is left)."""
        self._sock.settimeout(self.time_left())
        self._sock.sendall(data)

    def exactly(self, count: int) -> bytes:
        """The next ``count`` bytes. Raises OSError: there are fewer, or it is no sensible count."""
        if not 0 <= count <= MAX_MESSAGE_BYTES:
            raise ConnectionError(f"a message of {count} bytes: not this protocol, or not well")
        while len(self._buffer) < count:
            if not self._receive():
                raise ConnectionError("closed by the other side")
        return self._take(count)

    def readline(self, limit: int) -> bytes:
        """The next line, cut off at ``limit`` bytes; empty if the other side closed before its end.

        Raises OSError.
        """
        while b"\n" not in self._buffer and len(self._buffer) < limit:
            if not self._receive():
                return b""  # half a line is no line
        end = self._buffer.find(b"\n") + 1 or limit
        return self._take(min(end, limit))

    def is_open(self) -> bool:
        """Whether the other side keeps the connection; what it sent meanwhile is read later."""
        self._sock.settimeout(0)
        while len(self._buffer) < _CHUNK:  # who sends so much without being asked is not well
            try:
                data = self._sock.recv(_CHUNK)
            except (BlockingIOError, ssl.SSLWantReadError):
                return True
            except OSError:
                return False
            if not data:
                return False
            self._buffer += data
        return False

    def close(self) -> None:
        """Never raises."""
        self._sock.close()

    def _receive(self) -> bool:
        """Wait for more; False if the other side closed."""
        self._sock.settimeout(self.time_left())
        data = self._sock.recv(_CHUNK)
        self._buffer += data
        return bool(data)

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken
