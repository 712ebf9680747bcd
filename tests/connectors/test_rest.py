"""The declarative connector: a described API of parties, and descriptions that are wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import pytest
from nsps.connector.base import not_given
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unclear
from nsps.domain.snapshot import Block
from nsps_testing.standard import (
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    enriched,
    make_call,
    make_context,
)
from pydantic import ValidationError

from functions.connectors.rest.connector import RestSystem
from functions.connectors.rest.description import Settings

TOKEN = "party-token-canary"

DESCRIPTION: dict[str, Any] = {
    "authentication": {"type": "bearer"},
    "check": "health",
    "allow_http": True,
    "resources": [
        {
            "name": "party",
            "key": "id",
            "when": {"status": ["active", "barred"]},
            "fields": {
                "id": {"from": "account_info.i_account", "at": "externalId"},
                "name": {"from": "name", "at": "person.fullName"},
                "state": {
                    "from": "status",
                    "values": {"active": "ENABLED", "barred": "LOCKED"},
                },
                "msisdn": {"from": "msisdn", "format": "e164", "at": "contact.0.number"},
                "imsi": "sim_info.imsi",
                "uri": {"value": "sip:{msisdn:text}@ims.example.net"},
                "tariff": {"value": 7},
            },
            "read": {"path": "parties", "query": {"externalId": "{id}"}, "items": "found"},
            "create": {
                "method": "POST",
                "path": "parties",
                "body": {
                    "externalId": "{id}",
                    "person": {"fullName": "{name}"},
                    "state": "{state}",
                    "contact": [{"number": "{msisdn}"}],
                    "imsi": "{imsi}",
                    "uri": "{uri}",
                    "tariff": "{tariff}",
                },
            },
            "change": {
                "method": "PATCH",
                "path": "parties/{id}",
                "body": {
                    "person": {"fullName": "{name}"},
                    "state": "{state}",
                    "contact": [{"number": "{msisdn}"}],
                    "imsi": "{imsi}",
                    "uri": "{uri}",
                    "tariff": "{tariff}",
                },
            },
            "delete": {"method": "DELETE", "path": "parties/{id}"},
        }
    ],
}


class Parties:
    """A small API of parties, as well-behaved as its status codes."""

    def __init__(self) -> None:
        self.parties: dict[str, Any] = {}

    def __call__(self, request: Seen) -> Reply:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return Reply(401, {"error": "who are you"})
        parts = urlsplit(request.path)
        if parts.path == "/health":
            return Reply(200, {"up": True})
        ident = unquote(parts.path.removeprefix("/parties").removeprefix("/"))
        if request.method == "GET":
            wanted = parse_qs(parts.query)["externalId"][0]
            return Reply(200, {"found": [p for k, p in self.parties.items() if k == wanted]})
        if request.method == "POST":
            party = request.json()
            if str(party["externalId"]) in self.parties:
                return Reply(409, {"error": "there is one"})
            self.parties[str(party["externalId"])] = party
            return Reply(201, party)
        if ident not in self.parties:
            return Reply(404, {"error": "no such party"})
        if request.method == "DELETE":
            del self.parties[ident]
            return Reply(204)
        self.parties[ident].update(request.json())
        return Reply(200, self.parties[ident])


def snapshot(**account: Any) -> dict[str, Any]:
    return {
        "account_info": {
            "i_account": 1000889,
            "id": "420777000003@msisdn",
            "firstname": "Zoe",
            "lastname": "Quick",
            "bill_status": "open",
            "blocked": False,
            **account,
        },
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003", "msisdn": "420777000003"},
    }


class TestRest(StateStandardTests, HttpStandardTests):
    connector_class = RestSystem
    pb = snapshot()
    changed_pb = snapshot(blocked=True, id="420777000033@msisdn", lastname="Slow")
    gone_pb = (
        {"sim_info": snapshot()["sim_info"]},
        snapshot(bill_status="terminated"),
    )
    secrets: ClassVar = {"credentials": TOKEN}
    hidden_failures: ClassVar[tuple[Reply, ...]] = ()

    @pytest.fixture
    def double(self) -> Parties:
        return Parties()

    def http_settings(self, url: str) -> dict[str, Any]:
        return {**DESCRIPTION, "url": url}

    def test_what_is_written(self, connector: RestSystem, double: Parties) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        assert key == "party/1000889"
        connector.create(key, state, make_call())
        assert double.parties == {
            "1000889": {
                "externalId": 1000889,
                "person": {"fullName": "Zoe Quick"},
                "state": "ENABLED",
                "contact": [{"number": "+420777000003"}],
                "imsi": "001010000000003",
                "uri": "sip:+420777000003@ims.example.net",
                "tariff": 7,
            }
        }

    def test_only_what_another_changed_differs(
        self, connector: RestSystem, double: Parties
    ) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        connector.create(key, state, make_call())
        assert connector.read(key, make_call()) == state
        del double.parties["1000889"]["person"]
        double.parties["1000889"]["tariff"] = 8
        assert connector.read(key, make_call()) == {**state, "name": None, "tariff": 8}


class TestRestVerified(TestRest):
    """The same, looking after each write; then a failure may hide in a 200."""

    hidden_failures = (Reply(200, {"found": []}), Reply(200, {"result": False}))

    def http_settings(self, url: str) -> dict[str, Any]:
        return {**super().http_settings(url), "verify_after_write": True}


def connect(url: str, secrets: dict[str, str] | None = None, **more: Any) -> RestSystem:
    settings = Settings.model_validate({**DESCRIPTION, "url": url, **more})
    return RestSystem(settings, make_context(secrets or {"credentials": TOKEN}))


def resource(**more: Any) -> list[dict[str, Any]]:
    return [{**deepcopy(DESCRIPTION["resources"][0]), **more}]


@pytest.fixture
def api() -> Iterator[ScriptedHttp]:
    with ScriptedHttp() as scripted:
        yield scripted


# --- what a subscriber should have ----------------------------------------------------------------


def test_a_number_backwards_and_a_place_that_has_no_value(api: ScriptedHttp) -> None:
    fields = {
        "number": "msisdn",
        "name": {"value": "{number:reversed_digits}.e164.arpa."},
        "mail": "account_info.email",
        "link": {"value": "mailto:{mail}"},
    }
    bare = {"method": "PUT", "path": "numbers/{number}"}
    described = resource(
        key="number", fields=fields, read={"path": "numbers/{number}"}, create=bare,
        change=None, delete={"method": "DELETE", "path": "numbers/{number}"},
    )  # fmt: skip
    connector = connect(api.url, resources=described)
    [(key, state)] = connector.desired(enriched(snapshot())).items()
    assert (key, state["name"]) == ("party/420777000003", "3.0.0.0.0.0.7.7.7.0.2.4.e164.arpa.")
    assert state["mail"] is None and state["link"] is None
    without = snapshot(id="zoe")
    del without["sim_info"]
    assert connector.desired(enriched(without)) == {}


def test_a_key_that_portabilling_lost_removes_nothing(api: ScriptedHttp) -> None:
    with pytest.raises(Terminal, match=r"account_info\.i_account is missing"):
        connect(api.url).desired(enriched(snapshot(i_account=None)))


def test_a_word_that_the_description_does_not_know_is_refused(api: ScriptedHttp) -> None:
    fields = {**resource()[0]["fields"], "state": {"from": "status", "values": {"active": "ON"}}}
    with pytest.raises(Terminal, match="status has a value that the setting values does not list"):
        connect(api.url, resources=resource(fields=fields)).desired(
            enriched(snapshot(blocked=True))
        )


@pytest.mark.parametrize("odd", ["", " ", ".", "..", None])
def test_a_value_never_leads_to_another_address(api: ScriptedHttp, odd: Any) -> None:
    """DELETE parties/ or parties/.. would be another request than the one that was described."""
    described = resource(
        key="id", delete={"method": "DELETE", "path": "parties/{id}"},
        fields={**resource()[0]["fields"], "id": {"from": "account_info.id"}},
    )  # fmt: skip
    connector = connect(api.url, resources=described)
    state = {**connector.desired(enriched(snapshot()))["party/420777000003@msisdn"], "id": odd}
    with pytest.raises(Terminal, match="no value that can stand in an address"):
        connector.change("party/x", state, state, make_call())
    if odd is not None:
        with pytest.raises(Terminal):
            connector.delete(f"party/{odd}", None, make_call())
    assert api.requests == []
    connector.delete("party/a/../b?c", None, make_call())
    assert api.requests[0].path == "/parties/a%2F..%2Fb%3Fc"


# --- answers --------------------------------------------------------------------------------------


def test_answer_rules_of_the_system_and_of_a_request(api: ScriptedHttp) -> None:
    rules = [{"meaning": "absent", "status": 200, "is_value": None}]
    create = {
        **resource()[0]["create"],
        "answers": [{"meaning": "refused", "status": 200, "member": "result", "equals": False}],
    }
    connector = connect(api.url, answers=rules, resources=resource(create=create))
    [(key, state)] = connector.desired(enriched(snapshot())).items()
    api.always(Reply(200, "null"))
    assert connector.read(key, make_call()) is None
    connector.delete(key, None, make_call())
    api.always(Reply(200, {"result": False}))
    with pytest.raises(Terminal):
        connector.create(key, state, make_call())
    connector.change(key, state, state, make_call())  # the rule is that of create alone


def test_what_is_there_already_is_changed(api: ScriptedHttp) -> None:
    connector = connect(api.url)
    [(key, state)] = connector.desired(enriched(snapshot())).items()
    api.script(Reply(409), Reply(200, {}))
    connector.create(key, state, make_call())
    assert [each.method for each in api.requests] == ["POST", "PATCH"]
    only_create = connect(api.url, resources=resource(change=None))
    api.script(Reply(409))
    with pytest.raises(Unclear):
        only_create.create(key, state, make_call())


@pytest.mark.parametrize(
    "said", [[], {"found": {}}, {"found": [7]}, {"found": [{}, {}]}, {"other": []}]
)
def test_an_answer_that_is_not_as_described_is_never_absence(api: ScriptedHttp, said: Any) -> None:
    api.always(Reply(200, said))
    with pytest.raises(Transient, match=r"read\.(items|match)"):
        connect(api.url).read("party/7", make_call())


def test_an_item_is_found_in_a_list_by_what_it_must_equal(api: ScriptedHttp) -> None:
    read = {"path": "parties", "items": ".", "match": {"ref.id": "{id}"}}
    connector = connect(api.url, resources=resource(read=read))
    api.always(Reply(200, [{"ref": {"id": "6"}, "imsi": "6"}, {"ref": {"id": "7"}, "imsi": "7"}]))
    held = connector.read("party/7", make_call())
    assert held is not None and held["imsi"] == "7"
    assert connector.read("party/8", make_call()) is None


def test_what_was_written_is_looked_at_where_asked(api: ScriptedHttp) -> None:
    connector = connect(api.url, verify_after_write=True)
    [(key, state)] = connector.desired(enriched(snapshot())).items()
    api.script(Reply(201, "created"), Reply(200, {"found": [{"state": "NEW"}]}))
    call = make_call()
    with pytest.raises(Unclear, match=r"read back otherwise: id, imsi, msisdn, name, state"):
        connector.create(key, state, call)
    assert call.wrote


def test_a_resource_that_is_no_longer_described_is_not_forgotten(api: ScriptedHttp) -> None:
    with pytest.raises(Transient, match="described a resource sim"):
        connect(api.url).delete("sim/7", None, make_call())


# --- who we are -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("authentication", "secret", "header", "shown"),
    [
        ({"type": "bearer"}, "tok-4711", "Authorization", "Bearer tok-4711"),
        ({"type": "basic"}, "nsps:pass-4711", "Authorization", "Basic bnNwczpwYXNzLTQ3MTE="),
        ({"type": "api_key", "header": "X-API-Key"}, "key-4711", "X-API-Key", "key-4711"),
    ],
)
def test_the_secret_is_shown_as_described(
    api: ScriptedHttp, authentication: dict[str, str], secret: str, header: str, shown: str
) -> None:
    connector = connect(api.url, {"credentials": secret}, authentication=authentication)
    connector.check(make_call())
    assert api.requests[0].headers[header] == shown


@pytest.mark.parametrize("form", [False, True])
def test_a_token_is_signed_in_for_and_again_when_it_is_refused(
    api: ScriptedHttp, form: bool
) -> None:
    sign_in = {
        "url": f"{api.url}/token",
        "body": {"grant_type": "client_credentials", "client_id": "{id}", "client_secret": "{key}"},
        "form": form,
    }
    connector = connect(
        api.url,
        {"credentials": json.dumps({"id": "nsps", "key": "key-canary"})},
        authentication={"type": "sign_in", "sign_in": sign_in},
    )
    api.script(
        Reply(200, {"access_token": "one", "expires_in": 3600}), Reply(200, {}),
        Reply(401), Reply(200, {"access_token": "two"}), Reply(200, {}),
    )  # fmt: skip
    connector.check(make_call())
    connector.check(make_call())
    shown = [each.headers.get("Authorization") for each in api.requests]
    assert shown == [None, "Bearer one", "Bearer one", None, "Bearer two"]
    asked = api.requests[0]
    given = parse_qs(asked.body.decode()) if form else asked.json()
    assert given["client_secret"] == (["key-canary"] if form else "key-canary")


@pytest.mark.parametrize("answer", [Reply(400, "key-canary"), Reply(200, {"token": 1}), Reply(500)])
def test_without_a_token_nothing_is_asked(api: ScriptedHttp, answer: Reply) -> None:
    sign_in = {"url": f"{api.url}/token", "body": {"key": "{key}"}}
    connector = connect(
        api.url,
        {"credentials": '{"key": "key-canary"}'},
        authentication={"type": "sign_in", "sign_in": sign_in},
    )
    api.always(answer)
    with pytest.raises(Transient) as error:
        connector.delete("party/7", None, make_call())
    assert not isinstance(error.value, NoAnswer) and "key-canary" not in str(error.value)
    assert [each.path for each in api.requests] == ["/token"]


def test_a_secret_that_is_not_configured_is_refused_with_the_configuration() -> None:
    settings = Settings.model_validate({**DESCRIPTION, "url": "https://crm.example.net"})
    ((name, what),) = not_given(RestSystem, settings, {})
    assert (name, what[:8]) == ("credentials", "missing;")
    assert [*not_given(RestSystem, settings, {"credentials": "x"})] == []


# --- descriptions that are wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"url": "ftp://x"}, "url: write https://"),
        ({"allow_http": False}, "url: write https://"),
        ({"url": "https://u:p@x"}, "url: write it without user"),
        ({"url": "https://x/?key=1"}, "url: write it without a query"),
        ({"authentication": {"type": "api_key"}}, "header: missing: write the header"),
        ({"authentication": {"type": "sign_in"}}, "sign_in goes with type sign_in"),
        ({"resources": resource(key="uri")}, "key: uri is no field with a source: write one of"),
        ({"resources": resource() * 2}, "two are named party"),
        ({"resources": resource(when={"stats": ["active"]})}, "'stats'.*write"),
        ({"resources": resource(fields={"id": "account_info.nummer"})}, "nummer.*write"),
        (
            {"resources": resource(fields={"id": {"from": "msisdn", "format": "e16"}})},
            "format: there is no e16: write one of",
        ),
        ({"resources": resource(fields={"id": {}})}, "write from: SOURCE or value: VALUE"),
        (
            {"resources": resource(delete={"method": "DELETE", "path": "parties/{imsi}"})},
            r"delete\.path: \{imsi\} cannot be filled in here: write \{NAME\} with one of id",
        ),
        (
            {"resources": resource(create={"method": "PUT", "path": "p", "body": ["{id:up}"]})},
            r"create\.body: \{id:up\}: there is no such format: write one of",
        ),
        (
            {"resources": resource(create={"method": "PUT", "path": "p", "body": ["all {*}"]})},
            r"create\.body: all \{\*\}: \{\*\} is a map: write it alone",
        ),
        (
            {"resources": resource(read={"path": "p/{id}", "query": {"of": "{*:text}"}})},
            r"read\.query: \{\*:text\} is a map: write \{\*:names\}",
        ),
        (
            {"resources": resource(delete={"method": "POST", "path": "p/{id}", "body": "{*}"})},
            r"delete\.body: \{\*\} cannot be filled in here",
        ),
        (
            {"answers": [{"meaning": "absent"}]},
            "fits every answer: write status, text, is_value or member",
        ),
    ],
)
def test_a_description_that_is_wrong_says_what_to_write(more: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({"url": "http://127.0.0.1", **DESCRIPTION, **more})


def test_it_says_which_blocks_it_reads() -> None:
    fields = {**resource()[0]["fields"], "profile": "policy.cs_profile"}
    connector = connect("http://127.0.0.1:9", resources=resource(fields=fields))
    blocks = dict(connector.reads(connector.settings))
    assert blocks["resources.party.fields.profile (policy.cs_profile)"] is Block.ACCESS_POLICY_INFO
    assert set(blocks.values()) == {
        Block.ACCOUNT_INFO,
        Block.SIM_INFO,
        Block.ACCESS_POLICY_INFO,
    }
