"""Every page, and every form."""

from __future__ import annotations

from nsps.console.identity import Role
from nsps.console.pages import audit, events, handlers, jobs, overview, parked, subscriber
from nsps.console.pages.site import PageRoute

_OPERATOR, _ADMIN = Role.operator, Role.admin

ROUTES = (
    PageRoute("GET", "/", overview.overview),
    PageRoute("GET", "/health-of-all", overview.health, _OPERATOR),
    PageRoute("GET", "/events", events.events),
    PageRoute("GET", "/events/{name}", events.event),
    PageRoute("GET", "/search", subscriber.search),
    PageRoute("GET", "/accounts/{name}", subscriber.account),
    PageRoute("GET", "/customers/{name}", subscriber.customer),
    PageRoute("POST", "/accounts/{name}/erase", subscriber.erase, _ADMIN),
    PageRoute("GET", "/handlers", handlers.handlers),
    PageRoute("GET", "/handlers/{name}", handlers.handler),
    PageRoute("POST", "/handlers/{name}/pause", handlers.pause, _OPERATOR),
    PageRoute("POST", "/handlers/{name}/resume", handlers.resume, _OPERATOR),
    PageRoute("GET", "/parked", parked.parked),
    PageRoute("POST", "/parked/{name}/send", parked.send, _OPERATOR),
    PageRoute("GET", "/jobs", jobs.jobs),
    PageRoute("GET", "/jobs/{name}", jobs.job),
    PageRoute("GET", "/jobs/{name}/findings.csv", jobs.findings_csv),
    PageRoute("POST", "/replays", jobs.replay, _OPERATOR),
    PageRoute("POST", "/reconciles", jobs.reconcile, _OPERATOR),
    PageRoute("POST", "/jobs/{name}/stop", jobs.stop, _OPERATOR),
    PageRoute("POST", "/jobs/{name}/resume", jobs.resume, _OPERATOR),
    PageRoute("GET", "/audit", audit.audit),
    PageRoute("GET", "/audit.csv", audit.audit_csv),
)
