"""The connector's address: the only one to which anything is sent."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urljoin, urlsplit

from nsps_local.certify.case import Target


class CannotCertify(Exception):
    """Why it cannot be tried, and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """``paths``: where each target is, on the one host. ``tls``: None for http."""

    host: str
    port: int
    paths: dict[Target, str]
    tls: ssl.SSLContext | None

    @classmethod
    def of(cls, url: str, health: str | None = None, ca: Path | None = None) -> Self:
        """Raises CannotCertify. ``health``: a path or URL on the same host.

        ``ca``: a file of the authority that signed the connector's certificate, in PEM.
        """
        scheme, host, port, path = _context(url)
        page = urljoin(url, health or "health")
        if _context(page)[:3] != (scheme, host, port):
            raise CannotCertify(f"--health {health}: is on another host than {url}; name a path")
        unknown = f"{path.rstrip('/')}/certify-no-such-resource"
        paths = {Target.SERVICE: path, Target.HEALTH: _context(page)[3], Target.UNKNOWN: unknown}
        return cls(host, port, paths, _tls(ca) if scheme == "https" else None)

    def url(self, target: Target) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.tls else ''}://{host}:{self.port}{self.paths[target]}"

    def connect(self, seconds: float) -> http.client.HTTPConnection:
        """A connection, not yet made. No proxy of the environment is used."""
        if self.tls is None:
            return http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        return http.client.HTTPSConnection(self.host, self.port, timeout=seconds, context=self.tls)


def _tls(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise CannotCertify(f"--ca {ca}: no certificates in PEM form: {error}") from None


def _context(url: str) -> tuple[str, str, int, str]:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if host is None or parts.scheme not in ("http", "https"):
        raise CannotCertify(f"{url}: write http[s]://HOST[:PORT][/PATH]")
    if parts.username is not None or parts.fragment:
        raise CannotCertify("write the URL without user, password and fragment; see --token")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    if not path.isascii() or " " in path:
        raise CannotCertify(f"{url}: write what is not ASCII, or a space, as %XX")
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path
