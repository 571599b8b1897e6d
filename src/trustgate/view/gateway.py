"""One gateway's view, and the directory of all of them.

What lives here: `GatewayView` (by slug, by key digest) and `Directory`, the single object a listener asks. What must
not: deciding when a view is replaced (that is the follower's work, `actors.follower`).
"""

from __future__ import annotations

from functools import cached_property

from trustgate.domain.entities import Auth, GatewayState, Policy
from trustgate.view.compile import (
    Reveal,
    clear_auth,
    compile_consumer,
    compile_identity,
    compile_registry,
    compile_role,
    policy_order,
    role_order,
)
from trustgate.view.model import ConsumerView, GatewayIdentity, RegistryView, RoleView


class GatewayView:
    """An immutable gateway at one `version`. Tables of a consumer are computed on its first request and kept."""

    __slots__ = ("__dict__", "_consumers", "_reveal", "_slugs", "id", "identity", "state", "version")

    def __init__(self, state: GatewayState, reveal: Reveal) -> None:
        assert state.gateway is not None, "a deleted gateway has no view"
        self.state = state
        self.version = state.version
        self.id = state.gateway.id
        self.identity: GatewayIdentity = compile_identity(state.gateway)
        self._reveal = reveal
        self._slugs = {consumer.slug: consumer.id for consumer in state.consumers.values() if consumer.active}
        self._consumers: dict[str, ConsumerView] = {}

    def consumer(self, slug: str) -> ConsumerView | None:
        """The active consumer of that exact slug, or None."""
        found = self._consumers.get(slug)
        if found is not None:
            return found
        id_ = self._slugs.get(slug)
        if id_ is None:
            return None
        entity = self.state.consumers[id_]
        view = compile_consumer(self.state, entity, self.registries, self.roles, self.policies, self._reveal)
        self._consumers[slug] = view
        return view

    @property
    def reveal(self) -> Reveal:
        """From a secret's reference to its text."""
        return self._reveal

    @property
    def consumer_slugs(self) -> tuple[str, ...]:
        return tuple(self._slugs)

    @cached_property
    def registries(self) -> dict[str, RegistryView]:
        """Enabled registries by id."""
        return {
            registry.id: compile_registry(registry, self._reveal)
            for registry in self.state.registries.values()
            if registry.enabled
        }

    @cached_property
    def roles(self) -> tuple[RoleView, ...]:
        return tuple(compile_role(role, self.registries) for role in role_order(self.state.roles))

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        return policy_order(self.state.policies)

    @cached_property
    def api_key_digests(self) -> dict[str, str]:
        """Digest of every enabled API key of the gateway to its auth id."""
        return {
            auth.key_hash: auth.id
            for auth in self.state.auths.values()
            if auth.enabled and auth.type == "api_key" and auth.key_hash
        }

    @cached_property
    def oauth2(self) -> tuple[Auth, ...]:
        """The enabled oauth2 credentials of the gateway, secrets in clear, newest first."""
        enabled = [auth for auth in self.state.auths.values() if auth.type == "oauth2" and auth.enabled]
        ordered = sorted(enabled, key=lambda auth: (auth.created_at, auth.id), reverse=True)
        return tuple(clear_auth(auth, self._reveal) for auth in ordered)

    @cached_property
    def _oldest_keys(self) -> frozenset[str]:
        """Of each name of API keys, the id of the oldest."""
        keys = [auth for auth in self.state.auths.values() if auth.type == "api_key"]
        newest_first = sorted(keys, key=lambda auth: (auth.created_at, auth.id), reverse=True)
        return frozenset({auth.name: auth.id for auth in newest_first}.values())

    def oldest_key_of_name(self, auth: Auth) -> bool:
        """Whether no older API key of the gateway has the same name."""
        return auth.id in self._oldest_keys

    @cached_property
    def attached_auths(self) -> frozenset[str]:
        """Ids of the auths that at least one consumer of the gateway has attached."""
        return frozenset(id_ for consumer in self.state.consumers.values() for id_ in consumer.auth_ids)


class Directory:
    """All gateways this process knows. Replaced entry by entry by the follower; readers pin the view they got."""

    def __init__(self) -> None:
        self._by_id: dict[str, GatewayView] = {}
        self._by_slug: dict[str, GatewayView] = {}
        self._by_domain: dict[str, GatewayView] = {}
        self._by_consumer: dict[str, str] = {}
        self.position = 0
        """Global position of the last event that is part of this directory."""

    def __len__(self) -> int:
        return len(self._by_id)

    def by_slug(self, slug: str) -> GatewayView | None:
        return self._by_slug.get(slug)

    def by_id(self, gateway_id: str) -> GatewayView | None:
        return self._by_id.get(gateway_id)

    def by_domain(self, domain: str) -> GatewayView | None:
        """The gateway whose custom `domain` is exactly that lower-case host."""
        return self._by_domain.get(domain)

    @property
    def has_domains(self) -> bool:
        """Whether any gateway has a custom domain."""
        return bool(self._by_domain)

    def by_consumer_slug(self, slug: str) -> GatewayView | None:
        """The gateway that has an active consumer of that globally unique slug (spec 05 §2)."""
        gateway_id = self._by_consumer.get(slug)
        return self._by_id.get(gateway_id) if gateway_id is not None else None

    def views(self) -> tuple[GatewayView, ...]:
        return tuple(self._by_id.values())

    def put(self, view: GatewayView) -> None:
        """Replace or add a gateway. Synchronous, so no reader sees half of it."""
        self.remove(view.id)
        self._by_id[view.id] = view
        self._by_slug[view.identity.slug] = view
        if view.identity.entity.domain:
            self._by_domain[view.identity.entity.domain] = view
        for slug in view.consumer_slugs:
            self._by_consumer[slug] = view.id

    def remove(self, gateway_id: str) -> None:
        """Forget a gateway; unknown ids are ignored."""
        old = self._by_id.pop(gateway_id, None)
        if old is None:
            return
        if self._by_slug.get(old.identity.slug) is old:
            del self._by_slug[old.identity.slug]
        if self._by_domain.get(old.identity.entity.domain) is old:
            del self._by_domain[old.identity.entity.domain]
        for slug in old.consumer_slugs:
            if self._by_consumer.get(slug) == gateway_id:
                del self._by_consumer[slug]
