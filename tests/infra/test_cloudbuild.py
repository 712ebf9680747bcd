"""cloudbuild.yaml is a build that Cloud Build takes, and goes its steps in the order promised.

A build configuration file is a Build of Cloud Build's API, so it is read into Google's published
definition of that: names, types and choices are those that Google has.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import yaml
from google.cloud.devtools.cloudbuild_v1.types import Build
from google.protobuf.json_format import ParseDict, ParseError

from tests.infra.conftest import ROOT

SUBSTITUTION = re.compile(r"_[A-Z0-9_]{1,99}")
STEPS_AT_MOST = 300
BUILT_IN = {"PROJECT_ID", "BUILD_ID", "LOCATION", "COMMIT_SHA", "SHORT_SHA", "BRANCH_NAME"}


def written() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text("utf-8"))
    return document


def read(document: dict[str, Any]) -> Any:
    """The document as a Build. Raises ParseError, or ValueError for what no type can say."""
    build = ParseDict(document, Build.pb(Build()))
    wrong = [name for name in build.substitutions if not SUBSTITUTION.fullmatch(name)]
    if wrong or not 0 < len(build.steps) <= STEPS_AT_MOST:
        raise ValueError(f"substitutions {wrong}, {len(build.steps)} steps")
    return build


@pytest.fixture(scope="module")
def build() -> Any:
    return read(written())


def test_the_file_fits_the_schema(build: Any) -> None:
    assert build.timeout.seconds == 5400


def _unknown(document: dict[str, Any]) -> None:
    document["steps"][0]["waitsFor"] = ["install"]


def _not_a_list(document: dict[str, Any]) -> None:
    document["steps"][1]["waitFor"] = "install"


def _machine(document: dict[str, Any]) -> None:
    document["options"]["machineType"] = "HUGE"


def _hours(document: dict[str, Any]) -> None:
    document["timeout"] = "2h"


def _lower_case(document: dict[str, Any]) -> None:
    document["substitutions"]["_stack"] = "acme"


@pytest.mark.parametrize("plant", [_unknown, _not_a_list, _machine, _hours, _lower_case])
def test_a_planted_mistake_is_found(plant: Callable[[dict[str, Any]], None]) -> None:
    document = written()
    plant(document)
    with pytest.raises((ParseError, ValueError)):
        read(document)


def test_a_step_waits_only_for_steps_before_it(build: Any) -> None:
    before: set[str] = {"-"}
    for step in build.steps:
        assert step.id, step
        assert step.id not in before
        assert set(step.wait_for) <= before, step.id
        assert not (step.script and (step.args or step.entrypoint)), "a script takes neither"
        before.add(step.id)


def _all_before(build: Any, name: str) -> set[str]:
    step = next(step for step in build.steps if step.id == name)
    direct = set(step.wait_for) - {"-"}
    return direct.union(*(_all_before(build, other) for other in direct))


def test_nothing_is_deployed_before_it_was_checked_and_shown(build: Any) -> None:
    assert _all_before(build, "ask") >= {"lint", "types", "test", "bundle", "preview"}
    assert _all_before(build, "up") >= {"bundle", "plan"}
    assert _all_before(build, "smoke") >= {"up"}
    assert "emulators" in _all_before(build, "test")


def test_each_step_belongs_to_check_or_to_up_or_serves_both(build: Any) -> None:
    actions = {
        step.id: re.findall(r'^\[ "\$_ACTION" = (\w+) \] \|\| exit 0$', step.script, re.MULTILINE)
        for step in build.steps
    }
    assert {name for name, action in actions.items() if action == ["up"]} == {"plan", "up", "smoke"}
    assert {name for name, action in actions.items() if not action} == {
        "install",
        "bundle",
        "pulumi",
    }
    (up,) = (step for step in build.steps if step.id == "up")
    assert "--plan /workspace/plan.json" in up.script


def test_scripts_are_bash_that_stops_at_the_first_fault(build: Any) -> None:
    for step in build.steps:
        assert step.script.startswith("#!/usr/bin/env bash\nset -euo pipefail\n"), step.id
        done = subprocess.run(
            ["bash", "-n"], input=step.script, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{step.id}: {done.stderr}"


def test_every_name_in_a_script_has_a_value(build: Any) -> None:
    """Cloud Build refuses a build that names a substitution which nobody gives."""
    assert build.options.automap_substitutions
    used: set[str] = set()
    for step in build.steps:
        known = {*build.substitutions, *BUILT_IN, "HOME", "PATH"}
        assigned = set(re.findall(r"^\s*(?:export )?(\w+)=", step.script, re.MULTILINE))
        names = set(re.findall(r"\$\{?(\w+)", step.script))
        assert names <= known | assigned, step.id
        used |= names
    assert set(build.substitutions) <= used


def test_the_makes_and_commands_of_the_steps_are_there(build: Any) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    made = {name for step in build.steps for name in re.findall(r"^make (\w+)", step.script, re.M)}
    assert made == {"lint", "types", "test"} <= targets
    assert (ROOT / "tests" / "systems" / "prism" / "package-lock.json").is_file()


def test_pulumis_command_is_of_the_version_that_the_program_is_written_for(build: Any) -> None:
    versions = {v for s in build.steps for v in re.findall(r"--version ([0-9.]+)", s.script)}
    pinned = re.findall(r"^pulumi==(.*)$", (ROOT / "requirements.txt").read_text("utf-8"), re.M)
    assert versions == set(pinned)
