"""From an MCP URL to its consumer: the path's slug, the host's gateway (spec 05 §2). Pure."""

from __future__ import annotations

from trustgate.view.gateway import Directory, GatewayView


def host_of(base_url: str) -> str:
    """The host of a base URL, lower-case, without its port."""
    host = base_url.partition("://")[2].lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    return host.partition(":")[0]


def slug_of(path: str) -> str:
    """The consumer's slug in a path that ends in `/{slug}/mcp`, or empty."""
    parts = path.strip("/").rsplit("/", 2)
    return parts[-2] if len(parts) >= 2 and parts[-1] == "mcp" else ""


def find(directory: Directory, slug: str, base_url: str) -> GatewayView | None:
    """The gateway whose active consumer of that slug is reachable under the host of that base URL."""
    view = directory.by_consumer_slug(slug)
    if view is None or not directory.has_domains:
        return view
    owner = directory.by_domain(host_of(base_url))
    if owner is not None:
        return view if owner.id == view.id else None
    return None if view.identity.entity.domain else view
