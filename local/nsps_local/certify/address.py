"""The connector's address: the only one to which anything is sent."""

from __future__ import annotations

import http.client
import ssl
from dataclasses import dataclass
from typing import Self
from urllib.parse import urljoin, urlsplit

from nsps_local.certify.case import Target


class CannotCertify(Exception):
    """Why it cannot be tried, and what to do."""


@dataclass(frozen=True, slots=True)
class Address:
    """``paths``: where each target is, on the one host."""

    scheme: str
    host: str
    port: int
    paths: dict[Target, str]

    @classmethod
    def of(cls, url: str, health: str | None = None) -> Self:
        """Raises CannotCertify. ``health``: a path or URL on the same host."""
        scheme, host, port, path = _context(url)
        page = urljoin(url, health or "health")
        if _context(page)[:3] != (scheme, host, port):
            raise CannotCertify(f"--health {health}: is on another host than {url}; name a path")
        unknown = f"{path.rstrip('/')}/certify-no-such-resource"
        return cls(
            scheme,
            host,
            port,
            {Target.SERVICE: path, Target.HEALTH: _context(page)[3], Target.UNKNOWN: unknown},
        )

    def url(self, target: Target) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.paths[target]}"

    def connect(self, seconds: float, ca: str | None) -> http.client.HTTPConnection:
        """A connection, not yet made. No proxy of the environment is used."""
        if self.scheme == "http":
            return http.client.HTTPConnection(self.host, self.port, timeout=seconds)
        context = ssl.create_default_context(cafile=ca)
        return http.client.HTTPSConnection(self.host, self.port, timeout=seconds, context=context)


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
    return parts.scheme, host, port or (443 if parts.scheme == "https" else 80), path
