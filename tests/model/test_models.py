"""The specification holds, and the programs that check it find a rule that is left out."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import freshness_model
import message_model
import order_model
import provisioning_model
import pytest
import status_model

RULES_WITH_SHORT_COUNTEREXAMPLES = [
    "dirty",
    "lease",
    "claimtime",
    "intent",
    "copy",
    "owed",
    "owing",
]
SMALL = [
    "swap A for B",
    "move A from X to Y",
    "release, then reassign to Y",
    "refusal: move A to Y",
    "effect: swap A for B",
    "effect: refusal: move A to Y",
]
MESSAGES = [each.name for each in message_model.SCENARIOS if len(set(each.events)) < 3]


@pytest.mark.parametrize("name", list(status_model.SCENARIOS))
def test_the_status_protocol_holds(name: str) -> None:
    model, found = status_model.run(status_model.SCENARIOS[name], status_model.Rules())
    assert found.violation is None, "\n".join(model.history(found))
    assert found.states > 100


@pytest.mark.parametrize("rule", [field.name for field in fields(status_model.Rules)])
def test_a_status_rule_left_out_is_found(rule: str) -> None:
    printed = status_model.counterexample(replace(status_model.Rules(), **{rule: False}))
    assert len(printed) > 1, printed
    assert printed[-1].startswith("BROKEN: ")


def test_the_freshness_rule_holds() -> None:
    model, found = freshness_model.run(freshness_model.Rules())
    assert found.violation is None, "\n".join(model.history(found))
    assert found.states > 10_000


@pytest.mark.parametrize("rule", [field.name for field in fields(freshness_model.Rules)])
def test_a_freshness_rule_left_out_is_found(rule: str) -> None:
    _, found = freshness_model.run(replace(freshness_model.Rules(), **{rule: False}))
    assert found.violation


@pytest.mark.parametrize("name", [each.name for each in order_model.SCENARIOS])
def test_the_order_protocol_holds(name: str) -> None:
    """With one fault; the program itself explores two."""
    one = next(each for each in order_model.SCENARIOS if each.name == name)
    for model, found in order_model.run(replace(one, faults=1), order_model.Rules()):
        assert found.violation is None, "\n".join(model.history(found))


@pytest.mark.parametrize("rule", [field.name for field in fields(order_model.Rules)])
def test_an_order_rule_left_out_is_found(rule: str) -> None:
    rules = replace(order_model.Rules(), **{rule: False})
    names = ["block, unblock", "swap A for B", "assign A, swap for B", "refusal: swap A for B"]
    for one in order_model.SCENARIOS:
        small = replace(one, faults=1, duplicates=False)
        if one.name in names and any(found.violation for _, found in order_model.run(small, rules)):
            return
    pytest.fail(f"no scenario is broken without the rule {rule}")


@pytest.mark.parametrize("name", MESSAGES)
def test_the_message_protocol_holds(name: str) -> None:
    """The program itself explores three meanings, too."""
    one = next(each for each in message_model.SCENARIOS if each.name == name)
    model, found = message_model.run(one, message_model.Rules())
    assert found.violation is None, "\n".join(model.history(found))
    assert found.states > 100


@pytest.mark.parametrize("rule", [field.name for field in fields(message_model.Rules)])
def test_a_message_rule_left_out_is_found(rule: str) -> None:
    rules = replace(message_model.Rules(), **{rule: False})
    for one in message_model.SCENARIOS:
        small = replace(one, faults=min(1, one.faults))
        if one.name in MESSAGES and message_model.run(small, rules)[1].violation:
            return
    pytest.fail(f"no scenario is broken without the rule {rule}")


@pytest.mark.parametrize("name", SMALL)
def test_the_provisioning_protocol_holds(name: str) -> None:
    """Every step of every attempt, without reductions: the small scenarios, all their worlds."""
    scenario = _scenario(name)
    scenario = replace(scenario, faults=1)
    rules = provisioning_model.Rules()
    states = 0
    for world in provisioning_model.worlds(scenario, rules):
        model = provisioning_model.Model(world, scenario, rules, reduce=False)
        found = _explored(model)
        assert found.violation is None, "\n".join(model.history(found))
        assert found.needless == 0
        states += found.states
    assert states > 1000


@pytest.mark.parametrize("rule", RULES_WITH_SHORT_COUNTEREXAMPLES)
def test_a_provisioning_rule_left_out_is_found(rule: str) -> None:
    rules = provisioning_model.rules_without(rule)
    of_effects = rule in ("owed", "owing")
    for base in provisioning_model.SCENARIOS:
        if base.effects != of_effects:
            continue
        scenario = replace(base, duplicates=rule == "copy", spans=False, faults=1)
        for world in provisioning_model.worlds(scenario, rules):
            model = provisioning_model.Model(world, scenario, rules, reduce=False)
            if _explored(model, 20).violation:
                return
    pytest.fail(f"no scenario is broken without the rule {rule}")


def _scenario(name: str) -> Any:
    return next(each for each in provisioning_model.SCENARIOS if each.name == name)


def _explored(model: Any, depth: int | None = None) -> Any:
    return provisioning_model.explore(
        model.start(), model.steps, model.finished, model.judge, depth
    )
