"""Spec 02 §2 and §3: from headers and path to gateway, consumer slug and client route."""

from __future__ import annotations

import pytest

from tests.views import view
from trustgate.proxy.discovery import Unknown, find_gateway
from trustgate.proxy.errors import Refusal
from trustgate.proxy.routes import match_route, split_path
from trustgate.view.gateway import Directory

BASE = "llm.example.org"
ILLEGAL = "contains an invalid gateway slug"


def directory() -> Directory:
    found = Directory()
    found.put(view(slug="acme", domain="llm.acme.io"))
    return found


@pytest.mark.parametrize(
    ("header", "host"),
    [
        (b"acme", b"whatever"),
        (b" ACME ", None),
        (None, b"acme.llm.example.org"),
        (b"", b"ACME.LLM.example.org:8081"),
        (b"  ", b".acme.llm.example.org."),
        (None, b"llm.acme.io"),
        (None, b"LLM.acme.io:443"),
    ],
)
def test_a_gateway_is_found(header: bytes | None, host: bytes | None) -> None:
    assert find_gateway(directory(), header, host, BASE).identity.slug == "acme"


@pytest.mark.parametrize(
    ("header", "host", "tail"),
    [
        (b"not_a_slug", b"acme.llm.example.org", f"header X-AG-Gateway-Slug {ILLEGAL}"),
        (None, b"acme.example.org", "host must match {slug}.llm.example.org"),
        (None, b"llm.example.org", "host must match {slug}.llm.example.org"),
        (None, b"a.b.llm.example.org", "host must contain exactly one gateway slug label"),
        (None, b"_x.llm.example.org", f"host {ILLEGAL}"),
        (None, b"[::1]:8081", "host is malformed"),
        (None, b"acme.llm.example.org:0", "host port is malformed"),
        (None, b"acme.llm.example.org:99999", "host port is malformed"),
        (None, b"acme.llm.example.org:", "host port is malformed"),
        (None, b"acme.llm.example.org:" + b"8" * 5000, "host port is malformed"),
        (None, b"acme.llm.example.org:+80", "host port is malformed"),
        (None, b".llm.example.org", "host must match {slug}.llm.example.org"),
        (None, b"", "host is required"),
        (None, None, "host is required"),
        (None, b"...", "host is required"),
    ],
)
def test_refusals(header: bytes | None, host: bytes | None, tail: str) -> None:
    with pytest.raises(Refusal) as refused:
        find_gateway(directory(), header, host, BASE)
    assert (refused.value.code, refused.value.message) == ("invalid_auth_request", "invalid auth request: " + tail)


@pytest.mark.parametrize(("header", "host"), [(b"Nobody", None), (None, b"nobody.llm.example.org")])
def test_a_well_formed_unknown_slug_is_worth_a_look_at_the_log(header: bytes | None, host: bytes | None) -> None:
    with pytest.raises(Unknown) as unknown:
        find_gateway(directory(), header, host, BASE)
    assert unknown.value.slug == "nobody"


def test_a_header_decides_alone_even_when_its_gateway_is_unknown() -> None:
    with pytest.raises(Unknown):
        find_gateway(directory(), b"nobody", b"acme.llm.example.org", BASE)


@pytest.mark.parametrize(
    ("path", "slug", "format_", "model"),
    [
        ("/s/v1/chat/completions", "s", "openai", ""),
        ("/s/v1/chat/completions/", "s", "openai", ""),
        ("/s/v1/messages", "s", "anthropic", ""),
        ("/s/v1/responses", "s", "openai_responses", ""),
        ("/s/v2/chat", "s", "cohere", ""),
        ("/s/v1/embeddings", "s", "openai_embeddings", ""),
        ("/s/v1/rerank", "s", "cohere_rerank", ""),
        ("/s/v1beta/models/g:generateContent", "s", "google", "g"),
        ("/s/v1beta/models/g", "s", "google", "g"),
        ("/s/v1beta/models/a/b/c:streamGenerateContent", "s", "google", "a/b/c"),
        ("/s/v1beta/models/@openai/gpt-4o:generateContent", "s", "google", "@openai/gpt-4o"),
        ("/s/v1beta/models/pub%2Fm2:generateContent", "s", "google", "pub/m2"),
    ],
)
def test_client_routes(path: str, slug: str, format_: str, model: str) -> None:
    found_slug, rest = split_path(path)
    route = match_route(rest, "POST")
    assert route is not None
    assert (found_slug, route.format, route.path_model) == (slug, format_, model)


@pytest.mark.parametrize(
    "route",
    [
        "",
        "/v1/models",
        "/v1/completions",
        "/V1/chat/completions",
        "/v1//chat/completions",
        "/v1beta/models/",
        "/v1beta/models/:generateContent",
        "/v1beta/models/%20:generateContent",
        "/v1beta/models/g:countTokens",
        "/v1/chat/../chat/completions",
    ],
)
def test_everything_else_is_not_found(route: str) -> None:
    assert match_route(route, "POST") is None
