"""The order manager over HTTP: TMF641 v4, the plain form, and what a test says to it."""

from __future__ import annotations

import hmac
from dataclasses import asdict
from typing import Any

from flask import Flask, Response, jsonify, request

from nsps_local.order_manager.system import BEHAVIOURS, Exists, Invalid, OrderManager, from_plain

BASE = "/tmf-api/serviceOrdering/v4"
Answer = tuple[Response, int] | tuple[Response, int, dict[str, str]]


def web(manager: OrderManager, token: str | None = None) -> Flask:
    """The WSGI application; ``token``: the Bearer token that orders must carry."""
    app = Flask("order_manager")

    @app.before_request
    def _guard() -> Answer | None:
        if request.path.startswith("/control") or request.path == "/health":
            return None
        given = request.headers.get("Authorization", "")
        if token and not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
            return _error(401, "the token is not valid")
        if manager.conduct.behaviour == "busy" and request.method == "POST":
            return (*_error(503, "too busy")[:2], {"Retry-After": "1"})
        return None

    _ordering(app, manager)
    _subscriptions(app, manager)
    _control(app, manager)
    return app


def _ordering(app: Flask, manager: OrderManager) -> None:
    @app.post(f"{BASE}/serviceOrder")
    def _create() -> Answer:
        try:
            document = manager.order(_body(), "tmf641")
        except Invalid as error:
            return _error(400, str(error))
        except Exists as error:
            return _error(409, str(error))
        place = f"{BASE}/serviceOrder/{document['id']}"
        return jsonify({**document, "href": place}), 201, {"Location": place}

    @app.get(f"{BASE}/serviceOrder")
    def _list() -> Answer:
        found = manager.find(request.args.get("externalId"))
        start = request.args.get("offset", 0, type=int)
        end = start + request.args.get("limit", 100, type=int)
        return jsonify([_some(each) for each in found[start:end]]), 200

    @app.get(f"{BASE}/serviceOrder/<ident>")
    def _retrieve(ident: str) -> Answer:
        document = manager.get(ident)
        if document is None:
            return _error(404, "no such order")
        return jsonify(_some(document)), 200

    @app.post("/orders")
    def _plain() -> Answer:
        try:
            manager.order(from_plain(_body()), "plain")
        except Invalid as error:
            return _error(400, str(error))
        except Exists:
            return jsonify({"result": "OK"}), 200  # the same order again: it is being worked on
        return jsonify({"result": "OK"}), 200


def _subscriptions(app: Flask, manager: OrderManager) -> None:
    @app.post(f"{BASE}/hub")
    def _subscribe() -> Answer:
        callback = _body().get("callback")
        if not isinstance(callback, str) or not callback.startswith(("http://", "https://")):
            return _error(400, "must have required property 'callback', a web address")
        return jsonify({"id": manager.listen(callback), "callback": callback}), 201

    @app.delete(f"{BASE}/hub/<ident>")
    def _unsubscribe(ident: str) -> tuple[str, int] | Answer:
        return ("", 204) if manager.unlisten(ident) else _error(404, "no such subscription")


def _control(app: Flask, manager: OrderManager) -> None:
    @app.get("/health")
    def _health() -> Answer:
        return jsonify({}), 200

    @app.post("/control")
    def _conduct() -> Answer:
        wanted = _body()
        if wanted.get("behaviour", "normal") not in BEHAVIOURS:
            return _error(400, f"behaviour is one of {', '.join(BEHAVIOURS)}")
        for name in ("behaviour", "delay", "late"):
            if name in wanted:
                setattr(manager.conduct, name, wanted[name])
        return jsonify(asdict(manager.conduct)), 200

    @app.get("/control")
    def _everything() -> Answer:
        return jsonify(
            {
                "conduct": asdict(manager.conduct),
                "orders": manager.find(),
                "services": manager.services(),
                "notifications": [asdict(each) for each in manager.notifications()],
            }
        ), 200


def _body() -> dict[str, Any]:
    body = request.get_json(force=True, silent=True)
    return body if isinstance(body, dict) else {}


def _some(document: dict[str, Any]) -> dict[str, Any]:
    """The members that the query's ``fields`` wants; id and href always (TMF630)."""
    fields = request.args.get("fields")
    if not fields:
        return document
    wanted = {"id", "href", *fields.split(",")}
    return {name: value for name, value in document.items() if name in wanted}


def _error(status: int, reason: str) -> tuple[Response, int]:
    return jsonify({"code": str(status), "reason": reason, "status": str(status)}), status
