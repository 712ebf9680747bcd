"""The web addresses that a deployment writes for a system."""

from __future__ import annotations

from typing import Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator


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


class HttpSettings(BaseModel):
    """Settings of a connector whose system is called at ``url``.

    A connector's own settings inherit them, describe ``url`` and check further addresses alike.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    url: str
    allow_http: bool = Field(
        default=False,
        description="Whether addresses may be http, without TLS; only on a network of your own.",
    )

    @model_validator(mode="after")
    def _url_is_an_address(self) -> Self:
        check_web_address("url", self.url, self.allow_http)
        return self
