"""AWS Bedrock: InvokeModel of every model family, or Converse; SigV4 or a Bedrock API key (spec 03 §8.3, §10).

InvokeModel is the default, and what every other value of `api` means: registries of old may have any. The option
`api: converse` (an addition) carries tools, images, documents and reasoning to every family, which the bodies of
InvokeModel's smaller families cannot.
"""

from __future__ import annotations

from urllib.parse import quote

from trustgate.formats import json as members
from trustgate.formats.errors import DecodeError
from trustgate.providers import aws
from trustgate.providers import options as opts
from trustgate.providers.credentials import Account, Authorization, authorize
from trustgate.providers.errors import RequestFault
from trustgate.providers.options import Site
from trustgate.providers.provider import Environ, Operation, Provider, auth_type, bearer_key, field
from trustgate.providers.services import Services

SERVICE = "bedrock"
CONVERSE = "bedrock_converse"


def _chat(client_format: str, options: opts.Json) -> str:
    return CONVERSE if opts.text(options, "api") == "converse" else "bedrock"


def _site(account: Account, environ: Environ) -> Site:
    base = opts.base_url("bedrock", account.options, "")
    if not base:
        region = aws.AwsAccount.of(account.auth).region
        opts.host_label(region, "region")
        default = f"https://bedrock-runtime.{region}.{aws.dns_suffix(region)}"
        base = aws.endpoint("bedrock-runtime", environ) or default
    return Site.of(base)


def _target(site: Site, operation: Operation) -> str:
    """The id, which may be an ARN, is one segment: every reserved character is encoded."""
    opts.check_model_length(operation.model)
    if operation.model in (".", ".."):
        raise RequestFault(f"model {opts.quoted(operation.model)} cannot be part of a URL")
    if operation.wire == CONVERSE:
        action = "converse-stream" if operation.stream else "converse"
    else:
        action = "invoke-with-response-stream" if operation.stream else "invoke"
    return f"{site.path}/model/{quote(operation.model, safe='')}/{action}"


def _authorize(account: Account, services: Services | None) -> Authorization:
    if account.auth.get("type") != "aws":
        return authorize(account, services, bearer_key)
    return aws.Signed(aws.AwsAccount.of(account.auth), services, SERVICE)


def _finish(wire: str, model: str, body: bytes) -> bytes:
    """The model is in the URL and nowhere else; Cohere's reranker has to be told the version of its API."""
    try:
        body = members.remove_members(body, ("model", "modelId", "stream"))
        if wire == "cohere_rerank" and "cohere." in model.lower():
            body = members.set_members(body, {"api_version": 2})
    except DecodeError:
        return body  # AWS judges what is no JSON object
    return body


_REGION = field("region", "Region", "AWS region of the models, such as us-east-1.", required=True)

PROVIDER = Provider(
    code="bedrock",
    display_name="AWS Bedrock",
    wire_format="anthropic",
    chat=_chat,
    site=_site,
    target=_target,
    authorize=_authorize,
    model_in_target=True,
    embeddings="bedrock_embeddings",
    rerank="cohere_rerank",
    finish=_finish,
    frames=True,
    auth_types=(
        auth_type(
            "aws",
            "Access key",
            "Authenticates with the keys of an IAM user or a session.",
            [
                _REGION,
                field("access_key_id", "Access Key ID", "Id of the key.", required=True),
                field("secret_access_key", "Secret Access Key", "The key's secret.", required=True, secret=True),
                field("session_token", "Session Token", "Only for temporary credentials.", secret=True),
            ],
            "access_key",
        ),
        auth_type(
            "aws",
            "Assume role",
            "Assumes an IAM role with the gateway's own AWS identity.",
            [
                _REGION,
                field("role", "Role ARN", "The role to assume.", required=True),
                field(
                    "use_role", "Assume Role", "Assume the role for every call.", "boolean", required=True, default=True
                ),
            ],
            "assume_role",
        ),
    ),
)
