"""`GW/plan`: what a set of Admin API writes would change, and what it would have meant for recorded requests.

Nothing is applied: every command goes through its real handler, on a control plane that only rehearses.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from trustgate.admin import answers
from trustgate.admin.exchange import Answer, Call, json_answer, versioned, versions_of
from trustgate.admin.rehearsal import Rehearsal
from trustgate.domain.errors import DomainError, invalid, quoted, version_mismatch
from trustgate.domain.inputs import Free

MAX_COMMANDS = 1000
DEFAULT_SPAN_S = 86400.0
EARLIEST_S = datetime.min.replace(tzinfo=UTC).timestamp()
METHODS = ("POST", "PUT", "DELETE")
COLLECTIONS = frozenset({"registries", "consumers", "auths", "policies", "roles"})
NOT_A_CHANGE = frozenset({"test-connection"})
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_-]{0,63})\.id\}", re.ASCII)

Json = dict[str, Any]


class PlannedWrite(msgspec.Struct, frozen=True, kw_only=True):
    """One Admin API write. `path` is relative to the gateway (`/registries/{id}`; empty: the gateway itself).

    With `as`, later commands may name the object that this one creates: `${name.id}` in their paths and bodies.
    """

    method: str | None = None
    path: str | None = None
    body: Free | None = None
    as_: str | None = msgspec.field(default=None, name="as")


class PlanRequest(msgspec.Struct, frozen=True, kw_only=True):
    """`from` and `to` (RFC 3339; the last 24 hours) choose the recorded requests that are looked at."""

    commands: list[PlannedWrite | None] | None = None
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None


class PlanAnswer(msgspec.Struct, kw_only=True):
    """`changes` are what would differ, `decisions` what recorded requests would have met."""

    version: int
    events: int
    changes: list[answers.ObjectChange]
    decisions: Json
    from_: str = msgspec.field(name="from")
    to: str


async def plan(call: Call) -> Answer:
    """Commands are decided in order, each on what the ones before lead to; the first refusal is the answer."""
    return json_answer(await planned(call), 200, versioned(call.existing()))


async def planned(call: Call) -> PlanAnswer:
    """The plan of a request. Raises `DomainError`."""
    request = call.read(PlanRequest)
    before = call.existing()
    expected = versions_of(call.headers.get("if-match"))
    if expected is not None and before.version not in expected:
        raise version_mismatch()
    commands = request.commands or []
    if not commands:
        raise invalid("plan: commands are required")
    if len(commands) > MAX_COMMANDS:
        raise invalid(f"plan: at most {MAX_COMMANDS} commands")
    now = call.services.clock().timestamp()
    to_s = time_at("to", request.to, now)
    from_s = time_at("from", request.from_, max(to_s - DEFAULT_SPAN_S, EARLIEST_S))
    if from_s >= to_s:
        raise invalid("plan: from must be before to")
    rehearsal = Rehearsal(call.control, before, await call.control.directory())
    named: dict[str, str] = {}
    for index, command in enumerate(commands):
        await rehearse(call, rehearsal, command or PlannedWrite(), index, named)
    after = rehearsal.state_now
    return PlanAnswer(
        version=before.version,
        events=after.version - before.version,
        changes=call.trail().difference(before, after),
        decisions=await call.services.forecast(before, after, from_s, to_s),
        from_=rfc3339(from_s),
        to=rfc3339(to_s),
    )


async def rehearse(call: Call, rehearsal: Rehearsal, write: PlannedWrite, index: int, named: dict[str, str]) -> None:
    """Send one command through its handler. Raises `DomainError` that names the command."""
    from trustgate.admin import routes  # the table names the handlers
    from trustgate.admin.access import admit

    at = f"commands[{index}]"
    method = (write.method or "").upper()
    if method not in METHODS:
        raise invalid(f"plan: {at}: method must be one of {', '.join(METHODS)}")
    if write.as_ is not None and (not NAME.fullmatch(write.as_) or write.as_ in named):
        raise invalid(f"plan: {at}: as must be a new name of letters, digits, - and _")
    fill = filler(named, at)
    path = full_path(call.params["gateway_id"], fill(write.path or ""), at)
    found = routes.find(method, path)
    if not isinstance(found, routes.Matched):
        raise invalid(f"plan: {at}: {method} {quoted(write.path or '')} is not a write of the Admin API")
    body = b"" if write.body is None else msgspec.json.encode(filled(write.body, fill))
    headers = {name: value for name, value in call.headers.items() if name not in ("if-match", "content-encoding")}
    try:
        params, state = await admit(found.operation, method, found.params, call.identity, rehearsal, call.past())
        answer = await found.operation.handler(
            Call(
                control=rehearsal,
                services=call.services,
                render_gateway=call.render_gateway,
                method=method,
                path=path,
                query=call.query,
                headers={**headers, "content-type": "application/json"},
                body=body,
                request_id=call.request_id,
                identity=call.identity,
                params=params,
                address=call.address,
                state=state,
            )
        )
    except DomainError as refusal:
        raise DomainError(refusal.status, refusal.code, f"{at}: {refusal.message or refusal.code}") from None
    if write.as_ is not None:
        named[write.as_] = created_id(answer, at)


def full_path(gateway_id: str, path: str, at: str) -> str:
    base = f"/v1/gateways/{gateway_id}"
    path = path if path.startswith(base) else base + ("/" + path.lstrip("/") if path.strip("/") else "")
    parts = path[len(base) :].strip("/").split("/")
    if parts != [""] and (parts[0].lower() not in COLLECTIONS or parts[-1].lower() in NOT_A_CHANGE):
        raise invalid(f"plan: {at}: path must be one of {', '.join(sorted(COLLECTIONS))}, or empty for the gateway")
    return path


def filler(named: dict[str, str], at: str) -> Callable[[str], str]:
    """Puts ids of planned objects in the place of `${name.id}`."""

    def fill(text: str) -> str:
        def id_of(match: re.Match[str]) -> str:
            if match[1] not in named:
                raise invalid(f"plan: {at}: no earlier command is named {quoted(match[1])}")
            return named[match[1]]

        return REFERENCE.sub(id_of, text)

    return fill


def filled(value: Any, fill: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return fill(value)
    if isinstance(value, list):
        return [filled(item, fill) for item in value]
    if isinstance(value, dict):
        return {fill(name): filled(item, fill) for name, item in value.items()}
    return value


def created_id(answer: Answer, at: str) -> str:
    found = msgspec.json.decode(answer.body) if answer.body else None
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise invalid(f"plan: {at}: as is for commands that create an object")
    return found["id"]


def time_at(name: str, text: str | None, default: float) -> float:
    """Unix seconds of an RFC 3339 time with an offset."""
    if not text:
        return default
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise invalid(f"plan: {name} is not an RFC 3339 time: {quoted(text)}") from None
    if moment.tzinfo is None:
        raise invalid(f"plan: {name} needs an offset, such as Z: {quoted(text)}")
    try:
        return moment.astimezone(UTC).timestamp()
    except OverflowError:  # before the year 1 or after 9999
        raise invalid(f"plan: {name} is not an RFC 3339 time: {quoted(text)}") from None


def rfc3339(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
