"""PortaBilling's lists: an empty one has to be said; what is no list ends the job with an error."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nsps.domain.outcome import Terminal, Transient
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.lists import Listed, Lists
from nsps.portabilling.login import ApiCredentials

from tests.unit.portabilling.fake_api import Answer, FakeApi, fault, html, in_json

LIST = "Account/get_account_list"
CUSTOMERS = "Customer/get_customer_list"


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi() as fake:
        yield fake


@pytest.fixture
def lists(api: FakeApi) -> Lists:
    return Lists(PortaBilling(api.url, lambda: ApiCredentials("nsps", "right"), timeout_seconds=5))


def test_a_page_and_an_empty_list(api: FakeApi, lists: Lists) -> None:
    api.answers[LIST] = in_json({"account_list": [{"i_account": 1}], "total": 7})
    assert lists.accounts(0) == Listed((1,), 7)
    api.answers[LIST] = in_json({"account_list": []})
    assert lists.accounts(0) == Listed((), None)
    api.answers[LIST] = in_json({"account_list": [], "total": 7})
    assert lists.accounts(7) == Listed((), 7)


@pytest.mark.parametrize(
    "answer",
    [
        fault("Method.not_found"),
        fault("Server.Account.not_found"),
        fault("Server.Account.account_not_found"),
        fault("Server.Account.access_denied"),
        in_json({}),
        in_json(None),
        in_json({"customer_list": []}),
        in_json({"account_list": None}),
        in_json({"account_list": [1]}),
        in_json({"account_list": [{"id": "x"}]}),
        in_json({"account_list": [], "total": 30}),
    ],
)
def test_what_is_no_list_is_never_an_empty_one(api: FakeApi, lists: Lists, answer: Answer) -> None:
    api.answers |= {LIST: answer, CUSTOMERS: answer}
    with pytest.raises(Terminal, match=f"could not be read.*{LIST}.*jobs resume"):
        lists.accounts(0)


def test_a_portabilling_that_is_down_is_waited_for(api: FakeApi, lists: Lists) -> None:
    api.answers[CUSTOMERS] = html(502)
    with pytest.raises(Transient):
        lists.customers(0)


def test_the_accounts_of_a_customer_that_is_gone(api: FakeApi, lists: Lists) -> None:
    api.answers[LIST] = fault("Server.Customer.customer_not_found")
    assert lists.accounts(0, i_customer=7) == Listed((), None)
    with pytest.raises(Terminal):
        lists.accounts(0)


def test_the_account_of_a_number(api: FakeApi, lists: Lists) -> None:
    api.next[LIST] = [
        in_json({"account_list": []}),
        in_json({"account_list": [{"id": "34600000001@msisdn", "i_account": 5}]}),
    ]
    assert lists.account_of_number("34600000001") == 5
    api.answers[LIST] = fault("Server.Account.account_not_found")
    assert lists.account_of_number("34600000001") is None
    for answer in (fault("Method.not_found"), in_json({})):
        api.answers[LIST] = answer
        with pytest.raises(Transient):
            lists.account_of_number("34600000001")
