"""What a deployment sets of the PyHSS connector: where it is, and what a subscriber gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from nsps.connector.credentials import SimKeySettings
from nsps.domain.fields import Fields
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

GIVEN = ("default_apn", "apn_list", "ue_ambr_dl", "ue_ambr_ul")
"""The fields of a subscriber that the settings give."""
_APNS = r"^[1-9][0-9]*(,[1-9][0-9]*)*$"


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Plan(_Model):
    """What the subscribers of a plan get; what it leaves out is as for all others."""

    default_apn: int | None = Field(default=None, ge=1, description="As the setting default_apn.")
    apn_list: str | None = Field(
        default=None, pattern=_APNS, description="As the setting apn_list."
    )
    ue_ambr_dl: int | None = Field(default=None, ge=0, description="As the setting ue_ambr_dl.")
    ue_ambr_ul: int | None = Field(default=None, ge=0, description="As the setting ue_ambr_ul.")


class Quota(_Model):
    """The counter of a volume discount plan, and the plan that holds when nothing is left."""

    service: str = Field(description="The counter's `service_name`.")
    group: str | None = Field(
        default=None, description="Its `dg_name`; of all destination groups together unless given."
    )
    plan: str = Field(description="The one of plans that holds while nothing is left.")


class Ims(_Model):
    """The IMS subscriber of each served subscriber with a number."""

    ifc_path: str = Field(
        min_length=1,
        description="Its `ifc_path`, the template of its initial filter criteria: default_ifc.xml.",
    )


class Settings(_Model):
    """Where PyHSS is, and what a subscriber gets."""

    url: str = Field(
        pattern=r"^https?://[^\s?#]+$",
        description="Base address of PyHSS's API, for example http://hss.example.net:8080.",
    )
    default_apn: int = Field(
        ge=1, description="The `apn_id` of the default APN, unless the plan gives another."
    )
    apn_list: str = Field(
        pattern=_APNS,
        description="The `apn_id` of each APN that a subscriber may use, with commas: `1,2`; "
        "unless the plan gives others.",
    )
    ue_ambr_dl: int = Field(
        ge=0, description="A subscriber's `ue_ambr_dl`, as PyHSS has it, unless the plan gives it."
    )
    ue_ambr_ul: int = Field(
        ge=0, description="A subscriber's `ue_ambr_ul`, as PyHSS has it, unless the plan gives it."
    )
    plan: str = Field(
        default="product_info.name",
        description="The source that chooses a plan, for example policy.eps_profile.",
    )
    plans: dict[str, Plan] = Field(
        default={},
        description="Value of plan to what its subscribers get instead, each of default_apn, "
        'apn_list, ue_ambr_dl and ue_ambr_ul: {Gold: {default_apn: 2, apn_list: "2"}}. Charging '
        "rules come with the APN, and are pushed into live sessions (Gx RAR).",
    )
    quota: Quota | None = Field(
        default=None,
        description="Which counter of full_vd_counter_info limits the subscriber, and the plan "
        "that holds when nothing is left: {service: Internet Access, plan: Slow}.",
    )
    ims: Ims | None = Field(
        default=None,
        description="IMS subscribers are written, too: {ifc_path: default_ifc.xml}; unless given, "
        "they are left alone.",
    )
    credentials: SimKeySettings | None = Field(
        default=None,
        description="Where each SIM's keys are looked up, {source: secret_manager, name: "
        "sim-{imsi}} or {source: http, url}; the secret auc holds them without it.",
    )

    @field_validator("plan")
    @classmethod
    def _source(cls, value: str) -> str:
        Fields.parse("plan", {"plan": value})
        return value

    @model_validator(mode="after")
    def _quota_s_plan(self) -> Self:
        if self.quota is not None and self.quota.plan not in self.plans:
            raise ValueError(f"quota.plan: plans has no {self.quota.plan}: add it")
        return self

    def given(self, plan: str | None) -> dict[str, Any]:
        """``GIVEN`` for a subscriber of the plan, or of none that ``plans`` has."""
        usual = {name: getattr(self, name) for name in GIVEN}
        own = self.plans.get(plan) if plan is not None else None
        return usual if own is None else {**usual, **own.model_dump(exclude_none=True)}

    def apns(self) -> Iterator[int]:
        """The ids of all APNs that a subscriber may have, or may have had."""
        for plan in (None, *self.plans):
            yield from apns_of(self.given(plan))


def apns_of(given: Mapping[str, Any]) -> set[int]:
    """The ids of the APNs of a subscriber."""
    return {given["default_apn"], *map(int, given["apn_list"].split(","))}
