"""TrustGate: a gateway between applications or agents and the LLM providers and MCP servers they use."""

__version__ = "0.1.0"
