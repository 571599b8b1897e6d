"""The client routes of the proxy plane: from a path to a dialect and a capability (spec 02 §2). Pure."""

from __future__ import annotations

from urllib.parse import unquote

import msgspec

GEMINI = "/v1beta/models/"
GEMINI_ACTIONS = frozenset({"", "generateContent", "streamGenerateContent"})


class ClientRoute(msgspec.Struct, frozen=True):
    """`format` is the client dialect's id, `capability` `chat`, `embeddings`, `rerank` or `models`."""

    format: str
    capability: str
    path_model: str = ""
    path_stream: bool = False


ROUTES: dict[str, ClientRoute] = {
    "/v1/chat/completions": ClientRoute("openai", "chat"),
    "/v1/messages": ClientRoute("anthropic", "chat"),
    "/v1/responses": ClientRoute("openai_responses", "chat"),
    "/v2/chat": ClientRoute("cohere", "chat"),
    "/v1/embeddings": ClientRoute("openai_embeddings", "embeddings"),
    "/v1/rerank": ClientRoute("cohere_rerank", "rerank"),
    "/v2/embed": ClientRoute("cohere_embed", "embeddings"),
    "/v2/rerank": ClientRoute("cohere_rerank", "rerank"),
}
MODELS = ClientRoute("", "models")


def split_path(path: str) -> tuple[str, str]:
    """Consumer slug and route of a raw path; trailing slashes of the route do not count."""
    slug, slash, rest = path[1:].partition("/")
    return slug, (slash + rest).rstrip("/")


def match_route(route: str, method: str) -> ClientRoute | None:
    """The client route, matched literally and case-sensitively, or None.

    `GET /v1/models` is an addition, as are `/v2/embed` and `/v2/rerank`; all but the first accept any method.
    """
    found = ROUTES.get(route)
    if found is not None:
        return found
    if route.startswith(GEMINI):
        model, _, action = route[len(GEMINI) :].partition(":")
        model = unquote(model)
        if model.strip() and action in GEMINI_ACTIONS:
            return ClientRoute("google", "chat", model, action == "streamGenerateContent")
        return None
    if route == "/v1/models" and method in ("GET", "HEAD"):
        return MODELS
    return None
