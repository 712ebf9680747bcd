"""Accounts compared by PortaBilling's lists: what is wrong is found however little a list says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import itemgetter
from typing import Any, cast

import pytest
from nsps.cloud.store import Store
from nsps.connector import by_list
from nsps.connector.base import Call, Enriched, State
from nsps.connector.by_list import SAMPLES, PageInspector
from nsps.connector.preview import Inspected, Inspector, NoState
from nsps.domain.event import Owner
from nsps.domain.outcome import Transient
from nsps.domain.subscriber import is_served
from nsps.portabilling.client import PortaBilling, ServicePaths
from nsps.portabilling.errors import Fault, NotFound, Reading
from nsps.portabilling.reader import Reader

from tests.unit.connector.systems import REDACTOR, Box, DarkBox, Kit, Letters, sim_event

BLOCKS = ("account_info", "sim_info", "product_info")
WHOLE = 1000
"""An account that has all that an account can have."""
ACCOUNTS = range(WHOLE, WHOLE + 10)
PLAIN = 1004


class Subscribers(Box):
    """A system that looks at most of what an account has; read in bulk, unless told otherwise."""

    def desired(self, event: Enriched) -> Mapping[str, State]:
        account, sim = event.pb.account_info, event.pb.sim_info
        if account is None or sim is None:
            return {}
        product = event.pb.product_info
        features = {each.name for each in account.service_features}
        state = {
            "served": is_served(account),
            "email": account.email,
            "msisdn": sim.msisdn,
            "product": product.name if product else None,
            "roams": "roaming" in features,
        }
        return {str(sim.imsi): state}

    def read_many(self, keys: Any, call: Call) -> Mapping[str, State]:
        self.seen.take("read_many", len(keys))
        return {key: dict(self.holds[key]) for key in keys if key in self.holds}


class Api:
    """PortaBilling's calls. ``lists_omit``: members that entries of its lists do not have;
    ``listed``: what its lists make of an entry; ``refused``: calls that it refuses."""

    services = ServicePaths()

    def __init__(self) -> None:
        self.accounts = {each: _account(each) for each in ACCOUNTS}
        self.cards = {each: _card(each) for each in ACCOUNTS}
        self.lists_omit: frozenset[str] = frozenset()
        self.listed: Callable[[dict[str, Any]], dict[str, Any]] = dict
        self.refused: frozenset[str] = frozenset()
        self.damaged = False
        self.calls: list[str] = []

    def call(self, what: str, params: Mapping[str, Any]) -> Reading:
        self.calls.append(what)
        if what in self.refused:
            raise Fault("refused", "Server.refused")
        i_account = params.get("i_account")
        match what:
            case "account_info":
                if i_account not in self.accounts:
                    raise NotFound("gone", "not_found")
                return Reading({"account_info": self.accounts[i_account]})
            case "sim_card_info":
                return Reading({"card_info": self.cards.get(cast(int, i_account))})
            case "product_info":
                return Reading({"product_info": {"i_product": params["i_product"], "name": "S"}})
            case "account_list":
                found = [self.accounts[each] for each in sorted(self.accounts)]
                listed = {"account_list": self._page(found, params), "total": len(found)}
                return Reading(listed, self.damaged)
            case "sim_card_list":
                return Reading({"card_list": self._page(list(self.cards.values()), params)})
        raise AssertionError(what)

    def _page(self, found: list[dict[str, Any]], params: Mapping[str, Any]) -> list[dict[str, Any]]:
        page = found[params["offset"] : params["offset"] + params["limit"]]
        return [
            self.listed({name: entry[name] for name in entry if name not in self.lists_omit})
            for entry in page
        ]


def _account(number: int) -> dict[str, Any]:
    account = {
        "i_account": number,
        "id": f"4477{number}@msisdn",
        "bill_status": "O",
        "blocked": "N",
        "customer_bill_status": "O",
        "customer_blocked": "N",
        "activation_date": "2023-05-12",
        "expiration_date": None,
        "i_customer": 5,
        "i_product": 9,
        "service_features": [{"name": "voice", "effective_flag_value": "Y"}],
    }
    if number == WHOLE:
        account |= {"email": "a@alba.example", "status": "suspended"}
    return account


def _card(number: int) -> dict[str, Any]:
    return {
        "i_sim_card": number + 70,
        "i_account": number,
        "imsi": f"00101000000{number}",
        "iccid": f"890010100000{number}",
        "msisdn": f"4477{number}",
    }


class Scene:
    """A handler whose system was filled from PortaBilling, which has changed or not since."""

    def __init__(self, store: Store, box: Box | None = None) -> None:
        self.api, self.box = Api(), box or Subscribers()
        self.kit = Kit(store, self.box)
        settings = self.kit.settings.model_copy(update={"requires": BLOCKS})
        self.reader = Reader(cast(PortaBilling, self.api))
        inspected = Inspected(settings, store, self.reader, lambda: REDACTOR)
        self.inspector = Inspector(self.box, inspected)
        self.pages = PageInspector(self.box, self.inspector, cast(PortaBilling, self.api))

    def fill(self) -> Scene:
        for each in ACCOUNTS:
            now = self.inspector.read_now(Owner("account", str(each)))
            self.kit.deliver(replace(sim_event(1, i_account=each), pb=now.pb))
        self.api.calls.clear()
        return self

    def compare(self) -> dict[str, Any]:
        return self.pages.compare(0, 100, None)

    def found(self) -> dict[str, list[tuple[str, str]]]:
        """By owner, what is not as it should be."""
        found = {
            each["owner"]: [(r["key"], r["what"]) for r in each["resources"] if r["what"] != "same"]
            for each in self.compare()["owners"]
        }
        return {owner: wrong for owner, wrong in found.items() if wrong}

    def singly(self) -> dict[str, list[tuple[str, str]]]:
        """The same, each account read singly."""
        said = self.inspector.compare([Owner("account", str(each)) for each in self.api.accounts])
        found = {
            each["owner"]: [(r["key"], r["what"]) for r in each["resources"] if r["what"] != "same"]
            for each in said
        }
        return {owner: wrong for owner, wrong in found.items() if wrong}


@pytest.mark.parametrize("box", [Subscribers, Box, DarkBox])
def test_what_is_right_by_the_lists_is_not_read_again(store: Store, box: type[Box]) -> None:
    scene = Scene(store, box()).fill()
    said = scene.compare()
    assert (said["accounts"], said["owners"], said["same"]) == (list(ACCOUNTS), [], len(ACCOUNTS))
    assert (said["singly"], said["more"]) == ({}, False)
    assert (
        scene.api.calls.count("account_info") == scene.api.calls.count("sim_card_info") == SAMPLES
    )
    assert scene.api.calls.count("product_info") == 1 + SAMPLES


def test_a_page_ends_before_too_many_are_read_singly(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(by_list, "MAX_OWNERS", 2)
    scene = Scene(store).fill()
    for each in ACCOUNTS[2:]:
        scene.api.accounts[each] |= {"blocked": "Y"}
    accounts, pages, same = list[int](), list[int](), 0
    more = True
    while more:
        said = scene.pages.compare(len(accounts), 100, None)
        accounts += said["accounts"]
        pages.append(len(said["owners"]))
        same += said["same"]
        more = said["more"]
    assert (accounts, same) == (list(ACCOUNTS), 2)
    assert pages == [2, 2, 2, 2]


CHANGES: dict[str, dict[str, Any]] = {
    "blocked": {"blocked": "Y"},
    "bill_status": {"bill_status": "C"},
    "status": {"status": "suspended"},
    "customer_blocked": {"customer_blocked": "Y"},
    "customer_bill_status": {"customer_bill_status": "S"},
    "activation_date": {"activation_date": "2099-01-01"},
    "expiration_date": {"expiration_date": "2024-01-01"},
    "email": {"email": "new@alba.example"},
    "i_product": {"i_product": None},
    "service_features": {
        "service_features": [{"name": "roaming", "effective_flag_value": "Y"}],
    },
}
"""Member -> a change of it that the system has not got."""


@pytest.mark.parametrize("member", [*CHANGES, "msisdn"])
@pytest.mark.parametrize("omitted", [True, False])
def test_a_member_that_the_lists_lack_never_makes_a_wrong_account_look_right(
    store: Store, member: str, omitted: bool
) -> None:
    scene = Scene(store).fill()
    if member == "msisdn":
        scene.api.cards[PLAIN]["msisdn"] = "447700000000"
    else:
        scene.api.accounts[PLAIN] |= CHANGES[member]
    scene.api.lists_omit = frozenset({member} if omitted else ())
    assert scene.found() == {f"account:{PLAIN}": [(_card(PLAIN)["imsi"], "different")]}
    singly = scene.compare()["singly"]
    assert [why.split()[-1] for why in singly] == ([member] if omitted else [])


def test_a_member_that_no_account_has_is_not_taken_for_given(store: Store) -> None:
    scene = Scene(store)
    del scene.api.accounts[WHOLE]["email"]
    none = {"account_list gives no email": len(ACCOUNTS)}
    assert scene.fill().compare()["singly"] == none
    scene.api.accounts[WHOLE]["email"] = "a@alba.example"
    assert scene.pages.compare(0, 5, None)["singly"] == {}
    assert scene.pages.compare(5, 100, None)["singly"] == {}  # it has been given
    del scene.api.accounts[WHOLE]["email"]
    assert scene.compare()["singly"] == none  # a new comparison takes nothing for given


def test_a_member_that_the_connector_does_not_look_at_may_be_missing(store: Store) -> None:
    scene = Scene(store, Box()).fill()
    scene.api.lists_omit = frozenset({"email", "status", "service_features", "iccid"})
    assert scene.compare()["singly"] == {}
    assert "i_product" not in scene.api.lists_omit  # by which another block is read


ODD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "fewer features": lambda entry: entry | ({"service_features": []} if "id" in entry else {}),
    "another number": lambda entry: entry | ({"msisdn": "1"} if "imsi" in entry else {}),
}


@pytest.mark.parametrize("odd", ODD)
def test_a_list_that_says_otherwise_than_a_single_read_is_not_believed(
    store: Store, odd: str
) -> None:
    """The accounts agree with the list, and are wrong all the same."""
    scene = Scene(store)
    for each in ACCOUNTS:
        scene.api.accounts[each]["service_features"] = []
        scene.api.cards[each]["msisdn"] = "1"
    scene.fill()
    for each in ACCOUNTS:
        changed = ODD[odd] is ODD["fewer features"]
        scene.api.accounts[each] |= CHANGES["service_features"] if changed else {}
        scene.api.cards[each]["msisdn"] = "1" if changed else "447700000000"
    scene.api.listed = ODD[odd]
    assert len(scene.found()) == len(ACCOUNTS)
    ((why, number),) = scene.compare()["singly"].items()
    assert ("than a single read" in why, number) == (True, len(ACCOUNTS))


def _holds(scene: Scene, **fields: Any) -> None:
    scene.box.holds[_card(PLAIN)["imsi"]] |= fields


def _ledger(scene: Scene, **fields: Any) -> None:
    store = scene.kit.store
    store.resource(scene.kit.handler, _card(PLAIN)["imsi"]).set(fields, merge=True)


WRONG: dict[str, Callable[[Scene], object]] = {
    "missing": lambda scene: scene.box.holds.pop(_card(PLAIN)["imsi"]),
    "different": lambda scene: _holds(scene, email="old@alba.example"),
    "left over": lambda scene: scene.api.cards[PLAIN].update(imsi="001010000009999"),
    "no card": lambda scene: scene.api.cards.pop(PLAIN),
    "unsure": lambda scene: _ledger(scene, dirty=True),
    "another's": lambda scene: _ledger(scene, owner="account:7"),
    "rejected": lambda scene: scene.api.cards[PLAIN].update(imsi="x"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_wrong_is_found_as_by_single_reads(store: Store, wrong: str) -> None:
    scene = Scene(store).fill()
    WRONG[wrong](scene)
    found = scene.found()
    assert found == scene.singly()
    assert list(found) == [f"account:{PLAIN}"]


@pytest.mark.parametrize("box", [Subscribers, Box, DarkBox])
def test_what_will_be_repaired_anyway_is_not_read_first(store: Store, box: type[Box]) -> None:
    scene = Scene(store, box())
    before = scene.pages.compare(0, 100, None)["owners"]
    scene.api.calls.clear()
    to_fix = scene.pages.compare(0, 100, None, fix=True)["owners"]
    assert sorted(to_fix, key=itemgetter("owner")) == before
    assert {r["what"] for each in to_fix for r in each["resources"]} == {"missing"}
    assert scene.api.calls.count("account_info") == SAMPLES


def _owns_another(scene: Scene) -> None:
    more = {"key": "old", "owner": f"account:{PLAIN}", "confirmed": "x"}
    scene.kit.store.resource("hss", "old").set(more)


FIXED: dict[str, Callable[[Scene], object]] = {
    "different": lambda scene: _holds(scene, email="old@alba.example"),
    "unrecorded": lambda scene: scene.kit.store.resource("hss", _card(PLAIN)["imsi"]).delete(),
    "missing": lambda scene: scene.box.holds.pop(_card(PLAIN)["imsi"]),
    "left over": _owns_another,
}


@pytest.mark.parametrize("wrong", FIXED)
def test_anything_but_missing_altogether_is_read_before_it_is_repaired(
    store: Store, wrong: str
) -> None:
    scene = Scene(store).fill()
    FIXED[wrong](scene)
    (found,) = scene.pages.compare(0, 100, None, fix=True)["owners"]
    assert [r["what"] for r in found["resources"] if r["what"] != "same"] == [wrong]
    assert scene.api.calls.count("account_info") == 1 + SAMPLES


@pytest.mark.parametrize("box", [Subscribers, Box])
def test_a_system_that_does_not_answer_is_not_an_empty_one(store: Store, box: type[Box]) -> None:
    scene = Scene(store, box())
    scene.box.seen.before = [Transient("down")] * 20
    with pytest.raises(Transient):
        scene.pages.compare(0, 100, None, fix=True)


def test_lists_that_cannot_be_used(store: Store) -> None:
    scene = Scene(store).fill()
    scene.api.refused = frozenset({"sim_card_list"})
    said = scene.compare()
    assert said["singly"] == {"sim_card_list has no card of the account": len(ACCOUNTS)}
    assert len(said["owners"]) == len(ACCOUNTS)
    scene.api.refused, scene.api.damaged = frozenset(), True
    damaged = "account_list holds letters that cannot be read"
    assert scene.compare()["singly"] == {damaged: len(ACCOUNTS)}


def test_one_account_that_cannot_be_read_does_not_hide_the_others(store: Store) -> None:
    scene = Scene(store).fill()
    del scene.api.cards[PLAIN]
    scene.api.refused = frozenset({"sim_card_info"})
    scene.pages._odd = lambda right: ""  # type: ignore[method-assign]
    assert scene.found() == {f"account:{PLAIN}": [("", "unread")]}


def test_a_portabilling_whose_single_reads_fail_is_waited_for(store: Store) -> None:
    scene = Scene(store).fill()
    scene.api.refused = frozenset({"account_info"})
    with pytest.raises(Transient):
        scene.compare()


def test_a_handler_that_keeps_no_state(store: Store) -> None:
    with pytest.raises(NoState):
        Scene(store, cast(Box, Letters())).compare()


def test_a_system_that_cannot_be_read_in_bulk_is_read_key_by_key(store: Store) -> None:
    scene = Scene(store, Box()).fill()
    scene.box.seen.calls.clear()
    scene.compare()
    assert scene.box.seen.names() == ["read"] * len(ACCOUNTS)
