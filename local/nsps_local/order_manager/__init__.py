"""A small order management system on one machine: takes service orders now and answers later.

It speaks TMF641 v4 (``/tmf-api/serviceOrdering/v4``) and the plain form (``POST /orders``), and can
be told to behave badly. ``python -m nsps_local.order_manager --help`` runs it on loopback.
"""

from nsps_local.order_manager.process import running
from nsps_local.order_manager.system import BEHAVIOURS, OrderManager

__all__ = ["BEHAVIOURS", "OrderManager", "running"]
