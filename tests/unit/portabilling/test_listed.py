"""SIM cards by the list of cards, whatever its order is."""

from __future__ import annotations

import random
from typing import Any

import pytest
from nsps.domain.outcome import Transient
from nsps.portabilling import listed
from nsps.portabilling.errors import Fault
from nsps.portabilling.listed import KEPT_SECONDS, SimCards
from nsps.portabilling.lists import Lists

ACCOUNTS = list(range(1, 101))


class Cards(Lists):
    """A list of one card for each account, ten in a page."""

    def __init__(self, order: list[int]) -> None:
        self.order, self.pages = order, 0
        self.error: Exception | None = None

    def sim_cards(self, offset: int) -> list[dict[str, Any]]:
        self.pages += 1
        if self.error:
            raise self.error
        owned = [{"i_account": each, "imsi": f"{each}"} for each in self.order]
        cards: list[dict[str, Any]] = [{"imsi": "in the inventory"}, *owned]
        return [each | {"ki": "secret"} for each in cards[offset : offset + 10]]


def by_pages(cards: SimCards, *, first: bool = True) -> dict[int, Any]:
    found: dict[int, Any] = {}
    for start in range(0, 100, 20):
        found |= cards.of(ACCOUNTS[start : start + 20], first=first and start == 0)
    return found


@pytest.mark.parametrize("order", ["as accounts", "backwards", "mixed"])
def test_every_card_is_found_and_the_list_is_read_once(order: str) -> None:
    numbers = list(ACCOUNTS)
    if order == "backwards":
        numbers.reverse()
    elif order == "mixed":
        random.Random(1).shuffle(numbers)
    lists = Cards(numbers)
    cards = SimCards(lists)
    wanted = {each: {"i_account": each, "imsi": f"{each}"} for each in ACCOUNTS}
    assert by_pages(cards) == wanted  # and of a card nothing that is not asked for
    assert lists.pages == 11
    assert by_pages(cards) == wanted  # a new comparison reads anew
    assert lists.pages == 22
    assert cards.of([7], first=False) == {}  # the list is over, and its cards were given


def test_a_page_that_is_asked_for_again_has_its_cards() -> None:
    lists = Cards(ACCOUNTS)
    cards = SimCards(lists)
    cards.of(range(1, 21), first=True)
    page = cards.of(range(21, 41), first=False)
    read = lists.pages
    assert cards.of(range(21, 41), first=False) == page
    assert cards.of(range(30, 41), first=False).keys() == set(range(30, 41))
    assert lists.pages == read


def test_a_card_is_only_used_for_a_while() -> None:
    now = 0.0
    lists = Cards(ACCOUNTS[::-1])
    cards = SimCards(lists, lambda: now)
    assert list(cards.of([1], first=True)) == [1]
    lists.order = []
    now = KEPT_SECONDS + 1
    assert cards.of([2], first=False) == {}


def test_a_list_that_is_refused_has_no_cards_and_one_that_is_away_is_waited_for() -> None:
    lists = Cards(ACCOUNTS)
    cards = SimCards(lists)
    lists.error = Transient("down")
    with pytest.raises(Transient):
        cards.of([1], first=True)
    lists.error = Fault("no such method", "Method.not_found")
    assert by_pages(cards) == {}
    assert lists.pages == 2  # it is not asked again for each page


def test_cards_for_accounts_to_come_are_kept_within_bounds(monkeypatch: Any) -> None:
    monkeypatch.setattr(listed, "MOST_KEPT", 20)
    lists = Cards(ACCOUNTS[::-1])
    cards = SimCards(lists)
    assert cards.of([1], first=True) == {}
    assert lists.pages == 3
