"""The connector iptv_ministra, against a double of Ministra's REST API v1; and against a real one.

The double answers as the published code of the API does: failures in a 200, no word about a tariff
or package that it does not know, and a subscription that changes nothing is ``false``.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from nsps.domain.outcome import Outcome, Terminal, Transient, Unclear
from nsps.transport.rest import basic
from nsps_testing.standard import (
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    UnderTheKit,
    enriched,
    make_call,
)
from pydantic import ValidationError

from functions.connectors.iptv_ministra.answers import ANSWERS
from functions.connectors.iptv_ministra.connector import IptvMinistra
from functions.connectors.iptv_ministra.settings import Settings

KEY, LOGIN = "1000889", "420777000003"
CREDENTIALS = "nsps:ministra-canary"
PASSWORD = "tv-password-4711"  # of the subscriber
MAC = "00:1A:79:00:00:01"
BASE = "/stalker_portal/api"
SETTINGS = {
    "tariffs": {"TV Basic": "basic", "TV Premium": "premium"},
    "packages": {"Sport": ["sport-1", "sport-2"], "Cinema": ["cinema"]},
    "fields": {
        "login": "msisdn", "full_name": "name", "phone": "msisdn", "stb_mac": "feature.tv_box",
        "comment": "account_info.email",
    },
}  # fmt: skip


def error(text: str) -> Reply:
    return Reply(200, {"status": "ERROR", "results": None, "error": text})


def ok(results: Any = True) -> Reply:
    return Reply(200, {"status": "OK", "results": results})


class MinistraDouble:
    """Accounts, tariffs and subscriptions."""

    def __init__(self) -> None:
        self.accounts: list[dict[str, Any]] = []
        optional = {"sport-1", "sport-2", "cinema", "own"}
        self.tariffs = {"basic": optional - {"cinema"}, "premium": optional, "default": set()}
        self.reboots = 0
        self._lock = threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        if request.headers.get("Authorization") != basic(CREDENTIALS):
            body = {"status": "ERROR", "results": "", "error": "401 Unauthorized request"}
            return Reply(401, body)
        path = urlsplit(request.path).path.removeprefix(f"{BASE}/").split("/")
        form = parse_qs(request.body.decode(), keep_blank_values=True)
        with self._lock:
            if path == ["tariffs"]:
                plans = [{"id": n, "external_id": name} for n, name in enumerate(self.tariffs)]
                return ok(plans)
            found = [each for each in self.accounts if each["account_number"] in path[1:]]
            if request.method != "POST" and not found:
                return error("Account not found")
            if request.method in ("POST", "PUT") and not form:
                return error(f"HTTP {request.method} data is empty")
            if path[0] == "account_subscription":
                return self._subscribe(found[0], form)
            return self._account(request.method, found, {n: v[0] for n, v in form.items()})

    def _account(self, method: str, found: list[Any], form: dict[str, str]) -> Reply:
        if method == "GET":
            return ok([self._shown(each) for each in found])
        if method == "DELETE":
            self.accounts = [each for each in self.accounts if each not in found]
            return ok()
        if any(each["login"] == form["login"] and each not in found for each in self.accounts):
            return error("Login already in use")
        if method == "POST":
            if any(each["stb_mac"] == form.get("stb_mac") != "" for each in self.accounts):
                return error("MAC address already in use")
            found = [{"stb_mac": "", "password": "", "packages": set()}]
            self.accounts += found
        for account in found:
            account.update(form)
        return ok()

    def _shown(self, account: dict[str, Any]) -> dict[str, Any]:
        shown = {n: v for n, v in account.items() if n not in ("password", "packages")}
        plan = account["tariff_plan"] if account["tariff_plan"] in self.tariffs else "default"
        subscribed = sorted(account["packages"] & self.tariffs[plan])
        status = int(account["status"])
        return {**shown, "tariff_plan": plan, "status": status, "subscribed": subscribed}

    def _subscribe(self, account: dict[str, Any], form: dict[str, list[str]]) -> Reply:
        before = set(account["packages"])
        allowed = self.tariffs.get(account["tariff_plan"], set())
        account["packages"] |= set(form.get("subscribed[]", ())) & allowed
        account["packages"] -= set(form.get("unsubscribed[]", ())) & allowed
        changed = account["packages"] != before
        self.reboots += changed
        return ok(changed)


def snapshot(product: str = "TV Basic", *addons: str, **account: Any) -> dict[str, Any]:
    usual = {"i_account": int(KEY), "id": f"{LOGIN}@msisdn", "bill_status": "open"}
    box = {"name": "tv_box", "effective_flag_value": "001a.7900.0001"}
    return {
        "account_info": {
            **usual, "firstname": "Zoë", "lastname": "O'Hara & Söhne", "email": "zoe@example.net",
            "assigned_addons": [{"name": each} for each in addons],
            "service_features": [box], **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
        "product_info": {"i_product": 7, "name": product},
    }  # fmt: skip


class OfMinistra(StateStandardTests):
    connector_class = IptvMinistra
    pb = snapshot("TV Basic", "Sport", "Voice mail")
    changed_pb = snapshot("TV Premium", "Cinema", blocked=True, lastname=None, email=None)
    gone_pb = (
        {"sim_info": pb["sim_info"]},
        snapshot(bill_status="terminated"),
        snapshot("Voice only"),
    )
    secrets: ClassVar = {"credentials": CREDENTIALS, "look_up": "look-up-canary"}

    @pytest.fixture(autouse=True)
    def passwords(self) -> Iterator[ScriptedHttp]:
        """Where subscribers' passwords are looked up."""
        with ScriptedHttp(Reply(200, {"password": PASSWORD})) as source:
            self._look_up = f"{source.url}/{{i_account}}"
            yield source

    def complete(self, settings: dict[str, Any]) -> dict[str, Any]:
        look_up = {"source": "http", "url": self._look_up, "allow_http": True}
        return {**SETTINGS, "credentials": look_up, "allow_http": True, **settings}


class TestMinistra(OfMinistra, HttpStandardTests):
    rules = ANSWERS
    hidden_failures = (
        error("Database is locked"), error("Login required"), ok(results=False), Reply(200, {}),
        Reply(204),
    )  # fmt: skip

    @pytest.fixture
    def double(self) -> MinistraDouble:
        return MinistraDouble()

    def http_settings(self, url: str) -> dict[str, Any]:
        return self.complete({"url": url + BASE})

    def bring_to(self, connector: IptvMinistra, pb: dict[str, Any]) -> None:
        self.bring(connector, *self.first(connector, pb))

    def test_what_is_written(self, connector: IptvMinistra, double: MinistraDouble) -> None:
        self.bring_to(connector, self.pb)
        [account] = double.accounts
        assert account == {
            "account_number": KEY, "login": LOGIN, "full_name": "Zoë O'Hara & Söhne",
            "phone": LOGIN, "stb_mac": MAC, "comment": "zoe@example.net", "password": PASSWORD,
            "tariff_plan": "basic", "status": "1", "packages": {"sport-1", "sport-2"},
        }  # fmt: skip
        self.bring_to(connector, self.changed_pb)
        assert [account["tariff_plan"], account["status"]] == ["premium", "0"]
        assert [account["packages"], account["comment"]] == [{"cinema"}, ""]

    def test_packages_of_others_stay_and_a_box_is_restarted_for_a_change_alone(
        self, connector: IptvMinistra, double: MinistraDouble
    ) -> None:
        self.bring_to(connector, self.pb)
        double.accounts[0]["packages"].add("own")
        assert double.reboots == 1
        self.bring_to(connector, snapshot("TV Basic", "Sport", firstname="Ada"))
        assert double.reboots == 1
        self.bring_to(connector, snapshot("TV Basic"))
        assert (double.accounts[0]["packages"], double.reboots) == ({"own"}, 2)

    @pytest.mark.parametrize(
        ("pb", "differ"),
        [
            (snapshot("TV Basic", "Cinema"), "packages.*basic"),
            (snapshot("TV Premium"), "tariff_plan.*premium"),
        ],
    )
    def test_what_ministra_does_not_know(
        self, connector: IptvMinistra, double: MinistraDouble, pb: dict[str, Any], differ: str
    ) -> None:
        """It answers that all is well; the history says what is to be made there."""
        kit = UnderTheKit(self, connector)
        known = double.tariffs.pop("premium")
        assert kit.attempt(self.enriched(pb)).outcome is Outcome.RETRYING
        with pytest.raises(Transient, match=f"keeps something else as {differ}"):
            self.bring_to(connector, pb)
        double.tariffs |= {"premium": known, "basic": known}
        assert kit.deliver(self.enriched(pb)) is Outcome.DELIVERED

    def test_a_login_or_a_box_that_another_has(
        self, connector: IptvMinistra, double: MinistraDouble
    ) -> None:
        other = {"account_number": "7", "login": LOGIN, "stb_mac": "", "packages": set()}
        double.accounts.append(other | {"tariff_plan": "basic", "status": "1"})
        with pytest.raises(Transient, match=f"{LOGIN} is taken"):
            self.bring_to(connector, self.pb)
        double.accounts[0] |= {"login": "7", "stb_mac": MAC}
        with pytest.raises(Transient, match="set-top box: remove it there"):
            self.bring_to(connector, self.pb)
        double.accounts[0]["stb_mac"] = ""
        self.bring_to(connector, self.pb)
        double.accounts[0]["login"] = "420777000004"
        with pytest.raises(Transient, match="another account"):
            self.bring_to(connector, snapshot(id="420777000004"))
        assert len(double.accounts) == 2 and double.accounts[1]["login"] == LOGIN

    def test_two_accounts_of_one_number_are_for_people(
        self, connector: IptvMinistra, double: MinistraDouble
    ) -> None:
        self.bring_to(connector, self.pb)
        double.accounts.append({**double.accounts[0], "login": "two"})
        before = [dict(each) for each in double.accounts]
        with pytest.raises(Terminal, match=f"2 accounts have the number {KEY}"):
            connector.read(KEY, make_call())
        kit = UnderTheKit(self, connector)
        assert kit.deliver(self.enriched(self.changed_pb)) is Outcome.REJECTED
        assert double.accounts == before
        del double.accounts[1]

    def test_a_tariff_of_the_settings_that_is_not_there(
        self, connector: IptvMinistra, double: MinistraDouble
    ) -> None:
        del double.tariffs["premium"]
        with pytest.raises(Transient, match="no tariff with the external ID premium"):
            connector.check(make_call())

    def test_who_is_barred_is_so_without_a_password(
        self, system: ChaosProxy, double: MinistraDouble, passwords: ScriptedHttp
    ) -> None:
        passwords.always(Reply(404))
        connector = self.make(self.settings(system))
        self.bring_to(connector, snapshot(blocked=True))
        assert [double.accounts[0][name] for name in ("status", "password")] == ["0", ""]
        with pytest.raises(Transient, match="there is no credential"):
            connector.desired(enriched(self.pb))
        connector.close()

    def test_without_a_source_passwords_are_left_alone(
        self, system: ChaosProxy, double: MinistraDouble
    ) -> None:
        connector = self.make({**self.settings(system), "credentials": None})
        self.bring_to(connector, self.pb)
        double.accounts[0]["password"] = "by hand"
        self.bring_to(connector, self.changed_pb)
        assert double.accounts[0]["password"] == "by hand"
        connector.close()

    write_answers = (
        (error("Login required"), Terminal, "Login required"),
        (error("Not valid mac address"), Terminal, "mac address"),
        (error("Account not found"), Unclear, "Account not found"),
        (error("SQLSTATE[HY000]: gone away"), Unclear, "gone away"),
        (ok(results=False), Unclear, "200"),
        (Reply(200, "<html>Index</html>"), Unclear, "is url the REST API v1"),
        (Reply(404, "<html>"), Transient, "is url the REST API v1"),
        (Reply(401, {"error": "401 Unauthorized request"}), Transient, "credentials"),
    )

    def writes(self, towards: IptvMinistra, scripted: ScriptedHttp) -> list[Callable[[], object]]:
        [state] = towards.desired(enriched(self.pb)).values()
        return [
            lambda: towards.create(KEY, state, make_call()),
            lambda: towards.change(KEY, state, {}, make_call()),
        ]

    @pytest.mark.parametrize(
        ("account", "message"),
        [
            ({"id": "zoe@voip"}, "msisdn is missing"),
            ({"service_features": [{"name": "tv_box", "effective_flag_value": "7"}]}, "no MAC"),
            ({"i_account": None}, "i_account is missing"),
        ],
    )
    def test_an_account_that_cannot_be_written(
        self, connector: IptvMinistra, account: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(Terminal, match=message):
            connector.desired(enriched(snapshot(**account)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"tariffs": {}},
        {"tariffs": {"TV": ""}},
        {"fields": {"full_name": "name"}},
        {"fields": {"login": "msisdn", "status": "status"}},
        {"fields": {"login": "no.such"}},
        {"url": "http://tv.example.net/api"},
        {"packages": {"Sport": "sport"}},
    ],
)
def test_settings_that_are_refused(wrong: dict[str, Any]) -> None:
    right = {**SETTINGS, "url": "https://tv.example.net/stalker_portal/api"}
    Settings.model_validate(right)
    with pytest.raises(ValidationError):
        Settings.model_validate({**right, **wrong})


@pytest.mark.skipif(
    not os.environ.get("NSPS_IT_MINISTRA_URL"),
    reason="no Ministra to try: NSPS_IT_MINISTRA_URL is not set",
)
class TestRealMinistra(OfMinistra):
    """With NSPS_IT_MINISTRA_CREDENTIALS, and in NSPS_IT_MINISTRA_TARIFFS two tariffs and a package
    that is optional in both, with commas. What is written is removed."""

    secrets: ClassVar = {
        "credentials": os.environ.get("NSPS_IT_MINISTRA_CREDENTIALS", ""),
        "look_up": "look-up-canary",
    }

    @pytest.fixture
    def system(self) -> Iterator[ChaosProxy]:
        with ChaosProxy.before(os.environ["NSPS_IT_MINISTRA_URL"]) as proxy:
            yield proxy

    def settings(self, system: ChaosProxy) -> dict[str, Any]:
        path = urlsplit(os.environ["NSPS_IT_MINISTRA_URL"]).path
        basic_one, premium, package = os.environ["NSPS_IT_MINISTRA_TARIFFS"].split(",")
        tariffs = {"TV Basic": basic_one, "TV Premium": premium}
        url = f"http://{system.host}:{system.port}{path}"
        return self.complete({"url": url, "tariffs": tariffs, "packages": {"Sport": [package]}})
