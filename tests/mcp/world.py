"""The MCP plane in this process, on the real wire server and pool, over configuration given as entities."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.views import GATEWAY, T0, auth, consumer, state
from trustgate.domain.entities import MCPTarget, Registry
from trustgate.identity.jwks import FetchFailed, KeySets
from trustgate.identity.mcp import McpIdentityServices, authenticate
from trustgate.identity.sts import SigningKeys
from trustgate.identity.verify import Introspector
from trustgate.limits import MemoryLimits
from trustgate.limits.bus import LocalBus
from trustgate.limits.shared import LocalState
from trustgate.mcp.app import McpApp
from trustgate.mcp.attendance import Attendances
from trustgate.mcp.discovery import Discovery
from trustgate.mcp.ears import Ears
from trustgate.mcp.exchange import Exchange
from trustgate.mcp.hub import Hub
from trustgate.mcp.links import Credentials, Links
from trustgate.mcp.locate import AllowedHosts, BaseUrls
from trustgate.mcp.runtime import Runtimes
from trustgate.mcp.services import McpConfig, McpServices, Pages
from trustgate.mcp.sessions import Sessions
from trustgate.policies.engine import Chain, compile_chain
from trustgate.policies.plugin import Services as PolicyServices
from trustgate.view.gateway import Directory, GatewayView
from trustgate.view.model import RegistryView
from trustgate.wire.client import Pool
from trustgate.wire.server import Server, ServerConfig

KEY = "ag_" + "k" * 43
SLUG = "AbCd1234"
Headers = list[tuple[str, str]]


class Ready:
    draining = False

    def __init__(self) -> None:
        self.dependencies: dict[str, str] = {}

    def now(self) -> dict[str, str]:
        return self.dependencies

    def configuration(self) -> None:
        return None


class Heard:
    """The observer: finished exchanges and answered probes, in order."""

    def __init__(self) -> None:
        self.exchanges: list[Exchange] = []
        self.probes: list[tuple[str, str, int]] = []

    def finished(self, exchange: Exchange) -> None:
        self.exchanges.append(exchange)

    def probed(self, method: str, path: str, status: int) -> None:
        self.probes.append((method, path, status))


def registry(id_: str, url: str, name: str = "", **more: Any) -> Registry:
    target = MCPTarget(url, headers=more.pop("headers", {}), auth=more.pop("auth", {}), code=more.pop("code", ""))
    values: dict[str, Any] = {"gateway_id": GATEWAY, "created_at": T0, "updated_at": T0, "type": "MCP"}
    return Registry(id=id_, name=name or id_, mcp_target=target, **(values | more))


def api_key(id_: str = "a-1", key: str = KEY, **more: Any) -> Any:
    return auth(id_, "api_key", key_hash=hashlib.sha256(key.encode()).hexdigest(), **more)


class World:
    """Requests as clients send them; every answer is (status, headers by lower-case name, body)."""

    def __init__(
        self, port: int, directory: Directory, services: McpServices, heard: Heard, clock: list[float]
    ) -> None:
        self.port, self.directory, self.services, self.heard = port, directory, services, heard
        self._clock = clock

    def put(self, *entities: Any, version: int = 1, **gateway: Any) -> None:
        self.directory.put(GatewayView(state(*entities, version=version, **gateway), lambda ref: ref))

    def pass_time(self, seconds: float) -> None:
        """For what the plane remembers of upstreams' lists."""
        self._clock[0] += seconds

    async def send(
        self, body: Any = None, *, method: str = "POST", path: str = f"/{SLUG}/mcp", headers: Headers | None = None,
        key: str = KEY, **more: str,
    ) -> tuple[int, dict[str, str], bytes]:  # fmt: skip
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        lines = [f"{method} {path} HTTP/1.1", *(() if "Host" in more else ("Host: 127.0.0.1",)), "Connection: close"]
        lines += [f"{name}: {value}" for name, value in [*(headers or []), *more.items()]]
        if key:
            lines.append(f"X-AG-API-Key: {key}")
        lines.append(f"Content-Length: {len(data)}")
        stream = await trio.open_tcp_stream("127.0.0.1", self.port)
        async with stream:
            await stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + data)
            answer = b"".join([part async for part in stream])
        head, _, text = answer.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        return int(first.split(" ")[1]), {n.lower(): v for n, _, v in (f.partition(": ") for f in fields)}, text

    async def rpc(self, method: str, params: Any = None, **more: Any) -> Any:
        """The `result` of a request, or its `error`."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": 1, "method": method}
        if params is not None:
            message["params"] = params
        status, _, body = await self.send(message, **more)
        assert status == 200, (status, body)
        answer = json.loads(body)
        return answer["result"] if "result" in answer else answer["error"]

    async def tools(self) -> list[str]:
        return [tool["name"] for tool in (await self.rpc("tools/list"))["tools"]]

    async def call(self, name: str, **arguments: Any) -> Any:
        return await self.rpc("tools/call", {"name": name, "arguments": arguments})


SIGNING = SigningKeys("trustgate", [rsa.generate_private_key(public_exponent=65537, key_size=2048)])


async def nothing_there(url: str) -> Any:
    raise FetchFailed(url)


class PlainCredentials:
    """Upstreams without users' accounts."""

    async def headers_for(
        self, registry: RegistryView, caller: Any, consumer: Any, base_url: str
    ) -> list[tuple[bytes, bytes]]:
        return []

    async def refused(self, registry: RegistryView, caller: Any) -> bool:
        return False


@asynccontextmanager
async def world(
    *entities: Any,
    credentials: Credentials | None = None,
    chain: Callable[..., Chain] | None = None,
    catch_up: Callable[[World], Awaitable[None]] | None = None,
    discovery_timeout_s: float = 5.0,
    base_urls: BaseUrls | None = None,
    authenticating: Any = None,
    pages: Pages | None = None,
    allowed_hosts: AllowedHosts | None = None,
    **gateway: Any,
) -> AsyncIterator[World]:
    """A running plane; with no entities of its own a consumer and a key are added to registries given."""
    heard, limits, directory, clock = Heard(), MemoryLimits(), Directory(), [1000.0]
    policies = PolicyServices(limits=limits)
    shared = LocalState(trio.current_time)
    made: list[World] = []

    async def catching_up() -> None:
        if catch_up is not None:
            await catch_up(made[0])

    identity = McpIdentityServices(
        directory=directory,
        key_sets=KeySets(nothing_there, time.monotonic),
        introspector=Introspector(time.time),
        keys=SIGNING,
        now=time.time,
    )
    async with Pool() as pool, trio.open_nursery() as nursery:
        links = Links(pool, credentials or PlainCredentials(), nursery)
        discovery = Discovery(links, nursery, lambda: clock[0], discovery_timeout_s)
        sessions, hub = Sessions(shared, 3600.0, time.time), Hub(shared, LocalBus())
        nursery.start_soon(hub.run)
        services = McpServices(
            config=McpConfig(version="1.2.3"),
            directory=directory,
            catch_up=catching_up,
            base_urls=base_urls or BaseUrls(),
            authenticate=authenticating or partial(authenticate, identity),
            links=links,
            discovery=discovery,
            runtimes=Runtimes(chain or (lambda consumer, gateway: compile_chain(consumer, gateway, policies, "MCP"))),
            limits=limits,
            count=lambda name, labels: None,
            observer=heard,
            background=nursery,
            readiness=Ready(),
            pages=pages,
            sessions=sessions,
            hub=hub,
            attendances=Attendances(sessions, hub, Ears(links, discovery, hub, nursery), nursery),
            cors=None,
            allowed_hosts=allowed_hosts,
            now=time.time,
        )
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        server = Server(McpApp(services), ServerConfig())
        await nursery.start(lambda task_status: server.serve(listeners, task_status=task_status))
        port = listeners[0].socket.getsockname()[1]
        made.append(World(port, directory, services, heard, clock))
        if entities:
            made[0].put(*with_consumer(entities), **gateway)
        yield made[0]
        nursery.cancel_scope.cancel()


def with_consumer(entities: tuple[Any, ...]) -> tuple[Any, ...]:
    """A consumer over the registries given, and its key, unless there is one among the entities."""
    if any(type(entity).__name__ == "Consumer" for entity in entities):
        return entities
    ids = tuple(entity.id for entity in entities if isinstance(entity, Registry))
    return (*entities, consumer(SLUG, type="MCP", registry_ids=ids, auth_ids=("a-1",)), api_key())
