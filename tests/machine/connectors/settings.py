"""What the machine's connectors are told: which of the machine's systems is theirs."""

from __future__ import annotations

from collections.abc import Mapping

from nsps.connector.base import Enriched, State
from pydantic import BaseModel, Field


class SystemSettings(BaseModel):
    system: str = Field(description="The system, by its name in SYSTEMS.")


def sim_of(event: Enriched) -> Mapping[str, State]:
    """The account's SIM card: its number, whether it may be used, and whose it is."""
    sim, account = event.pb.sim_info, event.pb.account_info
    if sim is None or account is None or not sim.imsi:
        return {}
    return {
        sim.imsi: {
            "msisdn": sim.msisdn,
            "active": not account.blocked,
            "i_account": account.i_account,
        }
    }
