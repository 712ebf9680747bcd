"""An existing NSPS connector, as a partner writes one after the published guide; in Flask.

It answers in FastAPI's manner, errors wrapped in ``{"detail": ...}``, and maps the faults of the
system behind it as the vendor's own sample does (a time-out becomes 422). Run as a process of its
own; what the system behind it does is said to ``POST /core``.
"""

from __future__ import annotations

import sys
from typing import Any

from flask import Flask, Response, jsonify, request
from werkzeug.serving import make_server

TOKEN = sys.argv[1]

app = Flask("sample")
hlr: dict[str, dict[str, Any]] = {}
received: list[dict[str, Any]] = []
core = {"mode": "well"}

FAULTS: dict[str, tuple[int, Any, dict[str, str]]] = {
    "timeout": (422, {"message": "Timeout", "error": "Timed out", "type": "service_error"}, {}),
    "busy": (
        429,
        {
            "message": "Too many requests to API Core",
            "error": "Rate limit exceeded",
            "type": "RATE_LIMIT_ERROR",
        },
        {"Retry-After": "3"},
    ),
    "error": (
        500,
        {
            "message": "API Core HTTP error",
            "error": "Internal server error",
            "type": "SERVICE_ERROR",
        },
        {},
    ),
    "away": (
        503,
        {
            "message": "Core service is not available",
            "error": "Connection timeout",
            "type": "CONNECTION_ERROR",
        },
        {},
    ),
}


def refuse(status: int, detail: Any, **headers: str) -> tuple[Response, int, dict[str, str]]:
    return jsonify({"detail": detail}), status, headers


@app.errorhandler(404)
def not_found(_: object) -> Any:
    return refuse(
        404, {"message": "Resource not found", "error": "Not found", "type": "VALIDATION_ERROR"}
    )


@app.errorhandler(405)
def not_allowed(_: object) -> Any:
    words = "Method not allowed"
    return refuse(405, {"message": words, "error": words, "type": "VALIDATION_ERROR"})


@app.get("/health")
def health() -> Any:
    return {"status": "Healthy", "service": "sample"}


@app.post("/process-event")
def process_event() -> Any:
    if request.headers.get("Authorization") != f"Bearer {TOKEN}":
        fault = {
            "message": "Invalid access token",
            "error": "Unauthorized",
            "type": "AUTHENTICATION_ERROR",
        }
        return refuse(401, fault, **{"WWW-Authenticate": "Bearer"})
    event: Any = request.get_json(silent=True)
    problems = validate(event)
    if problems:
        return refuse(422, problems)
    if core["mode"] in FAULTS:
        status, detail, headers = FAULTS[core["mode"]]
        return refuse(status, detail, **headers)
    received.append(
        {
            "event": event,
            "trace": request.headers.get("x-b3-traceid"),
            "request": request.headers.get("x-request-id"),
        }
    )
    if not event["data"]["event_type"].startswith("SIM/"):
        kind = event["data"]["event_type"]
        return jsonify({"message": f"Event ignored: unsupported event type {kind}"}), 202
    account = event["pb_data"]["account_info"]
    hlr[event["pb_data"]["sim_info"]["imsi"]] = {
        "msisdn": account["id"].removesuffix("@msisdn"),
        "barred": account["blocked"],
    }
    return jsonify({"message": "Event processed successfully"}), 202


def validate(event: Any) -> list[dict[str, Any]]:
    """In pydantic's manner."""
    wanted = [("event_id",), ("data", "event_type"), ("data", "variables")]
    problems = []
    for path in wanted:
        value = event
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        if value is None:
            where = ["body", *path]
            problems.append({"loc": where, "msg": "Field required", "type": "missing"})
    return problems


@app.post("/core")
def set_core() -> Any:
    core.update(request.get_json())
    return {}


@app.get("/core")
def get_core() -> Any:
    return {"hlr": hlr, "received": received}


if __name__ == "__main__":
    server = make_server("127.0.0.1", 0, app, threaded=True)
    print(server.server_port, flush=True)
    server.serve_forever()
