"""Which redirect URIs an authorization code may be sent to (spec 05 §8.3, §8.4; RFC 8252). Pure."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import SplitResult, urlsplit

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
DANGEROUS = frozenset({"javascript", "data", "file", "vbscript", "blob", "about", "chrome", "devtools"})
CURSOR = "cursor://anysphere.cursor-mcp/oauth/callback"
"""The one private-use URI that may be used without registration."""

APPLICATIONS = {
    "cursor": "Cursor",
    "vscode": "VS Code",
    "vscode-insiders": "VS Code Insiders",
    "windsurf": "Windsurf",
    "zed": "Zed",
    "claude": "Claude",
    "jetbrains": "your JetBrains IDE",
    "chatgpt": "ChatGPT",
    "cline": "Cline",
}


def parts_of(uri: str) -> SplitResult | None:
    """The parts of an absolute URI; None for what is none, or holds characters that no URI has."""
    if any(char <= " " or char == "\x7f" or char == "\\" for char in uri):
        return None
    try:
        parts = urlsplit(uri)
        if parts.scheme in ("http", "https"):
            _ = parts.port
    except ValueError:
        return None
    return parts if parts.scheme else None


def acceptable(uri: str) -> bool:
    """https with a host, http on loopback, or a private-use URI; never with a fragment."""
    parts = parts_of(uri)
    if parts is None or "#" in uri:
        return False
    if parts.scheme == "https":
        return bool(parts.hostname)
    if parts.scheme == "http":
        return (parts.hostname or "") in LOOPBACK
    return parts.scheme not in DANGEROUS and bool(parts.netloc or parts.path)


def is_web(uri: str) -> bool:
    parts = parts_of(uri)
    return parts is not None and parts.scheme in ("http", "https")


def registered(uri: str, known: Iterable[str]) -> bool:
    """Exact match; of a loopback URI the port may differ (RFC 8252 §7.3)."""
    known = tuple(known)
    if uri in known:
        return True
    bare = without_port(uri)
    return bare is not None and any(without_port(other) == bare for other in known)


def without_port(uri: str) -> tuple[str, str, str, str] | None:
    """What must be equal of two loopback URIs; None for others."""
    parts = parts_of(uri)
    if parts is None or parts.scheme != "http" or (parts.hostname or "") not in LOOPBACK or "#" in uri or "@" in uri:
        return None
    return (parts.scheme, parts.hostname or "", parts.path, parts.query)


def destination(uri: str) -> str:
    """Where a code goes, for people to judge: the host, without a user that could pose as one; else the scheme."""
    parts = parts_of(uri)
    if parts is None:
        return ""
    host = parts.netloc.rpartition("@")[2]
    return host if is_web(uri) else f"{parts.scheme}://{host}"


def application(uri: str) -> str:
    """Who owns a private-use URI, for people."""
    parts = parts_of(uri)
    return APPLICATIONS.get(parts.scheme if parts else "", "your application")
