"""The checks: of the stack on this machine, and of a deployed one as far as it shows itself.

Every check answers with findings and never raises; no value of a secret is in what it says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

import grpc
import requests
from google.api_core.exceptions import (
    DeadlineExceeded,
    GoogleAPICallError,
    NotFound,
    ServiceUnavailable,
)
from google.cloud import secretmanager_v1
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)
from nsps.delivery.probe import probe
from nsps.domain.outcome import DeliveryError
from nsps.espf import webhook_auth
from nsps.espf.status_api import EspfStatusApi
from nsps.portabilling.client import PortaBilling
from nsps.portabilling.login import ApiCredentials
from nsps.runtime.secrets import SecretValue, without_editor_marks
from nsps.transport.http import Http
from nsps.transport.tls import CLIENT_CERTIFICATE, ClientCertificate, InvalidCertificate

from nsps_local.cli.send import signed_headers
from nsps_local.doctor.finding import Finding, bad, good, unknown
from nsps_local.pubsub.oidc import TokenIssuer
from nsps_local.recording.topology import Function, Topology

CALL_SECONDS = 20
SECRET_SECONDS = 5
CLOCK_SECONDS = 5.0
"""Tokens bear 10 s, ESPF's signatures 15 minutes; a machine that keeps time is within one."""
OLD_SECONDS = 900


class LocalStack:
    """The stack on this machine. ``description``: its stack.json; ``topology``: its recording."""

    def __init__(self, description: Mapping[str, Any], topology: Topology) -> None:
        self._description, self._topology = description, topology
        self._issuer = TokenIssuer(Path(description["state"]) / "pubsub")
        settings = json.loads(topology.function("enrichment").env["NSPS_PORTABILLING"])
        self._api_secret = _name(settings["credentials"])

    def findings(self, register: bool = False) -> Iterator[Finding]:
        """Everything. ``register``: missing ESPF groups are registered."""
        yield from self._functions()
        secrets, read = self._secrets()
        yield from secrets
        yield from self._webhooks(read)
        yield from self._portabilling(read.get(self._api_secret), register)
        yield from self._handlers()
        yield from self._queues()

    # ---- functions ---------------------------------------------------------------------------

    def _functions(self) -> Iterator[Finding]:
        for function in self._topology.functions:
            yield _answers(function.part, f"{function.url}/health")
        yield clock("clock", self._topology.function("ingress").url + "/health")

    def _handlers(self) -> Iterator[Finding]:
        """Each asks its system, as the breaker does."""
        for function in self._topology.functions:
            if "NSPS_HANDLER" in function.env:
                yield self._system(function)

    def _system(self, function: Function) -> Finding:
        what = f"{function.part}: its system"
        push = json.loads(function.env["NSPS_PUSH"])
        token = self._issuer.token(push["service_account"], push["audience"])
        reason = probe(function.url, Http(), lambda _: token)
        if reason is None:
            return good(what, "answers")
        do = "look after the system, or correct the handler's settings and secrets"
        return bad(what, reason, do)

    # ---- secrets -----------------------------------------------------------------------------

    def _secrets(self) -> tuple[list[Finding], dict[str, str]]:
        """Each can be read, and says what its users expect."""
        shapes = self._shapes()
        found, read = [], {}
        with grpc.insecure_channel(self._description["secret_manager"]["host"]) as channel:
            client = secretmanager_v1.SecretManagerServiceClient(
                transport=SecretManagerServiceGrpcTransport(channel=channel)
            )
            for name in self._topology.secrets:
                path = f"projects/{self._topology.project}/secrets/{name}/versions/latest"
                try:
                    payload = client.access_secret_version(
                        name=path, timeout=SECRET_SECONDS, retry=None
                    ).payload
                    read[name] = without_editor_marks(payload.data.decode())
                    found.append(_shaped(name, read[name], shapes.get(name)))
                except NotFound:
                    found.append(bad(f"secret {name}", "has no value", _add_version(name)))
                except (ServiceUnavailable, DeadlineExceeded) as error:
                    said = f"cannot be reached: {type(error).__name__}"
                    return [*found, bad("Secret Manager", said, _SECRETS_AWAY)], read
                except GoogleAPICallError as error:
                    said = f"cannot be read: {type(error).__name__}"
                    found.append(bad(f"secret {name}", said, _add_version(name)))
                except UnicodeDecodeError:
                    found.append(bad(f"secret {name}", "is not UTF-8 text", _add_version(name)))
        return found, read

    def _shapes(self) -> dict[str, Callable[[str], object]]:
        """How the secrets that are more than a text must look."""
        auth = json.loads(self._topology.function("ingress").env["NSPS_ESPF_AUTH"])

        def webhook(text: str) -> object:
            return webhook_auth.credential(auth["method"], json.loads(text))

        return {
            **{_name(reference): webhook for reference in auth["credentials"]},
            self._api_secret: lambda text: ApiCredentials.parse(json.loads(text)),
            **{_name(reference): _certificate for reference in self._certificates()},
        }

    def _certificates(self) -> Iterator[str]:
        for function in self._topology.functions:
            secrets = json.loads(function.env.get("NSPS_HANDLER", "{}")).get("secrets", {})
            if CLIENT_CERTIFICATE in secrets:
                yield secrets[CLIENT_CERTIFICATE]

    def _webhooks(self, read: Mapping[str, str]) -> Iterator[Finding]:
        """Ingress lets in whoever shows one of its credentials; an empty body changes nothing."""
        function = self._topology.function("ingress")
        auth = json.loads(function.env["NSPS_ESPF_AUTH"])
        for name in map(_name, auth["credentials"]):
            try:
                shown = signed_headers({**auth, "credentials": json.loads(read[name])})
            except (ValueError, KeyError, TypeError, AttributeError):
                continue  # said of the secret already
            yield _let_in(f"{name}: a webhook with it", function.url, shown)

    # ---- PortaBilling ------------------------------------------------------------------------

    def _portabilling(self, secret: str | None, register: bool) -> Iterator[Finding]:
        url = str(self._description["portabilling"]["url"])
        what = "PortaBilling"
        try:
            user = ApiCredentials.parse(json.loads(secret or ""))
        except ValueError:
            yield unknown(what, "the API user's secret cannot be used", "see the secret above")
            return
        api = EspfStatusApi(PortaBilling(url, lambda: user, CALL_SECONDS))
        try:
            groups = api.groups()
        except DeliveryError as error:
            yield bad(what, str(error), "correct nsps:portabilling and its secret, or the network")
            return
        yield good(what, "logged in, and the ESPF API answers")
        yield clock("PortaBilling's clock", url)
        yield from self._groups(api, groups, register)

    def _groups(self, api: EspfStatusApi, there: set[str], register: bool) -> Iterator[Finding]:
        for handler in json.loads(self._topology.function("retries").env["NSPS_HANDLERS"]):
            name, group = handler["name"], handler["group"]
            if group is not None and group not in there and register:
                yield _registered(api, _group_of(name), group)
            else:
                yield group_finding(
                    name, group, group in there, "nsps doctor --register-groups, or "
                )

    # ---- queues ------------------------------------------------------------------------------

    def _queues(self) -> Iterator[Finding]:
        control = self._description["pubsub"]["control"]
        if control is None:
            yield unknown("queues", "Google's emulator does not tell")
            return
        try:
            metrics = requests.get(f"{control}/metrics", timeout=CALL_SECONDS).json()
        except (requests.RequestException, ValueError) as error:
            yield bad("queues", f"Pub/Sub does not tell: {type(error).__name__}", _SEE_LOG)
            return
        for path, figures in metrics["subscriptions"].items():
            name, age = path.rpartition("/")[2], figures.get("oldest_unacked_seconds") or 0
            said = f"{figures['backlog']} messages, the oldest {age:.0f} s"
            if age > OLD_SECONDS:
                do = "nsps handlers shows whether it is paused; else see the function's log"
                yield bad(f"queue {name}", said, do)
            elif figures["backlog"]:
                yield good(f"queue {name}", said)


def deployed(outputs: Mapping[str, str]) -> Iterator[Finding]:
    """A deployed NSPS from outside: what must answer does, who must be refused is.

    ``outputs``: as of ``pulumi stack output --json``; those that are missing are not looked at.
    """
    ingress, callbacks = outputs.get("webhook_url"), outputs.get("callbacks_url")
    if ingress:
        yield _answers("ingress", f"{ingress}/health")
        yield _guarded(ingress)
        yield clock("clock", f"{ingress}/health")
    if callbacks:
        yield _answers("callbacks", f"{callbacks}/health")
        yield _refuses(
            "callbacks for nobody",
            "POST",
            f"{callbacks}/no-such-handler/",
            (401, 403, 404),
            "see the callbacks function's log",
        )
    if outputs.get("console_url"):
        yield _refuses(
            "console without an identity",
            "GET",
            f"{outputs['console_url']}/api/me",
            (401, 403),
            "only the people of nsps:console may be invokers of the console: take others away",
        )
    if not (ingress or callbacks):
        yield bad("outputs", "name no webhook_url", "pulumi stack output --json > FILE")


def reached(health: Mapping[str, Any]) -> Iterator[Finding]:
    """What the console's ``GET /api/health`` says of PortaBilling and each handler."""
    wrong = health["portabilling"]
    if wrong:
        yield bad("PortaBilling", str(wrong), "correct nsps:portabilling and its secret")
    else:
        yield good("PortaBilling", "logged in, and the ESPF API answers")
    for handler in health["handlers"]:
        name, group = handler["name"], handler["group"]
        if handler["system"]:
            do = "look after the system, or correct the handler's settings and secrets"
            yield bad(f"{name}: its system", str(handler["system"]), do)
        else:
            yield good(f"{name}: its system", "answers")
        if group is None or handler["registered"] is not None:
            yield group_finding(name, group, bool(handler["registered"]))


def group_finding(name: str, group: str | None, registered: bool, before: str = "") -> Finding:
    """Whether a handler's ESPF group is registered. ``before``: another remedy, put first."""
    what = _group_of(name)
    if group is None:
        return good(what, "none: nothing of this handler is reported to PortaBilling")
    if registered:
        return good(what, f"{group} is registered")
    return bad(
        what,
        f"{group} is not registered: PortaBilling refuses its statuses",
        f'{before}POST /espf/v1/group/create {{"name": "{group}"}}',
    )


def _group_of(name: str) -> str:
    return f"{name}: ESPF group"


def clock(what: str, url: str) -> Finding:
    """Whether a server's clock and ours agree, by the Date of its answer."""
    try:
        answer = requests.get(url, timeout=CALL_SECONDS)
        there = parsedate_to_datetime(answer.headers["Date"])
    except (requests.RequestException, KeyError, ValueError, TypeError):
        return unknown(what, f"{url} tells no time")
    off = (datetime.now(UTC) - there).total_seconds()
    said = f"{abs(off):.0f} s {'behind' if off > 0 else 'ahead'} of this machine's"
    if abs(off) > CLOCK_SECONDS:
        return bad(what, said, "let both keep time by NTP: tokens and signatures depend on it")
    return good(what, "agrees with this machine's")


_SECRETS_AWAY = (
    "wait, or see that it answers; what ESPF sends is answered 503 meanwhile and comes again"
)
_SEE_LOG = "see the function's log, or start the stack again"


def _answers(what: str, url: str) -> Finding:
    try:
        answer = requests.get(url, timeout=CALL_SECONDS)
    except requests.RequestException as error:
        return bad(what, f"does not answer: {type(error).__name__}", _SEE_LOG)
    if answer.status_code == 200:
        return good(what, "answers")
    return bad(what, f"answers HTTP {answer.status_code}", _SEE_LOG)


def _refuses(what: str, method: str, url: str, right: tuple[int, ...], do: str) -> Finding:
    try:
        answer = requests.request(method, url, data=b"{}", timeout=CALL_SECONDS)
    except requests.RequestException as error:
        return bad(what, f"does not answer: {type(error).__name__}", _SEE_LOG)
    if answer.status_code in right:
        return good(what, f"is refused (HTTP {answer.status_code})")
    return bad(what, f"is answered HTTP {answer.status_code}", do)


_NO_CREDENTIALS = "could not be checked"
"""What ingress answers while it cannot read whom to let in."""


def _guarded(url: str) -> Finding:
    """Ingress refuses who shows nothing, and can read what there is to be shown."""
    what = "ingress without credentials"
    try:
        answer = requests.post(url, data=b"{}", timeout=CALL_SECONDS)
    except requests.RequestException as error:
        return bad(what, f"does not answer: {type(error).__name__}", _SEE_LOG)
    if _NO_CREDENTIALS in answer.text:
        do = "add their values (docs/deploy.md, step 4); its log says what is wrong with them"
        return bad(what, "cannot read the secrets of nsps:espf", do)
    if answer.status_code in (401, 503):
        return good(what, f"is refused (HTTP {answer.status_code})")
    do = "this is no ingress of NSPS: take the address from `pulumi stack output`"
    return bad(what, f"is answered HTTP {answer.status_code}", do)


def _let_in(what: str, url: str, headers: Mapping[str, str]) -> Finding:
    try:
        answer = requests.post(url, data=b"{}", headers=headers, timeout=CALL_SECONDS)
    except requests.RequestException as error:
        return bad(what, f"does not answer: {type(error).__name__}", _SEE_LOG)
    if answer.status_code in (401, 503):
        said = _member(answer, "error") or f"HTTP {answer.status_code}"
        return bad(what, said, "see ingress's log; a new version of a secret counts at once")
    return good(what, "is let in")


def _registered(api: EspfStatusApi, what: str, group: str) -> Finding:
    try:
        api.ensure_group(group)
    except (DeliveryError, ValueError) as error:
        return bad(what, str(error), "register it in PortaBilling")
    return good(what, f"{group} is registered now")


def _certificate(text: str) -> None:
    ClientCertificate.parse(SecretValue(text)).check(datetime.now(UTC))


def _shaped(name: str, value: str, shape: Callable[[str], object] | None) -> Finding:
    what = f"secret {name}"
    if not value.strip():
        return bad(what, "is empty", _add_version(name))
    if shape is None:
        return good(what, "can be read")
    try:
        shape(value)
    except InvalidCertificate as error:
        return bad(what, str(error), _add_version(name))
    except (ValueError, TypeError, KeyError):
        do = "see docs/configuration.md for what is in it; " + _add_version(name)
        return bad(what, "is not the JSON that it must be", do)
    return good(what, "can be read")


def _add_version(name: str) -> str:
    return f"gcloud secrets versions add {name} --data-file=-, or --secrets of nsps up"


def _name(reference: str) -> str:
    return reference.removeprefix("sm://").partition("/")[0]


def _member(answer: requests.Response, name: str) -> str:
    try:
        return str(answer.json()[name])
    except (ValueError, KeyError, TypeError):
        return ""
