"""Who changed what, when and why; what a gateway was and how it gets there again (an addition to the contract).

What lives here: audit, versions, differences, the way back, checkpoints. What must not: how objects are shown
(`trail`), points in time (`past`).
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from trustgate.actors.archive import microseconds
from trustgate.actors.notary import Notary, Statement, checkpoint_id
from trustgate.actors.revert import revert as lead_back
from trustgate.admin import answers, lists, rendering, trail
from trustgate.admin.errors import audit_unavailable, forbidden, invalid_query, nothing_to_revert_to
from trustgate.admin.exchange import Answer, Call, applied, json_answer, versioned
from trustgate.admin.ids import parse_uuid
from trustgate.admin.past import read_point, read_time
from trustgate.domain import audit, inputs
from trustgate.domain.entities import GatewayState
from trustgate.domain.events import KINDS
from trustgate.store import AuditFilter, Checkpoint

EXPORT_SIZE = 10_000
PAGE = 200
FORMATS = ("json", "jsonl", "csv")


async def audit_of_gateway(call: Call) -> Answer:
    return await _audit(call, call.params["gateway_id"])


async def audit_of_tenant(call: Call) -> Answer:
    """All gateways of the caller's tenant; for the platform all there are, or those of `tenant_id`."""
    gateway_id = call.query.get("gateway_id") or None
    if gateway_id is not None and (gateway_id := parse_uuid(gateway_id, braces=True)) is None:
        raise invalid_query("gateway_id must be a UUID")
    return await _audit(call, gateway_id)


async def _audit(call: Call, gateway_id: str | None) -> Answer:
    query, archive = call.query, call.past().archive
    wanted = _wanted(call, gateway_id)
    format_ = query.get("format") or "json"
    if format_ not in FORMATS:
        raise invalid_query("format must be json, jsonl or csv")
    order = query.get("order").lower() or "desc"
    if order not in ("asc", "desc"):
        raise invalid_query("order must be asc or desc")
    cursor = _read_cursor(query.get("cursor"))
    exported = format_ != "json"
    size = lists.read_page(query).size
    if exported:
        size = min(lists.read_size(query, EXPORT_SIZE), EXPORT_SIZE)
    shower = call.trail()
    found: list[answers.AuditEntry] = []
    more = True
    while more and len(found) < size:
        part = min(PAGE, size - len(found))
        entries = await archive.entries(wanted, cursor, part, order == "desc")
        found += [shower.entry(entry) for entry in entries]
        more = len(entries) == part
        cursor = entries[-1].recorded.position if entries else cursor
    following = _cursor(cursor) if more and cursor is not None else None
    if not exported:
        return json_answer(answers.AuditPage(found, following))
    headers = (("X-AG-Next-Cursor", following),) if following else ()
    if format_ == "jsonl":
        return Answer(200, trail.json_lines(found), "application/x-ndjson", headers)
    disposition = ("Content-Disposition", 'attachment; filename="audit.csv"')
    return Answer(200, trail.csv_lines(found), "text/csv; charset=utf-8", (*headers, disposition))


def _wanted(call: Call, gateway_id: str | None) -> AuditFilter:
    query, identity = call.query, call.identity
    tenant = identity.tenant
    if identity.tenant is None and gateway_id is None and query.get("tenant_id"):
        tenant = query.get("tenant_id")
    since, until = query.get("from"), query.get("to")
    return AuditFilter(
        tenant=tenant,
        gateway_id=gateway_id,
        object_id=query.get("object_id").strip().lower(),
        actor=query.get("actor"),
        events=_events(query),
        since=microseconds(read_time(since, "from")) if since else None,
        until=microseconds(read_time(until, "to")) if until else None,
    )


def _events(query: lists.Query) -> tuple[str, ...]:
    """The names of events that `object_type` and `type` ask for; all when neither does."""
    kind, names = query.get("object_type"), [name for name in query.get("type").split(",") if name]
    if kind and kind not in audit.KINDS:
        raise invalid_query(f"object_type must be one of {', '.join(audit.KINDS)}")
    if unknown := [name for name in names if name not in KINDS]:
        raise invalid_query(f"type: there is no event {unknown[0][:64]}")
    if not kind:
        return tuple(names)
    of_kind = audit.EVENTS_OF[kind]
    if not names:
        return of_kind
    both = tuple(name for name in names if name in of_kind)
    if not both:
        raise invalid_query(f"type: no such event changes any {kind}")
    return both


def _cursor(position: int) -> str:
    return base64.urlsafe_b64encode(f"p{position}".encode()).decode().rstrip("=")


def _read_cursor(text: str) -> int | None:
    if not text:
        return None
    try:
        plain = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (binascii.Error, ValueError):
        plain = ""
    if plain[:1] != "p" or not plain[1:].isdigit() or len(plain) > 19:
        raise invalid_query("cursor must be one that an answer gave")
    return int(plain[1:])


async def versions(call: Call) -> Answer:
    """Every version of the gateway, newest first; `total` is the newest."""
    page = lists.read_page(call.query)
    gateway_id, archive = call.params["gateway_id"], call.past().archive
    total = await archive.newest(gateway_id)
    newest = total - (page.number - 1) * page.size
    oldest = max(0, newest - page.size)
    events = await archive.events(gateway_id, oldest, newest - oldest + 1) if newest > 0 else []
    items: list[answers.GatewayVersion] = []
    for index, (recorded, event) in enumerate(events[: newest - oldest]):
        following = events[index + 1][1] if index + 1 < len(events) else None
        about = audit.subject(event.data) or audit.Subject("", "")
        items.append(
            answers.GatewayVersion(
                version=recorded.version,
                time=rendering.rfc3339(event.meta.time),
                event=type(event.data).__name__,
                object_type=about.kind,
                object_id=about.id,
                command=event.command,
                complete=following is None or (following.meta, following.command) != (event.meta, event.command),
                actor=event.meta.actor,
                actor_email=event.meta.actor_email,
                request_id=event.meta.request_id,
                reason=event.meta.reason,
            )
        )
    found = lists.Found(items[::-1], page, total)
    return json_answer(found.envelope(lambda item: item))


async def diff(call: Call) -> Answer:
    """What changed between two points; `to` is the present unless given."""
    gateway_id, past = call.params["gateway_id"], call.past()
    since, until = call.query.get("from"), call.query.get("to")
    if not since:
        raise invalid_query("from is required: a version or an RFC 3339 time")
    first, last = read_point(since, "from"), read_point(until, "to") if until else None
    before = await past.archive.state_at(gateway_id, await past.version(gateway_id, first, "from"))
    version = await past.archive.newest(gateway_id) if last is None else await past.version(gateway_id, last, "to")
    after = await past.archive.state_at(gateway_id, version)
    changes = call.trail().difference(before, after)
    return json_answer(answers.Difference(before.version, after.version, changes))


async def revert(call: Call) -> Answer:
    """Appends what leads back to an earlier state. Nothing of the log is rewritten."""
    call.existing()
    body = call.read(inputs.Revert)
    gateway_id, past = call.params["gateway_id"], call.past()
    if body.to is None or isinstance(body.to, bool):
        raise invalid_query("to is required: a version or an RFC 3339 time")
    version = await past.version(gateway_id, read_point(str(body.to), "to"), "to")
    then = await past.archive.state_at(gateway_id, version)
    if then.gateway is None:
        raise nothing_to_revert_to(version)
    carry_out = call.control.preview if body.dry_run else call.execute
    restore = bool(body.restore_keys)
    executed, gone = await lead_back(
        call.control, past.archive, carry_out, call.meta(), gateway_id, then, restore_keys=restore
    )
    answer = _reverted(call, executed.before, executed.after, version, bool(body.dry_run))
    answer.secrets_gone = [answers.GoneSecret(it.kind, it.id, it.path, it.fingerprint, it.kept) for it in gone]
    return json_answer(answer, 200, versioned(executed.before) if body.dry_run else applied(executed))


def _reverted(call: Call, before: GatewayState, after: GatewayState, to: int, dry_run: bool) -> answers.Reverted:
    return answers.Reverted(
        to=to,
        before=before.version,
        version=after.version,
        dry_run=dry_run,
        changes=call.trail().difference(before, after),
    )


async def checkpoints(call: Call) -> Answer:
    """The signed checkpoints, newest last, and the public key. For the platform only: they are about all tenants."""
    notary = _notary(call)
    found = await notary.checkpoints(lists.read_number(call.query, "after"), PAGE)
    key = await notary.public_key()
    return json_answer(answers.Checkpoints(key, [_shown(checkpoint) for checkpoint in found]))


async def make_checkpoint(call: Call) -> Answer:
    """A checkpoint over everything that was committed; the last one when nothing is new since."""
    return json_answer(_shown(await _notary(call).checkpoint()), 201)


def _notary(call: Call) -> Notary:
    if call.identity.tenant is not None:
        raise forbidden()
    if call.services.notary is None:
        raise audit_unavailable()
    return call.services.notary


def _shown(checkpoint: Checkpoint) -> answers.Checkpoint:
    statement = msgspec.json.decode(checkpoint.statement, type=Statement)
    return answers.Checkpoint(
        number=checkpoint.number,
        time=statement.time,
        position=checkpoint.position,
        events=statement.events,
        id=checkpoint_id(checkpoint),
        previous=statement.previous,
        signature=checkpoint.signature.hex(),
    )
