"""The fence around connection tests."""

from __future__ import annotations

import httpx
import pytest
import trio

from tests.providers.fake_http import FakeHttp
from trustgate.providers.guard import AddressRefused, PublicOnly, is_public
from trustgate.providers.probe import Inline, probe
from trustgate.providers.services import Services

ADDRESSES = [
    ("8.8.8.8", True),
    ("2606:4700::1111", True),
    ("127.0.0.1", False),
    ("10.1.2.3", False),
    ("172.16.0.1", False),
    ("192.168.0.1", False),
    ("169.254.169.254", False),
    ("100.64.0.1", False),
    ("0.0.0.0", False),
    ("224.0.0.1", False),
    ("::1", False),
    ("fe80::1%eth0", False),
    ("fd00::1", False),
    ("::ffff:127.0.0.1", False),
    ("2002:7f00:1::", False),
    ("64:ff9b::a9fe:a9fe", False),
    ("64:ff9b::808:808", True),
    ("64:ff9b:1::a00:1", False),
    ("::127.0.0.1", False),
]


@pytest.mark.parametrize(("address", "public"), ADDRESSES)
def test_only_internet_addresses_are_public(address: str, public: bool) -> None:
    assert is_public(address) is public


async def test_a_fenced_test_does_not_reach_the_own_network() -> None:
    with FakeHttp() as upstream:
        account = Inline("openai", {"base_url": upstream.url}, {"type": "api_key", "api_key": {"api_key": "k"}})
        async with Services.open({}, public_probes_only=True) as services:
            answer = await probe(services, account)
        assert upstream.received == []
    assert (answer["stage"], answer["message"]) == ("connectivity", "could not reach provider: address not allowed")


class Resolver(trio.abc.HostnameResolver):
    """Every host has `addresses`."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]
        return [(2, 1, 6, "", (address, port)) for address in self.addresses]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


async def test_the_checked_address_is_the_one_that_is_used_with_the_hosts_name() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    trio.socket.set_custom_hostname_resolver(Resolver("8.8.8.8"))
    async with httpx.AsyncClient(transport=PublicOnly(httpx.MockTransport(answer))) as client:
        await client.get("https://api.example/v1/models")
    assert str(seen[0].url) == "https://8.8.8.8/v1/models"
    assert seen[0].headers["host"] == "api.example"
    assert seen[0].extensions["sni_hostname"] == "api.example"


async def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    trio.socket.set_custom_hostname_resolver(Resolver("8.8.8.8", "10.0.0.1"))
    async with httpx.AsyncClient(transport=PublicOnly(httpx.MockTransport(lambda r: httpx.Response(200)))) as client:
        with pytest.raises(AddressRefused):
            await client.get("https://api.example/")
