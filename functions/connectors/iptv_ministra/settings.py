"""What a deployment sets of the Ministra connector: where it is, which product is which tariff."""

from __future__ import annotations

import re

from nsps.connector.credentials import CredentialSettings
from nsps.domain.fields import Fields
from nsps.domain.outcome import Terminal
from nsps.transport.address import HttpSettings
from pydantic import Field, field_validator

FIELDS = ("login", "full_name", "phone", "stb_mac", "comment")
_MAC = re.compile(r"([0-9A-F]{2}:){5}[0-9A-F]{2}")


def as_mac(text: str) -> str:
    """A MAC address as Ministra keeps it, 00:1A:79:00:00:01. Raises Terminal."""
    digits = re.sub(r"[:.-]", "", text).upper()
    mac = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2))
    if not _MAC.fullmatch(mac):
        raise Terminal("stb_mac is no MAC address: correct it in PortaBilling")
    return mac


class Settings(HttpSettings):
    """Where Ministra is, and what an account gets there."""

    url: str = Field(description="The REST API v1, for example https://HOST/stalker_portal/api.")
    tariffs: dict[str, str] = Field(
        min_length=1,
        description="Product's name to the external ID of a tariff. An account of any other "
        "product has no account in Ministra.",
    )
    packages: dict[str, list[str]] = Field(
        default={},
        description="Add-on's name to the external IDs of the optional packages that it brings. "
        "Packages that are not named here are left alone.",
    )
    fields: dict[str, str] = Field(
        default={"login": "msisdn", "full_name": "name", "phone": "msisdn"},
        description=f"What else an account holds: field to source; fields: {', '.join(FIELDS)}.",
    )
    credentials: CredentialSettings | None = Field(
        default=None,
        description="Where each subscriber's password is looked up, {source: portabilling} or "
        "{source: secret_manager, name: tv-{i_account}} or {source: http, url}; passwords are "
        "left alone without it.",
    )

    @field_validator("tariffs")
    @classmethod
    def _tariffs(cls, value: dict[str, str]) -> dict[str, str]:
        if empty := [product for product, tariff in value.items() if not tariff]:
            raise ValueError(f"{empty[0]}: write the external ID of a tariff")
        return value

    @field_validator("fields")
    @classmethod
    def _fields(cls, value: dict[str, str]) -> dict[str, str]:
        Fields.parse("fields", value)
        if unknown := value.keys() - set(FIELDS):
            raise ValueError(f"{', '.join(sorted(unknown))}: write one of {', '.join(FIELDS)}")
        if "login" not in value:
            raise ValueError("login: missing: Ministra needs one, such as login: msisdn")
        return value
