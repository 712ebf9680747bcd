"""The peer itself; it runs in an environment of its own, and knows nothing of NSPS.

    uvicorn pipeline:app                              the webhook, POST /events, HTTP Basic
    celery -A pipeline:queue worker -P threads -c 50  one worker for both tasks

Webhook -> status row and task ``enrich`` (two reads from PortaBilling) -> task ``provision``
(one call of the external system) -> done. Environment: PEER_REDIS, PEER_DATABASE,
PEER_PORTABILLING, PEER_CREDENTIALS (JSON of the login), PEER_SYSTEM, PEER_WEBHOOK (user:password).
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from functools import lru_cache
from typing import Annotated, Any

import requests
from celery import Celery
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPBasic, HTTPBasicCredentials
from psycopg_pool import ConnectionPool
from pydantic import BaseModel

REDIS = os.environ["PEER_REDIS"]
TIMEOUT = 30

queue = Celery("peer", broker=f"{REDIS}/0", backend=f"{REDIS}/1")
queue.conf.update(broker_connection_retry_on_startup=True)
local = threading.local()


@lru_cache
def pool() -> ConnectionPool:
    """Made when first used, by the process that uses it."""
    return ConnectionPool(os.environ["PEER_DATABASE"], min_size=1, max_size=10, open=True)


def set_status(i_event: int, status: str) -> None:
    with pool().connection() as connection:
        connection.execute(
            "INSERT INTO event_status (i_event, status) VALUES (%s, %s) ON CONFLICT (i_event) "
            "DO UPDATE SET status = EXCLUDED.status, updated_at = now()",
            (i_event, status),
        )


def http() -> requests.Session:
    if not hasattr(local, "http"):
        local.http = requests.Session()
    return local.http


def portabilling(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """One call; each thread signs in once."""
    base = f"{os.environ['PEER_PORTABILLING']}/rest"
    if not hasattr(local, "token"):
        login = json.loads(os.environ["PEER_CREDENTIALS"])
        answer = http().post(f"{base}/Session/login", json={"params": login}, timeout=TIMEOUT)
        answer.raise_for_status()
        local.token = answer.json()["access_token"]
    bearer = {"Authorization": f"Bearer {local.token}"}
    answer = http().post(
        f"{base}/{method}", json={"params": params}, headers=bearer, timeout=TIMEOUT
    )
    answer.raise_for_status()
    return answer.json()


RETRY: dict[str, Any] = {
    "autoretry_for": (requests.RequestException,),
    "max_retries": 5,
    "default_retry_delay": 5,
}


@queue.task(**RETRY)
def enrich(event: dict[str, Any]) -> None:
    of = {"i_account": event["variables"]["i_account"]}
    account = portabilling("Account/get_account_info", of)
    card = portabilling("SIMCard/get_card_info", of)
    set_status(event["variables"]["i_event"], "enriched")
    pb_data = {"account_info": account["account_info"], "sim_info": card["card_info"]}
    provision.delay({"data": event, "pb_data": pb_data})


@queue.task(**RETRY)
def provision(event: dict[str, Any]) -> None:
    answer = http().post(os.environ["PEER_SYSTEM"], json=event, timeout=TIMEOUT)
    answer.raise_for_status()
    set_status(event["data"]["variables"]["i_event"], "done")


class Event(BaseModel):
    event_type: str
    variables: dict[str, Any]


def check(credentials: Annotated[HTTPBasicCredentials, Depends(HTTPBasic())]) -> None:
    given = f"{credentials.username}:{credentials.password}"
    if not secrets.compare_digest(given, os.environ["PEER_WEBHOOK"]):
        raise HTTPException(401, "wrong user or password")


app = FastAPI()


@app.post("/events", dependencies=[Depends(check)])
def receive(event: Event) -> dict[str, str]:
    set_status(event.variables["i_event"], "received")
    enrich.delay(event.model_dump())
    return {"status": "queued"}
