"""WTL HLR/HSS: subscribers over its provisioning API, one per IMSI.

A resource's key is the IMSI. Its state: ``msisdn`` (a list of at most one number),
``subscriber_status``, ``cs_profile`` and ``eps_profile``, as the API takes them. The API writes and
cannot be asked, so each change is the whole subscriber. (Source: PortaOne docs, sample HSS
connector.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.domain.outcome import Terminal
from nsps.domain.snapshot import PbData
from nsps.domain.subscriber import is_open, is_served, msisdn
from nsps.transport.address import HttpSettings
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps.transport.rest import Rest
from pydantic import Field

GRANTED, BARRED = "serviceGranted", "operatorDeterminedBarring"
PROFILES = ("cs_profile", "eps_profile")
_IMSI = re.compile(r"[0-9]{15}")
_PROFILE = r"^[a-zA-Z][-_.a-zA-Z0-9]*$"

_REFUSED = {"status": "2xx", "member": "result", "equals": False}
ANSWERS = (
    AnswerRule(Meaning.REFUSED, **_REFUSED),
    AnswerRule(Meaning.DONE, status="2xx", member="result", equals=True),
    AnswerRule(Meaning.UNCLEAR, status="2xx", hint="no result in it: is the address the API's?"),
    AnswerRule(Meaning.LATER, status="404,410", hint="is the address the API's?"),
    AnswerRule(Meaning.LATER, status="409"),
)
# No request of the API is harmless, so the address alone is asked: it takes nothing but POST.
HEALTH = (AnswerRule(Meaning.DONE, status="2xx,400,404,405"),)


class Settings(HttpSettings):
    """Where the API is, and what a subscriber gets whose access policy does not say."""

    url: str = Field(description="The API's base, like https://HOST/wtl/hlr/v1; POSTs go to /prov.")
    cs_profile: str = Field(
        pattern=_PROFILE, description="The voice profile of a subscriber without policy.cs_profile."
    )
    eps_profile: str = Field(
        pattern=_PROFILE, description="The data profile of a subscriber without policy.eps_profile."
    )
    temporary_errors: list[str] = Field(
        default=[],
        description="Texts in a refusal (result false) after which it is tried again; every other "
        "refusal is final.",
    )


class WtlHss(StateConnector[Settings]):
    """Subscribers of a WTL HLR/HSS."""

    settings_model = Settings
    readable = False
    shows_requests = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        later = (
            AnswerRule(Meaning.LATER, **_REFUSED, text=text) for text in settings.temporary_errors
        )
        rules = AnswerRules(ANSWERS).before(later)
        self._api = Rest(context.http, settings.url, context.secret_header("token"), rules)

    def check(self, call: Call) -> None:
        self._api.request("GET", "prov", call, rules=HEALTH).is_done()

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One subscriber: the account's SIM. None without an account or without a SIM.

        An account that is not open gives its number back; an open one keeps it while it is barred.
        """
        account, sim = event.pb.account_info, event.pb.sim_info
        if account is None or sim is None or not (sim.imsi or sim.iccid or sim.i_sim_card):
            return {}
        imsi = sim.imsi or ""
        if not _IMSI.fullmatch(imsi):
            raise Terminal("sim_info.imsi is not an IMSI of 15 digits: correct the SIM card")
        number = msisdn(event.pb) if is_open(account) else None
        profiles = {name: self._profile(event.pb, name) for name in PROFILES}
        return {imsi: _state(number, served=is_served(account), profiles=profiles)}

    def create(self, key: str, state: State, call: Call) -> None:
        body = {"action": "update", "imsi": key, **state}
        # The same subscriber twice is one subscriber.
        self._api.request("POST", "prov", call, body=body, repeatable=True).is_done()

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        self.create(key, state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        """The API has no removal: the subscriber is barred, without a number."""
        profiles = {name: getattr(self.settings, name) for name in PROFILES}
        self.create(key, _state(None, served=False, profiles=profiles), call)

    def _profile(self, pb: PbData, name: str) -> str:
        given = pb.access_policy_info.value(name) if pb.access_policy_info else None
        profile: str = given or getattr(self.settings, name)
        if not re.fullmatch(_PROFILE, profile):
            raise Terminal(
                f"{name} of the access policy is no profile's name (letters, digits, - _ ., a "
                "letter first): correct the policy in PortaBilling"
            )
        return profile


def _state(number: str | None, *, served: bool, profiles: Mapping[str, str]) -> State:
    status = GRANTED if served else BARRED
    return {"msisdn": [number] if number else [], "subscriber_status": status, **profiles}
