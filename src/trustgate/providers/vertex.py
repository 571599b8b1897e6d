"""Google Vertex AI: Gemini models of a project and location (spec 03 §10)."""

from __future__ import annotations

from urllib.parse import quote

from trustgate.providers import gcp
from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, Authorization, Bearer, authorize, need
from trustgate.providers.errors import RequestFault
from trustgate.providers.options import BadOptions, Json, Site
from trustgate.providers.provider import (
    Environ,
    Operation,
    Provider,
    auth_type,
    bearer_key,
    field,
    join_query,
    same_chat,
)
from trustgate.providers.services import Services
from trustgate.providers.tokens import Token, fingerprint

_TYPES = {"project": opts.TEXT, "location": opts.TEXT, "version": opts.TEXT, "action": opts.TEXT}

DEFAULT_VERSION = "v1"
DEFAULT_ACTION = "generateContent"
STREAM_ACTION = "streamGenerateContent"


def _check_options(options: Json) -> None:
    opts.check_types("vertex", options, _TYPES)
    for key in ("project", "location"):
        if not opts.text(options, key).strip():
            raise BadOptions(f"vertex: provider_options.{key} is required")


def _site(account: Account, environ: Environ) -> Site:
    options = account.options
    try:
        _check_options(options)
    except BadOptions as problem:
        raise RequestFault(str(problem)) from None
    location = opts.host_label(opts.text(options, "location").strip().lower(), "location")
    version = opts.text(options, "version").strip() or DEFAULT_VERSION
    host = "aiplatform.googleapis.com" if location == "global" else f"{location}-aiplatform.googleapis.com"
    base = opts.base_url("vertex", options, f"https://{host}/{version}", f"/{version}")
    project = quote(opts.text(options, "project").strip(), safe=":")
    action = opts.text(options, "action").strip()
    return Site.of(f"{base}/projects/{project}/locations/{location}", action=action)


def _target(site: Site, operation: Operation) -> str:
    model = opts.model_in_path(operation.model)
    if operation.wire == "vertex_embeddings":
        return f"{site.path}/publishers/google/models/{model}:predict"
    action = site.action or DEFAULT_ACTION
    if operation.stream and action == DEFAULT_ACTION:
        action = STREAM_ACTION
    streamed = "alt=sse" if action == STREAM_ACTION else ""
    return f"{site.path}/publishers/google/models/{model}:{action}{join_query(streamed, site.query)}"


def _authorize(account: Account, services: Services | None) -> Authorization:
    """A service account's token; with type `api_key` the key is a bearer token that is ready for use."""
    if account.auth.get("type") != "gcp_service_account":
        return authorize(account, services, bearer_key)
    credential = account.auth.get("gcp_service_account")

    async def fetch() -> Token[str]:
        return await gcp.fetch_token(need(services), credential)

    return Bearer(need(services), fingerprint("gcp", credential), fetch)


PROVIDER = Provider(
    code="vertex",
    display_name="Google Vertex AI",
    wire_format="google",
    chat=same_chat("vertex"),
    site=_site,
    target=_target,
    authorize=_authorize,
    model_in_target=True,
    embeddings="vertex_embeddings",
    check_options=_check_options,
    auth_types=(
        auth_type(
            "gcp_service_account",
            "GCP Service Account",
            "Authenticates as a service account of Google Cloud.",
            [
                field(
                    "gcp_service_account",
                    "Service Account JSON",
                    "The key file of the service account.",
                    required=True,
                    secret=True,
                )
            ],
        ),
    ),
    options_schema=(
        field("project", "Project", "Google Cloud project; taken from the service account when empty."),
        field("location", "Location", "Region such as europe-west1, or global.", required=True),
        field("version", "API Version", "Version of the Vertex AI API.", default=DEFAULT_VERSION),
    ),
)
