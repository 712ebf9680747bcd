"""The way of one event to one system: history, ledger, attempts, switch."""
