"""What a security reviewer would refuse, looked for in the recorded program."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from nsps_local.recording import Binding, Topology

PUBLIC = {
    "ingress": "ESPF has no Google identity; webhooks prove themselves by ESPF's own method",
    "callbacks": "external systems have none; each connector checks what its system shows",
}
FROM_THE_INTERNET = {
    **PUBLIC,
    "console": "people call it; Google lets through those of its roles",
}
NO_DEAD_LETTERS = {
    "dead-letters": "the last stop: it is tried until the 31 days of retention are over",
    "jobs": "a job's state is in its document; a push only continues it",
}
IN_THE_PROJECT = {
    "roles/datastore.user": "Firestore has no narrower resource; a condition names the database",
    "roles/secretmanager.secretAccessor": "a subscriber's secret may come later; by its name's "
    "beginning, which a condition names",
    "roles/cloudbuild.builds.builder": "Google's own role for building; there is no narrower one",
    "time_series": "Cloud Monitoring has nothing narrower than the project's figures",
}
PRIMITIVE = {"roles/owner", "roles/editor", "roles/viewer"}
OWN_ROLES = {
    "push_endpoint": {"pubsub.subscriptions.get", "pubsub.subscriptions.update"},
    "time_series": {"monitoring.timeSeries.list"},
}
"""Roles of the deployment's own, where Google's narrowest is too wide, and all that they allow."""
ROLES = {
    "function": {"roles/run.invoker"},
    "topic": {"roles/pubsub.publisher"},
    "subscription": {"roles/pubsub.subscriber", "push_endpoint"},
    "secret": {"roles/secretmanager.secretAccessor"},
    "account": {"roles/iam.serviceAccountTokenCreator", "roles/iam.serviceAccountUser"},
    "bucket": {"roles/storage.objectViewer"},
    "key": {"roles/cloudkms.cryptoKeyEncrypterDecrypter"},
    "proxy": {"roles/iap.httpsResourceAccessor"},
    "project": set(IN_THE_PROJECT),
}
"""The narrowest role for each sort of thing; whatever else is granted must be argued for here."""

_SOURCE = re.compile(r"\.settings\.credentials\.(source|name|url|authentication|members)\b")
"""Where subscribers' credentials are looked up."""
_SECRET_WORDS = re.compile(r"(?i)password|passwd|secret|token|credential|api_?key|private_?key")
_REFERENCE = re.compile(r"sm://[A-Za-z0-9_-]{1,255}(/versions/([1-9][0-9]*|latest))?")
_LOOKS_SECRET = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY|://[^/@\s\"]*:[^/@\s\"]+@|\bAIza[\w-]{30,}|\beyJ[\w-]{20,}\."
)


def faults(topology: Topology) -> list[str]:
    """Every breach of the policy, one line each."""
    return [
        *_bindings(topology),
        *_own_roles(topology),
        *_accounts(topology),
        *_reachable(topology),
        *_subscriptions(topology),
        *_plain_secrets(topology),
    ]


def _bindings(topology: Topology) -> Iterator[str]:
    parts = {function.name: function.part for function in topology.functions}
    own = f"projects/{topology.project}/roles/{topology.deployment}_"
    for binding in topology.bindings:
        shown = f"{binding.role} on {binding.kind} {binding.resource} for {binding.member}"
        if binding.member in ("allUsers", "allAuthenticatedUsers"):
            part = parts.get(binding.resource)
            if binding.kind != "function" or part not in PUBLIC:
                yield f"open to everybody: {shown}"
        if binding.role in PRIMITIVE:
            yield f"a primitive role: {shown}"
        elif binding.role.removeprefix(own) not in ROLES[binding.kind]:
            yield f"not on the list of roles: {shown}"
        elif binding.kind == "project":
            yield from _project_wide(binding, topology, shown)


def _own_roles(topology: Topology) -> Iterator[str]:
    for resource in topology.resources:
        if resource.type == "gcp:projects/iAMCustomRole:IAMCustomRole":
            name = resource.inputs["roleId"].removeprefix(f"{topology.deployment}_")
            more = set(resource.inputs["permissions"]) - OWN_ROLES.get(name, set())
            if more:
                yield f"the role {name} allows {', '.join(sorted(more))}"


def _project_wide(binding: Binding, topology: Topology, shown: str) -> Iterator[str]:
    database = f'resource.name == "projects/{topology.project}/databases/{topology.database.name}"'
    if binding.role == "roles/datastore.user" and binding.condition != database:
        yield f"every database of the project: {shown}"
    ours = rf'resource.*SecretVersion" && resource.*startsWith\("{topology.deployment}-[\w-]+"\)'
    if binding.role == "roles/secretmanager.secretAccessor" and not re.fullmatch(
        ours, binding.condition or ""
    ):
        yield f"secrets of others: {shown}"


def _accounts(topology: Topology) -> Iterator[str]:
    """Each function under an account of its own, which nobody else may use or act for."""
    owners: dict[str, str] = {}
    for function in topology.functions:
        other = owners.setdefault(function.service_account, function.name)
        if other != function.name:
            yield f"{function.name} runs under the account of {other}"
        if not re.search(rf"^{re.escape(topology.deployment)}-.*@", function.service_account):
            yield f"{function.name} runs under {function.service_account}"
    for binding in topology.bindings:
        if binding.kind == "account" and binding.resource in owners:
            yield f"{binding.member} may act as {owners[binding.resource]}"


def _reachable(topology: Topology) -> Iterator[str]:
    """Handlers are asked by functions of the deployment: without its network from the internet."""
    for function in topology.functions:
        handler = json.loads(function.env.get("NSPS_HANDLER", "null"))
        excepted = handler and (handler.get("contract_token") or not function.behind_nat)
        if not (function.internal or function.part in FROM_THE_INTERNET or excepted):
            yield f"the internet reaches {function.name}"


def _subscriptions(topology: Topology) -> Iterator[str]:
    public = {function.url for function in topology.functions if function.public}
    for subscription in topology.subscriptions:
        if subscription.dead_letter_topic is None and subscription.part not in NO_DEAD_LETTERS:
            yield f"subscription {subscription.name} has no dead letters"
        if not subscription.service_account or not subscription.audience:
            yield f"subscription {subscription.name} pushes without a token"
        if subscription.push_endpoint in public:
            yield f"subscription {subscription.name} pushes to a public function"


def _plain_secrets(topology: Topology) -> Iterator[str]:
    for resource in topology.resources:
        if "SecretVersion" in resource.type:
            yield f"{resource.name} has a secret's value in the program and in Pulumi's state"
        if _LOOKS_SECRET.search(json.dumps(resource.inputs)):
            yield f"{resource.name} carries what looks like a secret"
    for function in topology.functions:
        for name, text in function.env.items():
            for where, value in _texts(name, _parsed(text)):
                if _SOURCE.search(where):
                    continue
                if _SECRET_WORDS.search(where) and not _REFERENCE.fullmatch(value):
                    yield f"{function.name}: {where} is no reference to a secret"


def _parsed(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _texts(where: str, value: object) -> Iterator[tuple[str, str]]:
    """Every text below a value, with the names that lead there."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(f"{where}.{key}", inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(where, inner)
    elif isinstance(value, str):
        yield where, value
