"""``nsps erase`` deletes what is kept of one account, of nobody else, and only when it is gone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from nsps_local.pubsub.oidc import TokenIssuer

from tests.end_to_end.whole_stack import ROOT, WholeStack

pytestmark = pytest.mark.timeout(180)


def erase(stack: WholeStack, i_account: int, *options: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "nsps_local.cli", "erase", "--state", str(stack.state)]
    command += ["--account", str(i_account), *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def kept(stack: WholeStack, i_account: int) -> list[str]:
    """Documents in which the account's number stands somewhere."""
    client = stack.running.store.client
    groups = ("events", "deliveries", "owners", "resources", "statuses", "parked", "orders")
    found = [each for group in groups for each in client.collection_group(group).stream()]
    text = {each.reference.path: json.dumps(each.to_dict(), default=str) for each in found}
    return [path for path, body in text.items() if str(i_account) in path + body]


def audit(stack: WholeStack) -> list[dict[str, Any]]:
    """Who erased what."""
    entries = stack.running.store.client.collection("audit").stream()
    return [each.to_dict() or {} for each in entries]


def test_an_account_is_erased_once_it_is_gone(stack: WholeStack) -> None:
    i_account, neighbour = (stack.new_account(stack.new_card()["i_sim_card"]) for _ in range(2))
    before = kept(stack, neighbour)
    assert len(kept(stack, i_account)) >= 4

    status, said = erase(stack, i_account, "--yes")
    assert status == 2
    assert "subscribers still holds something of it: terminate it first" in said
    assert len(kept(stack, i_account)) >= 4

    stack.do("close_account", i_account=i_account)  # its row stays, with the status terminated
    assert erase(stack, i_account)[0] == 1
    assert audit(stack) == []
    status, said = erase(stack, i_account, "--held")
    assert status == 0, said
    assert "Nothing was deleted: write --yes" in said
    assert kept(stack, i_account)

    status, said = erase(stack, i_account, "--held", "--yes", "--reason", "asked by letter")
    assert status == 0, said
    assert kept(stack, i_account) == []
    assert kept(stack, neighbour) == before
    (entry,) = audit(stack)
    assert (entry["who"], entry["target"]) == ("admin@localhost", f"account:{i_account}")
    assert entry["reason"] == "asked by letter"


def test_an_account_that_nobody_knows_leaves_nothing_to_delete(stack: WholeStack) -> None:
    status, said = erase(stack, 1)
    assert status == 0
    assert "nothing is kept" in said


def test_only_an_admin_erases(stack: WholeStack) -> None:
    console = stack.description["console"]
    issuer = TokenIssuer(stack.state / "pubsub")
    operator = issuer.token("operator@localhost", console["audience"])
    status, said = erase(stack, 1, "--yes", "--token", operator)
    assert status == 2
    assert "operator@localhost is operator: this needs admin" in said
