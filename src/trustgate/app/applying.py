"""From a read configuration file to the state it asks for: with the secrets and ids of an installation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import msgspec

from trustgate.admin.ids import consumer_slugs, new_api_key, new_uuid4, new_uuid7
from trustgate.app.offline import Offline
from trustgate.configfile.compiling import Choices, Compiled, Compiler
from trustgate.configfile.reading import Source, fingerprints
from trustgate.domain import secrets
from trustgate.domain.commands import Meta
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY

CHOICES = Choices(new_id=new_uuid7, new_gateway_id=new_uuid4, slugs=consumer_slugs, key=new_api_key)


async def compiled(
    here: Offline, source: Source, present: GatewayState | None, meta: Meta, environ: Mapping[str, str]
) -> Compiled:
    """What the file asks for. Raises `FileError`."""
    state = present or EMPTY
    known = await stored(here, state, fingerprints(source.plain))
    directory = await here.control.directory()
    compiler = Compiler(source, state, directory, here.control.context, meta, environ, known, CHOICES)
    return compiler.compile()


async def stored(here: Offline, state: GatewayState, wanted: set[str]) -> dict[str, str]:
    """The wanted secrets of a gateway in clear, by fingerprint."""
    found: dict[str, str] = {}
    for fingerprint, ref in references(msgspec.to_builtins(state)):
        if fingerprint in wanted and fingerprint not in found:
            found[fingerprint] = await here.control.reveal(ref)
    return found


def references(value: Any) -> list[tuple[str, str]]:
    """Fingerprint and reference of every secret in a value."""
    if secrets.is_ref(value):
        return [(value["fp"], value[secrets.REF])]
    if isinstance(value, dict):
        return [one for item in cast("dict[str, Any]", value).values() for one in references(item)]
    if isinstance(value, list):
        return [one for item in cast("list[Any]", value) for one in references(item)]
    return []
