"""Every page as it looks: on a phone, a laptop and a wall, in light and dark, for everybody.

The pictures in docs/images are made here: NSPS_WRITE_SCREENSHOTS=1 writes them anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

import pytest
from nsps_testing.waiting import wait_for
from playwright.sync_api import Browser

from tests.browser.world import AXE, Reader, World, needed, until
from tests.end_to_end.whole_stack import ROOT

pytestmark = [pytest.mark.timeout(300), needed]

IMAGES = ROOT / "docs" / "images"
PICTURES = {"overview": "/", "event": "/events/{refused}", "subscriber": "/accounts/{odd}?ask=now"}
PAGES = (
    "/",
    "/events",
    "/events?handler=crm&outcome=rejected",
    "/events?outcome=expired",
    "/events/{ada}",
    "/events/{refused}",
    "/accounts/{odd}?ask=now",
    "/accounts/{ada_account}",
    "/customers/{customer}",
    "/search?q={customer}",
    "/search?q=nothing",
    "/handlers",
    "/handlers/crm?ask=now",
    "/health-of-all",
    "/parked",
    "/jobs?open=replay",
    "/jobs/{job}",
    "/audit?look_ups=true",
    "/nothing",
)
MOST_BYTES = 200_000


@pytest.fixture(scope="module")
def names(world: World) -> dict[str, Any]:
    """What stands in the pages' addresses."""
    import requests
    from nsps_local.pubsub.oidc import TokenIssuer

    console = world.stack.description["console"]
    token = TokenIssuer(world.stack.state / "pubsub").token(
        "operator@localhost", console["audience"]
    )
    headers = {"Authorization": f"Bearer {token}"}
    body = {"handler": "subscribers", "all": True}
    url = f"{console['url']}/api"
    job = requests.post(f"{url}/reconciles", json=body, headers=headers, timeout=60).json()["job"]

    def done() -> bool:
        found = requests.get(f"{url}/jobs/{job}", headers=headers, timeout=60).json()
        return bool(found["state"] == "done")

    wait_for(done, 30, "the reconcile to be done")
    return {
        "ada": world.events["ada"],
        "ada_account": world.accounts["ada"],
        "odd": world.accounts["odd"],
        "refused": world.newest(world.accounts["ben"]),
        "customer": world.row(world.accounts["ada"])["i_customer"],
        "job": job,
    }


@pytest.fixture(
    scope="module",
    params=[
        (360, "light"),
        (360, "dark"),
        (1024, "light"),
        (1024, "dark"),
        (1920, "light"),
        (1920, "dark"),
    ],
    ids=lambda p: f"{p[0]}-{p[1]}",
)
def reader(request: pytest.FixtureRequest, world: World, chromium: Browser) -> Iterator[Reader]:
    width, scheme = request.param
    made = Reader(chromium, world.url, "admin", width, scheme)
    yield made
    made.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_fits_and_everybody_can_use_it(
    reader: Reader, names: dict[str, Any], path: str
) -> None:
    """No sideways scrolling, nothing that the policy forbids, and axe finds nothing."""
    reader.wrong.clear()
    page = reader.open(path.format(**names))
    assert page.locator("h1").count() == 1
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1], f"{path}: {width}"
    complaints = [each for each in reader.wrong if path != "/nothing" or "404" not in each]
    assert not complaints
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    wrong = [
        f"{each['id']}: {[node['html'][:120] for node in each['nodes'][:3]]}"
        for each in found["violations"]
    ]
    assert not wrong, "\n".join(wrong)
    assert len(page.content().encode()) < MOST_BYTES


@pytest.mark.parametrize("page_of", ["sign-in", "sandbox"])
def test_the_pages_of_this_machine_look_alike_and_everybody_can_use_them(
    reader: Reader, world: World, page_of: str
) -> None:
    """Their colours are the console's file; axe finds nothing."""
    accent = "getComputedStyle(document.documentElement).getPropertyValue('--accent').trim()"
    ours = reader.open("/").evaluate(accent)
    page = reader.page
    sandbox = world.stack.description["sandbox"]["url"]
    page.goto({"sign-in": f"{world.url}/sign-in", "sandbox": f"{sandbox}/"}[page_of])
    assert page.evaluate(accent) == ours
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in found] == []


def test_a_subscriber_whose_name_is_anything_but_one(reader: Reader, world: World) -> None:
    """Markup, an escape sequence, right-to-left, and two thousand letters."""
    reader.wrong.clear()
    for path in (
        f"/events/{world.events['nasty']}",
        f"/accounts/{world.accounts['nasty']}?ask=now",
    ):
        page = reader.open(path)
        assert page.locator("img").count() == 0
        content = page.content()
        assert "&lt;img src=x onerror=alert(1)&gt;" in content
        assert re.search(r"\\(x1b|u001b)\[31m\\u202eevil\\u202c", content)
        assert not {"\x1b", "\u202e", "\u202c"} & set(content)
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
    assert reader.wrong == []


def test_it_is_painted_within_half_a_second(world: World, chromium: Browser) -> None:
    """The best of some tries: other tests may have the processor for a moment."""
    reader = Reader(chromium, world.url)
    for path in ("/", f"/events/{world.events['ada']}"):
        best = min(_painted(reader, path) for _ in range(5))
        assert best < 500, f"{path}: {best} ms"
    reader.close()


def _painted(reader: Reader, path: str) -> float:
    page = reader.open(path)
    script = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime || 0"
    painted: float = wait_for(lambda: page.evaluate(script), 10, "the first paint")
    return painted


def test_times_are_the_readers_own(world: World, chromium: Browser) -> None:
    context = chromium.new_context(timezone_id="Asia/Tokyo")
    page = context.new_page()
    page.goto(f"{world.url}/sign-in?to=/events")
    page.get_by_role("button", name="viewer").click()
    until(page, "footer", "Asia/Tokyo")  # the script has run
    time = page.locator("#events time").first
    utc = time.get_attribute("title") or ""
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", utc)
    hour = (int(utc[11:13]) + 9) % 24
    assert f" {hour:02}:{utc[14:19]}" in time.inner_text()
    page.get_by_label("From").fill("2026-11-30T08:30")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("since=2026-11-29T23%3A30"))
    until(page, "footer", "Asia/Tokyo")
    assert page.get_by_label("From").input_value() == "2026-11-30T08:30"
    context.close()


def test_without_a_script_everything_but_the_living_is_there(
    world: World, chromium: Browser
) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{world.url}/sign-in")
    page.get_by_role("button", name="operator").click()
    page.get_by_label("Find a subscriber").fill(f"account:{world.accounts['ada']}")
    page.get_by_role("button", name="Find").click()
    assert "Ada" in page.inner_text("main")
    page.get_by_role("button", name="Compare subscribers").first.click()
    assert "/jobs/" in page.url
    context.close()


def test_the_pictures_of_the_documents(
    world: World, names: dict[str, Any], chromium: Browser
) -> None:
    """Made by this test and by nobody's hand; the README shows two of them."""
    reader = Reader(chromium, world.url, width=1180, height=760)
    for name, path in PICTURES.items():
        page = reader.open(path.format(**names))
        if os.environ.get("NSPS_WRITE_SCREENSHOTS"):
            IMAGES.mkdir(exist_ok=True)
            page.screenshot(path=IMAGES / f"{name}.png", full_page=name != "overview")
        picture = (IMAGES / f"{name}.png").read_bytes()
        assert picture.startswith(b"\x89PNG") and len(picture) < 400_000
    reader.close()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "docs/images/overview.png" in readme and "docs/images/event.png" in readme
