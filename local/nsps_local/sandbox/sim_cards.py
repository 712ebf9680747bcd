"""What can happen to a SIM card: in the inventory, and with an account."""

from __future__ import annotations

import secrets
from typing import Literal

from nsps_local.sandbox.domain import Domain, Refused
from nsps_local.sandbox.events import SIM_ASSIGNMENT, SIM_CREATED, SIM_DELETED, SIM_STATUS
from nsps_local.sandbox.store import Row


class SimCards(Domain):
    """Operations on SIM cards."""

    def add_sim_card(self, imsi: str, iccid: str, msisdn: str | None = None) -> Row:
        """Upload a card into the inventory."""
        with self._change() as done:
            self._free("sim_cards", "imsi", imsi)
            self._free("sim_cards", "iccid", iccid)
            secret = [secrets.token_hex(16).upper() for _ in ("ki", "opc")]
            digits = [f"{secrets.randbelow(10**n):0{n}d}" for n in (4, 8, 4, 8, 10)]
            i_sim_card = self._store.run(
                "INSERT INTO sim_cards (iccid, imsi, msisdn, ki, opc, pin1, puk1, pin2, puk2,"
                " activation_code) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                *(iccid, imsi, msisdn, *secret, *digits),
            )
            done.tell(SIM_CREATED, i_sim_card=i_sim_card)
            done.result["i_sim_card"] = i_sim_card
        return done.result

    def remove_sim_card(self, i_sim_card: int) -> Row:
        """Delete a card from the inventory; one in use cannot be."""
        with self._change() as done:
            card = self._card(i_sim_card)
            if card["i_account"] is not None:
                raise Refused(f"SIM card {i_sim_card} is in use by account {card['i_account']}.")
            self._store.run("DELETE FROM sim_cards WHERE i_sim_card = ?", i_sim_card)
            done.tell(SIM_DELETED, i_sim_card=i_sim_card)
        return done.result

    def set_sim_status(
        self, i_sim_card: int, status: Literal["available", "reserved", "disposed"]
    ) -> Row:
        with self._change() as done:
            card = self._card(i_sim_card)
            if card["i_account"] is not None:
                raise Refused(f"SIM card {i_sim_card} is in use by account {card['i_account']}.")
            if card["status"] != status:
                self._set("sim_cards", i_sim_card, {"status": status})
                words = {"curr_status": status, "prev_status": card["status"]}
                done.tell_more(SIM_STATUS, words, i_sim_card=i_sim_card)
        return done.result

    def assign_sim(self, i_account: int, i_sim_card: int) -> Row:
        """Give a card from the inventory to an account that has none."""
        with self._change() as done:
            account = self._open_account(i_account)
            if card := self._card_of(i_account):
                raise Refused(
                    f"Account {i_account} already has SIM card {card['i_sim_card']}; swap it."
                )
            self._hand_out(i_sim_card, account)
            done.tell(SIM_ASSIGNMENT, i_account=i_account, i_sim_card=i_sim_card)
        return done.result

    def swap_sim(
        self,
        i_account: int,
        i_sim_card: int,
        old_card: Literal["available", "reserved", "disposed"] = "available",
    ) -> Row:
        """Replace the card of an account by another from the inventory: one event for both."""
        with self._change() as done:
            account = self._open_account(i_account)
            old = self._card_of(i_account)
            if not old:
                raise Refused(f"Account {i_account} has no SIM card to swap; assign one.")
            if old["i_sim_card"] == i_sim_card:
                raise Refused(f"Account {i_account} already has SIM card {i_sim_card}.")
            self._take_back(old["i_sim_card"], old_card)
            self._hand_out(i_sim_card, account)
            ids = {"i_sim_card": i_sim_card, "prev_i_sim_card": old["i_sim_card"]}
            done.tell(SIM_ASSIGNMENT, i_account=i_account, **ids)
        return done.result

    def release_sim(self, i_account: int) -> Row:
        """Take the card of an account back into the inventory."""
        with self._change() as done:
            self._open_account(i_account)
            old = self._card_of(i_account)
            if not old:
                raise Refused(f"Account {i_account} has no SIM card.")
            self._take_back(old["i_sim_card"])
            done.tell(SIM_ASSIGNMENT, i_account=i_account, prev_i_sim_card=old["i_sim_card"])
        return done.result

    def move_sim(self, i_sim_card: int, i_account: int) -> Row:
        """Move a card in use to another account; both accounts get an event, in one transaction."""
        with self._change() as done:
            holder = self._card(i_sim_card)["i_account"]
            if holder is None:
                raise Refused(f"SIM card {i_sim_card} is not in use; assign it.")
            if holder == i_account:
                raise Refused(f"Account {i_account} already has SIM card {i_sim_card}.")
            account = self._open_account(i_account)
            displaced = self._card_of(i_account)
            ids = {"i_sim_card": i_sim_card}
            if displaced:
                self._take_back(displaced["i_sim_card"])
                ids["prev_i_sim_card"] = displaced["i_sim_card"]
            self._take_back(i_sim_card)
            self._hand_out(i_sim_card, account)
            done.tell(SIM_ASSIGNMENT, i_account=holder, prev_i_sim_card=i_sim_card)
            done.tell(SIM_ASSIGNMENT, i_account=i_account, **ids)
        return done.result
