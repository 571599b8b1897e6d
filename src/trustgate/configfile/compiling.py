"""From a read file and the present state to the state that the file asks for.

What lives here: which objects stay as they are, and the making of the others by the very deciders that serve the Admin
API, so that a file may hold nothing that the API would refuse. What must not: I/O (secrets come in clear).

The file is complete: what it does not hold is deleted, and a member it does not name has its default. An object whose
text is that of its export is the present object, untouched; a secret that is the present one keeps its reference. So
applying an export changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, cast

import msgspec
from msgspec.structs import replace

from trustgate.configfile import document as doc
from trustgate.configfile import reading
from trustgate.configfile.reading import FileError, Path, Source
from trustgate.domain import commands as cmd
from trustgate.domain import inputs, secrets
from trustgate.domain.decide_auth import bounded, create_auth
from trustgate.domain.decide_consumer import attach_auth, attach_policy, create_consumer
from trustgate.domain.decide_gateway import create_gateway, stamped
from trustgate.domain.decide_policy import create_policy, set_policy_global
from trustgate.domain.decide_registry import create_registry
from trustgate.domain.decide_role import attach_role_registry, create_role, update_role
from trustgate.domain.decision import Context, Draft
from trustgate.domain.directory import DirectoryState
from trustgate.domain.entities import Entitlements, GatewayState
from trustgate.domain.errors import DomainError
from trustgate.domain.values import parse_uuid

Json = dict[str, Any]
T = TypeVar("T")

TRIAL = inputs.EntitlementsIn(tier="free", burst_per_min=1, quota_per_month=0, max_instances=0)
"""Lets a gateway be decided before its own plan is put in place."""


class Choices(msgspec.Struct, frozen=True):
    """What deciding needs and may not choose itself: new ids, generated consumer slugs, a random key."""

    new_id: Any
    new_gateway_id: Any
    slugs: Any
    key: Any


class Compiled(msgspec.Struct, frozen=True):
    """The state that a file asks for, and the new secrets in clear by reference."""

    state: GatewayState
    secrets: dict[str, str]


def gateway_named(source: Source, directory: DirectoryState) -> str | None:
    """The id of the gateway that the file is about: its `id`, or the one that has its `slug`; None for a new one."""
    gateway = source.plain["gateway"]
    if gateway.get("id"):
        id_ = parse_uuid(str(gateway["id"]))
        if id_ is None:
            raise source.fault(("gateway", "id"), "is not a UUID")
        return id_
    slug = str(gateway.get("slug") or "").strip().lower()
    if not slug:
        raise source.fault(("gateway",), "slug is required")
    return directory.slugs.get(slug)


class Compiler:
    """One file against one state. Mutable: the state it builds up."""

    def __init__(
        self,
        source: Source,
        present: GatewayState,
        directory: DirectoryState,
        context: Context,
        meta: cmd.Meta,
        environ: Mapping[str, str],
        known: Mapping[str, str],
        choices: Choices,
        *,
        again: bool = False,
    ) -> None:
        """`known` are secrets in clear by fingerprint; `again` decides unchanged objects too (for tests)."""
        self._source, self._present, self._context = source, present, context
        self._meta, self._environ, self._known, self._choices = meta, environ, known, choices
        self._again = again
        gateway = present.gateway
        self._id = gateway.id if gateway is not None else source.plain["gateway"].get("id") or choices.new_gateway_id()
        mine = {consumer.slug for consumer in present.consumers.values()}
        self._directory = replace(
            directory,
            gateways={id_: it for id_, it in directory.gateways.items() if id_ != self._id},
            slugs={slug: id_ for slug, id_ in directory.slugs.items() if id_ != self._id},
            domains={domain: id_ for domain, id_ in directory.domains.items() if id_ != self._id},
            consumer_slugs={slug: id_ for slug, id_ in directory.consumer_slugs.items() if slug not in mine},
        )
        self._state = GatewayState(version=present.version)
        self._clear: dict[str, str] = {}
        self._ids = self._identify()

    def compile(self) -> Compiled:
        """Raises `FileError` for everything that the API would refuse, and what a reference does not find."""
        exported = doc.document(self._present) if self._present.gateway is not None else None
        self._gateway(exported and exported["gateway"])
        before = {
            (collection, item["id"]): item
            for collection in doc.COLLECTIONS
            for item in (exported[collection] if exported else [])
        }
        for collection, index, item in reading.objects(self._source):
            path: Path = (collection, index)
            item = self._resolved(collection, item, path)
            present = getattr(self._present, collection).get(item["id"])
            if present is not None and not self._again and before[collection, item["id"]] == item:
                self._put(collection, present)
                continue
            try:
                self._make(collection, item, path)
            except DomainError as refusal:
                raise self._source.fault(path, told(item, refusal)) from None
        kept = set(secrets.refs(msgspec.to_builtins(self._state)))
        return Compiled(self._state, {ref: text for ref, text in self._clear.items() if ref in kept})

    # names and ids

    def _identify(self) -> dict[str, dict[str, str | None]]:
        """By collection: ids and names to ids; None for a name that several objects have."""
        found: dict[str, dict[str, str | None]] = {collection: {} for collection in doc.COLLECTIONS}
        taken: dict[str, set[str]] = {collection: set() for collection in doc.COLLECTIONS}
        for collection, index, item in reading.objects(self._source):
            path, name = (collection, index), item.get("name")
            if not isinstance(name, str) or not name.strip():
                raise self._source.fault(path, "name is required")
            id_ = self._id_of(collection, item, path)
            if id_ in taken[collection]:
                raise self._source.fault((*path, "id"), "is the id of another object above")
            taken[collection].add(id_)
            item["id"] = id_
            names = found[collection]
            names[name] = None if name in names else id_
            names[id_] = id_
        return found

    def _id_of(self, collection: str, item: Json, path: Path) -> str:
        if item.get("id"):
            id_ = parse_uuid(str(item["id"]))
            if id_ is None:
                raise self._source.fault((*path, "id"), "is not a UUID")
            return id_
        same = [it.id for it in getattr(self._present, collection).values() if it.name == item["name"]]
        if len(same) > 1:
            raise self._source.fault(path, f"several objects are named {item['name']!r}: give the id")
        return same[0] if same else self._choices.new_id()

    def _resolved(self, collection: str, item: Json, path: Path) -> Json:
        def id_of(target: str, text: str, at: Path) -> str:
            names = self._ids[target]
            text_id = parse_uuid(text)
            found = names.get(text_id if text_id is not None and text_id in names else text, "")
            if found is None:
                raise self._source.fault((*path, *at), f"several {target} are named {text!r}: give the id")
            if not found and text_id is not None and self._names_already(collection, item["id"], text_id):
                return text_id
            if not found:
                raise self._source.fault((*path, *at), f"the file has no {text!r} among its {target}")
            return found

        return doc.mapped(collection, item, id_of)

    def _names_already(self, collection: str, id_: str, other: str) -> bool:
        """Whether the present object names that id; a toolkit may name a registry that was deleted since."""
        present = getattr(self._present, collection).get(id_)
        return present is not None and other.encode() in msgspec.json.encode(present)

    def _bound(self, into: type[T], item: Json, path: Path) -> T:
        """The object with every reference of its texts filled in."""

        def secret(fingerprint: str, at: Path) -> str:
            if fingerprint not in self._known:
                raise self._source.fault(
                    at, f"no secret with the fingerprint {fingerprint} is stored here; give it as ${{VARIABLE}}"
                )
            return self._known[fingerprint]

        value = reading.filled(self._source, item, path, self._environ, secret)
        try:
            return msgspec.convert(value, into)
        except msgspec.ValidationError as error:
            raise self._source.fault(path, str(error)) from None

    # objects

    def _draft(self) -> Draft:
        """A decision on what there is so far. References of new secrets carry the present version."""
        any_command = cmd.DeleteGateway(self._meta, self._id)
        return Draft(replace(self._state, version=self._present.version), self._directory, any_command, self._context)

    def _gateway(self, exported: Json | None) -> None:
        item = self._source.plain["gateway"]
        if exported is not None and not self._again and item == exported:
            self._state = replace(self._state, gateway=self._present.gateway)
            return
        file = self._bound(doc.FileGateway, item, ("gateway",))
        draft = self._draft()
        members = {name: getattr(file, name) for name in inputs.GatewayCreate.__struct_fields__}
        members["entitlements"] = TRIAL
        if self._present.gateway is not None:
            members["tenant_id"] = file.tenant_id or self._present.gateway.tenant_id
        try:
            create_gateway(draft, cmd.CreateGateway(self._meta, self._id, inputs.GatewayCreate(**members)))
            plan = file.entitlements
            caps = (plan.burst_per_min, plan.quota_per_month, plan.max_instances) if plan is not None else (None,)
            own = stamped(plan) if any(cap is not None for cap in caps) else None
        except DomainError as refusal:
            raise self._source.fault(("gateway",), told({}, refusal)) from None
        made = draft.state.gateway
        assert made is not None
        entitlements = own or Entitlements(tier=(plan.tier if plan is not None else None) or "free")
        made = replace(made, status=file.status or "active", entitlements=entitlements)
        self._take(draft)
        self._state = replace(self._state, gateway=self._settled(made, self._present.gateway))

    def _make(self, collection: str, item: Json, path: Path) -> None:
        draft, id_ = self._draft(), item["id"]
        makers = {
            "registries": self._registry,
            "auths": self._auth,
            "roles": self._role,
            "consumers": self._consumer,
            "policies": self._policy,
        }
        makers[collection](draft, id_, item, path)
        self._take(draft)
        self._state = draft.state
        made, present = getattr(self._state, collection)[id_], getattr(self._present, collection).get(id_)
        self._put(collection, self._settled(made, present))

    def _registry(self, draft: Draft, id_: str, item: Json, path: Path) -> None:
        body = self._bound(doc.FileRegistry, item, path)
        create_registry(draft, cmd.CreateRegistry(self._meta, self._id, id_, body))

    def _auth(self, draft: Draft, id_: str, item: Json, path: Path) -> None:
        file = self._bound(doc.FileAuth, item, path)
        present = self._present.auths.get(id_)
        key = file.api_key or self._choices.key()
        body = replace(file, expires_at=None, allowed_cidrs=None) if file.key_hash else file
        create_auth(draft, cmd.CreateAuth(self._meta, self._id, id_, body, key))
        made = draft.state.auths[id_]
        if file.api_key or (made.type != "api_key" and not file.key_hash):
            return
        digest = file.key_hash or (present.key_hash if present is not None else "")
        if not digest:
            raise self._source.fault(path, "an API key auth needs key_hash, or api_key from the environment")
        if len(digest) != 64 or digest.strip("0123456789abcdef"):
            raise self._source.fault((*path, "key_hash"), "must be a SHA-256 digest in lower-case hex")
        old = present if present is not None and present.key_hash == digest else None
        prefix = file.key_prefix if file.key_prefix is not None else old.key_prefix if old is not None else ""
        suffix = file.key_suffix if file.key_suffix is not None else old.key_suffix if old is not None else ""
        auth = replace(made, key_hash=digest, key_prefix=prefix, key_suffix=suffix)
        auth = bounded(auth, file.expires_at, file.allowed_cidrs)
        draft.state = replace(draft.state, auths={**draft.state.auths, id_: auth})

    def _role(self, draft: Draft, id_: str, item: Json, path: Path) -> None:
        file = self._bound(doc.FileRole, item, path)
        bare = replace(file, model_policies=None, mcp_policies=None)
        create_role(draft, cmd.CreateRole(self._meta, self._id, id_, bare))
        for registry_id in file.registries or ():
            attach_role_registry(draft, cmd.AttachRoleRegistry(self._meta, self._id, id_, registry_id))
        if file.model_policies is not None or file.mcp_policies is not None:
            body = inputs.RoleUpdate(model_policies=file.model_policies, mcp_policies=file.mcp_policies)
            update_role(draft, cmd.UpdateRole(self._meta, self._id, id_, body))

    def _consumer(self, draft: Draft, id_: str, item: Json, path: Path) -> None:
        file = self._bound(doc.FileConsumer, item, path)
        present = self._present.consumers.get(id_)
        slug = file.slug or (present.slug if present is not None else "")
        slugs = (slug,) if slug else self._choices.slugs()
        taken = {other.slug for other in self._state.consumers.values()}
        if slug in taken:
            raise self._source.fault((*path, "slug"), "is the slug of another consumer above")
        create_consumer(draft, cmd.CreateConsumer(self._meta, self._id, id_, file, slugs))
        for auth_id in file.auths or ():
            attach_auth(draft, cmd.AttachAuth(self._meta, self._id, id_, auth_id))

    def _policy(self, draft: Draft, id_: str, item: Json, path: Path) -> None:
        file = self._bound(doc.FilePolicy, item, path)
        create_policy(draft, cmd.CreatePolicy(self._meta, self._id, id_, file))
        for consumer_id in file.consumers or ():
            attach_policy(draft, cmd.AttachPolicy(self._meta, self._id, consumer_id, id_))
        if file.global_:
            set_policy_global(draft, cmd.SetPolicyGlobal(self._meta, self._id, id_, True))

    def _take(self, draft: Draft) -> None:
        """Remember the new secrets of a decision."""
        for ref in secrets.refs(msgspec.to_builtins(draft.state)):
            text = draft.plaintext(ref)
            if text is not None:
                self._clear[ref] = text

    def _settled(self, made: Any, present: Any) -> Any:
        """The made object, with the present one's times and references where nothing differs."""
        if present is None:
            return made
        joined = rejoined(msgspec.to_builtins(made), msgspec.to_builtins(present))
        made = msgspec.convert(joined, type(made))
        made = replace(made, created_at=present.created_at)
        return present if replace(made, updated_at=present.updated_at) == present else made

    def _put(self, collection: str, entity: Any) -> None:
        changed = {**getattr(self._state, collection), entity.id: entity}
        self._state = replace(self._state, **{collection: changed})


def rejoined(made: Any, present: Any) -> Any:
    """`made` with the references of `present` where the same secret stands at the same place."""
    if secrets.is_ref(made):
        same = secrets.is_ref(present) and present["fp"] == made["fp"]
        return present if same else made
    if isinstance(made, dict):
        old = cast("Json", present) if isinstance(present, dict) else {}
        return {name: rejoined(item, old.get(name)) for name, item in cast("Json", made).items()}
    if isinstance(made, list):
        items = cast("list[Any]", present) if isinstance(present, list) else []
        pairs = enumerate(cast("list[Any]", made))
        return [rejoined(item, items[index] if index < len(items) else None) for index, item in pairs]
    return made


def told(item: Json, refusal: DomainError) -> str:
    name = f"{item['name']}: " if item.get("name") else ""
    return name + (refusal.message or refusal.code)


__all__ = ["Choices", "Compiled", "Compiler", "FileError", "gateway_named"]
