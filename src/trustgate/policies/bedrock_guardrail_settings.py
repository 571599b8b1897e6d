"""Settings of `bedrock_guardrail` (spec 04 §14.14)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.plugin import Environment
from trustgate.policies.settings import SettingsError, options, setting

PREFIX = "bedrock_guardrail: "
DEFAULT_REGION = "us-east-1"
DEFAULT_SESSION = "BedrockClientSession"


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    aws_region: Annotated[str, setting("AWS Region", "Region.", shown=DEFAULT_REGION)] = ""
    use_role: Annotated[bool, setting("Use Role", "Obtain credentials by assuming a role.", shown=False)] = False
    role_arn: Annotated[str, setting("Role ARN", "Role; needed with use_role.")] = ""
    session_name: Annotated[str, setting("Session Name", "Name of the role session.", shown=DEFAULT_SESSION)] = ""
    access_key_id: Annotated[str, setting("Access Key ID", "Static key; optional with use_role.")] = ""
    secret_access_key: Annotated[str, setting("Secret Access Key", "Static secret; optional with use_role.")] = ""
    session_token: Annotated[str, setting("Session Token", "Token of temporary credentials.")] = ""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    guardrail_id: Annotated[str, setting("Guardrail ID", "Guardrail identifier.", required=True)] = ""
    version: Annotated[str, setting("Version", "Guardrail version.", shown="DRAFT")] = ""
    pii_action: Annotated[
        str,
        setting(
            "PII Action",
            "Refuse, or mask, when personal data is found.",
            shown="block",
            options=options("block", "anonymize"),
        ),
    ] = ""
    message: Annotated[str, setting("Message", "Operator note.")] = ""
    credentials: Annotated[Credentials, setting("Credentials", "AWS access.", required=True)] = Credentials()


def check(settings: Settings, environment: Environment | None = None) -> None:
    if not settings.guardrail_id.strip():
        raise SettingsError(PREFIX + "guardrail_id is required")
    if settings.pii_action not in ("", "block", "anonymize"):
        raise SettingsError(PREFIX + "pii_action must be one of block, anonymize")
    credentials = settings.credentials
    if credentials.use_role:
        if not credentials.role_arn.strip():
            raise SettingsError(PREFIX + "role_arn is required when use_role is true")
    elif not credentials.access_key_id or not credentials.secret_access_key:
        raise SettingsError(PREFIX + "access_key_id and secret_access_key are required when use_role is false")
