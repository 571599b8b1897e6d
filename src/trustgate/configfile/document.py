"""The file's shape, and a gateway's state in it.

What lives here: the Structs of the file (Admin API bodies with what the API has in paths and links), and `document`,
which writes a state down. What must not: YAML (`reading`), decisions (`compiling`).

A secret stands in the file as `${secret:FINGERPRINT}`: the value that the vault holds under it. A literal `${` is
written `$${`.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from trustgate.domain import inputs, secrets
from trustgate.domain.entities import Auth, Consumer, Gateway, GatewayState, Policy, Registry, Role
from trustgate.domain.values import parse_uuid

FORMAT = 1
COLLECTIONS = ("registries", "auths", "roles", "consumers", "policies")
"""In the order in which one may refer to another."""

Json = dict[str, Any]


class FileGateway(inputs.GatewayCreate, frozen=True, kw_only=True):
    id: str | None = None
    status: str | None = None


class FileRegistry(inputs.RegistryCreate, frozen=True, kw_only=True):
    id: str | None = None


class FileAuth(inputs.AuthCreate, frozen=True, kw_only=True):
    """`api_key` sets the key of an API key auth; `key_hash` (SHA-256, hex) keeps one whose text is not known."""

    id: str | None = None
    api_key: str | None = None
    key_hash: str | None = None
    key_prefix: str | None = None
    key_suffix: str | None = None


class FileRole(inputs.RoleCreate, frozen=True, kw_only=True):
    id: str | None = None
    registries: list[str] | None = None


class FileConsumer(inputs.ConsumerCreate, frozen=True, kw_only=True):
    id: str | None = None
    slug: str | None = None
    auths: list[str] | None = None


class FilePolicy(inputs.PolicyCreate, frozen=True, kw_only=True):
    """`consumers` are those it is attached to; a `global` one applies to all."""

    id: str | None = None
    global_: bool | None = msgspec.field(default=None, name="global")
    consumers: list[str] | None = None


class File(msgspec.Struct, frozen=True, kw_only=True):
    trustgate: int
    gateway: FileGateway
    registries: list[FileRegistry] = []
    auths: list[FileAuth] = []
    roles: list[FileRole] = []
    consumers: list[FileConsumer] = []
    policies: list[FilePolicy] = []


def escaped(value: Any) -> Any:
    """Plain values with every `${` spelled so that it is not taken for a reference."""
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, dict):
        return {escaped(name): escaped(item) for name, item in cast("Json", value).items()}
    if isinstance(value, list):
        return [escaped(item) for item in cast("list[Any]", value)]
    return value


def plain(entity: Any, *left_out: str) -> Json:
    """An entity as JSON: defaults left out, secrets as references to the vault."""
    found: Json = msgspec.to_builtins(entity)
    for name in ("gateway_id", "created_at", "updated_at", *left_out):
        found.pop(name, None)
    return _spelled(found)


def _spelled(value: Any) -> Any:
    if secrets.is_ref(value):
        return f"${{secret:{value['fp']}}}"
    if isinstance(value, dict):
        return {escaped(name): _spelled(item) for name, item in cast("Json", value).items()}
    if isinstance(value, (list, tuple)):
        return [_spelled(item) for item in cast("list[Any]", value)]
    return escaped(value)


def document(state: GatewayState) -> Json:
    """The whole state; objects refer to each other by id, sorted by name."""
    assert state.gateway is not None, "a deleted gateway has no file"
    found: Json = {"trustgate": FORMAT, "gateway": gateway_part(state.gateway)}
    parts: dict[str, Any] = {
        "registries": registry_part,
        "auths": auth_part,
        "roles": role_part,
        "consumers": consumer_part,
        "policies": policy_part,
    }
    for collection in COLLECTIONS:
        objects = sorted(getattr(state, collection).values(), key=lambda it: (it.name, it.id))
        found[collection] = [parts[collection](it) for it in objects]
    return found


def gateway_part(it: Gateway) -> Json:
    found = plain(it)
    metadata = found.pop("metadata", {})
    tenant_id = metadata.pop("tenant_id", None)
    if tenant_id:
        found = {"id": found.pop("id"), "slug": found.pop("slug"), "tenant_id": tenant_id, **found}
    return found | ({"metadata": metadata} if metadata else {})


def registry_part(it: Registry) -> Json:
    found = plain(it)
    target = found.pop("llm_target", {})
    return found | target


def auth_part(it: Auth) -> Json:
    return plain(it)


def role_part(it: Role) -> Json:
    found = plain(it)
    registries = found.pop("registry_ids", [])
    return found | ({"registries": registries} if registries else {}) | model_policies(found)


def consumer_part(it: Consumer) -> Json:
    found = plain(it, "registry_weights")
    links: Json = {
        "registries": [{"id": id_, "weight": it.registry_weights.get(id_, 1)} for id_ in found.pop("registry_ids", [])],
        "roles": found.pop("role_ids", []),
        "auths": found.pop("auth_ids", []),
    }
    return found | {name: value for name, value in links.items() if value} | model_policies(found)


def model_policies(found: Json) -> Json:
    """Model policies as a list, as the API takes them."""
    policies = found.pop("model_policies", None)
    if not policies:
        return {}
    return {"model_policies": [{"registry_id": id_, **policy} for id_, policy in sorted(policies.items())]}


def policy_part(it: Policy) -> Json:
    found = plain(it)
    consumers = found.pop("consumer_ids", [])
    found["parallel"] = it.parallel  # the API's default is not the entity's
    return found | ({"consumers": consumers} if consumers else {})


REFERENCES: dict[str, tuple[tuple[str, ...], str]] = {
    "roles.registries": (("registries", "*"), "registries"),
    "roles.model_policies": (("model_policies", "*", "registry_id"), "registries"),
    "roles.toolkit": (("mcp_policies", "toolkit", "*", "registry_id"), "registries"),
    "consumers.registries": (("registries", "*", "id"), "registries"),
    "consumers.model_policies": (("model_policies", "*", "registry_id"), "registries"),
    "consumers.chain": (("fallback", "chain", "*"), "registries"),
    "consumers.members": (("lb_config", "members", "*", "registry_id"), "registries"),
    "consumers.tiers": (("lb_config", "smart_routing", "tiers", "*", "registry_id"), "registries"),
    "consumers.toolkit": (("toolkit", "*", "registry_id"), "registries"),
    "consumers.roles": (("roles", "*"), "roles"),
    "consumers.auths": (("auths", "*"), "auths"),
    "policies.consumers": (("consumers", "*"), "consumers"),
}
"""Where objects refer to others: the path inside the object, and the collection it leads to."""


def mapped(collection: str, item: Json, convert: Any) -> Json:
    """The object with every reference replaced by `convert(collection, text, path)`."""
    for key, (path, target) in REFERENCES.items():
        if key.partition(".")[0] == collection:
            item = _mapped(item, path, target, convert, ())
    return item


def _mapped(value: Any, path: tuple[str, ...], target: str, convert: Any, at: tuple[Any, ...]) -> Any:
    if not path:
        return convert(target, value, at) if isinstance(value, str) else value
    step, rest = path[0], path[1:]
    if step == "*" and isinstance(value, list):
        items = cast("list[Any]", value)
        return [_mapped(item, rest, target, convert, (*at, index)) for index, item in enumerate(items)]
    if isinstance(value, dict) and step in value:
        members = cast("Json", value)
        return {**members, step: _mapped(members[step], rest, target, convert, (*at, step))}
    return value


def named(found: Json) -> Json:
    """The document with references by name wherever a name means one object and is no id."""
    names: dict[tuple[str, str], str] = {}
    for collection in COLLECTIONS:
        taken: dict[str, int] = {}
        for item in found[collection]:
            taken[item["name"]] = taken.get(item["name"], 0) + 1
        for item in found[collection]:
            if taken[item["name"]] == 1 and parse_uuid(item["name"]) is None:
                names[collection, item["id"]] = item["name"]

    def name(collection: str, text: str, at: tuple[Any, ...]) -> str:
        return names.get((collection, text), text)

    return found | {
        collection: [mapped(collection, item, name) for item in found[collection]] for collection in COLLECTIONS
    }
