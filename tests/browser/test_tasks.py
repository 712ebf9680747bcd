"""What people do at the console, each by mouse and by keyboard alone, in a real browser."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from nsps_testing.waiting import wait_for
from playwright.sync_api import Browser, Locator, Page

from tests.browser.world import Reader, World, needed, until

pytestmark = [pytest.mark.timeout(300), needed]
MOST_TABS = 250


@contextmanager
def arriving(page: Page, leads: bool) -> Iterator[None]:
    """Until the next page is there, if one is to come."""
    if not leads:
        yield
        return
    with page.expect_navigation():
        yield


class Mouse:
    """Points and clicks."""

    def press(self, what: Locator, *, leads: bool = True) -> None:
        """``leads``: to another page, which is waited for."""
        with arriving(what.page, leads):
            what.click()

    def write(self, what: Locator, text: str) -> None:
        what.fill(text)

    def choose(self, what: Locator, option: str) -> None:
        what.select_option(option)

    def tick(self, what: Locator) -> None:
        what.click()


class Keyboard:
    """Never touches the mouse: what the Tab key does not come to cannot be used."""

    def press(self, what: Locator, *, leads: bool = True) -> None:
        """``leads``: to another page, which is waited for."""
        self._go_to(what)
        with arriving(what.page, leads):
            what.page.keyboard.press("Enter")

    def write(self, what: Locator, text: str) -> None:
        self._go_to(what)
        what.page.keyboard.press("Control+A")
        what.page.keyboard.type(text)

    def choose(self, what: Locator, option: str) -> None:
        self._go_to(what)
        what.page.keyboard.type(option)

    def tick(self, what: Locator) -> None:
        self._go_to(what)
        what.page.keyboard.press("Space")

    def _go_to(self, what: Locator) -> None:
        """By Tab from where the page is, until it has the focus, and shows it."""
        what.wait_for()
        for _ in range(MOST_TABS):
            if what.evaluate("each => each === document.activeElement"):
                outline = what.evaluate("each => getComputedStyle(each).outlineStyle")
                assert outline != "none", f"{what} does not show that it has the focus"
                return
            what.page.keyboard.press("Tab")
        raise AssertionError(f"{what} cannot be come to by the Tab key")


Hand = Mouse | Keyboard


@pytest.fixture(params=[Mouse, Keyboard], ids=["mouse", "keyboard"])
def hand(request: pytest.FixtureRequest) -> Hand:
    made: Hand = request.param()
    return made


@pytest.fixture
def sit_down(world: World, chromium: Browser) -> Iterator[Callable[..., Reader]]:
    """A person who sits down at the console; nothing may go wrong in the browser."""
    readers: list[Reader] = []

    def sit(role: str = "operator", **more: Any) -> Reader:
        readers.append(Reader(chromium, world.url, role, **more))
        return readers[-1]

    yield sit
    for each in readers:
        each.close()
    assert [wrong for each in readers for wrong in each.wrong] == []


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name, exact=True).first


def link(page: Page, name: str) -> Locator:
    return page.get_by_role("link", name=name, exact=True).first


def finished(page: Page) -> None:
    """The page of a job shows by itself that it is over."""
    until(page, "#job h2", "done")


# ---- the tasks -----------------------------------------------------------------------------------


def test_what_failed_is_seen_understood_and_sent_again(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    event = world.refuse("ben")
    page = sit_down().open("/")
    until(page, "#problems", "crm: 1 event failed for good")
    hand.press(link(page, "Show them"))
    assert "outcome=rejected" in page.url
    hand.press(page.locator(f'a[href="/events/{event}"]'))
    assert "answered 422" in page.inner_text("#standing")
    assert "failed for good" in page.inner_text("#standing")
    world.refused.clear()
    hand.press(button(page, "Show what it would change at crm"))
    finished(page)
    assert "only shown, nothing is written" in page.inner_text("#job")
    hand.write(page.get_by_label("Why it is sent again"), "ticket 815")
    hand.press(button(page, "Send it again"))
    finished(page)
    assert "ticket 815" in page.inner_text("#job")
    hand.press(page.locator(f'a[href="/events/{event}"]').first)
    until(page, "#timeline", "crm, replay")
    until(page, "#timeline", "delivered")
    page.goto(world.url)
    until(page, "#problems", "parked")
    wait_for(lambda: _gone(page, "failed for good"), 30, "the problem to go by itself")


def _gone(page: Page, text: str) -> bool:
    return text not in page.inner_text("#problems")


def test_a_subscriber_is_found_compared_and_repaired(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    i_account = world.accounts["odd"]
    world.spoil(i_account)
    page = sit_down().open("/")
    field = page.get_by_label("Find a subscriber")
    if isinstance(hand, Keyboard):
        page.keyboard.press("/")
        page.keyboard.type(world.numbers["odd"])
        page.keyboard.press("Enter")
    else:
        hand.write(field, world.numbers["odd"])
        hand.press(button(page, "Find"))
    page.wait_for_url(re.compile(f"/accounts/{i_account}"))
    assert f"Account {i_account}" in page.inner_text("h1")
    hand.press(link(page, "Ask PortaBilling and every system now"))
    differs = page.locator("tr.differs")
    assert [each.strip() for each in differs.locator("td").all_inner_texts()] == [
        "status",
        "odd",
        "active",
    ]
    assert "Odd" in page.inner_text(".columns")
    hand.press(button(page, "Repair subscribers"))
    finished(page)
    assert "status: odd → active" in page.inner_text("#findings")
    wait_for(lambda: world.row(i_account)["status"] == "active", 20, "the row to be repaired")


def test_a_handler_is_paused_with_a_reason_and_resumed_where_it_is_seen(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    page = sit_down().open("/handlers")
    hand.press(link(page, "sims"))
    hand.press(button(page, "Pause"), leads=False)  # the browser asks for a reason
    assert "done=paused" not in page.url
    hand.write(page.get_by_label("Why: Pause"), "a new cable")
    hand.press(button(page, "Pause"))
    assert "It is paused." in page.inner_text("main")
    hand.press(link(page, "Overview"))
    until(page, "#problems", "sims is paused by operator@localhost")
    assert "a new cable" in page.inner_text("#problems")
    hand.press(button(page, "Resume sims"))
    assert "It is resumed." in page.inner_text("main")


def test_everything_is_compared_and_the_findings_are_taken_home(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    world.spoil(world.accounts["ada"])
    page = sit_down().open("/jobs")
    summary = page.locator("summary", has_text="Compare with PortaBilling")
    hand.press(summary, leads=False)
    form = page.locator('form[action="/reconciles"]')
    hand.choose(form.get_by_label("Handler"), "subscribers")
    hand.tick(form.get_by_label("everything"))
    hand.press(form.get_by_role("button", name="Start"))
    finished(page)
    hand.press(page.locator("#job a", has_text="different"))
    assert "what=different" in page.url
    assert "account:" in page.inner_text("#findings")
    with page.expect_download() as taken:
        hand.press(link(page, "As CSV"), leads=False)
    lines = list(csv.DictReader(taken.value.path().open(encoding="utf-8-sig")))
    ours = [line for line in lines if line["owner"] == f"account:{world.accounts['ada']}"]
    assert [(line["field"], line["has"]) for line in ours] == [("status", "odd")]


def test_many_are_sent_again_by_a_filter_stopped_and_gone_on_with(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    world.stack.post("/sandbox/seed", accounts=40)
    page = sit_down().open("/jobs?open=reconcile")
    form = page.locator('form[action="/reconciles"]')
    hand.choose(form.get_by_label("Handler"), "sims")
    hand.tick(form.get_by_label("everything"))
    hand.write(form.get_by_label("Repairs a second"), "0.5")
    hand.tick(form.get_by_label("repair what is not"))
    hand.press(form.get_by_role("button", name="Start"))
    hand.press(button(page, "Stop"))
    assert "stopped" in page.inner_text("#job h2")
    assert "Stopped" in page.inner_text("#job")
    hand.press(button(page, "Resume"))
    until(page, "#job h2", "running")
    hand.press(button(page, "Stop"))
    assert "stopped" in page.inner_text("#job h2")


def test_many_are_previewed_then_sent_at_a_pace_and_stopped(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    page = sit_down().open("/jobs?open=replay")
    form = page.locator('form[action="/replays"]')
    hand.choose(form.get_by_label("Handler"), "subscribers")
    hand.write(form.get_by_label("A second"), "1")
    hand.press(form.get_by_role("button", name="Start"))
    finished(page)
    assert "only shown, nothing is written" in page.inner_text("#job")
    hand.press(button(page, "Send it again"))
    until(page, "#job", "Ends about")
    assert page.locator("#job progress").get_attribute("max")
    hand.press(button(page, "Stop"))
    assert "stopped" in page.inner_text("#job h2")


def test_what_is_parked_is_seen_and_sent_now(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    world.park("ada")
    page = sit_down().open("/parked")
    assert "the CRM answered 503" in page.inner_text("#parked")
    rows = page.locator("#parked form")
    before = rows.count()
    hand.press(button(page, "Send now"))
    assert "It is sent within a minute" in page.inner_text("main")
    world.stack.tick()
    wait_for(lambda: rows.count() == before - 1, 30, "what was delivered to leave the list")


def test_who_did_what_is_found_and_taken_home(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    page = sit_down("admin").open(f"/accounts/{world.accounts['ada']}")
    hand.press(link(page, "Audit"))
    hand.write(page.get_by_label("To what"), f"account:{world.accounts['ada']}")
    hand.tick(page.get_by_label("also who looked"))
    hand.press(button(page, "Show"))
    assert re.search(r"admin@localhost\s+admin\s+look up", page.inner_text("main"))
    with page.expect_download() as taken:
        hand.press(link(page, "As CSV"), leads=False)
    lines = list(csv.DictReader(taken.value.path().open(encoding="utf-8-sig")))
    assert {line["action"] for line in lines} == {"look up"}


def test_an_admin_erases_with_the_number_typed(
    world: World, sit_down: Callable[..., Reader], hand: Hand
) -> None:
    i_account = world.stack.new_account(world.stack.new_card()["i_sim_card"], firstname="Gone")
    page = sit_down("admin").open(f"/accounts/{i_account}")
    hand.press(link(page, "Show what would be deleted"))
    assert " of events" in page.inner_text("main")
    hand.write(page.get_by_label("Type the account's number"), str(i_account))
    hand.tick(page.get_by_label("although a system still holds"))
    hand.press(button(page, "Erase"))
    assert "It was erased." in page.inner_text("main")
    assert "No event in the last three months." in page.inner_text("main")


# ---- while events come ---------------------------------------------------------------------------


def test_new_events_appear_and_the_place_is_kept(
    world: World, sit_down: Callable[..., Reader]
) -> None:
    page = sit_down(height=300).open("/events")
    rows = page.locator("#events tr")
    before, first = rows.count(), rows.first.get_attribute("id")
    read = rows.nth(4)
    read.scroll_into_view_if_needed()
    page.evaluate("scrollBy(0, 40)")
    top = read.evaluate("each => each.getBoundingClientRect().top")
    place = read.get_attribute("id")
    for operation in ("block_account", "unblock_account"):
        world.stack.do(operation, i_account=world.accounts["ada"])
    wait_for(lambda: rows.count() == before + 2, 20, "two rows more")
    assert rows.nth(2).get_attribute("id") == first
    kept = page.locator(f'[id="{place}"]')
    now = kept.evaluate("each => each.getBoundingClientRect().top")
    assert abs(now - top) < 3, f"what was read moved from {top} to {now}"
    wait_for(lambda: "delivered" in rows.first.inner_text(), 20, "the row to be brought up to date")


def test_a_filtered_list_takes_only_what_it_asks_for(
    world: World, sit_down: Callable[..., Reader]
) -> None:
    page = sit_down().open(f"/events?account={world.accounts['nasty']}")
    rows = page.locator("#events tr")
    before = rows.count()
    world.stack.do("block_account", i_account=world.accounts["odd"])
    world.stack.do("block_account", i_account=world.accounts["nasty"])
    wait_for(lambda: rows.count() == before + 1, 20, "one row more")


def test_what_a_filter_no_longer_holds_of_leaves_the_list(
    world: World, sit_down: Callable[..., Reader]
) -> None:
    event = world.refuse("ben")
    page = sit_down().open("/events?handler=crm&outcome=rejected")
    row = page.locator(f'[id="e-{event}"]')
    row.wait_for()
    world.refused.clear()
    world.stack.nsps("replay", event, "--handler", "crm")
    wait_for(lambda: row.count() == 0, 20, "the event to leave the list")


def test_the_overview_lives(world: World, sit_down: Callable[..., Reader]) -> None:
    page = sit_down().open("/")
    done = page.locator("#h-subscribers small", has_text="done").first
    before = done.inner_text()
    for operation in ("block_account", "unblock_account"):
        world.stack.do(operation, i_account=world.accounts["odd"])
    wait_for(lambda: done.inner_text() != before, 30, "the count to change")


def test_a_console_that_does_not_answer_is_said(
    world: World, sit_down: Callable[..., Reader]
) -> None:
    reader = sit_down()
    page = reader.open("/events")
    page.context.set_offline(True)
    until(page, "footer", "Not up to date")
    page.context.set_offline(False)
    until(page, "footer", "Live.")
    reader.wrong.clear()  # the browser complained of the missing network


# ---- a viewer ------------------------------------------------------------------------------------


def test_a_viewer_sees_no_number_and_no_button_and_cannot_forge_one(
    world: World, sit_down: Callable[..., Reader]
) -> None:
    page = sit_down("viewer").open("/")
    row = world.row(world.accounts["ada"])
    secrets = [str(row["imsi"]), str(row["msisdn"]), "Ada"]
    for path in (
        "/",
        f"/events/{world.events['ada']}",
        f"/accounts/{world.accounts['ada']}?ask=now",
        f"/search?q={row['imsi']}",
        "/handlers/crm",
        "/parked",
        "/jobs?open=replay",
        "/audit?look_ups=true",
    ):
        page.goto(world.url + path)
        content = page.locator("main").inner_html()
        assert not [each for each in secrets if each in content], path
        assert page.locator('form[method="post"]').count() == 0, path
    other = sit_down("operator").open("/handlers/crm")
    key = other.locator('input[name="form_key"]').first.get_attribute("value") or ""
    account = world.accounts["ada"]
    for path, form in (
        ("/handlers/crm/pause", {"reason": "x"}),
        ("/replays", {"event": world.events["ada"], "handler": "crm"}),
        ("/reconciles", {"handler": "subscribers", "all": "yes"}),
        (f"/accounts/{account}/erase", {"typed": str(account), "held": "yes"}),
    ):
        fields: dict[str, str | float | bool] = {**form, "form_key": key}
        answer = page.request.post(world.url + path, form=fields)
        assert answer.status == 403, path
    for path in ("api/handlers/crm/pause", "api/replays", f"api/accounts/{account}/erase"):
        answer = page.request.post(f"{world.url}/{path}", data={"reason": "x"})
        assert answer.status == 403, path
    seen = page.request.get(f"{world.url}/api/accounts/{account}").text()
    assert not [each for each in secrets if each in seen]
    assert page.request.get(f"{world.url}/api/accounts/{account}/now").status == 403


def test_another_sites_page_can_press_nothing(
    world: World, sit_down: Callable[..., Reader]
) -> None:
    """Even one that somehow knew a form's key: the browser says where the form comes from."""
    page = sit_down("operator").open("/handlers/crm")
    key = page.locator('input[name="form_key"]').first.get_attribute("value") or ""
    for name, value in (("sec-fetch-site", "cross-site"), ("sec-fetch-site", "same-site")):
        answer = page.request.post(
            f"{world.url}/handlers/crm/pause",
            form={"reason": "x", "form_key": key},
            headers={name: value},
        )
        assert answer.status == 403
