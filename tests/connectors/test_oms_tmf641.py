"""The order management connector: standard tests in both profiles, and the late answers."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any, ClassVar

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st
from nsps.connector.base import (
    Action,
    Answer,
    AnswerState,
    CallbackInvalid,
    CallbackRefused,
    CallbackRequest,
    Order,
)
from nsps.domain.event import Owner
from nsps.domain.outcome import NoAnswer, Terminal, Transient
from nsps.domain.snapshot import Block, BlockNotRead
from nsps.transport.answers import AnswerRules
from nsps_local.order_manager import BEHAVIOURS, running
from nsps_testing.standard import (
    AsynchronousStandardTests,
    ChaosProxy,
    HttpStandardTests,
    Reply,
    ScriptedHttp,
    enriched,
    make_call,
    make_context,
    rotated_parts,
)
from nsps_testing.waiting import wait_for
from pydantic import ValidationError

from functions.connectors.oms_tmf641 import tmf641
from functions.connectors.oms_tmf641.connector import OrderManagement
from functions.connectors.oms_tmf641.settings import Settings

TOKEN = "token-for-the-order-manager"
CALLBACK = "token-of-the-order-manager"
SECRETS = {"credentials": TOKEN, "callback": CALLBACK}
PB: dict[str, dict[str, Any]] = {
    "account_info": {
        "i_account": 189,
        "id": "79123456789@msisdn",
        "bill_status": "open",
        "blocked": False,
    },
    "sim_info": {"imsi": "001010000020349", "iccid": "8970101000000203493"},
    "access_policy_info": {
        "name": "Prepaid",
        "attributes": [{"group_name": "lte.wtl", "name": "cs_profile", "value": "cs-1"}],
    },
}
BLOCKED = PB | {"account_info": PB["account_info"] | {"blocked": True}}
KEY = "imsi:001010000020349"


def connector(
    url: str = "https://oms.example.net", secrets: dict[str, str] | None = None, **settings: Any
) -> OrderManagement:
    model = Settings.model_validate({"url": url, "allow_http": True, **settings})
    return OrderManagement(model, make_context(secrets or SECRETS, handler="oms"))


def an_order(reference: str = "ref-1", action: Action = Action.ADD, pb: Any = PB) -> Order:
    state = connector().desired(enriched(pb)).get(KEY, {})
    return Order(KEY, action, state, reference, Owner("account", "189"), "HSS")


def notification(
    body: Any, headers: dict[str, str] | None = None, path: str = ""
) -> CallbackRequest:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    proof = {"Authorization": f"Bearer {CALLBACK}"} if headers is None else headers
    return CallbackRequest("POST", path, proof, raw, {})


def state_change(order: str, state: str, **more: Any) -> dict[str, Any]:
    return {
        "eventId": "e-1",
        "eventTime": "2026-11-21T02:10:03.123Z",
        "eventType": "ServiceOrderStateChangeEvent",
        "event": {"serviceOrder": {"id": order, "state": state, **more}},
    }


@pytest.fixture(scope="module")
def manager_process() -> Iterator[str]:
    with running("--token", TOKEN) as url:
        yield url


class TestTmf641(AsynchronousStandardTests, HttpStandardTests):
    connector_class = OrderManagement
    rules = AnswerRules(tmf641.ORDER_ANSWERS)
    pb = PB
    changed_pb = BLOCKED
    gone_pb = (
        {"account_info": PB["account_info"]},
        PB | {"account_info": PB["account_info"] | {"bill_status": "terminated"}},
        PB | {"sim_info": {}},
    )
    secrets: ClassVar = SECRETS
    deadline = 0.5
    hidden_failures: ClassVar[Sequence[Reply]] = (
        Reply(200, {"id": "SO-1", "externalId": "order-add", "state": "rejected"}),
        Reply(200, [7, None, {"externalId": "order-add"}]),
    )

    @pytest.fixture
    def system(self, manager_process: str) -> Iterator[ChaosProxy]:
        with ChaosProxy.before(manager_process) as proxy:
            yield proxy

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": url, "allow_http": True}

    def callback(self, order_id: str, answer: Answer) -> CallbackRequest:
        words = {
            AnswerState.PROGRESS: "inProgress",
            AnswerState.DONE: "completed",
            AnswerState.FAILED: "failed",
        }
        return notification(state_change(order_id, words[answer.state]))


class TestPlain(TestTmf641):
    hidden_failures = (Reply(200, {"order": "order-add", "status": "FAILED"}),)
    any_body = True

    def http_settings(self, url: str) -> dict[str, Any]:
        return {"url": f"{url}/orders", "allow_http": True, "profile": "plain"}

    def callback(self, order_id: str, answer: Answer) -> CallbackRequest:
        words = {
            AnswerState.PROGRESS: "IN_PROGRESS",
            AnswerState.DONE: "OK",
            AnswerState.FAILED: "FAILED",
        }
        return notification({"order": order_id, "status": words[answer.state]})


class TestWhatIsOrdered:
    def test_a_sim_card(self) -> None:
        wanted = connector().desired(enriched(PB))
        assert wanted == {
            KEY: {
                "imsi": "001010000020349",
                "iccid": "8970101000000203493",
                "msisdn": "79123456789",
                "serviceGranted": True,
                "csProfile": "cs-1",
                "epsProfile": None,
            }
        }
        assert connector().desired(enriched(BLOCKED))[KEY]["serviceGranted"] is False

    @pytest.mark.parametrize(
        ("account", "granted", "number"),
        [
            ({"status": "customer_suspended"}, False, "79123456789"),
            ({"id": "+79123456789"}, True, "79123456789"),
            ({"id": "alice"}, True, None),
            ({"id": "001010000020349"}, True, None),
        ],
    )
    def test_who_is_served_and_under_what_number(
        self, account: dict[str, Any], granted: bool, number: str | None
    ) -> None:
        pb = PB | {"account_info": PB["account_info"] | account}
        state = connector().desired(enriched(pb))[KEY]
        assert (state["serviceGranted"], state["msisdn"]) == (granted, number)

    def test_an_account_with_characteristics_of_its_own(self) -> None:
        made = connector(
            resource="account",
            characteristics={
                "plan": "product_info.name",
                "data": "account_info.service_features.netaccess_policy.effective_flag_value",
            },
        )
        features = [{"name": "netaccess_policy", "effective_flag_value": "Y"}]
        account = PB["account_info"] | {"service_features": features}
        pb = {"account_info": account, "product_info": {"name": "Gold"}}
        assert made.desired(enriched(pb)) == {"account:189": {"plan": "Gold", "data": "Y"}}

    @pytest.mark.parametrize("imsi", ["12345", "abcdef", "1" * 16, "00101 0000020349"])
    def test_an_imsi_that_is_none_is_rejected(self, imsi: str) -> None:
        with pytest.raises(Terminal, match="6 to 15 digits") as error:
            connector().desired(enriched(PB | {"sim_info": {"imsi": imsi}}))
        assert imsi not in str(error.value)

    @pytest.mark.parametrize("action", list(Action))
    def test_the_order_as_tmf641_writes_it(self, action: Action) -> None:
        with ScriptedHttp() as system:
            system.always(Reply(201, {"id": "SO-7", "state": "acknowledged"}))
            made = connector(
                system.url,
                look_first=False,
                category="Mobile",
                priority="1",
                service_type="CFS",
                service_specification="spec-1",
            )
            assert made.submit(an_order(action=action), make_call()) == "SO-7"
            seen = system.requests[-1]
        assert (seen.method, seen.path) == ("POST", "/tmf-api/serviceOrdering/v4/serviceOrder")
        assert seen.headers["Authorization"] == f"Bearer {TOKEN}"
        body = seen.json()
        [item] = body.pop("serviceOrderItem")
        assert body == {
            "externalId": "ref-1",
            "category": "Mobile",
            "priority": "1",
            "description": "HSS",
        }
        assert (item["id"], item["action"]) == ("1", action.value)
        assert item["service"]["id"] == KEY
        assert item["service"]["serviceSpecification"] == {"id": "spec-1"}
        values = {each["name"]: each for each in item["service"]["serviceCharacteristic"]}
        assert values["serviceGranted"] == {
            "name": "serviceGranted",
            "valueType": "boolean",
            "value": True,
        }
        # What is empty now is said when it may have been something before.
        assert ("epsProfile" in values) is (action is Action.MODIFY)

    def test_a_removal_knows_the_imsi_without_a_state(self) -> None:
        with ScriptedHttp() as system:
            made = connector(f"{system.url}/orders", profile="plain")
            made.submit(replace(an_order(action=Action.DELETE), state={}), make_call())
            assert system.requests[-1].json() == {
                "order": "ref-1",
                "action": "delete",
                "service": KEY,
                "characteristics": {"imsi": "001010000020349"},
                "group": "HSS",
            }

    def test_a_characteristic_of_a_block_that_was_not_read_is_no_order(self) -> None:
        read = [Block.ACCOUNT_INFO, Block.SIM_INFO]
        with pytest.raises(BlockNotRead, match="access_policy_info"):
            connector().desired(enriched(PB, read=read))
        needs = ("characteristics.csProfile (access_policy_info.attributes.cs_profile.value)",)
        reads = list(OrderManagement.reads(connector().settings))
        assert (*needs, Block.ACCESS_POLICY_INFO) in reads
        number = "characteristics.msisdn (msisdn)"
        assert {(number, Block.ACCOUNT_INFO), (number, Block.SIM_INFO)} <= set(reads)


class TestSubmitting:
    def test_a_lost_answer_never_makes_two_orders(self, manager_process: str) -> None:
        for look_first, turn in ((True, 2), (False, 1)):
            order = an_order(reference=f"lost-{look_first}")
            with ChaosProxy.before(manager_process) as proxy:
                made = connector(f"http://127.0.0.1:{proxy.port}", look_first=look_first)
                proxy.lose_answer(turn)
                with pytest.raises(NoAnswer):
                    made.submit(order, make_call())
                proxy.pass_all()
                ident = made.submit(order, make_call())
            found = [
                each["id"]
                for each in requests.get(f"{manager_process}/control", timeout=5).json()["orders"]
                if each["externalId"] == order.reference
            ]
            assert found == [ident]

    @pytest.mark.parametrize(
        ("status", "body"),
        [
            (409, {"code": "1", "reason": "Conflict"}),
            (400, {"code": "1", "reason": "externalId ref-1 already exists"}),
            (422, "externalId exists"),
        ],
    )
    def test_an_order_that_exists_is_found(self, status: int, body: Any) -> None:
        with ScriptedHttp() as system:
            others = [{"id": "SO-1", "externalId": "another"}, {"id": 2, "externalId": "ref-1"}]
            system.script(Reply(status, body), Reply(200, others))
            made = connector(system.url, look_first=False)
            assert made.submit(an_order(), make_call()) == "2"
            assert "externalId=ref-1" in system.requests[-1].path

    def test_one_that_is_said_to_exist_but_is_not_found_is_tried_again(self) -> None:
        with ScriptedHttp() as system:
            system.script(Reply(409, {}), Reply(200, []))
            with pytest.raises(Transient):
                connector(system.url, look_first=False).submit(an_order(), make_call())

    @pytest.mark.parametrize("status", [404, 405, 501])
    def test_a_manager_that_cannot_search_is_no_hindrance(self, status: int) -> None:
        with ScriptedHttp() as system:
            system.script(Reply(status, {}), Reply(201, {"id": "SO-1"}))
            assert connector(system.url).submit(an_order(), make_call()) == "SO-1"

    def test_an_answer_without_an_id_leaves_our_reference(self) -> None:
        for reply in (Reply(202, ""), Reply(201, {"state": "acknowledged"})):
            with ScriptedHttp(reply) as system:
                made = connector(system.url, look_first=False)
                assert made.submit(an_order(), make_call()) == "ref-1"

    @pytest.mark.parametrize("word", ["rejected", "REJECTED", "Rejected", "failed", "cancelled"])
    @pytest.mark.parametrize(("profile", "key"), [("tmf641", "state"), ("plain", "status")])
    def test_a_rejection_in_the_orders_own_answer(self, word: str, profile: str, key: str) -> None:
        errors = [{"code": "7", "message": "no such profile"}]
        with ScriptedHttp(Reply(201, {"id": "SO-1", key: word, "errorMessage": errors})) as system:
            with pytest.raises(Terminal, match=r"rejected the order: .*no such profile"):
                connector(system.url, profile=profile, look_first=False).submit(
                    an_order(), make_call()
                )

    @pytest.mark.parametrize("word", ["rejected", "REJECTED", "failed", "cancelled", "Abgelehnt"])
    @pytest.mark.parametrize("look_first", [True, False])
    def test_an_order_that_is_found_already_rejected(self, word: str, look_first: bool) -> None:
        errors = [{"code": "7", "message": "no such profile"}]
        known = {"id": "2", "externalId": "ref-1", "state": word, "errorMessage": errors}
        settings: dict[str, Any] = {"look_first": look_first, "states": {"abgelehnt": "failed"}}
        with ScriptedHttp() as system:
            system.script(*([] if look_first else [Reply(409, {})]), Reply(200, [known]))
            with pytest.raises(Terminal, match=r"rejected the order: .*no such profile"):
                connector(system.url, **settings).submit(an_order(), make_call())

    @pytest.mark.parametrize("word", ["acknowledged", "inProgress", "completed", "pondering", None])
    def test_an_order_that_is_found_at_work_is_accepted(self, word: str | None) -> None:
        known = {"id": "2", "externalId": "ref-1", "state": word}
        with ScriptedHttp(Reply(200, [known])) as system:
            assert connector(system.url).submit(an_order(), make_call()) == "2"

    def test_a_state_that_nobody_knows_leaves_the_order_open(self) -> None:
        with ScriptedHttp(Reply(201, {"id": "SO-1", "state": "pondering"})) as system:
            assert connector(system.url, look_first=False).submit(an_order(), make_call()) == "SO-1"

    @pytest.mark.parametrize(
        ("status", "kind"),
        [(400, Terminal), (422, Terminal), (413, Terminal), (401, Transient), (404, Transient),
         (429, Transient), (503, Transient), (302, Transient)],
    )  # fmt: skip
    def test_a_refusal_says_the_managers_words(self, status: int, kind: type[Exception]) -> None:
        body = {"code": "20", "reason": "No", "message": f"the token was {TOKEN}"}
        with ScriptedHttp(Reply(status, body)) as system:
            with pytest.raises(kind, match=rf"{status} No: the token was \*\*\*"):
                connector(system.url, look_first=False).submit(an_order(), make_call())

    def test_a_busy_manager_is_waited_for(self, manager_process: str) -> None:
        requests.post(f"{manager_process}/control", json={"behaviour": "busy"}, timeout=5)
        try:
            with pytest.raises(Transient, match="too busy") as error:
                connector(manager_process).submit(an_order("busy"), make_call())
            assert error.value.retry_after == 1
        finally:
            requests.post(f"{manager_process}/control", json={"behaviour": "normal"}, timeout=5)

    @pytest.mark.parametrize(
        ("way", "header", "value"),
        [
            ("bearer", "Authorization", "Bearer me:you"),
            ("x-auth-token", "X-Auth-Token", "me:you"),
            ("basic", "Authorization", "Basic " + base64.b64encode(b"me:you").decode()),
        ],
    )
    def test_how_we_prove_ourselves(self, way: str, header: str, value: str) -> None:
        with ScriptedHttp(Reply(201, {"id": "1"})) as system:
            made = connector(
                system.url,
                SECRETS | {"credentials": "me:you"},
                authentication=way,
                look_first=False,
            )
            made.submit(an_order(), make_call())
            assert system.requests[-1].headers[header] == value

    @pytest.mark.parametrize("status", [401, 403])
    def test_refused_credentials_are_read_again_and_the_order_placed_once_more(
        self, status: int
    ) -> None:
        with ScriptedHttp() as system:
            system.script(Reply(status, {}), Reply(201, {"id": "SO-1"}))
            settings = Settings(url=system.url, allow_http=True, look_first=False)
            made = OrderManagement(settings, rotated_parts("credentials", "old", "new"))
            assert made.submit(an_order(), make_call()) == "SO-1"
            shown = [each.headers["Authorization"] for each in system.requests]
        assert shown == ["Bearer old", "Bearer new"]

    def test_a_missing_credential_is_named(self) -> None:
        with pytest.raises(Transient, match="no secret credentials"):
            connector(secrets={"callback": CALLBACK}).submit(an_order(), make_call())


class TestAsking:
    def test_the_answer_says_what_became_of_the_order(self, manager_process: str) -> None:
        requests.post(f"{manager_process}/control", json={"behaviour": "silent"}, timeout=5)
        try:
            made = connector(manager_process)
            ident = made.submit(an_order("silent-1"), make_call())
            wait_for(lambda: made.ask(ident, make_call()).state is AnswerState.DONE)
            assert made.ask("silent-1", make_call()).order == "silent-1", "by our reference, too"
        finally:
            requests.post(f"{manager_process}/control", json={"behaviour": "normal"}, timeout=5)

    def test_an_unknown_order_may_be_known_later(self, manager_process: str) -> None:
        with pytest.raises(Transient, match="does not know the order"):
            connector(manager_process).ask("SO-none", make_call())

    @pytest.mark.parametrize(
        "reply", [Reply(200, {"state": "strange"}), Reply(200, []), Reply(500)]
    )
    def test_an_answer_that_says_nothing_decides_nothing(self, reply: Reply) -> None:
        with ScriptedHttp(reply) as system, pytest.raises(Transient):
            connector(system.url).ask("SO-1", make_call())

    def test_the_plain_form_cannot_be_asked(self) -> None:
        assert connector().askable
        assert not connector(profile="plain").askable


class TestHearing:
    @pytest.mark.parametrize(
        ("word", "state"),
        [
            *((word, AnswerState.PROGRESS) for word in ("acknowledged", "inProgress", "pending")),
            *((word, AnswerState.PROGRESS) for word in ("held", "IN_PROGRESS", "in progress")),
            *((word, AnswerState.PROGRESS) for word in ("assessingCancellation", "RETRY")),
            *((word, AnswerState.DONE) for word in ("completed", "OK ", "done", "Success")),
            *((word, AnswerState.FAILED) for word in ("failed", "rejected", "cancelled")),
            *((word, AnswerState.FAILED) for word in ("partial", "FAILED", "ERROR")),
        ],
    )
    def test_every_state_is_read_in_both_forms(self, word: str, state: AnswerState) -> None:
        made = connector()
        for body in (state_change("SO-1", word), {"order": "SO-1", "status": word}):
            assert [each.state for each in made.parse_callback(notification(body))] == [state]

    def test_our_reference_is_preferred_because_the_id_may_not_be_known_yet(self) -> None:
        body = state_change("SO-1", "completed", externalId="ref-1")
        [answer] = connector().parse_callback(notification(body))
        assert answer.order == "ref-1"
        assert answer.at == datetime(2026, 11, 21, 2, 10, 3, 123000, tzinfo=UTC)

    def test_the_answer_says_why_it_failed(self) -> None:
        item = {"id": "1", "errorMessage": [{"code": "42", "message": "no port", "reason": "full"}]}
        body = state_change(
            "SO-1", "partial", errorMessage=[{"message": "half done"}], serviceOrderItem=[item]
        )
        [answer] = connector().parse_callback(notification(body))
        assert answer.message == "half done; 42 no port full"

    @pytest.mark.parametrize(
        ("kind", "resource", "message"),
        [
            ("ServiceOrderInformationRequiredEvent", {"state": "held"}, "needs more information"),
            (
                "ServiceOrderMilestoneEvent",
                {"milestone": [{"message": "HLR written"}]},
                "HLR written",
            ),
            ("ServiceOrderJeopardyEvent", {}, "late or at risk"),
            ("ServiceOrderAttributeValueChangeEvent", {"state": "inProgress"}, ""),
            ("ServiceOrderCreateEvent", {"state": "acknowledged"}, ""),
        ],
    )
    def test_other_news_is_progress(
        self, kind: str, resource: dict[str, Any], message: str
    ) -> None:
        body = {"eventType": kind, "event": {"serviceOrder": {"id": "SO-1", **resource}}}
        [answer] = connector().parse_callback(notification(body))
        assert answer.state is AnswerState.PROGRESS
        assert message in answer.message

    def test_the_kind_may_be_in_the_path_only(self) -> None:
        body = {"event": {"serviceOrder": {"id": "SO-1"}}}
        received = connector().parse_callback(
            notification(body, path="/listener/serviceOrderJeopardyEvent")
        )
        assert "at risk" in received[0].message

    @pytest.mark.parametrize(
        "body",
        [
            {"eventType": "ServiceOrderDeleteEvent", "event": {"serviceOrder": {"id": "SO-1"}}},
            {
                "eventType": "CancelServiceOrderStateChangeEvent",
                "event": {"cancelServiceOrder": {"id": "C-1"}},
            },
        ],
    )
    def test_news_of_other_things_holds_no_answer(self, body: Any) -> None:
        assert connector().parse_callback(notification(body)) == []

    def test_several_at_once(self) -> None:
        body = [state_change("SO-1", "completed"), {"order": "x", "status": "FAILED"}]
        assert [each.order for each in connector().parse_callback(notification(body))] == [
            "SO-1",
            "x",
        ]

    def test_words_of_the_settings(self) -> None:
        made = connector(states={"Wrapped Up": "done"})
        [answer] = made.parse_callback(notification({"order": "1", "status": "wrapped_up"}))
        assert answer.state is AnswerState.DONE

    @pytest.mark.parametrize(
        ("body", "words"),
        [
            ({"order": "1", "status": "odd"}, "'odd' is unknown"),
            ({"order": "1"}, "is unknown"),
            ({"status": "OK"}, "names no order"),
            ({"eventType": "X", "event": {}}, "no event.serviceOrder"),
            ({"event": {"serviceOrder": {"state": "completed"}}}, "neither id nor externalId"),
            (7, "not a JSON object"),
        ],
    )
    def test_what_cannot_be_read_is_named(self, body: Any, words: str) -> None:
        with pytest.raises(CallbackInvalid, match=words):
            connector().parse_callback(notification(body))

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.sampled_from(
                        ["event", "serviceOrder", "id", "externalId", "state", "eventType", "order",
                         "status", "errorMessage", "serviceOrderItem", "milestone", "eventTime"]
                    ),
                    inner,
                )
            ),
        )
    )  # fmt: skip
    def test_any_json_is_heard_or_invalid(self, body: Any) -> None:
        try:
            for answer in connector().parse_callback(notification(body)):
                assert answer.order
                assert len(answer.message) <= 500
        except CallbackInvalid as invalid:
            assert str(invalid)


class TestProof:
    @pytest.mark.parametrize(
        ("way", "secret", "headers"),
        [
            ("bearer", "t0ken", {"authorization": "bearer t0ken"}),
            ("x-auth-token", "t0ken", {"X-AUTH-TOKEN": "t0ken"}),
            ("basic", "me:you", {"Authorization": "Basic bWU6eW91"}),
            (
                "signature",
                "key",
                {"X-Signature": "sha256=" + hmac.new(b"key", b"{}", hashlib.sha256).hexdigest()},
            ),
        ],
    )
    def test_each_way_and_two_live_secrets(
        self, way: str, secret: str, headers: dict[str, str]
    ) -> None:
        for secrets in (
            {"callback": secret},
            {"callback": "old", "callback_next": secret},
            {"callback": secret, "callback_next": "new"},
        ):
            made = connector(secrets=secrets, callback_authentication=way)
            made.authenticate(notification(b"{}", headers))
        name, value = next(iter(headers.items()))
        wrong = [{}, {name: ""}, {name: value + "x"}, {name: value[:-1]}, {name: "Bearer"},
                 {name: "é"}, {"Authorization": f"Negotiate {secret}"}]  # fmt: skip
        for headers in wrong:
            with pytest.raises(CallbackRefused) as refusal:
                connector(
                    secrets={"callback": secret, "callback_next": "new"},
                    callback_authentication=way,
                ).authenticate(notification(b"{}", headers))
            assert secret not in str(refusal.value)

    def test_a_signature_holds_for_its_body_alone(self) -> None:
        signed = hmac.new(b"key", b"{}", hashlib.sha256).hexdigest()
        made = connector(secrets={"callback": "key"}, callback_authentication="signature")
        with pytest.raises(CallbackRefused):
            made.authenticate(notification(b"{} ", {"X-Signature": signed}))

    def test_without_a_secret_nobody_is_believed(self) -> None:
        made = connector(secrets={"credentials": TOKEN})
        with pytest.raises(CallbackRefused):
            made.authenticate(notification({}, {"Authorization": "Bearer "}))


class TestSettings:
    @pytest.mark.parametrize(
        "wrong",
        [
            {"url": "http://oms.example.net"},
            {"url": "https://me:you@oms.example.net"},
            {"url": "oms.example.net"},
            {"profile": "tmf622"},
            {"characteristics": {"x": "nothing.there"}},
            {"states": {"x": "perhaps"}},
            {"extra": 1},
        ],
    )
    def test_mistakes_are_refused(self, wrong: dict[str, Any]) -> None:
        with pytest.raises(ValidationError):
            Settings.model_validate({"url": "https://oms.example.net", **wrong})


class Listener:
    """Hears notifications as functions/callbacks would: authenticate, then hear."""

    def __init__(self) -> None:
        self.made = connector()
        self.answers: list[Answer] = []
        self.refused = 0


@contextmanager
def listening() -> Iterator[tuple[Listener, str]]:
    listener = Listener()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            request = CallbackRequest("POST", self.path, dict(self.headers.items()), body, {})
            try:
                listener.made.authenticate(request)
                listener.answers += listener.made.parse_callback(request)
                self.send_response(204)
            except CallbackRefused:
                listener.refused += 1
                self.send_response(401)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing to say."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield listener, f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


PROGRESS, DONE, FAILED = AnswerState.PROGRESS, AnswerState.DONE, AnswerState.FAILED


@pytest.fixture(scope="module")
def system() -> Iterator[tuple[Listener, str]]:
    with listening() as (listener, callback):
        arguments = ["--callback", callback, "--callback-token", CALLBACK, "--token", TOKEN]
        with running(*arguments, "--delay", "0.02", "--late", "0.4") as url:
            yield listener, url


class TestLateAnswers:
    """Our connector and the order manager, each with its own process and its own time."""

    @pytest.mark.parametrize("profile", ["tmf641", "plain"])
    @pytest.mark.parametrize(
        ("behaviour", "expected"),
        [
            ("normal", [PROGRESS, DONE]),
            ("fail", [PROGRESS, FAILED]),
            ("reject", [PROGRESS, FAILED]),
            ("partial", [PROGRESS, FAILED]),
            ("cancel", [PROGRESS, FAILED]),
            ("duplicate", [PROGRESS, PROGRESS, DONE, DONE]),
            ("out_of_order", [DONE, PROGRESS]),
            ("unknown", [PROGRESS, DONE]),
            ("early", [DONE]),
            ("late", [DONE]),
        ],
    )
    def test_whatever_it_does_is_heard(
        self,
        system: tuple[Listener, str],
        profile: str,
        behaviour: str,
        expected: list[AnswerState],
    ) -> None:
        listener, url = system
        requests.post(f"{url}/control", json={"behaviour": behaviour}, timeout=5)
        address = f"{url}/orders" if profile == "plain" else url
        reference = f"{profile}-{behaviour}"
        made = connector(address, profile=profile)
        ident = made.submit(an_order(reference), make_call())

        def received() -> list[AnswerState]:
            ours = (reference, ident)
            return [each.state for each in listener.answers if each.order in ours]

        if behaviour == "early":
            assert received() == expected, "the answer was here before the order was taken"
        wait_for(lambda: received() == expected)
        assert listener.refused == 0

    def test_noise_is_heard_as_progress(self, system: tuple[Listener, str]) -> None:
        listener, url = system
        requests.post(f"{url}/control", json={"behaviour": "noise"}, timeout=5)
        connector(url).submit(an_order("noisy"), make_call())
        wait_for(
            lambda: any(each.order == "noisy" and each.state is DONE for each in listener.answers)
        )
        messages = [each.message for each in listener.answers if each.order == "noisy"]
        assert {"HLR written", "slower than promised"} <= set(messages)

    def test_the_services_end_as_ordered(self, system: tuple[Listener, str]) -> None:
        _, url = system
        requests.post(f"{url}/control", json={"behaviour": "normal"}, timeout=5)
        made = connector(url)

        def services() -> Any:
            return requests.get(f"{url}/control", timeout=5).json()["services"]

        made.submit(an_order("end-1"), make_call())
        wait_for(lambda: services().get(KEY, {}).get("serviceGranted") is True)
        made.submit(an_order("end-2", Action.MODIFY, BLOCKED), make_call())
        wait_for(lambda: services()[KEY]["serviceGranted"] is False)
        made.submit(replace(an_order("end-3", Action.DELETE), state={}), make_call())
        wait_for(lambda: KEY not in services())

    def test_the_hub_takes_and_drops_a_callback(self, system: tuple[Listener, str]) -> None:
        _, url = system
        hub = f"{url}/tmf-api/serviceOrdering/v4/hub"
        headers = {"Authorization": f"Bearer {TOKEN}"}
        with listening() as (other, callback):
            requests.post(f"{url}/control", json={"behaviour": "normal"}, timeout=5)
            made = requests.post(hub, json={"callback": callback}, headers=headers, timeout=5)
            assert made.status_code == 201
            connector(url).submit(an_order("hub-1"), make_call())
            wait_for(lambda: any(each.order == "hub-1" for each in other.answers))
            gone = requests.delete(f"{hub}/{made.json()['id']}", headers=headers, timeout=5)
            assert gone.status_code == 204
        assert requests.post(hub, json={}, headers=headers, timeout=5).status_code == 400
        assert requests.post(hub, json={}, timeout=5).status_code == 401

    def test_every_behaviour_is_tried(self) -> None:
        tried = {"normal", "fail", "reject", "partial", "cancel", "duplicate", "out_of_order",
                 "unknown", "early", "late", "noise", "silent", "busy"}  # fmt: skip
        assert set(BEHAVIOURS) - tried == {"never"}
