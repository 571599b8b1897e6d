"""`trustgate check`: each finding with a configuration that has it, and the counterexample that is printed."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tests import views
from trustgate.check.findings import Report, check
from trustgate.check.simulation import FAILURES
from trustgate.domain.entities import Fallback, GatewayState, LBConfig, LBMember, ModelPolicy

EVERYTHING = ("http_5xx", "http_429", "timeout", "provider_error", "plugin_rejection")


def state(*more: Any, **consumer: Any) -> GatewayState:
    app = views.consumer("app", id="c-app", **({"registry_ids": ("one", "two"), "auth_ids": ("a",)} | consumer))
    registries = [views.registry(name, options={}) for name in ("one", "two")]
    return views.state(*registries, views.auth("a", "api_key", key_hash="00"), app, *more)


def found(report: Report, kind: str) -> list[tuple[str, str]]:
    return [(finding.subject, finding.text) for finding in report.findings if finding.kind == kind]


async def test_two_equal_registries_are_no_single_points_of_failure() -> None:
    report = await check(state())
    assert report.findings == [] and report.requests == 1 + 2 * len(FAILURES)


async def test_a_single_registry_is_and_the_counterexample_is_the_smallest() -> None:
    report = await check(state(registry_ids=("one",)))
    (finding,) = [finding for finding in report.findings if finding.kind == "single_point_of_failure"]
    assert (finding.subject, finding.level, finding.also) == ("one", "warning", len(FAILURES) - 1)
    assert finding.example.startswith("POST /app/v1/chat/completions, no model; one refused -> 502 backend_error")


async def test_a_request_that_names_a_model_stays_on_its_registry_unless_the_consumer_says_otherwise() -> None:
    policies = {"one": ModelPolicy(("m",), "m"), "two": ModelPolicy(("m",), "m")}
    report = await check(state(model_policies=policies))
    (finding,) = [finding for finding in report.findings if finding.kind == "single_point_of_failure"]
    assert finding.subject == "one" and "model m; one refused" in finding.example
    failing_over = Fallback(enabled=True, triggers=EVERYTHING, pinned="same_model")
    assert found(await check(state(model_policies=policies, fallback=failing_over)), "single_point_of_failure") == []


async def test_a_chain_without_the_trigger_does_not_help_against_that_failure() -> None:
    chain = Fallback(enabled=True, triggers=("http_5xx",), chain=("two",))
    ((subject, text),) = found(await check(state(fallback=chain)), "single_point_of_failure")
    assert (subject, text) == ("one", "is a single point of failure of app (timeout, 429)")
    whole = Fallback(enabled=True, triggers=EVERYTHING, chain=("two",))
    assert found(await check(state(fallback=whole)), "single_point_of_failure") == []


async def test_a_consumer_that_can_never_be_answered_is_an_error() -> None:
    report = await check(state(registry_ids=()))
    (finding,) = [finding for finding in report.findings if finding.kind == "no_answer"]
    assert finding.level == "error" and "all upstreams well -> 503 no_backend_available" in finding.example


async def test_a_policy_that_refuses_everything_is_found_by_running_it() -> None:
    size = {"allowed_payload_size": 1, "size_unit": "bytes"}
    report = await check(state(views.policy("p", "request_size_limiter", settings=size, global_=True)))
    (finding,) = [finding for finding in report.findings if finding.kind == "no_answer"]
    assert "413 plugin_rejected" in finding.example


async def test_pool_aliases_are_tried_too() -> None:
    members = (LBMember("one", model="m"), LBMember("two", model="m"))
    config = LBConfig(enabled=True, algorithm="round-robin", pool_alias="fast", members=members)
    policies = {"one": ModelPolicy(("m",)), "two": ModelPolicy(("m",))}
    report = await check(state(lb_config=config, model_policies=policies))
    assert found(report, "no_answer") == []
    (finding,) = [finding for finding in report.findings if finding.kind == "single_point_of_failure"]
    assert "model m" in finding.example, "the pool itself survives"


async def test_roles_route_their_callers() -> None:
    role = views.role("r", registry_ids=("one",))
    auth = views.auth("o", "oidc", config={"oidc": {"issuer": "https://i.example"}})
    base = state(
        role, auth, routing_mode="role_based", registry_ids=(), role_ids=("r",), auth_ids=("o",),
    )  # fmt: skip
    ((subject, _),) = found(await check(base), "single_point_of_failure")
    assert subject == "one"


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ({"enabled": False, "global_": True}, "is disabled"),
        ({}, "is attached to no consumer and not global"),
        ({"slug": "nobody", "global_": True}, "its plugin nobody is not known"),
        ({"slug": "regex_replace", "settings": {"target": "request"}, "global_": True}, "has no stage to run at"),
        ({"consumer_ids": ("c-off",)}, "none of its consumers is active"),
        ({"consumer_ids": ("c-mcp",), "slug": "model_allowlist"}, "its plugin supports LLM only"),
    ],
)
async def test_policies_that_can_never_fire(policy: dict[str, Any], why: str) -> None:
    values = {"slug": "rate_limiter", "settings": {"limit": 9, "window": "1m"}} | policy
    off = views.consumer("off", id="c-off", active=False, auth_ids=("a",))
    tools = views.consumer("mcp", id="c-mcp", type="MCP", auth_ids=("a",))
    slug = values.pop("slug")
    report = await check(state(off, tools, views.policy("p", slug, **values)))
    ((subject, text),) = found(report, "policy_never_fires")
    assert subject == "p" and why in text


async def test_a_global_policy_that_every_consumer_replaces_never_fires() -> None:
    settings = {"limit": 9, "window": "1m"}
    own = views.policy("own", "rate_limiter", settings=settings, consumer_ids=("c-app",))
    everybody = views.policy("all", "rate_limiter", settings=settings, global_=True)
    ((subject, text),) = found(await check(state(own, everybody)), "policy_never_fires")
    assert subject == "all" and "replaces it" in text


async def test_what_nothing_leads_to_is_named() -> None:
    report = await check(state(views.registry("lost"), views.auth("spare", "api_key"), views.role("nobody")))
    assert {subject for subject, _ in found(report, "unused")} == {"lost", "spare", "nobody"}
    assert ("app", "is active, but has no credential: nobody can call it") in found(
        await check(state(auth_ids=())), "nobody_may_call"
    )


FILE = """\
trustgate: 1
gateway: {slug: shop, tenant_id: t1}
registries:
  - name: main
    provider: openai_compatible
    provider_options: {base_url: "${BASE_URL}"}
    auth: {type: api_key, api_key: {api_key: "${secret:0123456789abcdef}"}}
auths:
  - {name: key, type: api_key, api_key: "${KEY}"}
consumers:
  - {name: app, slug: Shop0001, registries: [{id: main}], auths: [key]}
"""


def run(folder: pathlib.Path, *words: str, text: str = FILE) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "trustgate", "check", *words)
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, input=text, timeout=60)


def test_the_command_checks_a_file_without_a_store_and_its_exit_code_serves_ci(tmp_path: pathlib.Path) -> None:
    plain = run(tmp_path, "-f", "-")
    assert plain.returncode == 0, plain.stderr
    assert "warning: main is a single point of failure of Shop0001" in plain.stdout
    assert "0 errors, 1 warnings" in plain.stdout
    assert run(tmp_path, "-f", "-", "--strict").returncode == 1
    told = json.loads(run(tmp_path, "-f", "-", "--json").stdout)
    assert told["findings"][0]["kind"] == "single_point_of_failure"
    broken = FILE.replace("registries: [{id: main}], ", "")
    refused = run(tmp_path, "-f", "-", text=broken)
    assert refused.returncode == 1 and "error: Shop0001 is refused while every upstream is well" in refused.stdout
    unreadable = run(tmp_path, "-f", "-", text="trustgate: 1\ngateway: {slug: s}\nx: 1\n")
    assert unreadable.returncode == 1 and "stdin:3:1: x: unknown member" in unreadable.stderr
    assert run(tmp_path).returncode == 2
    assert list(tmp_path.iterdir()) == []
