"""Probes, version and documentation: the routes without authentication (spec 01 §1.1, 06 §5.1)."""

from __future__ import annotations

import platform
from datetime import datetime

import trio

from trustgate.admin import answers
from trustgate.admin.exchange import HTML, Answer, Call, json_answer
from trustgate.admin.openapi import document_bytes
from trustgate.admin.reference import page

READINESS_BUDGET_S = 2.0
PAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}


async def health(call: Call) -> Answer:
    return json_answer(answers.Health("healthy", _now(call), call.services.settings.version))


async def readiness(call: Call) -> Answer:
    """503 while shutting down, and when a dependency is unavailable or does not say within two seconds."""
    dependencies: dict[str, str] = {"readiness": "unavailable"}
    with trio.move_on_after(READINESS_BUDGET_S):
        dependencies = dict(await call.services.readiness())
    ready = not call.services.draining() and all(state == "ok" for state in dependencies.values())
    answer = answers.Readiness(
        dependencies, "ready" if ready else "not_ready", _now(call), call.services.settings.version
    )
    return json_answer(answer, 200 if ready else 503)


async def version(call: Call) -> Answer:
    settings = call.services.settings
    runtime = f"python{platform.python_version()}"
    machine = platform.machine().lower()
    return json_answer(
        answers.Version(
            app_name="TrustGate",
            version=settings.version,
            commit=settings.commit,
            build_date=settings.build_date,
            go_version=runtime,
            platform=f"{platform.system().lower()}/{MACHINES.get(machine, machine)}",
            runtime=runtime,
        )
    )


async def docs(call: Call) -> Answer:
    return Answer(301, headers=(("Location", "/docs/index.html"),))


async def docs_page(call: Call) -> Answer:
    return Answer(200, page(), HTML, (("Content-Security-Policy", PAGE_POLICY),))


async def docs_document(call: Call) -> Answer:
    return Answer(200, document_bytes(), "application/json")


def _now(call: Call) -> str:
    """RFC 3339 in seconds, in the local zone."""
    moment: datetime = call.services.clock().astimezone().replace(microsecond=0)
    return moment.isoformat().replace("+00:00", "Z")
