"""Settings of `openai_moderation` (spec 04 §14.12)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.durations import quote
from trustgate.policies.plugin import Environment
from trustgate.policies.settings import Option, SettingsError, setting

DEFAULT_MODEL = "omni-moderation-latest"
DEFAULT_MESSAGE = "request blocked by content policy"


class Action(msgspec.Struct, frozen=True, kw_only=True):
    message: Annotated[str, setting("Message", "Text of the refusal.")] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    api_key: Annotated[str, setting("API Key", "API key.", required=True)] = ""
    model: Annotated[str, setting("Model", "Moderation model.", shown=DEFAULT_MODEL)] = ""
    stages: Annotated[
        tuple[str, ...],
        setting(
            "Stages",
            "Legs to screen.",
            item=setting(
                "Stage",
                key="stage",
                options=(Option("pre_request", "Pre-Request"), Option("pre_response", "Pre-Response")),
            ),
        ),
    ] = ()
    categories: Annotated[
        tuple[str, ...],
        setting("Categories", "Categories to look at; none means all.", item=setting("Category", key="category")),
    ] = ()
    thresholds: Annotated[
        dict[str, float],
        setting("Thresholds", "Blocking score per category, 0 to 1.", value=setting("Threshold", key="threshold")),
    ] = {}
    block_on_flagged: Annotated[
        bool, setting("Block On Flagged", "Also block whatever the service itself flags.", shown=False)
    ] = False
    action: Annotated[Action, setting("Action", "Refusal details.")] = Action()


def check(settings: Settings, environment: Environment | None = None) -> None:
    if not settings.api_key.strip():
        raise SettingsError("openai_moderation: api_key is required")
    if any(stage not in ("pre_request", "pre_response") for stage in settings.stages):
        raise SettingsError("openai_moderation: stages must be pre_request or pre_response")
    for category, threshold in sorted(settings.thresholds.items()):
        if not 0 <= threshold <= 1:
            raise SettingsError(f"openai_moderation: threshold for {quote(category)} must be between 0 and 1")
