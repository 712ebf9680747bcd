"""What a deployment can say of its order manager."""

from __future__ import annotations

from typing import Literal

from nsps.connector.base import AnswerState, AuthenticationKind
from nsps.connector.proof import ProofKind
from nsps.domain.fields import Fields
from nsps.transport.address import HttpSettings
from pydantic import Field, field_validator

from .notifications import letters

CHARACTERISTICS = {
    "imsi": "imsi",
    "iccid": "sim_info.iccid",
    "msisdn": "msisdn",
    "serviceGranted": "service_granted",
    "csProfile": "access_policy_info.attributes.cs_profile.value",
    "epsProfile": "access_policy_info.attributes.eps_profile.value",
}


class Settings(HttpSettings):
    url: str = Field(
        description="The order manager: for tmf641 what stands before /tmf-api, for plain the "
        "whole address that orders are POSTed to.",
    )
    profile: Literal["tmf641", "plain"] = Field(
        default="tmf641", description="How orders are written and answers read."
    )
    ordering_path: str = Field(
        default="/tmf-api/serviceOrdering/v4",
        description="Where the service ordering API begins, below url (tmf641).",
    )
    resource: Literal["sim", "account"] = Field(
        default="sim",
        description="What one service is: sim, the SIM card of an account (by IMSI); account, "
        "the account.",
    )
    characteristics: dict[str, str] = Field(
        default_factory=lambda: dict(CHARACTERISTICS),
        description="Service characteristic to source of its value, such as sim_info.iccid, "
        "policy.cs_profile, msisdn or service_granted (docs/connectors.md lists all); a list is "
        "sent whole.",
    )
    service_type: str | None = Field(
        default=None,
        description="serviceType of every order, if the order manager tells services apart by it.",
    )
    service_specification: str | None = Field(
        default=None, description="Id of the service specification that every order names."
    )
    category: str | None = Field(default=None, description="Category of every order.")
    priority: str | None = Field(
        default=None, description="Priority of every order, 0 (highest) to 4."
    )
    look_first: bool = Field(
        default=True,
        description="Whether to look for an order of ours before making it, so that a lost "
        "answer never makes two (tmf641).",
    )
    states: dict[str, AnswerState] = Field(
        default_factory=dict,
        description="Words of this order manager that are not in the standard, to progress, done "
        "or failed.",
    )
    authentication: AuthenticationKind = Field(
        default="bearer",
        description="How we prove ourselves to the order manager, with the secret credentials.",
    )
    callback_authentication: ProofKind = Field(
        default="bearer",
        description="How the order manager proves itself to us, with the secret callback; "
        "signature: X-Signature: sha256=HEX, the HMAC-SHA256 of the body.",
    )

    @field_validator("characteristics")
    @classmethod
    def _paths(cls, paths: dict[str, str]) -> dict[str, str]:
        Fields.parse("characteristics", paths, lists=True)
        return paths

    @field_validator("states")
    @classmethod
    def _words(cls, states: dict[str, AnswerState]) -> dict[str, AnswerState]:
        return {letters(word): state for word, state in states.items()}

    @property
    def sources(self) -> Fields:
        """Where the characteristics come from."""
        return Fields.parse("characteristics", self.characteristics, lists=True)

    @property
    def orders_url(self) -> str:
        """Where orders are placed and looked for."""
        if self.profile == "plain":
            return self.url
        parts = (self.url.rstrip("/"), self.ordering_path.strip("/"), "serviceOrder")
        return "/".join(part for part in parts if part)
