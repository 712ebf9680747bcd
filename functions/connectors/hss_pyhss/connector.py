"""PyHSS: LTE and IMS subscribers over its REST API, one per IMSI, with what belongs to each.

A resource's key is the IMSI. Its state: ``msisdn`` (text or None), ``enabled``, what the plan gives
(``default_apn``, ``apn_list``, ``ue_ambr_dl``, ``ue_ambr_ul``); where the deployment wants IMS,
``ims`` (``msisdn``, ``msisdn_list`` and ``ifc_path`` of the IMS subscriber, or None); and where it
supplies the SIM's keys, ``ki`` and ``opc`` (SecretValue).

The AUC is written before the subscriber that names it, then the IMS subscriber, and they are
removed the other way round. (Source: PyHSS 2.0.0, its API.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.connector.credentials import SubscriberCredentials
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import is_open, is_served, msisdn

from .api import KINDS, PyHssApi, ident
from .keys import NAMES, Keys, held_keys, supplied_keys
from .policy import Policy
from .settings import GIVEN, Settings

_IMSI = re.compile(r"[0-9]{6,15}")
_FIELDS = ("msisdn", "enabled", *GIVEN)
_IMS_FIELDS = ("msisdn", "msisdn_list", "ifc_path")
_RULED = ("default_apn", "apn_list")
"""What a live session's charging rules follow from."""


class PyHss(StateConnector[Settings]):
    """Subscribers of a PyHSS."""

    settings_model = Settings

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._api = PyHssApi(settings.url, context)
        self._keys = SubscriberCredentials(context, settings.credentials)
        self._policy = Policy(settings)

    @classmethod
    def reads(cls, settings: Settings) -> Iterable[tuple[str, Block]]:
        return Policy(settings).reads()

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        return settings.credentials.needs_secrets() if settings.credentials else ()

    def check(self, call: Call) -> None:
        for apn in sorted({*self.settings.apns()}):
            if self._api.apn(apn, call) is None:
                raise Transient(f"PyHSS has no APN {apn}: correct default_apn, apn_list or plans")

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """One subscriber: the account's SIM. None without an account or without a SIM.

        The MSISDN is given back when the account is no longer open: PyHSS holds a number once. Who
        is barred has no IMS subscriber, which knows no other way to refuse a registration.
        """
        account, sim = event.pb.account_info, event.pb.sim_info
        if account is None or sim is None or not (sim.imsi or sim.iccid or sim.i_sim_card):
            return {}
        imsi = sim.imsi or ""
        if not _IMSI.fullmatch(imsi):
            raise Terminal("sim_info.imsi is not an IMSI (6 to 15 digits): correct the SIM card")
        number = msisdn(event.pb) if is_open(account) else None
        served = is_served(account)
        return {
            imsi: {
                "msisdn": number,
                "enabled": served,
                **self._policy.given(event.pb),
                **self._ims(number if served else None),
                **(self._keys.of(event, supplied_keys, needed=served) or {}),
            }
        }

    def _ims(self, number: str | None) -> dict[str, Any]:
        """The IMS subscriber's part of a state; empty where the deployment has no IMS."""
        if self.settings.ims is None:
            return {}
        path = self.settings.ims.ifc_path
        ims = {"msisdn": number, "msisdn_list": number, "ifc_path": path}
        return {"ims": ims if number else None}

    def read(self, key: str, call: Call) -> State | None:
        """What is there, with PyHSS's own ids; None if not even a part of it is."""
        ours = {"ims_subscriber": self.settings.ims is not None, "auc": self._keys.supplies(key)}
        found = {kind: self._api.find(kind, key, call) for kind in KINDS if ours.get(kind, True)}
        if not any(found.values()):
            return None
        held, auc = found["subscriber"], found.get("auc")
        state: dict[str, Any] = {name: held.get(name) if held else None for name in _FIELDS}
        if "ims_subscriber" in found:
            ims = found["ims_subscriber"]
            state["ims"] = {name: ims.get(name) for name in _IMS_FIELDS} if ims else None
        if "auc" in found:
            ownerless = auc is None or (held and held.get("auc_id") != ident("auc", auc))
            # A subscriber that names another AUC is without these keys.
            state.update(dict.fromkeys(NAMES) if ownerless else held_keys(auc or {}))
        ids = {f"{kind}_id": ident(kind, each) for kind, each in found.items() if each}
        return {**state, **ids}

    def create(self, key: str, state: State, call: Call) -> None:
        self.change(key, state, {}, call)

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        """Looks up what is there: an attempt may have been cut off anywhere."""
        wanted = state.get("ims")
        ims = self._api.find("ims_subscriber", key, call) if "ims" in state else None
        if ims is not None and wanted is None:
            self._api.delete("ims_subscriber", ident("ims_subscriber", ims), call)
        held = self._api.find("subscriber", key, call)
        keys = {name: state[name] for name in NAMES if name in state}
        body = {"imsi": key, **{name: state[name] for name in _FIELDS}}
        if keys or held is None:
            body["auc_id"] = self._auc(key, keys, call)
        self._api.bring("subscriber", held, body, call)
        if wanted is not None:
            self._api.bring("ims_subscriber", ims, {"imsi": key, **wanted}, call)

    def _auc(self, imsi: str, keys: Keys, call: Call) -> int:
        """The id of the SIM's AUC, with these keys, should the deployment supply any."""
        held = self._api.find("auc", imsi, call)
        if held is None and not keys:
            raise Transient("PyHSS has no AUC of the SIM: load its keys, or add them to secret auc")
        values: dict[str, Any] = {name: key.reveal() for name, key in keys.items()}
        if held is None:
            values.update(imsi=imsi, amf="8000", sqn=0)
        return self._api.bring("auc", held, values, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        for kind in KINDS:
            if was is not None and f"{kind}_id" in was:
                self._api.delete(kind, ident(kind, was), call)

    def after_write(self, key: str, state: State | None, was: State | None, call: Call) -> None:
        """Charging rules of another APN, into the sessions that began with the one before."""
        if state is None or not self.settings.plans:
            return
        if was is None or any(was.get(name) != state[name] for name in _RULED):
            self._policy.push(key, state, self._api, call)
