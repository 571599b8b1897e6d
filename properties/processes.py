"""Real processes on one store, killed at random under a stream of Admin API writes: nothing is lost, nothing invented.

`python -m properties.processes [--postgres] [--kills N] [--seed S]`. Two admin processes and two proxies; clients write
through both admins and remember what was acknowledged. After every kill the process is started again. In the end each
acknowledged write is in the log exactly once, each refused one is not, the log folds without a hole, and every proxy
serves exactly the consumers that the log has.
"""

from __future__ import annotations

import argparse
import contextlib
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import httpx
import trio
from tests.e2e.installation import SECRET, environment, until_healthy
from tests.ports import free_port

from properties.installation import token
from trustgate.domain import events as ev
from trustgate.domain.entities import GatewayState
from trustgate.domain.evolve import EMPTY, evolve
from trustgate.store import PostgresConfig, gateway_of, open_store
from trustgate.store.model import Recorded

WRITERS = 4


class Plane:
    """One process of the installation, on a port of its own for life. Mutable: the process changes with every start."""

    def __init__(self, name: str, home: pathlib.Path, variables: Mapping[str, str]) -> None:
        self.name = name
        self.port = free_port()
        ports = (self.port, free_port()) if name == "admin" else (free_port(), self.port)
        self._environment = environment(home, *ports, variables)
        self._home = home
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._home / f"{self.name}-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "trustgate", self.name], cwd=self._home, env=self._environment,
                stdout=log, stderr=log,
            )  # fmt: skip
        until_healthy(self.port, self.process)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


class Writer(threading.Thread):
    """A client that creates, renames and deletes consumers until told to stop, and notes every answer."""

    def __init__(self, number: int, admins: Sequence[Plane], gateway: str, stop: threading.Event) -> None:
        super().__init__(daemon=True)
        self.statuses: dict[str, int] = {}
        """By request id; 0 where no answer came."""
        self._number, self._admins, self._gateway, self._stopping = number, admins, gateway, stop
        self._random = random.Random(number)

    def run(self) -> None:
        made: list[str] = []
        count = 0
        while not self._stopping.is_set():
            count += 1
            known = self._random.choice(made) if made else ""
            choice = self._random.random()
            name = {"name": f"w{self._number}-{count}"}
            if known and choice < 0.25:
                self._send(count, "PUT", f"/{known}", name)
            elif known and choice < 0.4:
                made.remove(known)
                self._send(count, "DELETE", f"/{known}", None)
            elif choice < 0.5:
                self._send(count, "POST", "", {"name": " "})
            else:
                answer = self._send(count, "POST", "", name)
                if answer is not None and answer.status_code == 201:
                    made.append(answer.json()["id"])

    def _send(self, count: int, method: str, path: str, body: Any) -> httpx.Response | None:
        request_id = f"w{self._number}-{count}"
        headers = {"Authorization": f"Bearer {_token()}", "X-Request-Id": request_id}
        port = self._random.choice(self._admins).port
        url = f"http://127.0.0.1:{port}{self._gateway}/consumers{path}"
        try:
            answer = httpx.request(method, url, json=body, headers=headers, timeout=10, trust_env=False)
        except httpx.HTTPError:
            self.statuses[request_id] = 0
            time.sleep(0.02)
            return None
        self.statuses[request_id] = answer.status_code
        return answer


def _token() -> str:
    return token("acme", SECRET)


def run(dsn: str, kills: int, seed: int) -> dict[str, int]:
    """Raises AssertionError when something was lost or invented. An empty `dsn` means one SQLite file."""
    rand = random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="trustgate-processes-") as name, contextlib.ExitStack() as stack:
        home = pathlib.Path(name)
        variables = _variables(dsn)
        admins = [Plane("admin", home, variables) for _ in range(2)]
        proxies = [Plane("proxy", home, variables) for _ in range(2)]
        for plane in (*admins, *proxies):
            plane.start()
            stack.callback(plane.kill)
        gateway = _create(admins[0], "/v1/gateways", {"slug": "shared"})
        stop = threading.Event()
        writers = [Writer(number, admins, f"/v1/gateways/{gateway['id']}", stop) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for _ in range(kills):
            victim = rand.choice([*admins, *proxies])
            time.sleep(0.2 + rand.random() * 0.3)
            victim.kill()
            victim.start()
        stop.set()
        for writer in writers:
            writer.join(20)
        statuses = {key: status for writer in writers for key, status in writer.statuses.items()}
        target = PostgresConfig.of_dsn(dsn) if dsn else home / "trustgate.db"
        state = trio.run(_check_log, target, gateway["id"], statuses)
        for proxy in proxies:
            _check_proxy(proxy, gateway["slug"], state)
    counted = Counter("acknowledged" if 200 <= status < 300 else "refused" if status else "unanswered"
                      for status in statuses.values())  # fmt: skip
    return {"kills": kills, "acknowledged": 0, **counted}


def _variables(dsn: str) -> dict[str, str]:
    if not dsn:
        return {}
    url = httpx.URL(dsn)
    return {
        "DB_HOST": url.host, "DB_PORT": str(url.port), "DB_USER": url.username, "DB_PASSWORD": "unused",
        "DB_NAME": url.path.lstrip("/"),
    }  # fmt: skip


def _create(admin: Plane, path: str, body: Any) -> Any:
    headers = {"Authorization": f"Bearer {_token()}"}
    url = f"http://127.0.0.1:{admin.port}{path}"
    answer = httpx.post(url, json=body, headers=headers, timeout=10, trust_env=False)
    assert answer.status_code == 201, answer.text
    return answer.json()


async def _check_log(target: Any, gateway_id: str, statuses: Mapping[str, int]) -> GatewayState:
    recorded: list[Recorded] = []
    async with open_store(target, SECRET) as store:
        while batch := await store.read_all(recorded[-1].position if recorded else 0):
            recorded += batch
    positions: dict[str, list[int]] = {}
    state = EMPTY
    for one in recorded:
        event = ev.decode(one.data, one.position)
        if gateway_of(one.stream) == gateway_id:
            state = evolve(state, event)
            assert state.version == one.version, f"hole at {one.position}"
            positions.setdefault(event.meta.request_id, []).append(one.position)
    for request_id, status in statuses.items():
        found = len(positions.get(request_id, []))
        if 200 <= status < 300:
            assert found == 1, f"{request_id} was acknowledged and is in the log {found} times"
        elif status:
            assert found == 0 or status >= 500, f"{request_id} was refused with {status} and is in the log"
    return state


def _check_proxy(proxy: Plane, slug: str, state: GatewayState) -> None:
    """Consumers without a credential answer 403 where they exist, and 404 where they don't."""
    known = [consumer.slug for consumer in state.consumers.values()]
    for name in (*known[:20], "zzzzzzzz"):
        url = f"http://127.0.0.1:{proxy.port}/{name}/v1/chat/completions"
        headers = {"X-AG-Gateway-Slug": slug, "X-AG-API-Key": "ag_" + "x" * 43}
        answer = httpx.post(url, json={"model": "m"}, headers=headers, timeout=10, trust_env=False)
        assert answer.status_code == (403 if name in known else 404), f"{name}: {answer.status_code} {answer.text}"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    from tests.services import run_postgres

    with run_postgres() as dsn:
        yield dsn


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m properties.processes", description=__doc__)
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with postgres() if options.postgres else contextlib.nullcontext("") as dsn:
        print(run(dsn, options.kills, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
