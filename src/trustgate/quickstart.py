"""The six calls from nothing to a first answer: gateway, registry, consumer, key, attach, completion.

A client of a running instance's public APIs only, with nothing that a user with curl could not do. Used by
`trustgate quickstart` and `trustgate dev`, which print what it reports.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import httpx
import jwt
import msgspec
from msgspec import Struct

from trustgate.loopback import MODEL as LOOPBACK_MODEL

# Environment variable of the key, a cheap model, for providers that need nothing but a key.
PROVIDERS: dict[str, tuple[str, str]] = {
    "openai": ("OPENAI_API_KEY", "gpt-4o-mini"),
    "anthropic": ("ANTHROPIC_API_KEY", "claude-3-5-haiku-latest"),
    "google": ("GEMINI_API_KEY", "gemini-2.0-flash"),
    "mistral": ("MISTRAL_API_KEY", "mistral-small-latest"),
    "groq": ("GROQ_API_KEY", "llama-3.1-8b-instant"),
    "deepseek": ("DEEPSEEK_API_KEY", "deepseek-chat"),
    "xai": ("XAI_API_KEY", "grok-3-mini"),
    "openrouter": ("OPENROUTER_API_KEY", "openai/gpt-4o-mini"),
    "cohere": ("COHERE_API_KEY", "command-r7b-12-2024"),
}


class QuickstartError(Exception):
    """A call did not give what the next one needs; the text says which and why."""


class Upstream(Struct, frozen=True):
    """The registry that the quickstart creates."""

    name: str
    provider: str
    api_key: str
    model: str
    options: dict[str, str]


class Demo(Struct, frozen=True):
    """A working set-up, enough to call it again."""

    proxy_url: str
    gateway_id: str
    gateway_slug: str
    consumer_slug: str
    api_key: str
    model: str

    def curl(self) -> str:
        """One line to paste into a shell."""
        body = msgspec.json.encode(hello(self.model)).decode()
        return (
            f"curl -s {self.proxy_url}/{self.consumer_slug}/v1/chat/completions"
            f" -H 'X-AG-Gateway-Slug: {self.gateway_slug}' -H 'X-AG-API-Key: {self.api_key}'"
            f" -H 'Content-Type: application/json' -d '{body}'"
        )


def hello(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}


def mint_token(secret: str, *, tenant: str | None, ttl_s: float, user: str = "admin") -> str:
    """An Admin API token (HS256): of one tenant, or of the platform when `tenant` is None."""
    now = int(time.time())
    claims: dict[str, Any] = {"sub": user, "user_id": user, "iat": now, "exp": now + int(ttl_s)}
    claims |= {"platform_admin": True} if tenant is None else {"tenant_id": tenant}
    return jwt.encode(claims, secret, algorithm="HS256")


def choose_upstream(environ: Mapping[str, str], provider: str | None, key_variable: str | None) -> Upstream | None:
    """The provider asked for, or the first whose key is in the environment; None when there is no key."""
    for name in [provider] if provider else PROVIDERS:
        if name not in PROVIDERS:
            raise QuickstartError(f"unknown provider {name}; one of {', '.join(PROVIDERS)}")
        variable, model = PROVIDERS[name]
        key = environ.get(key_variable or variable)
        if key:
            return Upstream(f"{name}-primary", name, key, model, {})
        if provider:
            raise QuickstartError(f"{key_variable or variable} is not set")
    return None


def loopback_upstream(base_url: str) -> Upstream:
    return Upstream("loopback", "openai_compatible", "loopback", LOOPBACK_MODEL, {"base_url": base_url})


class Quickstart:
    """Performs the calls; `show` receives one line before and one after each."""

    def __init__(self, admin_url: str, proxy_url: str, token: str, show: Callable[[str], None]) -> None:
        self._proxy_url = proxy_url.rstrip("/")
        self._admin_url = admin_url.rstrip("/")
        self._authorization = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(timeout=60, trust_env=False)
        self._show = show
        self._number = 0

    def __enter__(self) -> "Quickstart":
        return self

    def __exit__(self, *exception: object) -> None:
        self._client.close()

    def has_gateways(self) -> bool:
        """Whether this tenant has configured anything yet."""
        listed = self._client.get(f"{self._admin_url}/v1/gateways", headers=self._authorization)
        if listed.status_code != 200:
            raise QuickstartError(f"the list of gateways answers {listed.status_code}: {listed.text.strip()}")
        return bool(listed.json()["items"])

    def run(self, upstream: Upstream, gateway_slug: str | None) -> Demo:
        """All six calls; raises QuickstartError at the first that fails, httpx.HTTPError when nobody answers."""
        gateway = self._create_gateway(gateway_slug)
        scope = f"/v1/gateways/{gateway['id']}"
        wanted: dict[str, Any] = {
            "name": upstream.name,
            "provider": upstream.provider,
            "auth": {"type": "api_key", "api_key": {"api_key": upstream.api_key}},
        }
        if upstream.options:
            wanted["provider_options"] = upstream.options
        registry = self._admin("upstream provider", f"{scope}/registries", wanted)
        consumer = self._admin(
            "consumer bound to it", f"{scope}/consumers", {"name": "my-app", "registries": [{"id": registry["id"]}]}
        )
        auth = self._admin("API key (shown once)", f"{scope}/auths", {"name": "my-app-key", "type": "api_key"})
        self._admin("attach the key", f"{scope}/consumers/{consumer['id']}/auths/{auth['id']}", None)
        demo = Demo(self._proxy_url, gateway["id"], gateway["slug"], consumer["slug"], auth["api_key"], upstream.model)
        self.complete(demo)
        return demo

    def _create_gateway(self, slug: str | None) -> dict[str, Any]:
        body = {"slug": slug} if slug else {}
        try:
            return self._admin("gateway", "/v1/gateways", body)
        except _Conflict:
            self._number = 0
            self._show(f"  the slug {slug} is taken; letting the gateway choose one")
            return self._admin("gateway", "/v1/gateways", {})

    def complete(self, demo: Demo) -> str:
        """The sixth call: a completion through the proxy; returns the answer's text."""
        path = f"/{demo.consumer_slug}/v1/chat/completions"
        self._announce("call the proxy", "POST", path)
        response = self._client.post(
            demo.proxy_url + path,
            headers={"X-AG-Gateway-Slug": demo.gateway_slug, "X-AG-API-Key": demo.api_key},
            json=hello(demo.model),
        )
        if response.status_code != 200:
            raise QuickstartError(f"the completion answers {response.status_code}: {response.text.strip()}")
        try:
            text = response.json()["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise QuickstartError(f"the completion has an unexpected form: {response.text[:500]}") from error
        self._show(f"  {response.status_code}  {text}")
        return str(text)

    def _admin(self, what: str, path: str, body: Mapping[str, Any] | None) -> dict[str, Any]:
        self._announce(what, "POST", path)
        response = self._client.post(self._admin_url + path, headers=self._authorization, json=body)
        if response.status_code == 409:
            raise _Conflict(f"{what}: {response.text.strip()}")
        if response.status_code not in (200, 201, 204):
            raise QuickstartError(f"{what}: POST {path} answers {response.status_code}: {response.text.strip()}")
        answer = msgspec.json.decode(response.content, type=dict[str, Any]) if response.content else {}
        self._show(f"  {response.status_code}" + (f"  id {answer['id']}" if "id" in answer else ""))
        return answer

    def _announce(self, what: str, method: str, path: str) -> None:
        self._number += 1
        self._show(f"{self._number}. {what}: {method} {path}")


class _Conflict(QuickstartError):
    pass
