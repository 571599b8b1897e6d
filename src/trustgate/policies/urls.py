"""Why a text is not a URL, in the words that operators of the existing TrustGate know. Pure; no text is changed."""

from __future__ import annotations

import re

from trustgate.policies.durations import quote

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_NOT_OF_A_HOST = re.compile(r"[^A-Za-z0-9\-._~!$&'()*+,;=:\[\]<>\"%\x80-\U0010ffff]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_PORT = re.compile(r":[0-9]*")


def url_problem(text: str) -> str | None:
    """What a parser of URLs says about `text`; None when it can be read (it may still be relative)."""
    text, _, fragment = text.partition("#")
    problem = _problem(text) or _escapes(fragment)
    return f"parse {quote(text)}: {problem}" if problem else None


def _problem(text: str) -> str | None:
    if _CONTROL.search(text):
        return "net/url: invalid control character in URL"
    if text.startswith(":"):
        return "missing protocol scheme"
    scheme = _SCHEME.match(text)
    rest = text[scheme.end() :] if scheme else text
    rest = rest.partition("?")[0]
    if scheme is None and ":" in rest.partition("/")[0]:
        return "first path segment in URL cannot contain colon"
    if not rest.startswith("//"):
        return _escapes(rest)
    authority, _, path = rest[2:].partition("/")
    return _host_problem(authority.rpartition("@")[2]) or _escapes(path)


def _host_problem(host: str) -> str | None:
    if host.startswith("["):
        address, bracket, port = host.rpartition("]")
        if not bracket:
            return "missing ']' in host"
        host = address
    else:
        name, colon, port = host.rpartition(":")
        host, port = (name, colon + port) if colon else (port, "")
    if port and not _PORT.fullmatch(port):
        return f"invalid port {quote(port)} after host"
    wrong = _NOT_OF_A_HOST.search(host)
    return f"invalid character {quote(wrong.group())} in host name" if wrong else _escapes(host)


def _escapes(text: str) -> str | None:
    wrong = _BAD_ESCAPE.search(text)
    return f"invalid URL escape {quote(wrong.group())}" if wrong else None
