"""The credential headers of upstream MCP servers, by auth mode (spec 05 §7.1).

Here so far: `none` and `static`. Other modes are refused.
"""

from __future__ import annotations

from trustgate.identity.mcp import Caller
from trustgate.view.model import ConsumerView, RegistryView


class ConsentRequired(Exception):
    """The user must link an account of `provider` at `connect_url` first."""

    def __init__(self, provider: str, connect_url: str) -> None:
        super().__init__(provider)
        self.provider, self.connect_url = provider, connect_url


class InteractionRequired(Exception):
    """The identity provider wants the user to come by; the text is its description."""


class CredentialError(Exception):
    """No credential can be had; `code` is the JSON-RPC error code, the text is shown to the client."""

    def __init__(self, text: str, code: int = -32603) -> None:
        super().__init__(text)
        self.code = code


class UpstreamCredentials:
    async def headers_for(
        self, registry: RegistryView, caller: Caller, consumer: ConsumerView, base_url: str
    ) -> list[tuple[bytes, bytes]]:
        """Headers that override configured ones. Raises ConsentRequired, InteractionRequired, CredentialError."""
        assert registry.mcp_target is not None, "only MCP registries have upstream credentials"
        auth = registry.mcp_target.auth
        mode = auth.get("mode") or "none"
        if mode == "none":
            return []
        if mode == "static":
            return [(auth["header"].lower().encode(), auth["value"].encode())]
        raise CredentialError(f"mcp: auth mode {mode} is not available")

    async def refused(self, registry: RegistryView, caller: Caller) -> bool:
        """The upstream answered 401; True when new headers may do better."""
        return False
