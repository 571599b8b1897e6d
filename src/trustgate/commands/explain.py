"""`trustgate explain`: why a request went as it did, from this machine's decisions and the log."""

from __future__ import annotations

import json
from typing import Any

import click
from rich.table import Table
from rich.text import Text

from trustgate.commands.opened import console, with_store
from trustgate.settings import Settings
from trustgate.store import EventStore

COLOUR = {"passed": "green", "answered": "bold green", "refused": "bold red", "not reached": "dim"}

Json = dict[str, Any]


def explain(trace_id: str, *, as_json: bool) -> int:
    """Print the explanation of a request; returns the exit code."""

    async def work(settings: Settings, store: EventStore) -> int:
        from trustgate.app.decisions import decision_file
        from trustgate.app.explaining import explanation_of

        file = decision_file(settings)
        found = await explanation_of(store, file, trace_id.strip().lower())
        if found is None:
            off = "" if settings.explain.enabled else "; EXPLAIN_ENABLED is off"
            click.echo(f"no decision of request {trace_id} is kept in {file.path}{off}", err=True)
            return 1
        if as_json:
            click.echo(json.dumps(found.document, indent=2, ensure_ascii=False))
        else:
            show(found.document)
        return 0

    return with_store(work)


def show(told: Json) -> None:
    """The document as tables."""
    out = console()
    consumer, outcome, request = told["consumer"], told["outcome"], told["request"]
    out.print(f"{told['trace_id']}  {told['time']}  {told['duration_ms']:.1f} ms")
    out.print(
        f"gateway {told['gateway_slug']} at version {told['config_version']}, consumer {consumer['slug']}", markup=False
    )
    credential = told["credential"]
    who = credential.get("name") or credential["id"] or "-"
    out.print(f"credential {credential['method']} {who}, model {request['model'] or 'not named'}", markup=False)
    refusal = " ".join(filter(None, (outcome.get("error"), outcome.get("message"))))
    out.print(
        f"status {outcome['status']}, answered by the {outcome['answered_by']}" + (f": {refusal}" if refusal else "")
    )
    out.print(table("stages", ("stage", "verdict", "detail"), told["stages"], colour="verdict"))
    out.print(table("candidates", ("name", "provider", "sources", "kept", "reason"), told["candidates"]))
    if told["balancer"] is not None:
        columns = ("name", "model", "weight", "in_flight", "healthy", "usable", "picked")
        out.print(table(f"balancer: {told['balancer']['algorithm']}", columns, told["balancer"]["routes"]))
    if told["attempts"]:
        columns = ("attempt", "name", "source", "outcome", "status_code", "failure", "latency_ms")
        out.print(table("attempts", columns, told["attempts"]))
    if told["policies"]:
        rows = [
            {
                **policy,
                "settings": json.dumps(policy["settings"], ensure_ascii=False),
                "runs": ", ".join(f"{run['stage']} {run['decision'] or run['status_code']}" for run in policy["runs"]),
            }
            for policy in told["policies"]
        ]
        out.print(table("policies", ("name", "slug", "scope", "mode", "settings", "runs"), rows))
    if told["price"] is not None:
        price = told["price"]
        out.print(
            f"cost ${price['cost_usd']:.6f} at the price of {price['model']}, {told['usage']['total_tokens']} tokens"
        )


def table(title: str, columns: tuple[str, ...], rows: list[Json], colour: str = "") -> Table:
    found = Table(title=Text(title), title_justify="left")
    for column in columns:
        found.add_column(column, overflow="fold")
    for row in rows:
        cells = [
            Text(cell(row.get(column)), style=COLOUR.get(row[column], "") if column == colour else "")
            for column in columns
        ]
        found.add_row(*cells)
    return found


def cell(value: Any) -> str:
    match value:
        case None | "":
            return "-"
        case bool():
            return "yes" if value else "no"
        case list():
            return ", ".join(map(str, value))
        case _:
            return str(value)
