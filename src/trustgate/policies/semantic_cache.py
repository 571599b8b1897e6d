"""TEMP"""

from __future__ import annotations

from trustgate.policies.plugin import METADATA, RESPONSE_BODY, Binding, Plugin
from trustgate.policies.semantic_cache_settings import Settings, check


class SemanticCache:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="semantic_cache",
    name="Semantic Cache",
    description="Answers repeated prompts from a cache keyed by exact text and/or embedding similarity.",
    group="Routing",
    mandatory=("pre_request", "post_response"),
    supported=("pre_request", "post_response"),
    capabilities=frozenset((RESPONSE_BODY, METADATA)),
    settings=Settings,
    check=check,
    build=SemanticCache,
    secrets=(("embedding", "api_key"),),
)
