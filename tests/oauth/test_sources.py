"""Whom a limit per source counts."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from trustgate.oauth.http import Request, header_map
from trustgate.oauth.sources import source_of

TRUSTED = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]


@pytest.mark.parametrize(
    ("peer", "forwarded", "source"),
    [
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4"], "1.2.3.4"),
        ("9.9.9.9", ["1.2.3.4"], "9.9.9.9"),  # not a trusted proxy
        ("10.0.0.1", ["6.6.6.6, 1.2.3.4, 10.0.0.9"], "1.2.3.4"),  # the right-most that is none of ours
        ("10.0.0.1", ["6.6.6.6", "1.2.3.4"], "1.2.3.4"),  # a proxy that adds a line of its own
        ("10.0.0.1", ["nonsense, 1.2.3.4"], "1.2.3.4"),  # hops that are not looked at may be anything
        ("10.0.0.1", ["1.2.3.4, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["1.2.3.4:80"], "10.0.0.1"),
        ("10.0.0.1", ["10.0.0.2, 10.0.0.3"], "10.0.0.1"),
        ("10.0.0.1", [", ".join(["1.2.3.4"] * 16)], "1.2.3.4"),
        ("10.0.0.1", [", ".join(["1.2.3.4"] * 17)], "10.0.0.1"),
        ("10.0.0.1", [" " * 2042 + "1.2.3.4"], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:1.2.3.4"], "1.2.3.4"),  # one spelling for an address
        ("fd00::1", ["2001:DB8:0::1"], "2001:db8::1"),
        ("", ["1.2.3.4"], ""),
    ],
)
def test_the_source_of_a_request(peer: str, forwarded: list[str], source: str) -> None:
    headers = header_map((b"x-forwarded-for", line.encode()) for line in forwarded)
    request = Request(
        method="POST", path="/x/connect", query_string=b"", headers=headers, body=b"", peer_ip=peer, base_url="http://h"
    )
    assert source_of(request, TRUSTED) == source
