"""cloudbuild.yaml is a build that Cloud Build takes, and goes its steps in the order promised.

The model below is the published schema of a build configuration file, as far as its names, types
and choices go (Google Cloud docs: build configuration file schema).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from tests.infra.conftest import ROOT

Duration = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]{1,9})?s$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*=")]


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, alias_generator=to_camel, validate_by_alias=True
    )


class Volume(_Part):
    name: str
    path: str


class Step(_Part):
    name: Annotated[str, Field(min_length=1)]
    id: str = ""
    args: list[str] = []
    env: list[Variable] = []
    dir: str = ""
    wait_for: list[str] = []
    entrypoint: str = ""
    script: str = ""
    secret_env: list[str] = []
    volumes: list[Volume] = []
    timeout: Duration | None = None
    allow_failure: bool = False
    allow_exit_codes: list[int] = []
    automap_substitutions: bool | None = None


class Pool(_Part):
    name: str


class Options(_Part):
    env: list[Variable] = []
    secret_env: list[str] = []
    volumes: list[Volume] = []
    source_provenance_hash: list[Literal["NONE", "SHA256", "MD5", "SHA512"]] = []
    machine_type: (
        Literal["UNSPECIFIED", "E2_MEDIUM", "E2_HIGHCPU_8", "E2_HIGHCPU_32", "N1_HIGHCPU_8"] | None
    ) = None
    disk_size_gb: int | None = None
    substitution_option: Literal["MUST_MATCH", "ALLOW_LOOSE"] = "MUST_MATCH"
    dynamic_substitutions: bool = False
    automap_substitutions: bool = False
    log_streaming_option: Literal["STREAM_DEFAULT", "STREAM_ON", "STREAM_OFF"] = "STREAM_DEFAULT"
    logging: Literal["GCS_ONLY", "CLOUD_LOGGING_ONLY", "LEGACY", "NONE"] = "LEGACY"
    default_logs_bucket_behavior: str | None = None
    pool: Pool | None = None
    requested_verify_option: Literal["NOT_VERIFIED", "VERIFIED"] = "NOT_VERIFIED"


class SecretManager(_Part):
    version_name: str
    env: str


class Secrets(_Part):
    secret_manager: list[SecretManager] = []
    inline: list[dict[str, Any]] = []


class Build(_Part):
    steps: Annotated[list[Step], Field(min_length=1, max_length=300)]
    timeout: Duration | None = None
    queue_ttl: Duration | None = None
    logs_bucket: str | None = None
    options: Options = Options()
    substitutions: dict[Annotated[str, Field(pattern=r"^_[A-Z0-9_]+$", max_length=100)], str] = {}
    tags: list[str] = []
    service_account: str | None = None
    available_secrets: Secrets | None = None
    artifacts: dict[str, Any] | None = None
    images: list[str] = []


BUILT_IN = {"PROJECT_ID", "BUILD_ID", "LOCATION", "COMMIT_SHA", "SHORT_SHA", "BRANCH_NAME"}


def written() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "cloudbuild.yaml").read_text("utf-8"))
    return document


@pytest.fixture(scope="module")
def build() -> Build:
    return Build.model_validate(written())


def test_the_file_fits_the_schema(build: Build) -> None:
    assert build.timeout == "5400s"


def _unknown(document: dict[str, Any]) -> None:
    document["steps"][0]["wait_for"] = ["install"]


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
    with pytest.raises(ValidationError):
        Build.model_validate(document)


def test_a_step_waits_only_for_steps_before_it(build: Build) -> None:
    before: set[str] = {"-"}
    for step in build.steps:
        assert step.id, step
        assert step.id not in before
        assert set(step.wait_for) <= before, step.id
        assert not (step.script and (step.args or step.entrypoint)), "a script takes neither"
        before.add(step.id)


def _all_before(build: Build, name: str) -> set[str]:
    step = next(step for step in build.steps if step.id == name)
    direct = set(step.wait_for) - {"-"}
    return direct.union(*(_all_before(build, other) for other in direct))


def test_nothing_is_deployed_before_it_was_checked_and_shown(build: Build) -> None:
    assert _all_before(build, "ask") >= {"lint", "types", "test", "bundle", "preview"}
    assert _all_before(build, "up") >= {"bundle", "plan"}
    assert _all_before(build, "smoke") >= {"up"}
    assert "emulators" in _all_before(build, "test")


def test_each_step_belongs_to_check_or_to_up_or_serves_both(build: Build) -> None:
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


def test_scripts_are_bash_that_stops_at_the_first_fault(build: Build) -> None:
    for step in build.steps:
        assert step.script.startswith("#!/usr/bin/env bash\nset -euo pipefail\n"), step.id
        done = subprocess.run(
            ["bash", "-n"], input=step.script, text=True, capture_output=True, check=False
        )
        assert done.returncode == 0, f"{step.id}: {done.stderr}"


def test_every_name_in_a_script_has_a_value(build: Build) -> None:
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


def test_the_makes_and_commands_of_the_steps_are_there(build: Build) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    made = {name for step in build.steps for name in re.findall(r"^make (\w+)", step.script, re.M)}
    assert made == {"lint", "types", "test"} <= targets
    assert (ROOT / "tests" / "systems" / "prism" / "package-lock.json").is_file()


def test_pulumis_command_is_of_the_version_that_the_program_is_written_for(build: Build) -> None:
    versions = {v for s in build.steps for v in re.findall(r"--version ([0-9.]+)", s.script)}
    pinned = re.findall(r"^pulumi==(.*)$", (ROOT / "requirements.txt").read_text("utf-8"), re.M)
    assert versions == set(pinned)
