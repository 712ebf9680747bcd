"""``python -m nsps_local.bench.fill [--accounts 100000] [--rate 1000]``

An empty system is filled by ``reconcile --all --fix``, as a new HSS is. Prints how fast it went,
what it took the console and the handler in memory, and whether every subscriber is there.
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from nsps_local.bench.processor import resident_mib, seconds_of
from nsps_local.cli.remote import LOCAL
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.stack.ports import reserve_base
from nsps_local.stack.stack import Options, Stack

LOOK_SECONDS = 1.0
LEAST_SHOWN = 0.01
HANDLER = "subscribers"
PARTS = ("console", HANDLER, "enrichment")


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill, compare, print; exit status 0 if every subscriber is there in the end."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--rate", type=float, default=1000.0, help="repairs a second at most")
    options = parser.parse_args(arguments)
    with running_stack() as stack:
        filled = Fill(stack, options.accounts, options.rate)
        figures = filled.run()
    sys.stdout.write(json.dumps(figures, indent=1) + "\n")
    return 0 if figures["rows"] == figures["accounts"] else 1


class Fill:
    """One run over a stack that is up."""

    def __init__(self, stack: Stack, accounts: int, rate: float) -> None:
        self._stack, self._accounts, self._rate = stack, accounts, rate
        described = stack.describe()
        self._described: Mapping[str, Any] = described
        self._url = f"{described['console']['url']}/api"
        self._state = Path(described["state"])
        self._issuer = TokenIssuer(self._state / "pubsub")
        self._groups = {each["name"]: each["pid"] for each in described["processes"]}
        self._peaks: dict[str, float] = {}

    def run(self) -> dict[str, Any]:
        """Seed, fill, compare again."""
        sandbox = self._described["sandbox"]["url"]
        seeded = requests.post(
            f"{sandbox}/sandbox/seed", json={"accounts": self._accounts}, timeout=600
        )
        seeded.raise_for_status()
        before, began = seconds_of(self._groups), time.monotonic()
        job = self._finished(self._start(fix=True))
        sent = time.monotonic() - began
        while self._rows() < self._accounts:
            self._look("the last repairs")
        filled, cost = time.monotonic() - began, self._each(before)
        before, began = seconds_of(self._groups), time.monotonic()
        after = self._finished(self._start(fix=False))
        compared = time.monotonic() - began
        return {
            "accounts": self._accounts,
            "rows": self._rows(),
            "seconds until all repairs were sent": round(sent, 1),
            "seconds until all rows were written": round(filled, 1),
            "subscribers a second": round(self._accounts / filled, 1),
            "processor milliseconds a subscriber": cost,
            "found": job["found"],
            "seconds of the comparison afterwards": round(compared, 1),
            "compared a second": round(self._accounts / compared, 1),
            "processor milliseconds a comparison": self._each(before),
            "found afterwards": after["found"],
            "read singly": after["singly"],
            "peak memory in MiB": self._peaks,
        }

    def _each(self, before: Mapping[str, float]) -> dict[str, float]:
        """Part -> processor milliseconds an account since then; parts that took hardly any left
        out."""
        spent = seconds_of(self._groups)
        each = {part: (spent[part] - before[part]) * 1000 / self._accounts for part in spent}
        return {part: round(took, 2) for part, took in each.items() if took >= LEAST_SHOWN}

    def _start(self, *, fix: bool) -> str:
        body = {"handler": HANDLER, "all": True, "fix": fix, "rate": self._rate}
        answer = self._call("POST", "/reconciles", json=body)
        ident: str = answer["job"]
        return ident

    def _finished(self, job: str) -> dict[str, Any]:
        while True:
            found = self._call("GET", f"/jobs/{job}?limit=1")
            if found["state"] != "running":
                return found
            self._look(f"{found['done']} of {found['total']} looked at, {found['found']}")

    def _look(self, about: str) -> None:
        for part in PARTS:
            self._peaks[part] = max(self._peaks.get(part, 0), self._memory(part))
        sys.stderr.write(f"{about}; {self._rows()} rows; MiB {self._peaks}\n")
        time.sleep(LOOK_SECONDS)

    def _call(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        audience = self._described["console"]["audience"]
        headers = {"Authorization": f"Bearer {self._issuer.token(LOCAL, audience)}"}
        answer = requests.request(method, self._url + path, headers=headers, timeout=120, **more)
        answer.raise_for_status()
        document: dict[str, Any] = answer.json()
        return document

    def _rows(self) -> int:
        """Written ones; none before the table is made."""
        file = self._state / "subscribers.db"
        if not file.exists():
            return 0
        with sqlite3.connect(file, timeout=30) as database:
            try:
                return int(database.execute("select count(*) from subscribers").fetchone()[0])
            except sqlite3.OperationalError:
                return 0

    def _memory(self, part: str) -> float:
        """Resident MiB of a function's processes together, now."""
        return round(resident_mib(self._groups[part]), 1)


@contextmanager
def running_stack() -> Iterator[Stack]:
    """The sandbox and one handler, HANDLER; ended afterwards."""
    values = {
        "gcp:project": "nsps-bench",
        "gcp:region": "europe-west3",
        "nsps:deployment": "fill",
        "nsps:static_egress": False,
        "nsps:portabilling": {"url": "sandbox", "credentials": "portabilling-api"},
        "nsps:espf": {"method": "basic", "credentials": ["espf-webhook"]},
        "nsps:digest_key": "digest-key",
        "nsps:handlers": [
            {
                "name": HANDLER,
                "connector": "database",
                "events": ["SIM/*", "Account/*"],
                "group": "Database",
                "settings": {"url": "sqlite:///${state}/subscribers.db", "create_table": True},
            }
        ],
    }
    with tempfile.TemporaryDirectory(prefix="nsps-fill-") as folder:
        config = Path(folder) / "Pulumi.fill.yaml"
        config.write_text(yaml.safe_dump({"config": values}))
        options = Options(config, Path(folder) / "state", reserve_base())
        stack = Stack(options, say=lambda _: None, notice=_notice)
        stack.up()
        try:
            yield stack
        finally:
            stack.down()


def _notice(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
