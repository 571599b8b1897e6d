"""Any server with the OpenAI chat completions API, named by its base URL (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers import options as opts
from trustgate.providers.credentials import (
    Account,
    Authorization,
    Headers,
    Ready,
    authorize,
    header_name,
    header_value,
    merged,
)
from trustgate.providers.errors import RequestFault
from trustgate.providers.options import BadOptions, Json, Site
from trustgate.providers.provider import (
    Environ,
    Provider,
    auth_type,
    bearer_key,
    chat_completions_target,
    field,
    same_chat,
)
from trustgate.providers.services import Services

_CODE = "openai_compatible"
_TYPES = {"base_url": opts.TEXT, "headers": opts.MAP}
_FRAMING = frozenset({b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade", b"te", b"trailer"})


def _check_options(options: Json) -> None:
    opts.check_types(_CODE, options, _TYPES)
    url = opts.text(options, "base_url")
    if not url.strip():
        raise BadOptions(f"{_CODE}: base_url is required")
    opts.check_base_url(_CODE, url)


def _site(account: Account, environ: Environ) -> Site:
    try:
        _check_options(account.options)
    except BadOptions as problem:
        raise RequestFault(str(problem)) from None
    return Site.of(opts.base_url(_CODE, account.options, ""))


def _option_headers(options: Json) -> Headers:
    """The `headers` option, applied last; headers that frame the message stay ours."""
    given = opts.member(options, "headers")
    pairs = given.items() if isinstance(given, dict) else ()
    named = ((header_name(name), header_value(value)) for name, value in pairs if isinstance(value, str))
    return tuple(pair for pair in named if pair[0] not in _FRAMING)


def _authorize(account: Account, services: Services | None) -> Authorization:
    extra = _option_headers(account.options)
    keyless = any(name == b"authorization" for name, _ in extra)
    authorization = authorize(account, services, bearer_key, extra, keyless=keyless)
    if authorization.ready is not None:
        return Ready(merged(authorization.ready, extra), authorization.query)
    return authorization


PROVIDER = Provider(
    code=_CODE,
    display_name="OpenAI Compatible",
    wire_format="openai",
    chat=same_chat("openai"),
    site=_site,
    target=chat_completions_target,
    authorize=_authorize,
    embeddings="openai_embeddings",
    check_options=_check_options,
    auth_types=(
        auth_type(
            "api_key",
            "API Key",
            "Authenticates with a bearer key or with a header of your choice.",
            [
                field("api_key", "API Key", "Sent as a bearer token.", secret=True),
                field("header_name", "Header Name", "Header that carries the credential instead of a bearer token."),
                field("header_value", "Header Value", "Value of that header.", secret=True),
            ],
        ),
    ),
    options_schema=(
        field("base_url", "Base URL", "Everything before /chat/completions, version included.", required=True),
        field("headers", "Headers", "Headers added to every request, after the credential.", "map"),
    ),
)
