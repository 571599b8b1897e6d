"""What must hold of the past: every version as it was, everything derived equal to the log, the log untouched.

What lives here: judgement on the store of a live installation. What must not: doing anything to its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping

from trustgate.actors.archive import Archive
from trustgate.actors.evidence import export
from trustgate.actors.notary import Notary
from trustgate.actors.replay import digest_of, replay
from trustgate.audit_verify import verify
from trustgate.domain.entities import GatewayState
from trustgate.store import AuditFilter, EventStore, gateway_stream


async def check_past(store: EventStore, states: Mapping[str, Mapping[int, GatewayState]]) -> None:
    """`states`: of each gateway, by version, as folded from the log."""
    archive = Archive(store)
    events = 0
    for gateway_id, versions in states.items():
        newest = max(versions)
        events += len(versions)
        assert await archive.newest(gateway_id) == newest
        for version in {1, newest // 2 or 1, newest}:
            assert await archive.state_at(gateway_id, version) == versions[version], (gateway_id, version)
    entries = await archive.entries(AuditFilter(), None, 10_000)
    assert len(entries) == min(events, 10_000), "an event without an entry in the audit trail"
    found = await replay(store)
    assert not found.mismatches, found.mismatches[:3]
    for gateway_id, versions in states.items():
        stream = gateway_stream(gateway_id)
        replayed = found.digests[stream] == digest_of(stream, versions[max(versions)])
        assert replayed, f"the replay of {stream} comes to another state"
    notary = Notary(store)
    lines = [line async for line in export(store, notary)]
    assert verify(lines, await notary.public_key()).unchained == 0
