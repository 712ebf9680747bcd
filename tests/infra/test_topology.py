"""The way of an event, read out of what the program makes: who may do what, and what if it fails.

Each test is a sentence of the design.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from nsps.runtime.settings import (
    CallbacksSettings,
    ConnectorSettings,
    ConsoleFunctionSettings,
    EnrichmentSettings,
    IngressSettings,
    RetriesSettings,
)
from nsps_local.recording import Binding, Topology

from tests.infra import arguments
from tests.infra.conftest import Record, base, record_values

pytestmark = pytest.mark.filterwarnings("ignore:gcp:DeprecationWarning")
HANDLERS = ("hss", "hss-2", "oms")
SIM_SECRETS = (
    'resource.type == "secretmanager.googleapis.com/SecretVersion" && '
    'resource.name.extract("/secrets/{end}").startsWith("acme-sim-")'
)
PUBSUB_AGENT = "serviceAccount:service-0@gcp-sa-pubsub.iam.gserviceaccount.com"
LAST = {"dead-letters", "jobs"}
CREDENTIALS = r'"(?:credentials|contract_token|secrets)":(.*?)[,}]'
PRIMITIVE = {"roles/owner", "roles/editor", "roles/viewer"}


@pytest.fixture(scope="module")
def record_acme(program: Path, tmp_path_factory: pytest.TempPathFactory) -> Record:
    """Records the program for other values."""
    return lambda values: record_values(values, tmp_path_factory.mktemp("own"), program)


def of(acme: Topology, kind: str, role: str) -> set[tuple[str, str]]:
    """(resource, member) of the bindings of a kind and role; members as the function's part, topics
    and subscriptions as theirs."""
    parts = {f"serviceAccount:{f.service_account}": f.part for f in acme.functions}
    prefix = "acme-" if kind in ("topic", "subscription") else ""
    return {
        (binding.resource.removeprefix(prefix), parts.get(binding.member, binding.member))
        for binding in acme.bindings
        if binding.kind == kind and binding.role == role
    }


# ---- functions -----------------------------------------------------------------------------


def test_there_is_a_function_for_each_step_and_one_for_each_handler(acme: Topology) -> None:
    assert {f.part: f.source for f in acme.functions} == {
        "ingress": "functions/ingress",
        "enrichment": "functions/enrichment",
        "callbacks": "functions/callbacks",
        "retries": "functions/retries",
        "console": "functions/console",
        "hss": "functions/connectors/hss_osmocom",
        "hss-2": "functions/connectors/hss_osmocom",
        "oms": "functions/connectors/oms_tmf641",
    }
    assert {f.name for f in acme.functions} == {f"acme-{f.part}" for f in acme.functions}
    assert {f.entry_point for f in acme.functions} == {"main"}


PUBLIC = {"ingress", "callbacks"}
"""What verifies its callers itself: ESPF and external systems have no Google identity."""


def test_only_what_verifies_its_callers_can_be_called_without_a_google_identity(
    acme: Topology,
) -> None:
    assert {f.part for f in acme.functions if f.public} == PUBLIC
    everybody = {(b.kind, b.resource) for b in acme.bindings if b.member.startswith("all")}
    assert everybody == {("function", f"acme-{part}") for part in PUBLIC}


def test_the_internet_reaches_those_alone_that_somebody_there_must_reach(acme: Topology) -> None:
    """hss and oms have a contract_token: another NSPS may use them."""
    reached = {f.part for f in acme.functions if not f.internal}
    assert reached == {"ingress", "callbacks", "console", "hss", "oms"}


def test_without_a_network_of_its_own_handlers_are_asked_from_the_internet(
    record_acme: Record,
) -> None:
    open_to_all = record_acme(base() | {"nsps:static_egress": False})
    assert {f.part for f in open_to_all.functions if f.internal} == {"enrichment", "retries"}


def test_every_other_function_is_called_by_the_invoker_handlers_by_two_more_the_console_by_people(
    acme: Topology,
) -> None:
    invoker = "serviceAccount:acme-invoker@acme-provisioning.iam.gserviceaccount.com"
    private = {(f.name, invoker) for f in acme.functions if not f.public}
    public = {(f.name, "allUsers") for f in acme.functions if f.public}
    asked = {(f"acme-{h}", part) for h in HANDLERS for part in ("retries", "console")}
    people = {
        ("acme-console", "user:ops@acme.example"),
        ("acme-console", "serviceAccount:ci@acme-provisioning.iam.gserviceaccount.com"),
        ("acme-console", "domain:acme.example"),
    }
    assert of(acme, "function", "roles/run.invoker") == private | public | asked | people


def test_the_proxy_lets_in_the_people_and_the_console_believes_no_other(
    record_acme: Record,
) -> None:
    console = base()["nsps:console"] | {"domain": "console.acme.example"}
    proxied = record_acme(base() | {"nsps:console": console})
    people = {
        "user:ops@acme.example",
        "serviceAccount:ci@acme-provisioning.iam.gserviceaccount.com",
        "domain:acme.example",
    }
    assert of(proxied, "proxy", "roles/iap.httpsResourceAccessor") == {
        ("acme-proxy", person) for person in people
    }
    agent = "serviceAccount:service-0@gcp-sa-iap.iam.gserviceaccount.com"
    assert ("acme-console", agent) in of(proxied, "function", "roles/run.invoker")
    settings = ConsoleFunctionSettings.from_env(proxied.function("console").env).console
    assert settings.iap_audience == "/projects/0/global/backendServices/4711"
    (backend,) = (
        r for r in proxied.resources if r.type == "gcp:compute/backendService:BackendService"
    )
    assert backend.inputs["iap"] == {"enabled": True}
    # The console's own jobs are pushed past the proxy.
    assert proxied.subscription("jobs").push_endpoint == f"{proxied.function('console').url}/work"
    assert [fault for resource in proxied.resources for fault in arguments.faults(resource)] == []


def test_a_handler_knows_who_may_ask_it(acme: Topology) -> None:
    accounts = {f.part: f.service_account for f in acme.functions}
    for name in HANDLERS:
        push = json.loads(acme.function(name).env["NSPS_PUSH"])
        assert set(push["also"]) == {accounts["retries"], accounts["console"]}
    for part in ("retries", "console"):
        read = json.loads(acme.function(part).env["NSPS_FUNCTIONS"])
        assert set(read) == set(HANDLERS)
        for name, location in read.items():
            subscription = f"projects/acme-provisioning/subscriptions/acme-{name}"
            assert location["url"] == acme.function(name).url
            assert location["subscription"] == subscription
            assert (
                location["audience"] == json.loads(acme.function(name).env["NSPS_PUSH"])["audience"]
            )


def test_every_function_has_an_account_of_its_own(acme: Topology) -> None:
    accounts = [f.service_account for f in acme.functions]
    assert len(set(accounts)) == len(accounts)
    assert all(a.endswith("@acme-provisioning.iam.gserviceaccount.com") for a in accounts)


def test_requests_threads_and_instances_are_set_together(acme: Topology) -> None:
    for function in acme.functions:
        assert function.threads == function.concurrency, function.name
        assert function.env["WORKERS"] == "1"
    assert acme.function("ingress").min_instances == acme.function("enrichment").min_instances == 1
    assert acme.function("enrichment").memory == "1Gi"
    assert acme.function("enrichment").concurrency == 40


def test_a_slow_system_is_called_by_as_many_threads_as_it_can_bear(acme: Topology) -> None:
    slow, usual = acme.function("hss-2"), acme.function("hss")
    assert slow.concurrency * slow.max_instances == 5
    assert usual.concurrency * usual.max_instances == 32  # rate 40 of its manifest, in whole 16s


def test_functions_are_served_locally_at_a_port_each(acme: Topology) -> None:
    assert [f.port for f in acme.functions] == list(range(9000, 9008))
    assert all(f.url == f"http://127.0.0.1:{f.port}" for f in acme.functions)
    assert [f.part for f in acme.functions][5:] == ["hss", "hss-2", "oms"]


# ---- topics and subscriptions --------------------------------------------------------------


def test_the_topics_are_those_of_the_design(acme: Topology) -> None:
    assert acme.topics == (
        "acme-dead-letters",
        "acme-enriched-events",
        "acme-espf-events",
        "acme-jobs",
    )


def test_who_is_pushed_what(acme: Topology) -> None:
    pushed = {
        s.part: (s.topic.removeprefix("acme-"), s.push_endpoint, s.filter)
        for s in acme.subscriptions
    }
    assert {s.name for s in acme.subscriptions} == {f"acme-{s.part}" for s in acme.subscriptions}
    url = {f.part: f.url for f in acme.functions}
    assert pushed == {
        "enrichment": ("espf-events", url["enrichment"], ""),
        "dead-letters": ("dead-letters", url["retries"], ""),
        "jobs": ("jobs", f"{url['console']}/work", ""),
        "hss": ("enriched-events", url["hss"], "attributes:hss"),
        "hss-2": ("enriched-events", url["hss-2"], 'attributes:"hss-2"'),
        "oms": ("enriched-events", url["oms"], "attributes:oms"),
    }


def test_who_may_publish_where(acme: Topology) -> None:
    assert of(acme, "topic", "roles/pubsub.publisher") == {
        ("espf-events", "ingress"),
        ("espf-events", "retries"),
        ("espf-events", "callbacks"),
        ("espf-events", "console"),
        ("jobs", "console"),
        ("enriched-events", "enrichment"),
        ("dead-letters", PUBSUB_AGENT),
    }


def test_a_handler_whose_events_may_be_read_again_may_publish_them(
    program: Path, tmp_path: Path
) -> None:
    partner = {
        "name": "partner",
        "connector": "webhook",
        "events": ["SIM/*"],
        "settings": {"url": "https://partner.example"},
        "secrets": {"token": "partner-token"},
    }
    values = base()
    values["nsps:handlers"] = [*values["nsps:handlers"], partner]
    made = record_values(values, tmp_path, program)
    assert ("espf-events", "partner") in of(made, "topic", "roles/pubsub.publisher")
    settings = ConnectorSettings.from_env(made.function("partner").env)
    assert settings.events_topic == "projects/acme-provisioning/topics/acme-espf-events"
    assert ConnectorSettings.from_env(made.function("hss").env).events_topic is None


def test_every_push_carries_a_token_that_its_function_expects(acme: Topology) -> None:
    by_url = {f.url: f for f in acme.functions}
    for subscription in acme.subscriptions:
        function = by_url[subscription.push_endpoint.removesuffix("/work")]
        push = json.loads(function.env["NSPS_PUSH"])
        assert {name: push[name] for name in ("audience", "service_account")} == {
            "audience": subscription.audience,
            "service_account": subscription.service_account,
        }
        assert subscription.audience == (
            f"https://europe-west3-acme-provisioning.cloudfunctions.net/{function.name}"
        )
        assert not function.public


def test_pubsub_alone_may_make_tokens_in_the_invokers_name(acme: Topology) -> None:
    invoker = "acme-invoker@acme-provisioning.iam.gserviceaccount.com"
    assert of(acme, "account", "roles/iam.serviceAccountTokenCreator") == {(invoker, PUBSUB_AGENT)}
    assert [b for b in acme.bindings if b.kind == "account"] != []


def test_a_failed_push_is_tried_again_after_10_to_600_seconds(acme: Topology) -> None:
    for subscription in acme.subscriptions:
        assert subscription.minimum_backoff_seconds == 10
        assert subscription.maximum_backoff_seconds == 600


def test_after_100_attempts_a_message_goes_to_the_dead_letters(acme: Topology) -> None:
    forwarding = of(acme, "subscription", "roles/pubsub.subscriber")
    for subscription in acme.subscriptions:
        if subscription.part in LAST:
            continue
        assert subscription.dead_letter_topic == "acme-dead-letters"
        assert subscription.max_delivery_attempts == 100
        assert (subscription.part, PUBSUB_AGENT) in forwarding


def test_the_last_stop_is_tried_for_as_long_as_messages_are_kept(acme: Topology) -> None:
    assert {s.part for s in acme.subscriptions if s.dead_letter_topic is None} == LAST


def test_messages_are_kept_for_31_days_and_subscriptions_for_ever(acme: Topology) -> None:
    for subscription in acme.subscriptions:
        assert subscription.retention_seconds == 31 * 24 * 3600
        assert not subscription.expires


def test_a_push_is_not_repeated_while_its_function_may_still_work_on_it(acme: Topology) -> None:
    by_url = {f.url: f for f in acme.functions}
    for subscription in acme.subscriptions:
        function = by_url[subscription.push_endpoint.removesuffix("/work")]
        assert 60 <= subscription.ack_deadline_seconds <= 600
        assert subscription.ack_deadline_seconds >= function.timeout_seconds
        if "NSPS_HANDLER" in function.env:
            call = json.loads(function.env["NSPS_HANDLER"])["call_timeout_seconds"]
            assert function.timeout_seconds > 2 * call


def test_the_clock_ticks_every_minute_under_the_invokers_name(acme: Topology) -> None:
    (job,) = acme.jobs
    retries = acme.function("retries")
    assert (job.schedule, job.method, job.time_zone) == ("* * * * *", "POST", "Etc/UTC")
    assert job.url == f"{retries.url}/tick"
    assert json.loads(retries.env["NSPS_PUSH"]) == {
        "audience": job.audience,
        "service_account": job.service_account,
    }


def test_only_retries_and_console_may_change_a_subscription_and_only_the_handlers(
    acme: Topology,
) -> None:
    """The tick turns them, and a person's pause and resume at once."""
    editors = {(handler, part) for handler in HANDLERS for part in ("retries", "console")}
    role = "projects/acme-provisioning/roles/acme_push_endpoint"
    assert of(acme, "subscription", role) == editors
    invoker = "acme-invoker@acme-provisioning.iam.gserviceaccount.com"
    assert of(acme, "account", "roles/iam.serviceAccountUser") == {
        (invoker, "retries"),
        (invoker, "console"),
    }


def test_a_handler_may_have_a_schedule_of_its_own(record_acme: Record) -> None:
    values = base()
    values["nsps:handlers"][0]["retries"] = {
        "push": {"minimum": 60, "attempts": 20},
        "long": {"hours": [1], "then": 12, "days": 5},
    }
    values["nsps:handlers"][2]["answer_within_hours"] = 48
    own = record_acme(values)
    pushed = own.subscription("hss")
    assert (pushed.minimum_backoff_seconds, pushed.maximum_backoff_seconds) == (60, 600)
    assert pushed.max_delivery_attempts == 20
    assert own.subscription("hss-2").max_delivery_attempts == 100
    read = {h.name: h for h in RetriesSettings.from_env(own.function("retries").env).handlers}
    assert read["hss"].retries.schedule.long.days == 5
    assert read["oms"].answer_within_hours == 48
    late = RetriesSettings.from_env(own.function("retries").env).late
    assert [(handler.name, handler.answer_within_hours) for handler in late] == [("oms", 48)]


def test_a_systems_rate_is_divided_among_its_instances(acme: Topology) -> None:
    for name, rate in (("hss", 40), ("hss-2", 5)):
        function = acme.function(name)
        handler = ConnectorSettings.from_env(function.env).handler
        assert handler.max_rate == rate
        assert handler.instance_rate == rate / function.max_instances


# ---- secrets -------------------------------------------------------------------------------


def test_a_function_may_read_the_secrets_that_its_environment_names_and_no_others(
    acme: Topology,
) -> None:
    for function in acme.functions:
        named = re.findall(r"sm://([A-Za-z0-9_-]+)", json.dumps(dict(function.env)))
        assert function.secrets == tuple(sorted(set(named))), function.name


def test_which_secret_reaches_which_function(acme: Topology) -> None:
    readers: dict[str, set[str]] = {}
    for function in acme.functions:
        for secret in function.secrets:
            readers.setdefault(secret, set()).add(function.part)
    assert readers == {
        "acme-digest-key": {f.part for f in acme.functions},
        "acme-espf": {"ingress"},
        "acme-espf-next": {"ingress"},
        "acme-pb": {"enrichment", "callbacks", "retries", "console", *HANDLERS},
        "acme-auc": {"hss"},
        "acme-hss-token": {"hss"},
        "acme-oms": {"oms", "callbacks", "retries"},
        "acme-oms-token": {"oms"},
    }
    assert set(acme.secrets) == set(readers)


def test_no_secret_has_a_value_in_the_program(acme: Topology) -> None:
    assert not [r for r in acme.resources if "SecretVersion" in r.type]
    for function in acme.functions:
        for name, value in function.env.items():
            for credential in re.findall(
                r'"(?:credentials|contract_token|secrets)":(.*?)[,}]', value
            ):
                plain = credential in ("null", "{", '{"name":"acme-sim-{imsi')
                assert plain or "sm://" in credential, (function.name, name)


# ---- what cannot be narrower ---------------------------------------------------------------


def test_nothing_is_granted_in_the_whole_project_but_what_cannot_be_narrower(
    acme: Topology,
) -> None:
    database = 'resource.name == "projects/acme-provisioning/databases/nsps-acme"'
    figures = "projects/acme-provisioning/roles/acme_time_series"
    project = [b for b in acme.bindings if b.kind == "project"]
    assert {(b.role, b.condition) for b in project} == {
        ("roles/datastore.user", database),  # Firestore has no narrower resource
        ("roles/cloudbuild.builds.builder", None),  # the builder's own role
        ("roles/secretmanager.secretAccessor", SIM_SECRETS),  # they are made later, by others
        (figures, None),  # Cloud Monitoring has no narrower resource
    }
    assert {who for _, who in of(acme, "project", figures)} == {"console"}
    builders = of(acme, "project", "roles/cloudbuild.builds.builder")
    assert {who.partition("@")[0] for _, who in builders} == {"serviceAccount:acme-builder"}


def test_everybody_but_ingress_uses_firestore(acme: Topology) -> None:
    users = {who for _, who in of(acme, "project", "roles/datastore.user")}
    assert users == {"enrichment", "callbacks", "retries", "console", *HANDLERS}


def test_no_binding_is_primitive_or_replaces_others(acme: Topology) -> None:
    assert not [b for b in acme.bindings if b.role in PRIMITIVE]
    replacing = re.compile(r"(?i)iam(policy|binding)(:|$)")
    assert not [r.type for r in acme.resources if replacing.search(r.type)]


def test_every_binding_the_program_makes_is_known_to_the_recording(acme: Topology) -> None:
    made = [r for r in acme.resources if r.type.lower().endswith("iammember")]
    assert len(made) == len(acme.bindings)


# ---- data and network ----------------------------------------------------------------------


def test_the_database_is_the_deployments_own_and_documents_expire(acme: Topology) -> None:
    assert acme.database.name == "nsps-acme"
    assert {f.env["NSPS_DATABASE"] for f in acme.functions} == {"nsps-acme"}
    expiring = {(e.collection, e.field) for e in acme.database.expiring}
    assert {("events", "expire_at"), ("deliveries", "expire_at")} <= expiring
    (database,) = (r for r in acme.resources if r.type == "gcp:firestore/database:Database")
    assert database.inputs["pointInTimeRecoveryEnablement"] == "POINT_IN_TIME_RECOVERY_ENABLED"
    assert database.inputs["deleteProtectionState"] == "DELETE_PROTECTION_ENABLED"
    assert database.inputs["deletionPolicy"] == "ABANDON"
    assert [r for r in acme.resources if r.type == "gcp:firestore/backupSchedule:BackupSchedule"]


def test_subscribers_data_stays_in_the_region(acme: Topology) -> None:
    topics = [r for r in acme.resources if r.type == "gcp:pubsub/topic:Topic"]
    assert {
        tuple(t.inputs["messageStoragePolicy"]["allowedPersistenceRegions"]) for t in topics
    } == {("europe-west3",)}
    (database,) = (r for r in acme.resources if r.type == "gcp:firestore/database:Database")
    assert database.inputs["locationId"] == "europe-west3"


def test_all_that_calls_out_leaves_through_one_reserved_address(acme: Topology) -> None:
    (nat,) = (r for r in acme.resources if r.type == "gcp:compute/routerNat:RouterNat")
    assert nat.inputs["natIps"] == ["addresses/acme-address"]
    services = {
        r.inputs["name"]: r.inputs["serviceConfig"]
        for r in acme.resources
        if r.type == "gcp:cloudfunctionsv2/function:Function"
    }
    out = {name for name, s in services.items() if s.get("directVpcNetworkInterfaces")}
    assert out == set(services) - {"acme-ingress"}
    assert {services[name]["directVpcEgress"] for name in out} == {"VPC_EGRESS_ALL_TRAFFIC"}


# ---- what the functions are told -----------------------------------------------------------

_SETTINGS: dict[str, Any] = {
    "ingress": IngressSettings,
    "enrichment": EnrichmentSettings,
    "callbacks": CallbacksSettings,
    "retries": RetriesSettings,
    "console": ConsoleFunctionSettings,
    **dict.fromkeys(HANDLERS, ConnectorSettings),
}


def test_every_function_understands_its_environment(acme: Topology) -> None:
    for function in acme.functions:
        settings = _SETTINGS[function.part].from_env(function.env)
        assert settings.deployment == "acme"
        assert settings.function == function.part


def test_a_handler_is_told_what_its_configuration_and_its_manifest_say(acme: Topology) -> None:
    handler = ConnectorSettings.from_env(acme.function("hss").env).handler
    assert handler.kind == "state"
    assert handler.requires == ("account_info", "sim_info")
    assert handler.settings == {"host": "hlr.acme.example"}
    assert handler.secrets == {"auc": "sm://acme-auc/versions/3"}
    assert handler.contract_token == "sm://acme-hss-token"


def test_a_handler_reads_the_secrets_of_subscribers_by_how_their_names_begin(
    acme: Topology,
) -> None:
    settings = ConnectorSettings.from_env(acme.function("hss-2").env).handler.settings
    assert settings["credentials"]["name"] == "acme-sim-{imsi}"
    role = "roles/secretmanager.secretAccessor"
    (found,) = [b for b in acme.bindings if (b.kind, b.role) == ("project", role)]
    assert found.member.startswith("serviceAccount:acme-hss-2@")
    assert found.condition == SIM_SECRETS


def test_enrichment_and_retries_know_every_handler_callbacks_those_that_answer_late(
    acme: Topology,
) -> None:
    for part, settings in (("enrichment", EnrichmentSettings), ("retries", RetriesSettings)):
        read = settings.from_env(acme.function(part).env)
        assert tuple(handler.name for handler in read.handlers) == HANDLERS
    late = CallbacksSettings.from_env(acme.function("callbacks").env)
    assert [handler.name for handler in late.handlers] == ["oms"]
    assert late.handlers[0].contract_token is None


@pytest.mark.parametrize("kind", ["function", "topic", "subscription", "secret", "account"])
def test_rights_are_given_on_things_that_exist(acme: Topology, kind: str) -> None:
    there = {
        "function": {f.name for f in acme.functions},
        "topic": set(acme.topics),
        "subscription": {s.name for s in acme.subscriptions},
        "secret": set(acme.secrets),
        "account": {"acme-invoker@acme-provisioning.iam.gserviceaccount.com"},
    }
    given: list[Binding] = [b for b in acme.bindings if b.kind == kind]
    assert given
    assert {b.resource for b in given} <= there[kind]
