"""Policy `model_allowlist`: which models a request may name (spec 04 §14.6). Hidden from the catalog."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from trustgate.policies.bodies import body_model, with_model
from trustgate.policies.durations import quote
from trustgate.policies.globs import model_matches
from trustgate.policies.model import JSON_HEADERS, Effect, Mark, PolicyRequest, Run, stop
from trustgate.policies.plugin import REQUEST_BODY, Binding, Environment, Plugin
from trustgate.policies.settings import SettingsError, options, setting


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    allowed_models: Annotated[
        tuple[str, ...],
        setting("Allowed Models", "Names or patterns with *.", required=True, item=setting("Model", key="model")),
    ] = ()
    behavior_on_disallowed: Annotated[
        str,
        setting(
            "Behavior On Disallowed",
            "Refuse, or put another model in place.",
            shown="reject",
            options=options("reject", "substitute"),
        ),
    ] = ""
    substitute_with: Annotated[str, setting("Substitute With", "Model put in place; must be allowed.")] = ""
    default_model: Annotated[str, setting("Default Model", "Model for requests that name none.")] = ""


def check(settings: Settings, environment: Environment | None = None) -> None:
    problem = _problem(settings)
    if problem:
        raise SettingsError(f"model_allowlist: {problem}")


def _problem(settings: Settings) -> str | None:
    allowed, substitute = settings.allowed_models, settings.substitute_with
    if not allowed:
        return "allowed_models must not be empty"
    if any(not pattern.strip() for pattern in allowed):
        return "allowed_models entries must not be blank"
    behavior = settings.behavior_on_disallowed or "reject"
    if behavior not in ("reject", "substitute"):
        return "behavior_on_disallowed must be reject or substitute"
    if behavior == "substitute":
        if not substitute.strip():
            return "substitute_with is required when behavior_on_disallowed is substitute"
        if _match(allowed, substitute) is None:
            return f"substitute_with {quote(substitute)} does not match allowed_models"
    elif substitute:
        return f"substitute_with must not be set when behavior_on_disallowed is {quote(behavior)}"
    if settings.default_model and _match(allowed, settings.default_model) is None:
        return f"default_model {quote(settings.default_model)} does not match allowed_models"
    return None


def _match(patterns: tuple[str, ...], model: str) -> str | None:
    return next((pattern for pattern in patterns if model_matches(pattern, model)), None)


class ModelAllowlist:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._settings = settings
        self._behavior = settings.behavior_on_disallowed or "reject"
        self._blocking = binding.blocking

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        model = body_model(request.body)
        if model is None:
            return None
        decision, effect, extras = self._decide(request.body, model)
        mark.extras = {"requested_model": model, "decision": decision, **extras, "behavior": self._behavior}
        if not self._blocking:
            mark.decision = "observe"
        return effect

    def _decide(self, body: bytes, model: str) -> tuple[str, Effect | None, dict[str, Any]]:
        settings = self._settings
        if not model:
            if settings.default_model and self._blocking:
                default = settings.default_model
                return "defaulted", Effect(body=with_model(body, default)), {"substituted_with": default}
            return "allowed", None, {}
        pattern = _match(settings.allowed_models, model)
        if pattern is not None:
            return "allowed", None, {"matched_pattern": pattern}
        if self._behavior == "substitute":
            substitute = {"substituted_with": settings.substitute_with}
            if not self._blocking:
                return "would_substitute", None, substitute
            return "substituted", Effect(body=with_model(body, settings.substitute_with)), substitute
        if not self._blocking:
            return "would_reject", None, {}
        error = {"type": "model_not_allowed", "model": model, "allowed": list(settings.allowed_models)}
        return "rejected", stop(403, msgspec.json.encode({"error": error}), list(JSON_HEADERS)), {}


PLUGIN = Plugin(
    slug="model_allowlist",
    name="Model Allowlist",
    description="Models a request may name, with a substitute or a default.",
    group="Routing",
    mandatory=("pre_request",),
    supported=("pre_request",),
    capabilities=frozenset((REQUEST_BODY,)),
    hidden=True,
    settings=Settings,
    check=check,
    build=ModelAllowlist,
)
