"""What the doctor says of a deployment's secrets, without reading any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
from google.api_core.exceptions import Forbidden, NotFound, PermissionDenied, ServiceUnavailable
from nsps_local.doctor.finding import State
from nsps_local.doctor.secrets import ACCESSOR, SecretVersions
from nsps_local.recording.topology import Database, Function, Topology

INGRESS, HSS = (f"acme-{part}@acme.iam.gserviceaccount.com" for part in ("ingress", "hss"))


def function(part: str, account: str, env: Mapping[str, str]) -> Function:
    return Function(
        f"acme-{part}", part, "", "main", env, (), 1, "", False, account, 1, 1, "512Mi", 60, 0, 1
    )


TOPOLOGY = Topology(
    project="acme",
    region="europe-west3",
    deployment="acme",
    functions=(
        function("ingress", INGRESS, {"NSPS_DIGEST_KEY": "sm://acme-digest-key"}),
        function(
            "hss",
            HSS,
            {
                "NSPS_DIGEST_KEY": "sm://acme-digest-key",
                "NSPS_HANDLER": '{"secrets": {"auc": "sm://acme-auc/versions/3"}}',
            },
        ),
    ),
    topics=(),
    subscriptions=(),
    jobs=(),
    secrets=("acme-auc", "acme-digest-key"),
    database=Database("nsps-acme", (), (), ()),
    bindings=(),
)


class SecretManager:
    """Answers as Google's does; ``refuses`` some secret with an error."""

    def __init__(self) -> None:
        self.states = {
            "acme-digest-key/versions/latest": "ENABLED",
            "acme-auc/versions/3": "ENABLED",
        }
        self.readers = {"acme-digest-key": {INGRESS, HSS}, "acme-auc": {HSS}}
        self.refuses: Exception | None = None

    def get_secret_version(self, name: str, timeout: float) -> Any:
        if self.refuses:
            raise self.refuses
        version = name.removeprefix("projects/acme/secrets/")
        if version not in self.states:
            error: Callable[[str], Exception] = NotFound
            raise error(version)
        return SimpleNamespace(state=SimpleNamespace(name=self.states[version]))

    def get_iam_policy(self, request: Mapping[str, str], timeout: float) -> Any:
        readers = self.readers[request["resource"].rpartition("/")[2]]
        members = [f"serviceAccount:{reader}" for reader in readers]
        return SimpleNamespace(bindings=[SimpleNamespace(role=ACCESSOR, members=members)])


def found(manager: SecretManager) -> dict[str, Any]:
    return {each.what: each for each in SecretVersions(TOPOLOGY, manager).findings()}


AUC, KEY = "secret acme-auc, version 3", "secret acme-digest-key"


def test_secrets_that_are_there_and_may_be_read() -> None:
    result = found(SecretManager())
    assert {what: each.state for what, each in result.items()} == {AUC: State.GOOD, KEY: State.GOOD}
    assert result[KEY].said == "has a value, and 2 functions may read it"


def test_one_without_a_value_says_how_to_add_it() -> None:
    manager = SecretManager()
    del manager.states["acme-digest-key/versions/latest"]
    result = found(manager)[KEY]
    assert (result.state, result.said) == (State.BAD, "has no value")
    assert result.do == "gcloud secrets versions add acme-digest-key --data-file=-"


def test_a_pinned_version_that_is_switched_off() -> None:
    manager = SecretManager()
    manager.states["acme-auc/versions/3"] = "DISABLED"
    result = found(manager)[AUC]
    assert (result.state, result.said) == (State.BAD, "is disabled")
    assert "gcloud secrets versions enable 3 --secret=acme-auc" in result.do


def test_a_function_that_may_not_read_its_secret_is_named() -> None:
    manager = SecretManager()
    manager.readers["acme-digest-key"].discard(HSS)
    result = found(manager)[KEY]
    assert (result.state, result.said) == (State.BAD, f"cannot be read by {HSS}")


@pytest.mark.parametrize("error", [PermissionDenied, Forbidden, ServiceUnavailable])
def test_what_the_person_may_not_see_is_not_called_wrong(error: Callable[[str], Exception]) -> None:
    manager = SecretManager()
    manager.refuses = error("x")
    assert {each.state for each in found(manager).values()} == {State.UNKNOWN}
