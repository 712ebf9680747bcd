"""The local stack is made from the program: change the program, and what is recorded changes."""

from __future__ import annotations

import copy
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from nsps_local.recording import (
    ConfigurationRejected,
    RecordingFailed,
    Topology,
    record,
)

from tests.infra import policy
from tests.infra.arguments import faults
from tests.infra.conftest import FIXTURES, ROOT, base, make_tree, record_values
from tests.infra.test_configuration import valid_values

pytestmark = pytest.mark.filterwarnings("ignore:gcp:DeprecationWarning")


def light() -> dict[str, Any]:
    """``base()`` without the network, which takes the longest to record."""
    return base() | {"nsps:static_egress": False}


def replaced(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert text.count(old) == 1, f"{file.name} has {text.count(old)} of {old!r}"
    file.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Topology:
    """The same configuration, recorded from a program that somebody has changed."""
    at = tmp_path_factory.mktemp("changed")
    program = make_tree(at)
    components = program / "components"
    replaced(components / "handler.py", 'f"attributes:{name}"', 'f"NOT attributes:{name}"')
    replaced(components / "subscription.py", 'f"{args.schedule.minimum}s"', '"20s"')
    replaced(components / "subscription.py", "args.schedule.attempts", "50")
    replaced(components / "scheduler.py", '"* * * * *"', '"*/5 * * * *"')
    replaced(
        program / "program.py", 'Topic(platform, "espf-events")', 'Topic(platform, "webhooks")'
    )
    replaced(program / "firestore.yaml", "\nindexes:\n", "\nindexes:\n" + _INDEX)
    replaced(
        program / "program.py",
        '"NSPS_EVENTS_TOPIC": self._events.id,\n                    "NSPS_ESPF_AUTH"',
        '"ADDED": "yes",\n                    "NSPS_ESPF_AUTH"',
    )
    return record_values(light(), at, program)


_INDEX = """  - collection: deliveries
    scope: group
    fields: [{field: outcome}, {field: finished_at, order: descending}]
"""


def test_a_change_of_the_program_changes_the_recording(acme: Topology, changed: Topology) -> None:
    assert acme.subscription("hss").filter == "attributes:hss"
    assert changed.subscription("hss").filter == "NOT attributes:hss"
    assert changed.subscription("hss").minimum_backoff_seconds == 20
    assert changed.subscription("hss").max_delivery_attempts == 50
    assert changed.jobs[0].schedule == "*/5 * * * *"
    assert [name.removeprefix("acme-") for name in changed.topics] == [
        *("dead-letters", "enriched-events", "jobs", "webhooks")
    ]
    assert changed.subscription("enrichment").topic == "acme-webhooks"
    assert changed.function("ingress").env["ADDED"] == "yes"
    assert "NSPS_EVENTS_TOPIC" not in changed.function("ingress").env
    (index,) = set(changed.database.indexes) - set(acme.database.indexes)
    assert (index.collection, index.group) == ("deliveries", True)
    assert [(f.field, f.descending) for f in index.fields] == [
        ("outcome", False),
        ("finished_at", True),
    ]


def test_another_handler_is_a_function_a_subscription_and_an_account_more(
    acme: Topology, program: Path, tmp_path: Path
) -> None:
    values = copy.deepcopy(light())
    values["nsps:handlers"].append(
        {
            "name": "mail",
            "connector": "notification",
            "events": ["*/BalanceChanged"],
        }
    )
    more = record_values(values, tmp_path, program)
    assert {f.part for f in more.functions} - {f.part for f in acme.functions} == {"mail"}
    assert {s.part for s in more.subscriptions} - {s.part for s in acme.subscriptions} == {"mail"}
    before = {f.service_account for f in acme.functions}
    assert len({f.service_account for f in more.functions} - before) == 1
    wanted = json.loads(more.function("enrichment").env["NSPS_HANDLERS"])
    assert [handler["name"] for handler in wanted] == ["hss", "hss-2", "oms", "mail"]
    assert {s.name: s for s in acme.subscriptions if s.part.startswith("hss")}.items() <= {
        s.name: s for s in _at_ports_of(more, acme).subscriptions
    }.items()


def _at_ports_of(topology: Topology, other: Topology) -> Topology:
    """The topology with its functions' addresses as the other's, to compare the rest."""
    from dataclasses import replace

    moved = {f.url: other.function(f.part).url for f in topology.functions if f.part != "mail"}
    return replace(
        topology,
        subscriptions=tuple(
            replace(s, push_endpoint=moved.get(s.push_endpoint, s.push_endpoint))
            for s in topology.subscriptions
        ),
    )


@pytest.mark.timeout(400)  # five programs
@settings(
    max_examples=5,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(values=valid_values)
def test_every_valid_configuration_can_be_recorded(
    values: dict[str, Any], program: Path, tmp_path: Path
) -> None:
    topology = record_values(values, tmp_path, program)
    names = [handler["name"] for handler in values["nsps:handlers"]]
    assert {f.part for f in topology.functions} == {
        *("ingress", "enrichment", "callbacks", "retries", "console"),
        *names,
    }
    assert {s.part for s in topology.subscriptions} == {
        *("enrichment", "dead-letters", "jobs"),
        *names,
    }
    accounts = [f.service_account.partition("@")[0] for f in topology.functions]
    assert len(set(accounts)) == len(accounts)
    assert all(6 <= len(account) <= 30 for account in accounts)
    assert [fault for resource in topology.resources for fault in faults(resource)] == []
    assert policy.faults(topology) == []


def test_the_local_stack_of_the_repository_is_recorded_quickly_and_each_time_the_same(
    tmp_path: Path,
) -> None:
    def recorded() -> Topology:
        return record(
            ROOT / "infra" / "Pulumi.local.yaml",
            port_base=9100,
            portabilling_url="http://127.0.0.1:9099",
            state=tmp_path,
        )

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    topology = recorded()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 5  # of a processor, whoever else uses it; about 1.5
    assert topology == recorded()
    handler = json.loads(topology.function("subscribers").env["NSPS_HANDLER"])
    assert handler["settings"]["url"] == f"sqlite:///{tmp_path}/subscribers.db"
    portabilling = json.loads(topology.function("enrichment").env["NSPS_PORTABILLING"])
    assert portabilling["url"] == "http://127.0.0.1:9099"
    for function in topology.functions:
        assert (ROOT / function.source / "main.py").is_file()


# ---- what goes wrong -----------------------------------------------------------------------


def test_a_wrong_configuration_is_reported_and_status_2(program: Path, tmp_path: Path) -> None:
    values = base()
    values["nsps:handlers"][0]["events"] = ["SIM"]
    del values["gcp:region"]
    with pytest.raises(ConfigurationRejected) as rejected:
        record_values(values, tmp_path, program)
    lines = str(rejected.value).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["gcp:region", "nsps:handlers[0].events[0]"]

    config = tmp_path / "Pulumi.test.yaml"
    command = [sys.executable, "-m", "nsps_local.recording", "--config", str(config)]
    done = subprocess.run(
        [*command, "--program", str(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.splitlines() == lines


def test_a_function_without_its_files_is_reported(tmp_path: Path) -> None:
    program = make_tree(tmp_path)
    (tmp_path / "functions" / "enrichment" / "requirements.txt").unlink()
    with pytest.raises(ConfigurationRejected, match=r"functions/enrichment/requirements\.txt is"):
        record_values(light(), tmp_path, program)


def test_a_program_that_fails_says_how(tmp_path: Path) -> None:
    program = make_tree(tmp_path)
    replaced(
        program / "components" / "topics.py",
        "name=platform.name(name)",
        "naem=name",
    )
    with pytest.raises(RecordingFailed, match="naem"):
        record_values(light(), tmp_path, program)


def test_a_local_stacks_words_do_not_reach_a_deployment(program: Path, tmp_path: Path) -> None:
    """Without the local stack's help the program itself refuses them, as ``pulumi up`` would."""
    values = base()
    values["nsps:portabilling"]["url"] = "sandbox"
    config = {k: v if isinstance(v, str) else json.dumps(v) for k, v in values.items()}
    code = (
        "import json, sys; from pathlib import Path; "
        "from nsps_local.recording.mocked import run_program; "
        "run_program(Path(sys.argv[1]), 'acme', json.loads(sys.argv[2]), 9000)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(program), json.dumps(config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Pulumi.acme.yaml: nsps:portabilling.url: the sandbox is there")


def test_the_fixtures_are_configurations_of_this_time() -> None:
    for manifest in FIXTURES.glob("functions/connectors/*/connector.yaml"):
        assert yaml.safe_load(manifest.read_text())["connector"] == manifest.parent.name
