"""The web addresses that a deployment writes for a system."""

from __future__ import annotations

from urllib.parse import urlsplit


def check_web_address(setting: str, url: str, allow_http: bool) -> None:
    """Raises ValueError, with what to write, unless it is one that may be called."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{setting}: write https://HOST[:PORT][/PATH]")
    if parts.username is not None or parts.fragment:
        raise ValueError(f"{setting}: write it without user, password and fragment")
    if parts.scheme == "http" and not allow_http:
        raise ValueError(
            f"{setting}: write https://..., or allow_http: true on a network of your own"
        )
