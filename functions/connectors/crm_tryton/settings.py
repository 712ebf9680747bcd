"""What a deployment sets of the Tryton connector: where it is, and what a party holds."""

from __future__ import annotations

from nsps.domain.fields import Fields
from nsps.transport.address import HttpSettings
from pydantic import Field, field_validator

PHONES = ("phone", "mobile", "fax")
TYPES = (*PHONES, "email", "website", "skype", "sip", "irc", "jabber", "other")
"""The types of a contact mechanism, as Tryton names them."""


class Settings(HttpSettings):
    """Where Tryton is, and what a party holds."""

    url: str = Field(
        description="The JSON-RPC of the database, for example https://crm.example.net/crm/rpc/."
    )
    fields: dict[str, str] = Field(
        default={"name": "name"},
        description="Fields of party.party: field to source of its value, such as "
        "account_info.email (docs/connectors.md lists all).",
    )
    contacts: dict[str, str] = Field(
        default={"mobile": "msisdn", "email": "account_info.email"},
        description=f"Contact mechanisms: type to source of its value. Types: {', '.join(TYPES)}.",
    )
    contact_name: str = Field(
        default="PortaBilling",
        min_length=1,
        description="The name of the contact mechanisms that NSPS writes; it leaves others alone.",
    )
    code_prefix: str = Field(
        default="PB-",
        pattern=r"^[A-Za-z0-9.-]{1,20}$",
        description="A party's code is this and `account_info.i_account`: never change it.",
    )

    @field_validator("fields")
    @classmethod
    def _fields(cls, value: dict[str, str]) -> dict[str, str]:
        Fields.parse("fields", value)
        if taken := {"id", "code", "active", "contact_mechanisms"} & value.keys():
            raise ValueError(f"{', '.join(sorted(taken))}: not yours to set: leave it out")
        if moved := value.keys() & set(TYPES):
            raise ValueError(f"{', '.join(sorted(moved))}: write it under contacts")
        return value

    @field_validator("contacts")
    @classmethod
    def _contacts(cls, value: dict[str, str]) -> dict[str, str]:
        Fields.parse("contacts", value)
        if unknown := value.keys() - set(TYPES):
            raise ValueError(f"{', '.join(sorted(unknown))}: no type: write {', '.join(TYPES)}")
        return value
