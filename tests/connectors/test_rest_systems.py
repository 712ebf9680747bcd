"""The descriptions that come with the declarative connector: Salesforce and HubSpot.

Against doubles of their documented APIs, limits included; and against the real ones where the
environment names an account for tests (what is written there is removed, or marked).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest
from nsps.domain.outcome import Outcome, Terminal, Transient, Unclear
from nsps.transport.answers import AnswerRule, AnswerRules, Meaning
from nsps_local.described import load_connector_file
from nsps_testing.standard import (
    HttpStandardTests,
    LocalStateStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    UnderTheKit,
    make_call,
)

from functions.connectors.rest.connector import RestSystem

ID = "1000889"


def snapshot(**account: Any) -> dict[str, Any]:
    usual = {"i_account": int(ID), "id": "420777000003@msisdn", "bill_status": "open"}
    return {
        "account_info": {**usual, "firstname": "Zoë", "lastname": "O'Hara", **account},
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
    }


class _Described(LocalStateStandardTests):
    connector_class = RestSystem
    described: ClassVar[str]
    """The shipped description."""
    fields: ClassVar[dict[str, Any]]
    """What the handler gives as the parameter of that name."""
    base = ""
    """What stands between host and paths."""
    pb = snapshot()
    changed_pb = snapshot(lastname=None, blocked=True, id="420777000033@msisdn")
    gone_pb = ({"sim_info": pb["sim_info"]},)

    def settings(self, system: Any) -> dict[str, Any]:
        return self.http_settings(f"http://{system.host}:{system.port}")

    def http_settings(self, url: str) -> dict[str, Any]:
        return self.complete({"url": url + self.base, "allow_http": True})

    def complete(self, settings: dict[str, Any]) -> dict[str, Any]:
        file = self.folder() / "systems" / f"{self.described}.yaml"
        manifest = load_connector_file(file)
        return dict(manifest.complete({"fields": self.fields, **settings}))


class _OnADouble(_Described, StateStandardTests, HttpStandardTests):
    pass


# --- Salesforce -----------------------------------------------------------------------------------

SALESFORCE_SECRET = '{"client_id": "nsps-client", "client_secret": "client-secret-canary"}'


class SalesforceDouble:
    """The Accounts of an org, over the REST API as it is documented."""

    KNOWN = ("Name", "Phone", "NSPS_Status__c", "NSPS_Served__c")

    def __init__(self) -> None:
        self.accounts: list[dict[str, Any]] = []
        self.session, self.requests_left = 0, 100_000
        self._lock = threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        path = urlsplit(request.path).path
        with self._lock:
            if path == "/services/oauth2/token":
                return self._token(parse_qs(request.body.decode()))
            if request.headers.get("Authorization") != f"Bearer session-canary-{self.session}":
                return _salesforce(401, "INVALID_SESSION_ID", "Session expired or invalid")
            self.requests_left -= 1
            if self.requests_left < 0:
                return _salesforce(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
            below = path.removeprefix("/services/data/v62.0/sobjects/Account").strip("/")
            return self._account(request, below.split("/")) if below else Reply(200, {})

    def _token(self, form: dict[str, list[str]]) -> Reply:
        if form.get("client_secret") != ["client-secret-canary"]:
            return Reply(400, {"error": "invalid_client", "error_description": "invalid client"})
        self.session += 1
        return Reply(
            200, {"access_token": f"session-canary-{self.session}", "token_type": "Bearer"}
        )

    def _account(self, request: Seen, path: list[str]) -> Reply:
        if path[0] != "PB_Id__c":
            text = f"Provided external ID field does not exist or is not accessible: {path[0]}"
            return _salesforce(404, "NOT_FOUND", text)
        found = [each for each in self.accounts if each["PB_Id__c"] == int(path[1])]
        if len(found) > 1:
            return Reply(300, [f"/services/data/v62.0/sobjects/Account/{n}" for n in (1, 2)])
        if request.method == "PATCH":
            return self._upsert(int(path[1]), found, request.json())
        if not found:
            return _salesforce(404, "NOT_FOUND", "The requested resource does not exist")
        if request.method == "DELETE":
            self.accounts.remove(found[0])
            return Reply(204)
        return Reply(200, {"attributes": {"type": "Account"}, **found[0]})

    def _upsert(self, ident: int, found: list[dict[str, Any]], body: dict[str, Any]) -> Reply:
        if unknown := [name for name in body if name not in self.KNOWN]:
            return _salesforce(400, "INVALID_FIELD", f"No such column '{unknown[0]}' on Account")
        if not (found[0] | body if found else body).get("Name"):
            return _salesforce(400, "REQUIRED_FIELD_MISSING", "Required fields are missing: [Name]")
        if found:
            found[0].update(body)
            return Reply(204)
        self.accounts.append({**dict.fromkeys(self.KNOWN), "PB_Id__c": ident, **body})
        return Reply(201, {"id": "001D000000IqhSL", "success": True, "errors": []})


def _salesforce(status: int, code: str, message: str) -> Reply:
    return Reply(status, [{"message": message, "errorCode": code}])


class _Salesforce(_Described):
    described = "crm_salesforce"
    fields: ClassVar = {
        "Name": "name",
        "Phone": {"from": "msisdn", "format": "e164"},
        "NSPS_Status__c": "status",
        "NSPS_Served__c": "service_granted",
    }
    base = "/services/data/v62.0"


class TestSalesforce(_Salesforce, _OnADouble):
    rules = AnswerRules((AnswerRule(Meaning.REFUSED, status="300"),))
    secrets: ClassVar = {"credentials": SALESFORCE_SECRET}
    hidden_failures = (Reply(201, {"id": None, "success": False, "errors": [{"message": "no"}]}),)
    write_answers = (
        (_salesforce(400, "REQUIRED_FIELD_MISSING", "missing: [Name]"), Terminal, "Name"),
        (_salesforce(400, "DUPLICATES_DETECTED", "Use one of these"), Terminal, "duplicate rule"),
        (_salesforce(400, "UNABLE_TO_LOCK_ROW", "unable to lock"), Transient, "lock"),
        (_salesforce(400, "DUPLICATE_VALUE", "duplicate value"), Transient, "another"),
        (_salesforce(400, "INVALID_FIELD", "No such column"), Transient, "all fields"),
        (
            _salesforce(404, "NOT_FOUND", "Provided external ID field does not exist"),
            Transient,
            "make the field PB_Id__c",
        ),
        (_salesforce(503, "SERVER_UNAVAILABLE", "too busy"), Transient, "too busy"),
        (_salesforce(500, "UNKNOWN_EXCEPTION", "unexpected"), Unclear, "unexpected"),
    )

    @pytest.fixture
    def double(self) -> SalesforceDouble:
        return SalesforceDouble()

    @pytest.fixture
    def towards(self, scripted: ScriptedHttp) -> Iterator[Any]:
        """Signed in already, so that what is scripted answers the calls that follow."""
        made = self.make(self.http_settings(scripted.url))
        scripted.script(Reply(200, {"access_token": "session-canary"}), Reply(200, {}))
        made.check(make_call())
        scripted.requests.clear()
        yield made
        made.close()

    def test_what_is_written(self, connector: RestSystem, double: SalesforceDouble) -> None:
        key, state = self.first(connector, self.pb)
        self.bring(connector, key, state)
        [account] = double.accounts
        assert account == {
            "PB_Id__c": int(ID), "Name": "Zoë O'Hara", "Phone": "+420777000003",
            "NSPS_Status__c": "active", "NSPS_Served__c": True,
        }  # fmt: skip
        self.bring(connector, key, self.first(connector, self.changed_pb)[1])
        assert (account["Name"], account["NSPS_Status__c"], account["NSPS_Served__c"]) == (
            "Zoë", "barred", False,
        )  # fmt: skip

    def test_an_id_that_several_records_have_is_for_people(
        self, connector: RestSystem, double: SalesforceDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        double.accounts += [
            {**dict.fromkeys(double.KNOWN), "PB_Id__c": int(ID), "Name": name}
            for name in ("one", "two")
        ]
        before = [dict(each) for each in double.accounts]
        acts: list[Callable[[], object]] = [
            lambda: connector.read(key, make_call()),
            lambda: connector.create(key, state, make_call()),
            lambda: connector.delete(key, state, make_call()),
        ]
        for act in acts:
            with pytest.raises(Terminal, match="merge them in Salesforce, then reconcile"):
                act()
        assert UnderTheKit(self, connector).deliver(self.enriched(self.pb)) is Outcome.REJECTED
        assert double.accounts == before
        del double.accounts[1]
        self.bring(connector, key, state)
        assert double.accounts[0]["Name"] == state["Name"]

    def test_a_session_that_is_over_is_opened_again(
        self, connector: RestSystem, double: SalesforceDouble
    ) -> None:
        key, state = self.first(connector, self.pb)
        connector.create(key, state, make_call())
        double.session += 1  # nobody has this one
        self.assert_holds(connector, key, state)
        assert double.session == 3

    def test_the_day_s_limit(self, connector: RestSystem, double: SalesforceDouble) -> None:
        key, state = self.first(connector, self.pb)
        double.requests_left = 1
        assert connector.read(key, make_call()) is None
        with pytest.raises(Transient, match="day's API requests of the org are used up"):
            connector.create(key, state, make_call())
        double.requests_left = 9
        connector.create(key, state, make_call())

    def test_no_external_id_field_is_not_absence(
        self, towards: RestSystem, scripted: ScriptedHttp
    ) -> None:
        text = "Provided external ID field does not exist or is not accessible: PB_Id__c"
        scripted.always(_salesforce(404, "NOT_FOUND", text))
        with pytest.raises(Transient, match="make the field"):
            towards.read(f"record/{ID}", make_call())


@pytest.mark.skipif(
    not os.environ.get("NSPS_IT_SALESFORCE_URL"),
    reason="no Salesforce to try: NSPS_IT_SALESFORCE_URL is not set",
)
class TestRealSalesforce(_Salesforce):
    """An org for tests, with those fields; NSPS_IT_SALESFORCE_CREDENTIALS."""

    secrets: ClassVar = {"credentials": os.environ.get("NSPS_IT_SALESFORCE_CREDENTIALS", "{}")}

    @pytest.fixture
    def system(self) -> None:
        return None

    def settings(self, system: Any) -> dict[str, Any]:
        return self.complete({"url": os.environ["NSPS_IT_SALESFORCE_URL"] + self.base})


# --- HubSpot --------------------------------------------------------------------------------------

HUBSPOT_TOKEN = "pat-eu1-canary-4711"


class HubSpotDouble:
    """The contacts of a HubSpot, over its CRM API v3 as it is documented.

    Every value is a text; a contact tells no property that it was not asked for.
    """

    KNOWN = ("firstname", "lastname", "phone", "pb_account_id", "pb_status", "nsps_served")

    def __init__(self) -> None:
        self.contacts: dict[str, dict[str, str]] = {}
        self.policy = ""
        """The limit that is reached."""
        self._lock = threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        if request.headers.get("Authorization") != f"Bearer {HUBSPOT_TOKEN}":
            return _hubspot(401, "EXPIRED_AUTHENTICATION", "The OAuth token used is expired")
        if self.policy:
            more = {"errorType": "RATE_LIMIT", "policyName": self.policy}
            return Reply(429, {"status": "error", "message": "You have reached it", **more})
        parts = urlsplit(request.path)
        path = parts.path.removeprefix("/crm/v3/")
        with self._lock:
            if path.startswith("properties/contacts/"):
                return Reply(200, {"name": path.rpartition("/")[2], "hasUniqueValue": True})
            if path == "objects/contacts/batch/upsert":
                [asked] = request.json()["inputs"]
                return self._upsert(asked)
            return self._read(path.rpartition("/")[2], parse_qs(parts.query))

    def _read(self, ident: str, query: dict[str, list[str]]) -> Reply:
        assert query["idProperty"] == ["pb_account_id"]
        contact = self.contacts.get(ident)
        if contact is None:
            return _hubspot(404, "OBJECT_NOT_FOUND", "resource not found")
        asked = query["properties"][0].split(",")
        shown = {name: contact.get(name) for name in [*asked, "hs_object_id"]}
        return Reply(200, {"id": "512", "properties": shown, "archived": False})

    def _upsert(self, asked: dict[str, Any]) -> Reply:
        ident, given = asked["id"], asked["properties"]
        for name, value in given.items():
            if name not in self.KNOWN:
                return _hubspot(400, "VALIDATION_ERROR", f"PROPERTY_DOESNT_EXIST: {name}")
            if not isinstance(value, str):
                return _hubspot(400, "VALIDATION_ERROR", f"{name}: invalid input JSON")
        phone = given.get("phone")
        if any(i != ident and phone and c.get("phone") == phone for i, c in self.contacts.items()):
            return _hubspot(409, "CONFLICT", "Contact already exists. Existing ID: 7")
        new = ident not in self.contacts
        self.contacts.setdefault(ident, {"pb_account_id": ident}).update(given)
        return Reply(200, {"status": "COMPLETE", "results": [{"id": "512", "new": new}]})


def _hubspot(status: int, category: str, message: str) -> Reply:
    return Reply(status, {"status": "error", "message": message, "category": category})


def _several(*errors: dict[str, str]) -> dict[str, Any]:
    return {"status": "COMPLETE", "results": [], "numErrors": len(errors), "errors": [*errors]}


class _HubSpot(_Described):
    described = "crm_hubspot"
    fields: ClassVar = {
        "firstname": "account_info.firstname",
        "lastname": "account_info.lastname",
        "phone": {"from": "msisdn", "format": "e164"},
        "nsps_served": "service_granted",
    }
    secrets: ClassVar = {"credentials": HUBSPOT_TOKEN}


class TestHubSpot(_HubSpot, _OnADouble):
    hidden_failures = (
        Reply(207, _several({"category": "VALIDATION_ERROR", "message": "no"})),
        Reply(207, _several({"category": "INTERNAL", "message": "no"})),
        Reply(200, _several()),
    )
    write_answers = (
        (_hubspot(400, "VALIDATION_ERROR", "phone is too long"), Terminal, "too long"),
        (_hubspot(400, "VALIDATION_ERROR", "PROPERTY_DOESNT_EXIST"), Transient, "make the prop"),
        (_hubspot(409, "CONFLICT", "Contact already exists"), Transient, "merge them"),
        (_hubspot(403, "MISSING_SCOPES", "scopes"), Transient, "may this user"),
        (_hubspot(423, "LOCKED", "wait"), Transient, "wait"),
        (Reply(207, _several({"category": "VALIDATION_ERROR"})), Terminal, "207"),
        (Reply(207, _several({"category": "INTERNAL"})), Transient, "took nothing"),
        (Reply(200, _several()), Unclear, "names no contact"),
        (_hubspot(502, "INTERNAL", "bad gateway"), Unclear, "bad gateway"),
    )

    @pytest.fixture
    def double(self) -> HubSpotDouble:
        return HubSpotDouble()

    def test_what_is_written(self, connector: RestSystem, double: HubSpotDouble) -> None:
        """As texts, a cleared one empty; what is removed is marked, and taken up again."""
        key, state = self.first(connector, self.pb)
        self.bring(connector, key, state)
        written = {"pb_account_id": ID, "pb_status": "active", "nsps_served": "true"}
        written |= {"firstname": "Zoë", "lastname": "O'Hara", "phone": "+420777000003"}
        assert double.contacts == {ID: written}
        other = self.first(connector, self.changed_pb)[1]
        self.bring(connector, key, other)
        assert double.contacts[ID]["lastname"] == ""
        self.assert_holds(connector, key, other)
        self.remove(connector, key)
        assert double.contacts[ID]["pb_status"] == "removed"
        assert connector.read(key, make_call()) is None
        self.bring(connector, key, state)
        assert double.contacts == {ID: written}

    @pytest.mark.parametrize(
        ("policy", "message"),
        [("DAILY", "until midnight there"), ("TEN_SECONDLY_ROLLING", "You have reached it")],
    )
    def test_limits(
        self, connector: RestSystem, double: HubSpotDouble, policy: str, message: str
    ) -> None:
        key, state = self.first(connector, self.pb)
        double.policy = policy
        with pytest.raises(Transient, match=message) as error:
            connector.create(key, state, make_call())
        assert type(error.value) is Transient
        double.policy = ""
        connector.create(key, state, make_call())


@pytest.mark.skipif(
    not os.environ.get("NSPS_IT_HUBSPOT_TOKEN"),
    reason="no HubSpot to try: NSPS_IT_HUBSPOT_TOKEN is not set",
)
class TestRealHubSpot(_HubSpot):
    """An account for tests, with those properties."""

    secrets: ClassVar = {"credentials": os.environ.get("NSPS_IT_HUBSPOT_TOKEN", "")}

    @pytest.fixture
    def system(self) -> None:
        return None

    def settings(self, system: Any) -> dict[str, Any]:
        return self.complete({})
