"""What operators ask and do, through the console's JSON API and the ``nsps`` commands."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_testing.waiting import wait_for

from tests.end_to_end.whole_stack import DATABASE, SIMS, WholeStack, configuration

pytestmark = pytest.mark.timeout(240)


class Console:
    """A person at the console's API."""

    def __init__(self, stack: WholeStack, email: str = "operator@localhost") -> None:
        described = stack.description["console"]
        self.url = described["url"] + "/api/"
        token = TokenIssuer(stack.state / "pubsub").token(email, described["audience"])
        self.headers = {"Authorization": f"Bearer {token}"}

    def get(self, path: str) -> Any:
        answer = requests.get(self.url + path, headers=self.headers, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, **body: Any) -> requests.Response:
        return requests.post(self.url + path, headers=self.headers, json=body, timeout=60)

    def start(self, path: str, **body: Any) -> str:
        answer = self.post(path, **body)
        assert answer.status_code == 200, answer.text
        job: str = answer.json()["job"]
        return job

    def finished(self, job: str, seconds: float = 60) -> dict[str, Any]:
        def over() -> dict[str, Any] | None:
            try:
                found: dict[str, Any] = self.get(f"jobs/{job}?limit=1000")
            except requests.ConnectionError:  # it is being started again
                return None
            return found if found["state"] != "running" else None

        done: dict[str, Any] = wait_for(over, seconds, f"job {job} to be finished")
        return done

    def reconcile(self, **body: Any) -> dict[str, Any]:
        return self.finished(self.start("reconciles", **body))


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeStack]:
    folder = tmp_path_factory.mktemp("console")
    with WholeStack(folder / "state", configuration(folder, [DATABASE, SIMS])) as running:
        yield running


@pytest.fixture(scope="module")
def console(stack: WholeStack) -> Console:
    return Console(stack)


@pytest.fixture(scope="module")
def accounts(stack: WholeStack) -> list[int]:
    """Three subscribers, each with a SIM card of its own."""
    return [stack.new_account(stack.new_card()["i_sim_card"], firstname="Ada") for _ in range(3)]


def change(stack: WholeStack, statement: str, file: str = "subscribers.db") -> None:
    """Somebody writes into the external system behind our back."""
    with sqlite3.connect(stack.state / file, timeout=20) as database:
        database.execute(statement)


def rows(stack: WholeStack) -> dict[int, dict[str, Any]]:
    found = stack.rows("subscribers.db", "select * from subscribers")
    return {row["i_account"]: row for row in found}


def without_events(stack: WholeStack, operation: str, **parameters: Any) -> None:
    """A change in PortaBilling that no event tells of."""
    stack.post("/sandbox/settings", webhook={"enabled": False})
    try:
        stack.sandbox.do(operation, **parameters)
    finally:
        stack.post("/sandbox/settings", webhook={"enabled": True})


def idle(stack: WholeStack) -> bool:
    metrics = stack.control("pubsub", "/metrics")["subscriptions"]
    return not any(each["backlog"] for each in metrics.values())


# ---- reconcile -----------------------------------------------------------------------------


def test_an_emptied_system_is_found_out_and_filled_again(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    before = rows(stack)
    assert set(accounts) <= set(before)
    change(stack, "delete from subscribers")
    found = console.reconcile(handler="subscribers", all=True)
    assert found["found"] == {"missing": len(before)}
    assert found["done"] == found["total"] == len(before)
    assert not rows(stack)  # it has only looked
    fixed = console.reconcile(handler="subscribers", all=True, fix=True)
    assert fixed["found"] == {"missing": len(before), "repairs sent": len(before)}
    wait_for(lambda: set(rows(stack)) == set(before), 30, "the rows to be there again")
    wait_for(lambda: idle(stack), 30, "the repairs to be acknowledged")
    clean = console.reconcile(handler="subscribers", all=True)
    assert clean["found"] == {"same": len(before)}
    assert not clean["findings"]


def test_a_wrong_row_is_different_and_says_in_what(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    change(stack, f"update subscribers set name = 'Eve' where i_account = {accounts[0]}")
    found = console.reconcile(handler="subscribers", account=accounts[0])
    (resource,) = found["findings"][0]["resources"]
    assert resource["what"] == "different"
    assert resource["fields"] == {"name": {"from": "Eve", "to": "Ada"}}
    console.reconcile(handler="subscribers", account=accounts[0], fix=True)
    wait_for(lambda: rows(stack)[accounts[0]]["name"] == "Ada", 20, "the row to be repaired")


def test_what_nsps_never_wrote_is_told_and_not_touched(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    change(stack, "insert into subscribers (i_account, name) values (5, 'Mallory')")
    found = console.reconcile(handler="subscribers", all=True, fix=True)
    assert found["found"]["foreign"] == 1
    (resource,) = next(each for each in found["findings"] if not each["owner"])["resources"]
    assert resource["key"] == "5" and "did not write it" in resource["reason"]
    assert rows(stack)[5]["name"] == "Mallory"
    change(stack, "delete from subscribers where i_account = 5")


def test_a_customers_accounts_alone(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    i_customer = stack.sandbox.state()["customers"][0]["i_customer"]
    found = console.reconcile(handler="sims", customer=i_customer)
    assert found["found"] == {"same": len(accounts)}


def test_lists_that_say_too_little_hide_nothing(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    without_events(stack, "block_account", i_account=accounts[0])
    stack.post("/sandbox/settings", api={"lists_omit": ["blocked", "status"]})
    try:
        found = console.reconcile(handler="subscribers", all=True)
    finally:
        stack.post("/sandbox/settings", api={"lists_omit": []})
    assert found["found"] == {"different": 1, "same": len(accounts) - 1}
    assert found["singly"] == {"account_list gives no blocked": len(accounts)}
    without_events(stack, "unblock_account", i_account=accounts[0])


def test_what_portabilling_no_longer_has_is_left_over_and_removed(
    stack: WholeStack, console: Console
) -> None:
    i_account = stack.new_account(stack.new_card()["i_sim_card"])
    without_events(stack, "close_account", i_account=i_account)
    found = console.reconcile(handler="sims", account=i_account, fix=True)
    assert found["found"] == {"left over": 1, "repairs sent": 1}
    query = f"select * from subscribers where i_account = {i_account}"
    wait_for(lambda: not stack.rows("sims.db", query), 20, "the row to be removed")


# ---- replay --------------------------------------------------------------------------------


def test_a_dry_run_shows_the_difference_and_writes_nothing(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    event = newest(console, accounts[1])
    change(stack, f"update subscribers set status = 'odd' where i_account = {accounts[1]}")
    before = rows(stack)
    done = console.finished(
        console.start("replays", event=event["event_id"], handler="subscribers", dry_run=True)
    )
    (finding,) = done["findings"]
    (resource,) = finding["resources"]
    assert resource["fields"] == {"status": {"from": "odd", "to": "active"}}
    assert rows(stack) == before
    assert newest(console, accounts[1])["deliveries"] == event["deliveries"]


def test_a_replay_writes_what_is_so_now_not_what_was(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    """The account's first event is of a time when it was not blocked."""
    first = console.get(f"events?account={accounts[2]}&limit=100")["events"][0]
    stack.do("block_account", i_account=accounts[2])
    change(stack, f"delete from subscribers where i_account = {accounts[2]}")
    job = console.finished(
        console.start("replays", event=first["event_id"], handler="subscribers", reason="a test")
    )
    assert job["found"] == {"sent": 1}
    wait_for(lambda: accounts[2] in rows(stack), 20, "the row to be there again")
    assert rows(stack)[accounts[2]]["status"] == "barred"

    def run() -> dict[str, Any] | None:
        history = console.get(f"events/{first['event_id']}")["events"][0]
        runs = [each for each in history["deliveries"] if each["run"] == 1 and each["final"]]
        return runs[0] if runs else None

    replayed = wait_for(run, 20, "the replay to be in the history")
    assert (replayed["handler"], replayed["outcome"]) == ("subscribers", "delivered")
    entry = console.get("audit")["entries"][0]
    assert (entry["who"], entry["action"], entry["reason"]) == (
        "operator@localhost",
        "replay",
        "a test",
    )


def test_many_events_by_handler_type_and_time(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    done = console.finished(
        console.start(
            "replays",
            handler="sims",
            account=accounts[0],
            event_type="SIM/*",
            outcomes=["delivered", "unchanged"],
            since="2026-01-01T00:00:00Z",
            dry_run=True,
        )
    )
    assert {each["event_type"].split("/")[0] for each in done["findings"]} == {"SIM"}
    assert {each["owner"] for each in done["findings"]} == {f"account:{accounts[0]}"}
    none = {"handler": "sims", "outcomes": ["expired"], "dry_run": True}
    assert not console.finished(console.start("replays", **none))["findings"]


# ---- explain -------------------------------------------------------------------------------


def test_a_subscriber_is_found_by_each_of_its_numbers(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    row = rows(stack)[accounts[0]]
    number = row["msisdn"]
    numbers = (number, f"%2B{number}", f"{number}@msisdn")
    for query in (f"imsi={row['imsi']}", *(f"msisdn={each}" for each in numbers)):
        (found,) = console.get(f"find?{query}")["found"]
        assert found["owner"] == f"account:{accounts[0]}"
    shown = json.dumps(console.get(f"accounts/{accounts[0]}")["explanation"])
    assert "subscribers holds" in shown
    assert "PortaBilling was sent status OK for Database" in shown
    for query, status in (("imsi=999", 404), ("msisdn=999", 404), ("msisdn=alice", 400)):
        answer = requests.get(console.url + f"find?{query}", headers=console.headers, timeout=30)
        assert answer.status_code == status, query


# ---- jobs ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def many(stack: WholeStack, accounts: list[int]) -> int:
    """Accounts that no event has told of, beside the others; how many there are in all."""
    stack.post("/sandbox/seed", accounts=60)
    total: int = stack.get("/sandbox/state?limit=1")["total"]
    return total


def test_a_job_is_stopped_and_goes_on_where_it_was(
    stack: WholeStack, console: Console, many: int
) -> None:
    job = console.start("reconciles", handler="sims", all=True, fix=True, rate=4)
    wait_for(lambda: console.get(f"jobs/{job}")["done"], 20, "the first page")
    assert console.post(f"jobs/{job}/stop", reason="enough").status_code == 200
    stopped = console.get(f"jobs/{job}")
    assert stopped["state"] == "stopped"
    assert 0 < stopped["done"] < many
    assert console.post(f"jobs/{job}/stop").status_code == 409
    time.sleep(1)
    assert console.get(f"jobs/{job}")["done"] <= stopped["done"] + 20  # the page it was at
    assert console.post(f"jobs/{job}/resume").status_code == 200
    done = console.finished(job, 120)
    assert done["done"] == many
    assert done["found"]["repairs sent"] >= 60


def test_a_killed_console_goes_on_with_its_job(
    stack: WholeStack, console: Console, many: int
) -> None:
    wait_for(lambda: idle(stack), 60, "the repairs to be acknowledged")
    change(stack, "delete from subscribers")
    job = console.start("reconciles", handler="subscribers", all=True, fix=True, rate=5)
    wait_for(lambda: console.get(f"jobs/{job}")["done"], 20, "the first page")
    stack.kill_part("console")
    stack.answering("console")
    stack.advance("firestore", 130)  # the lease of the dead one

    def over() -> bool:
        stack.hurry()
        found: str = console.get(f"jobs/{job}")["state"]
        return found == "done"

    wait_for(over, 120, "the job to go on")
    done = console.get(f"jobs/{job}")
    assert done["done"] == many
    wait_for(lambda: len(rows(stack)) >= many - 1, 60, "every account to be written")
    wait_for(lambda: idle(stack), 60, "the repairs to be acknowledged")
    clean = console.reconcile(handler="subscribers", all=True)
    assert set(clean["found"]) == {"same"}, clean["findings"]


# ---- who may -------------------------------------------------------------------------------


def test_who_is_nobody_sees_nothing(stack: WholeStack, console: Console) -> None:
    for headers in ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": "Basic YTpi"}):
        assert requests.get(console.url + "events", headers=headers, timeout=30).status_code == 401
    other = TokenIssuer(stack.state / "pubsub").token("operator@localhost", "https://elsewhere")
    headers = {"Authorization": f"Bearer {other}"}
    assert requests.get(console.url + "events", headers=headers, timeout=30).status_code == 401
    stranger = Console(stack, "mallory@example.com")
    answer = requests.get(console.url + "me", headers=stranger.headers, timeout=30)
    assert answer.status_code == 403


def test_a_viewer_may_look_and_not_touch(stack: WholeStack, console: Console) -> None:
    viewer = Console(stack, "viewer@localhost")
    assert viewer.get("me") == {"email": "viewer@localhost", "role": "viewer"}
    for path, body in (
        ("handlers/subscribers/pause", {"reason": "x"}),
        ("reconciles", {"handler": "subscribers", "all": True}),
        ("replays", {"handler": "subscribers"}),
    ):
        assert viewer.post(path, **body).status_code == 403, path
    assert console.get("handlers/subscribers")["off"] is False


def test_an_operator_pauses_and_resumes(console: Console) -> None:
    assert console.post("handlers/sims/pause").status_code == 409  # no reason
    assert console.post("handlers/sims/pause", reason="new cable").status_code == 200
    shown = console.get("handlers/sims")
    assert shown["off"] is True
    assert "new cable" in shown["why"]
    assert console.post("handlers/sims/pause", reason="again").status_code == 409
    assert console.post("handlers/sims/resume", reason="done").status_code == 200
    entries = console.get("audit?limit=2")["entries"]
    assert [each["action"] for each in entries] == ["resume", "pause"]


def test_what_cannot_be_understood_is_said(console: Console) -> None:
    for path, body, status in (
        ("replays", {}, 400),
        ("replays", {"handler": "nobody"}, 404),
        ("reconciles", {"handler": "subscribers"}, 400),
        ("reconciles", {"handler": "subscribers", "all": True, "rate": 0}, 400),
        ("handlers/nobody/pause", {"reason": "x"}, 404),
        ("jobs/nothing/stop", {}, 404),
        ("nothing", {}, 404),
        ("events", {}, 405),
    ):
        answer = console.post(path, **body)
        assert answer.status_code == status, (path, answer.text)
        assert answer.json()["error"]


# ---- the commands --------------------------------------------------------------------------


def test_the_commands_say_what_the_console_says(stack: WholeStack, accounts: list[int]) -> None:
    account = str(accounts[0])
    done = stack.nsps("reconcile", "subscribers", "--account", account)
    assert (done.returncode, "1 same" in done.stdout) == (0, True), done
    change(stack, f"delete from subscribers where i_account = {account}")
    done = stack.nsps("reconcile", "subscribers", "--account", account)
    assert done.returncode == 1
    assert "missing" in done.stdout
    done = stack.nsps("reconcile", "subscribers", "--account", account, "--fix")
    assert done.returncode == 0, done
    wait_for(lambda: int(account) in rows(stack), 20, "the row")
    explained = stack.nsps("explain", f"account:{account}")
    assert "subscribers holds" in explained.stdout, explained
    jobs = json.loads(stack.nsps("jobs", "--json").stdout)
    assert jobs[0]["spec"]["account"] == accounts[0]
    assert "reconcile" in stack.nsps("audit").stdout
    assert stack.nsps("jobs", "stop", jobs[0]["id"]).returncode == 2  # it is done


@pytest.mark.parametrize("code", ["Method.not_found", "Server.Account.not_found"])
def test_a_reconcile_that_could_not_list_says_so(
    stack: WholeStack, accounts: list[int], code: str
) -> None:
    of_the_list = {"methods": ["Account/get_account_list"], "faultcode": code}
    stack.portabilling_fault("fail", percent=100, **of_the_list)
    try:
        done = stack.nsps("reconcile", "subscribers", "--all")
    finally:
        stack.well()
    assert done.returncode == 2, done
    assert "failed; 0 looked at; " in done.stdout
    assert "the list could not be read" in done.stdout
    assert code in done.stdout
    job = json.loads(stack.nsps("jobs", "--json").stdout)[0]["id"]
    assert stack.nsps("jobs", "resume", job).returncode == 0
    assert Console(stack).finished(job)["done"] >= len(accounts)


def test_scripts_still_read_events_and_explain(
    stack: WholeStack, console: Console, accounts: list[int]
) -> None:
    listed = json.loads(stack.nsps("events", "--json", "--limit", "3").stdout)
    assert len(listed) == 3
    assert {"event_id", "i_event", "deliveries", "final"} <= set(listed[0])
    of_one = json.loads(stack.nsps("events", "--handler", "subscribers", "--json").stdout)
    assert of_one
    assert all("subscribers" in [d["handler"] for d in e["deliveries"]] for e in of_one)
    shown = json.loads(stack.nsps("explain", listed[0]["event_id"], "--json").stdout)
    assert shown[0]["event_id"] == listed[0]["event_id"]
    nobody = stack.nsps("events", "--console", "http://127.0.0.1:9", "--token", "x")
    assert nobody.returncode == 2
    assert "does not answer" in nobody.stderr


def newest(console: Console, i_account: int) -> dict[str, Any]:
    """The newest event of an account that PortaBilling sent."""
    found = console.get(f"events?account={i_account}&limit=100")["events"]
    sent: list[dict[str, Any]] = [e for e in found if e["event_type"] != "NSPS/Reconcile"]
    return sent[-1]


def test_what_waits_in_pubsub_is_measured_for_every_handler(console: Console) -> None:
    """By the way of a deployment: an access token, and Cloud Monitoring's API."""
    found = console.get("overview")
    assert found["queues"]["error"] is None
    assert all(row["queue"]["messages"] >= 0 for row in found["handlers"])
    assert found["portabilling"]["queue"]["messages"] >= 0
