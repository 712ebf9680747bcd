"""PortaBilling's event framework: who may send webhooks, and what it is told of a delivery."""
