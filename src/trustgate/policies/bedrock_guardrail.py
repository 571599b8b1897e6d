"""TEMP"""

from __future__ import annotations

from trustgate.policies.bedrock_guardrail_settings import Settings, check
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Plugin


class BedrockGuardrail:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        pass


PLUGIN = Plugin(
    slug="bedrock_guardrail",
    name="AWS Bedrock Guardrail",
    description="Prompt and answer screening by an Amazon Bedrock guardrail, with optional masking of personal data.",
    group="Guardrails",
    mandatory=("pre_request",),
    supported=("pre_request", "pre_response"),
    capabilities=frozenset((REQUEST_BODY, RESPONSE_BODY)),
    settings=Settings,
    check=check,
    build=BedrockGuardrail,
    secrets=(("credentials", "secret_access_key"), ("credentials", "session_token")),
)
