"""How one event reaches one system: history, ledger, attempts, switch."""
