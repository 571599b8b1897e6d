"""Carrying out steps: the harness's client, its upstreams, and the notes it takes for the invariants.

What lives here: turning a step into requests, and remembering what was asked and answered. What must not: judging it
(`invariants`), beyond what is needed to go on.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from typing import Any

import msgspec
import trio
import trio.testing
from tests.e2e.upstream import FaultyUpstream

from properties import steps
from properties.installation import Answer, Installation, send, token
from trustgate.domain.entities import GatewayState

TENANTS = ("acme", "globex")
WAIT_S = 900.0
"""Virtual: the clock is stepped while a request waits."""
_REAL_SLEEP = time.sleep


class Command(msgspec.Struct, frozen=True):
    """One Admin API write and its answer; `answer` None when the process was cut off meanwhile."""

    request_id: str
    gateway_id: str
    method: str
    path: str
    answer: Answer | None


class Called(msgspec.Struct, frozen=True):
    """One request to the proxy. `before` and `after`: the gateway's live state around it, None while none is served."""

    mark: str
    step: steps.Chat
    consumer_id: str
    auth_id: str
    slug: str
    key_gateway: str
    before: GatewayState | None
    after: GatewayState | None
    answer: Answer | None
    sent_at: float
    alone: bool
    run: int


class World:
    """The harness's view of one installation. Mutable; lives for one script."""

    def __init__(self, installation: Installation) -> None:
        self.installation = installation
        self.upstream = FaultyUpstream()
        self.gateways: list[dict[str, str]] = []
        self.ids: dict[tuple[int, str, int], str] = {}
        self.slugs: dict[str, str] = {}
        self.keys: dict[str, str] = {}
        """Plain API keys by auth id."""
        self.commands: list[Command] = []
        self.calls: list[Called] = []
        self.secrets: list[str] = []
        self.logs: Sequence[Any] = ()
        self.run = 0
        self._numbers = itertools.count(1)

    def close(self) -> None:
        self.upstream.close()

    async def open_gateways(self) -> None:
        for number, tenant in enumerate(TENANTS):
            answer = await self.admin(number, "POST", "/v1/gateways", {"slug": f"harness-{number}"}, tenant)
            assert answer is not None and answer.status == 201, answer
            self.gateways.append({"id": answer.json["id"], "slug": answer.json["slug"], "tenant": tenant})

    async def admin(
        self, gateway: int, method: str, path: str, body: Any, tenant: str = "", *, raw: bytes | None = None
    ) -> Answer | None:
        """An Admin API request with an id of its own, so that its events can be found."""
        number = next(self._numbers)
        known = self.gateways[gateway] if gateway < len(self.gateways) else {"id": "", "tenant": tenant}
        headers = {
            "Authorization": f"Bearer {token(known['tenant'])}",
            "X-Request-Id": f"cmd-{number}",
            "Content-Type": "application/json",
        }
        data = raw if raw is not None else b"" if body is None else msgspec.json.encode(self._resolved(gateway, body))
        answer: Answer | None = None
        with trio.move_on_after(WAIT_S):
            try:
                answer = await send(self.installation.ports["admin"], method, path, headers, data)
            except OSError:
                answer = None
        if method != "GET":
            self.commands.append(Command(f"cmd-{number}", known["id"], method, path, answer))
        return answer

    def _resolved(self, gateway: int, body: Any) -> Any:
        """References, upstream addresses, secrets and marks in place of their names."""
        if isinstance(body, dict):
            return {name: self._resolved(gateway, value) for name, value in body.items()}
        if isinstance(body, list):
            return [self._resolved(gateway, value) for value in body]
        if not isinstance(body, str) or not body.startswith("@"):
            return body
        kind, _, rest = body[1:].partition(":")
        if kind == "upstream":
            return self.upstream.url(rest)
        if kind == "mark":
            return f"mark-{next(self._numbers)}"
        if kind == "secret":
            self.secrets.append(f"sekret-{next(self._numbers)}-0123456789")
            return self.secrets[-1]
        return self.id_of(gateway, kind, int(rest))

    def id_of(self, gateway: int, kind: str, index: int) -> str:
        return self.ids.get((gateway, kind, index), "00000000-0000-4000-8000-000000000000")

    def base(self, gateway: int) -> str:
        return f"/v1/gateways/{self.gateways[gateway]['id']}"

    # One method per kind of step

    async def write(self, step: steps.Write) -> None:
        collection = f"{self.base(step.gateway)}/{step.kind}"
        if step.create:
            answer = await self.admin(step.gateway, "POST", collection, step.body)
            if answer is not None and answer.status == 201:
                made = answer.json
                self.ids[step.gateway, step.kind, step.index] = made["id"]
                self.slugs[made["id"]] = made.get("slug", "")
                if made.get("api_key"):
                    self.keys[made["id"]] = made["api_key"]
            return
        path = f"{collection}/{self.id_of(step.gateway, step.kind, step.index)}"
        await self.admin(step.gateway, "DELETE" if step.body is None else "PUT", path, step.body)

    async def link(self, step: steps.Link) -> None:
        consumer = self.id_of(step.gateway, "consumers", step.consumer)
        other = self.id_of(step.gateway, step.kind, step.index)
        path = f"{self.base(step.gateway)}/consumers/{consumer}/{step.kind}/{other}"
        await self.admin(step.gateway, "POST" if step.on else "DELETE", path, None)

    async def raw(self, step: steps.Raw) -> None:
        await self.admin(step.gateway, step.method, self.base(step.gateway) + step.path, None, raw=step.body)

    async def chat(self, step: steps.Chat, *, alone: bool) -> None:
        mark = f"call-{next(self._numbers)}"
        consumer = self.id_of(step.gateway, "consumers", step.consumer)
        auth, key_gateway, key = self._credential(step)
        headers = {
            "X-AG-Gateway-Slug": self.gateways[step.gateway]["slug"],
            "Content-Type": "application/json",
            **({"X-AG-API-Key": key} if key else {}),
        }
        body = step.body
        if body is None:
            message = {"role": "user", "content": mark}
            body = msgspec.json.encode({"model": step.model, "stream": step.stream, "messages": [message]})
        path = f"/{self.slugs.get(consumer, 'nobody')}/v1/chat/completions"
        gateway_id = self.gateways[step.gateway]["id"]
        before, sent_at = self.installation.live().get(gateway_id), self.installation.monotonic()
        answer: Answer | None = None
        with trio.move_on_after(WAIT_S):
            try:
                port = self.installation.ports["proxy"]
                answer = await send(port, "POST", path, headers, body, manners=step.manners)
            except OSError:
                answer = None
        after = self.installation.live().get(gateway_id)
        called = Called(
            mark, step, consumer, auth, self.slugs.get(consumer, ""), key_gateway, before, after, answer, sent_at,
            alone, self.run,
        )  # fmt: skip
        self.calls.append(called)

    def _credential(self, step: steps.Chat) -> tuple[str, str, str]:
        """The auth's id, its gateway's id, and the key in clear."""
        gateway = step.gateway
        if step.key == "none":
            return "", "", ""
        if step.key == "garbage":
            return "", "", "ag_" + "x" * 43
        if step.key == "foreign":
            gateway, number = 1 - gateway, 0
        else:
            assert isinstance(step.key, int)
            number = step.key
        auth = self.id_of(gateway, "auths", number)
        return auth, self.gateways[gateway]["id"], self.keys.get(auth, "ag_" + "y" * 43)

    async def perform(self, step: steps.Step, *, alone: bool = True) -> None:
        """Any step but `Restart`, which needs the installation's owner. A silent upstream ends by its deadline."""
        match step:
            case steps.Write():
                await self.write(step)
            case steps.Link():
                await self.link(step)
            case steps.Raw():
                await self.raw(step)
            case steps.Chat():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._hurry, nursery.cancel_scope)
                    await self.chat(step, alone=alone)
                    nursery.cancel_scope.cancel()
            case steps.Burst(steps=several):
                async with trio.open_nursery() as nursery:
                    for one in several:
                        nursery.start_soon(lambda one=one: self.perform(one, alone=False))
            case steps.Jump(seconds=seconds):
                self.installation.step(seconds)
                await trio.testing.wait_all_tasks_blocked(0.01)
            case _:
                raise AssertionError(step)

    async def _hurry(self, scope: trio.CancelScope) -> None:
        """Let the deadlines of a request pass that its upstream keeps waiting: real time would take minutes."""
        for _ in range(12):
            await trio.to_thread.run_sync(_REAL_SLEEP, 0.25, abandon_on_cancel=True)
            self.installation.step(40.0)
