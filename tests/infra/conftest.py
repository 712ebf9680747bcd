"""A tree of its own for the Pulumi program: its code, and connectors that do not change."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from nsps_local.recording import Topology, record

ROOT = Path(__file__).resolve().parents[2]
FIXTURES = Path(__file__).parent / "fixtures"

Record = Callable[[Mapping[str, Any]], Topology]


def make_tree(at: Path) -> Path:
    """Copy the program beside the fixtures' functions; returns the program's folder."""
    shutil.copytree(ROOT / "infra", at / "infra", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(FIXTURES / "functions", at / "functions")
    (at / "shared").symlink_to(ROOT / "shared")
    return at / "infra"


def record_values(values: Mapping[str, Any], at: Path, program: Path) -> Topology:
    """Write the values as the stack ``test`` and record the program for them."""
    config = at / "Pulumi.test.yaml"
    config.write_text(yaml.safe_dump({"config": dict(values)}), encoding="utf-8")
    return record(config, port_base=9000, program=program, state=at / "state")


def base() -> dict[str, Any]:
    """A whole configuration: three kinds of handlers, two credentials, sizes."""
    return {
        "gcp:project": "acme-provisioning",
        "gcp:region": "europe-west3",
        "nsps:deployment": "acme",
        "nsps:portabilling": {"url": "https://pb.acme.example", "credentials": "pb"},
        "nsps:espf": {"credentials": ["espf", "espf-next"]},
        "nsps:handlers": [
            {
                "name": "hss",
                "connector": "hss_osmocom",
                "events": ["SIM/*", "Account/*"],
                "group": "HSS",
                "settings": {"host": "hlr.acme.example"},
                "secrets": {"auc": "auc/versions/3"},
                "contract_token": "hss-token",
            },
            {
                "name": "hss-2",
                "connector": "hss_osmocom",
                "events": ["SIM/*"],
                "settings": {
                    "host": "hlr2.acme.example",
                    "credentials": {"source": "secret_manager", "name": "sim-{imsi}"},
                },
                "max_rate": 5,
            },
            {
                "name": "oms",
                "connector": "oms_tmf641",
                "events": ["Subscriber/*"],
                "group": "Orders",
                "settings": {"url": "https://oms.acme.example"},
                "secrets": {"callback": "oms"},
                "contract_token": "oms-token",
            },
        ],
        "nsps:console": {
            "viewer": ["domain:acme.example"],
            "operator": ["ops@acme.example", "ci@acme-provisioning.iam.gserviceaccount.com"],
            "admin": ["ops@acme.example"],
        },
        "nsps:alerts": {
            "emails": ["noc@acme.example"],
            "channels": ["projects/acme-provisioning/notificationChannels/77"],
        },
        "nsps:sizes": {"enrichment": {"memory": "1Gi", "concurrency": 40}},
    }


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program in its tree; not to be changed."""
    return make_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="session")
def acme(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Topology:
    """The recorded deployment of ``base()``."""
    return record_values(base(), tmp_path_factory.mktemp("acme"), program)
