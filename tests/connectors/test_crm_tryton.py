"""The connector crm_tryton: the standard tests over HTTP, and how answers are read.

Against a double with Tryton 8.2's recorded answers; tests/systems/test_tryton.py has a real one.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from nsps.domain.outcome import NoAnswer, Terminal, Transient, Unclear
from nsps.transport.transcript import NotSent, Transcript, writing
from nsps_testing.standard import (
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    Seen,
    StateStandardTests,
    enriched,
    make_call,
)
from pydantic import ValidationError

from functions.connectors.crm_tryton.api import ANSWERS
from functions.connectors.crm_tryton.connector import CrmTryton
from functions.connectors.crm_tryton.settings import Settings

USER, PASSWORD, TOKEN = "nsps", "password-canary", "session-token-canary"
CREDENTIALS = f"{USER}:{PASSWORD}"
KNOWN = ("name", "lang")


class TrytonDouble:
    """The parties of a Tryton over JSON-RPC, as 8.2 answers."""

    def __init__(self) -> None:
        self.parties: dict[int, dict[str, Any]] = {}
        self._next, self._lock = 0, threading.Lock()

    def __call__(self, request: Seen) -> Reply:
        asked = request.json()
        method, params = asked["method"], asked["params"]
        if method == "common.db.login":
            good = params[:2] == [USER, {"password": PASSWORD}]
            return _result([7, TOKEN, None]) if good else Reply(401, "<html>Unauthorized</html>")
        session = base64.b64encode(f"{USER}:7:{TOKEN}".encode()).decode()
        if request.headers.get("Authorization") != f"Session {session}":
            return Reply(401, "")
        with self._lock:
            name = method.removeprefix("model.party.party.")
            answer: Reply = getattr(self, f"_{name}")(*params[:-1])
            return answer

    def _fields_get(self, names: list[str], _level: int) -> Reply:
        return _result({name: {"name": name} for name in names if name in KNOWN})

    def _search_read(self, domain: Any, _o: int, limit: int, _order: Any, names: Any) -> Reply:
        [[_, operator, value], *_] = domain
        assert operator == "=", "the double lists nothing"
        if unknown := [n for n in names if "." not in n and n not in (*KNOWN, "active")]:
            return _error(f"'{unknown[0]}'", "")
        return _result([p for p in self.parties.values() if p["code"] == value][:limit])

    def _create(self, values: list[dict[str, Any]]) -> Reply:
        [party] = values
        if any(each["code"] == party["code"] for each in self.parties.values()):
            return _user_error("The code on party must be unique.")
        self._next += 1
        made = {"id": self._next, "active": True, "contact_mechanisms.": []}
        self.parties[self._next] = made
        self._set(made, party)
        return _result([self._next])

    def _write(self, ids: list[int], values: dict[str, Any]) -> Reply:
        party = self.parties.get(ids[0])
        if party is None:
            text = f'You are trying to write to records "{ids[0]}" of "Party" that don\'t exist.'
            return _user_error(text)
        if not party["active"] and values.keys() != {"active"}:
            return _user_error('You are not allowed to modify the field "Name" in record "Zoe".')
        self._set(party, values)
        return _result(None)

    def _set(self, party: dict[str, Any], values: dict[str, Any]) -> None:
        contacts = party["contact_mechanisms."]
        for command, *given in values.get("contact_mechanisms", ()):
            if command == "create":
                self._next += 1
                [new] = given[0]
                contacts.append({**new, "value_compact": new["value"], "active": True})
                contacts[-1]["id"] = self._next
            elif command == "write":
                [found] = [each for each in contacts if each["id"] in given[0]]
                found["value_compact"] = given[1]["value"]
            else:
                contacts[:] = [each for each in contacts if each["id"] not in given[0]]
        party.update({n: v for n, v in values.items() if n != "contact_mechanisms"})


def _result(result: Any) -> Reply:
    return Reply(200, {"id": 1, "result": result})


def _error(kind: str, more: Any) -> Reply:
    return Reply(200, {"id": 1, "error": [kind, more]})


def _user_error(message: str) -> Reply:
    return _error("UserError", [message, "", None])


def snapshot(**account: Any) -> dict[str, Any]:
    usual = {"i_account": 1000889, "id": "420777000003@msisdn", "bill_status": "open"}
    return {
        "account_info": {**usual, "firstname": "Zoe", "email": "zoe@example.net", **account},
        "sim_info": {"i_sim_card": 5, "imsi": "001010000000003"},
    }


class TestCrmTryton(StateStandardTests, HttpStandardTests):
    connector_class = CrmTryton
    pb = snapshot()
    changed_pb = snapshot(firstname="Ada", email=None, id="420777000033")
    gone_pb = ({"sim_info": pb["sim_info"]}, snapshot(bill_status="terminated"))
    secrets: ClassVar = {"credentials": CREDENTIALS}
    canaries = (PASSWORD,)
    rules = ANSWERS
    hidden_failures = (
        _user_error("No."), _error("'nosuch'", ""), Reply(200, {}), Reply(202, {}), Reply(204),
    )  # fmt: skip

    @pytest.fixture
    def double(self) -> TrytonDouble:
        return TrytonDouble()

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": f"{url}/crm/rpc/", "allow_http": True}

    @pytest.fixture
    def towards(self, scripted: ScriptedHttp) -> Iterator[Any]:
        """Signed in already, so that what is scripted answers the calls that follow."""
        made = self.make(self.http_settings(scripted.url))
        scripted.script(_result([7, TOKEN, None]), _result({"name": {}}))
        made.check(make_call())
        scripted.requests.clear()
        yield made
        made.close()

    write_answers = (
        (_user_error("The value is not valid."), Terminal, "The value is not valid"),
        (_user_error(f"{PASSWORD} of {TOKEN}."), Terminal, f"^(?!.*{TOKEN}).*UserError"),
        (_error("UserWarning", ["x.y", "Sure?", ""]), Terminal, "Sure?.*a person to confirm"),
        (_error("ConcurrencyException", "modified in the meanwhile"), Transient, "meanwhile"),
        (_user_error("You are not allowed to access it."), Transient, "may this user do that"),
        (_user_error("Records that don't exist."), Unclear, "exist"),
        (_error("no NUL (0x00) bytes", ""), Terminal, "NUL"),
        (_error("'shoe_size'", ""), Unclear, "shoe_size.*every field of the settings"),
        (Reply(200, "<html>"), Unclear, "is url the JSON-RPC"),
        (Reply(404, "<html>"), Transient, "is url the JSON-RPC"),
        (Reply(503, "<html>"), Unclear, "503"),
    )

    def writes(self, towards: CrmTryton, scripted: ScriptedHttp) -> list[Callable[[], object]]:
        [state] = towards.desired(enriched(self.pb)).values()
        return [lambda: towards.change("PB-1", state, {"id": 1, "ids": {}}, make_call())]

    def test_a_refused_question_decides_nothing_for_good(
        self, towards: CrmTryton, scripted: ScriptedHttp
    ) -> None:
        scripted.always(_user_error("No."))
        call = make_call()
        with pytest.raises(Transient) as error:
            towards.read("PB-1", call)
        assert not isinstance(error.value, NoAnswer | Unclear) and not call.wrote

    def test_the_log_in_is_never_written_down(self, connector: CrmTryton) -> None:
        [(key, state)] = connector.desired(enriched(self.pb)).items()
        with writing(Transcript(send=False)) as looked:
            assert connector.read(key, make_call()) is None
            with pytest.raises(NotSent):
                connector.create(key, state, make_call())
        assert [each.sent for each in looked.exchanges] == [True, False]
        self.assert_private(repr(looked.to_json()))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"url": "http://crm.example.net/crm/rpc/"}, "write https://"),
        ({"fields": {"active": "name"}}, "active: not yours to set"),
        ({"fields": {"email": "account_info.email"}}, "email: write it under contacts"),
        ({"fields": {"name": "account_info.nme"}}, "nme.*write"),
        ({"contacts": {"pager": "msisdn"}}, "pager: no type: write phone"),
        ({"code_prefix": "PB_"}, "code_prefix"),
    ],
)
def test_settings_that_are_wrong_say_what_to_write(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({"url": "https://crm.example.net/crm/rpc/", **wrong})
