"""Ministra (Stalker Portal): an IPTV account per account of PortaBilling, over its REST API v1.

A resource's key is the account number, ``i_account``. Its state: the fields of the settings, tariff
and packages by external ID, ``status`` (served or not), and the password, which cannot be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nsps.connector.base import Call, Context, Enriched, State, StateConnector
from nsps.connector.credentials import SubscriberCredentials
from nsps.domain.fields import Fields
from nsps.domain.outcome import Terminal, Transient
from nsps.domain.snapshot import Block
from nsps.domain.subscriber import is_closed, is_served
from nsps.runtime.secrets import SecretValue
from nsps.transport.answers import Meaning
from nsps.transport.rest import Form, Rest, basic

from .answers import ANSWERS, CHANGE, LOGIN, NOT_API, SUBSCRIPTION
from .settings import Settings, as_mac

SECRET = "credentials"  # noqa: S105 (its name in the manifest)


class IptvMinistra(StateConnector[Settings]):
    """Accounts of a Ministra."""

    settings_model = Settings
    shows_requests = True

    def __init__(self, settings: Settings, context: Context) -> None:
        super().__init__(settings, context)
        self._fields = Fields.parse("fields", settings.fields)
        self._ours = {each for packages in settings.packages.values() for each in packages}
        self._passwords = SubscriberCredentials(context, settings.credentials)
        shown, hide = context.secret_header(SECRET, written=basic), context.hide(SECRET, "look_up")
        self._api = Rest(context.http, settings.url, shown, ANSWERS, hide=hide)

    @classmethod
    def reads(cls, settings: Settings) -> Iterable[tuple[str, Block]]:
        return Fields.parse("fields", settings.fields).reads()

    @classmethod
    def needs_secrets(cls, settings: Settings) -> Iterable[tuple[str, str]]:
        return settings.credentials.needs_secrets() if settings.credentials else ()

    def check(self, call: Call) -> None:
        plans = (self._api.get("tariffs", call) or {}).get("results")
        if not isinstance(plans, list):
            raise Transient(f"GET tariffs: no list in the answer ({NOT_API})")
        known = {str(plan.get("external_id")) for plan in plans if isinstance(plan, Mapping)}
        if missing := sorted(set(self.settings.tariffs.values()) - known):
            raise Transient(f"Ministra has no tariff with the external ID {missing[0]}: make it")

    def desired(self, event: Enriched) -> Mapping[str, State]:
        """The account, served or not, until it is closed or its product has no tariff."""
        account, product = event.pb.account_info, event.pb.product_info
        tariff = self.settings.tariffs.get(product.name or "") if product else None
        if account is None or is_closed(account) or tariff is None:
            return {}
        if account.i_account is None:
            raise Terminal("account_info.i_account is missing: it is Ministra's account number")
        addons = [addon.name or "" for addon in account.assigned_addons]
        state: dict[str, Any] = {
            **{name: _text(value) for name, value in self._fields.values(event.pb).items()},
            "tariff_plan": tariff,
            "packages": sorted(
                {p for each in addons for p in self.settings.packages.get(each, ())}
            ),
            "status": is_served(account),
        }
        if not state["login"]:
            raise Terminal(f"{self.settings.fields['login']} is missing: Ministra needs a login")
        if state.get("stb_mac"):
            state["stb_mac"] = as_mac(state["stb_mac"])
        password = self._password(event, needed=is_served(account))
        return {str(account.i_account): {**state, "password": password} if password else state}

    def _password(self, event: Enriched, *, needed: bool) -> SecretValue | None:
        if self.settings.credentials is None:
            return None
        return self._passwords.of(event, lambda found: found.secret("password"), needed=needed)

    def read(self, key: str, call: Call) -> State | None:
        """Without the packages that the settings do not name: those are people's own."""
        answer = self._api.get(f"accounts/{key}", call)
        if answer is None:
            return None
        found = answer.get("results")
        if not isinstance(found, list) or not found or not isinstance(found[0], Mapping):
            raise Transient(f"GET accounts/{key}: no account in the answer ({NOT_API})")
        if len(found) > 1:
            raise Terminal(f"{len(found)} accounts have the number {key}: leave one in Ministra")
        subscribed = {str(each) for each in found[0].get("subscribed") or ()}
        return {
            **{name: _text(found[0].get(name)) for name in (*self._fields.sources, "tariff_plan")},
            "packages": sorted(subscribed & self._ours),
            "status": str(found[0].get("status")) == "1",
        }

    def create(self, key: str, state: State, call: Call) -> None:
        body = Form(account_number=key, **_account(state))
        if self._api.request("POST", "accounts", call, body=body).is_done(Meaning.EXISTS):
            self._subscribe(key, state, call)
        elif self.read(key, call) is not None:
            self.change(key, state, {}, call)
        else:
            raise Transient(f"the login {state['login']} is taken: {LOGIN}")

    def change(self, key: str, state: State, was: State, call: Call) -> None:
        body = Form(_account(state))
        self._api.request("PUT", f"accounts/{key}", call, body=body, rules=CHANGE).is_done()
        self._subscribe(key, state, call)

    def delete(self, key: str, was: State | None, call: Call) -> None:
        self._api.delete(f"accounts/{key}", call)

    def _subscribe(self, key: str, state: State, call: Call) -> None:
        """The packages, after the tariff that they belong to. Raises Transient where something else
        is kept: Ministra reports no error for a tariff or package that it does not know."""
        held = self.read(key, call) or {}
        want, have = set(state["packages"]), set(held.get("packages", ()))
        if want != have:
            packages = {"subscribed[]": sorted(want - have), "unsubscribed[]": sorted(have - want)}
            path, body = f"account_subscription/{key}", Form(packages)
            self._api.request("PUT", path, call, body=body, rules=SUBSCRIPTION).is_done()
            held = self.read(key, call) or {}
        if differ := sorted(n for n in state if n != "password" and held.get(n) != state[n]):
            raise Transient(
                f"Ministra keeps something else as {', '.join(differ)}: has it the tariff "
                f"{state['tariff_plan']}, and this the optional packages of the settings?"
            )


def _account(state: State) -> dict[str, str]:
    return {name: _written(value) for name, value in state.items() if name != "packages"}


def _written(value: Any) -> str:
    """As a form has it: an empty text clears a field."""
    if isinstance(value, SecretValue):
        return value.reveal()
    return str(int(value)) if isinstance(value, bool) else value or ""


def _text(value: Any) -> str | None:
    return None if value in (None, "") else str(value)
