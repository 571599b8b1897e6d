"""Which redirect URIs there are, which of them are the same, and what people are shown of them."""

from __future__ import annotations

import pytest

from trustgate.oauth.http import redirect, with_query
from trustgate.oauth.redirects import acceptable, destination, registered


@pytest.mark.parametrize(
    ("uri", "fine"),
    [
        ("https://app.example/cb", True),
        ("https://app.example", True),
        ("HTTPS://app.example:8443/cb?x=1", True),
        ("https:///cb", False),
        ("https://", False),
        ("https:app.example", False),
        ("https://app.example/cb#f", False),
        ("https://app.example/cb#", False),
        ("https://app.example:x/cb", False),
        ("http://localhost/cb", True),
        ("http://127.0.0.1:1234/cb", True),
        ("http://[::1]:80/cb", True),
        ("http://127.0.0.2/cb", False),
        ("http://localhost.evil.example/cb", False),
        ("http://localhost@evil.example/cb", False),
        ("http://evil.example\\@localhost/cb", False),
        ("http://evil.example/cb", False),
        ("com.example.app:/cb", True),
        ("cursor://x/cb", True),
        ("app:opaque", True),
        ("app:", False),
        ("app://", False),
        ("app:/cb#f", False),
        ("javascript:alert(1)", False),
        ("JavaScript:alert(1)", False),
        ("java\tscript:alert(1)", False),
        (" https://app.example/cb", False),
        ("data:text/html,x", False),
        ("file:///etc/passwd", False),
        ("vbscript:x", False),
        ("blob:x", False),
        ("about:blank", False),
        ("chrome://settings", False),
        ("devtools://x", False),
        ("/cb", False),
        ("//app.example/cb", False),
        ("", False),
    ],
)
def test_what_a_redirect_uri_may_be(uri: str, fine: bool) -> None:
    assert acceptable(uri) is fine


@pytest.mark.parametrize(
    ("uri", "same"),
    [
        ("https://app.example/cb", True),
        ("https://app.example:443/cb", False),
        ("https://app.example/cb?x=1", False),
        ("https://APP.example/cb", False),
        ("http://127.0.0.1/cb", True),
        ("http://127.0.0.1:50000/cb", True),
        ("http://localhost:50000/cb", False),
        ("http://127.0.0.1:50000/cb?x=1", False),
        ("http://127.0.0.1:50000/other", False),
        ("http://x@127.0.0.1:50000/cb", False),
        ("http://127.0.0.1:50000/cb#x", False),
        ("https://127.0.0.1:50000/cb", False),
    ],
)
def test_registered_uris_match_exactly_but_for_a_loopback_port(uri: str, same: bool) -> None:
    assert registered(uri, ["https://app.example/cb", "http://127.0.0.1:1234/cb"]) is same


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("https://trusted.example@evil.example/cb", "evil.example"),
        ("http://127.0.0.1:9/cb", "127.0.0.1:9"),
        ("cursor://anysphere.cursor-mcp/cb", "cursor://anysphere.cursor-mcp"),
        ("com.example.app:/cb", "com.example.app://"),
    ],
)
def test_people_are_shown_where_a_code_goes(uri: str, shown: str) -> None:
    assert destination(uri) == shown


def test_a_redirect_keeps_letters_beyond_ascii() -> None:
    ((_, where),) = redirect(with_query("https://b\u00fccher.example/\u4f8b", {"code": "1"})).headers
    assert where.decode() == "https://b\u00fccher.example/\u4f8b?code=1"
