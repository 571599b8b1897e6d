"""TEMP"""

from __future__ import annotations

from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin
from trustgate.policies.token_rate_limiter_settings import Settings, check


class TokenBudget:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="token_rate_limiter",
    name="LLM Budget",
    description="Spending budgets in tokens or USD, one total and/or one per model pattern.",
    group="Quota",
    mandatory=("pre_request", "post_response"),
    supported=("pre_request", "post_response"),
    capabilities=frozenset((REQUEST_BODY,)),
    settings=Settings,
    check=check,
    build=TokenBudget,
    charges=True,
)
