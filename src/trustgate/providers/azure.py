"""Azure OpenAI and Foundry: deployments in the URL, a key or Entra tokens (spec 03 §10, §17 B3)."""

from __future__ import annotations

from trustgate.providers import entra
from trustgate.providers import options as opts
from trustgate.providers.credentials import (
    Account,
    Authorization,
    Bearer,
    Headers,
    Ready,
    authorize,
    header_value,
    need,
    payload,
    string,
)
from trustgate.providers.errors import RequestFault
from trustgate.providers.options import Json, Site
from trustgate.providers.provider import Environ, Operation, Provider, auth_type, field, join_query
from trustgate.providers.services import Services
from trustgate.providers.tokens import Token, fingerprint

DEFAULT_VERSION = "2024-10-21"


def _chat(client_format: str, options: Json) -> str:
    return "openai_responses" if options.get("api") == "responses" else "azure"


def endpoint(account: Account) -> str:
    """The resource: what comes before `/api/projects/`, without trailing slashes. Raises `RequestFault`."""
    url = string(payload(account.auth, "azure"), "endpoint").strip()
    if not url:
        raise RequestFault("azure endpoint is required")
    if not opts.is_http_url(url):
        raise RequestFault(f"azure endpoint must be a valid http(s) URL, got {opts.quoted(url)}")
    return url.partition("/api/projects/")[0].rstrip("/")


def _site(account: Account, environ: Environ) -> Site:
    version = string(payload(account.auth, "azure"), "version").strip() or DEFAULT_VERSION
    base = opts.base_url("azure", account.options, "", "/openai")
    return Site.of(base or endpoint(account) + "/openai", f"api-version={version}")


def _target(site: Site, operation: Operation) -> str:
    """Responses has one URL for all models, without a version; the others name the deployment."""
    if operation.wire == "openai_responses":
        return site.path + "/v1/responses"
    task = "embeddings" if operation.wire == "openai_embeddings" else "chat/completions"
    return f"{site.path}/deployments/{opts.model_in_path(operation.model)}/{task}{join_query(site.query)}"


def _key(key: str) -> Headers:
    return ((b"api-key", header_value(key)),)


def _authorize(account: Account, services: Services | None) -> Authorization:
    if account.auth.get("type") != "azure":
        return authorize(account, services, _key)
    values = payload(account.auth, "azure")
    if key := string(values, "api_key").strip():
        return Ready(_key(key))
    if values.get("use_managed_identity") is True:
        return Bearer(need(services), "entra:default", lambda: entra.default_chain(need(services)))
    tenant, client = string(values, "tenant_id").strip(), string(values, "client_id").strip()
    secret = string(values, "client_secret")
    if not (tenant and client and secret.strip()):
        raise RequestFault("azure credentials are incomplete")

    async def fetch() -> Token[str]:
        return await entra.service_principal(need(services), tenant, client, secret)

    return Bearer(need(services), fingerprint("entra", [tenant, client, secret]), fetch)


_ENDPOINT = field("endpoint", "Endpoint", "URL of the Azure OpenAI or Foundry resource.", required=True)
_VERSION = field("version", "API Version", f"Version of the data plane API; {DEFAULT_VERSION} when empty.")

PROVIDER = Provider(
    code="azure",
    display_name="Azure OpenAI",
    wire_format="openai",
    chat=_chat,
    site=_site,
    target=_target,
    authorize=_authorize,
    model_in_target=True,
    embeddings="openai_embeddings",
    auth_types=(
        auth_type(
            "azure",
            "API Key",
            "Authenticates with a key of the resource.",
            [_ENDPOINT, _VERSION, field("api_key", "API Key", "Key of the resource.", required=True, secret=True)],
            "api_key",
        ),
        auth_type(
            "azure",
            "Service principal",
            "Authenticates as an application of Microsoft Entra ID.",
            [
                _ENDPOINT,
                field("tenant_id", "Tenant ID", "Directory of the application.", required=True),
                field("client_id", "Client ID", "Id of the application.", required=True),
                field("client_secret", "Client Secret", "Secret of the application.", required=True, secret=True),
            ],
            "service_principal",
        ),
        auth_type(
            "azure",
            "Managed identity",
            "Authenticates as the identity that Azure gives to the gateway.",
            [
                _ENDPOINT,
                field(
                    "use_managed_identity",
                    "Use Managed Identity",
                    "Use the gateway's own Azure identity.",
                    "boolean",
                    required=True,
                    default=True,
                ),
            ],
            "managed_identity",
        ),
    ),
)
