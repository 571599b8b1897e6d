"""What the harness can do to an installation: one frozen Struct per kind of step, and Hypothesis strategies of them.

What lives here: data and how it is drawn. Objects are named by small indexes, so that steps meet: many writes hit what
another has changed, and many are refused. What must not: carrying them out (`world`).
"""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import strategies as st

KINDS = ("registries", "consumers", "auths", "policies", "roles")
POOL = {"registries": 3, "consumers": 3, "auths": 3, "policies": 2, "roles": 2}
BEHAVIOURS = (
    "ok", "ok", "ok", "tools", "drop", "reset", "half-head", "half-body", "bad-chunk", "silent", "gzip",
    "error-inside", "html", "400", "401", "404", "429", "500", "503", "529", "429-now", "429-later", "stream-cut",
    "stream-reset", "stream-no-done", "stream-malformed", "stream-role-cut", "stream-empty", "stream-error-first",
    "stream-stall",
)  # fmt: skip
LIMIT, WINDOW_S = 3, 60


class Write(msgspec.Struct, frozen=True):
    """An Admin API write on the object `index` of a kind; `body` None deletes. Bodies refer to others as `@kind:n`."""

    gateway: int
    kind: str
    index: int
    body: dict[str, Any] | None
    create: bool = False


class Link(msgspec.Struct, frozen=True):
    """Attach (`on`) or detach `kind` `index` at consumer `consumer`."""

    gateway: int
    consumer: int
    kind: str
    index: int
    on: bool


class Raw(msgspec.Struct, frozen=True):
    """An Admin API request that cannot be carried out as it is: the bytes of the body are sent as they stand."""

    gateway: int
    method: str
    path: str
    body: bytes


class Chat(msgspec.Struct, frozen=True):
    """A chat completion by consumer `consumer` with `key`: the index of an auth, or `none`, `garbage`, `foreign`."""

    gateway: int
    consumer: int
    key: int | str
    stream: bool = False
    model: str = "m-up"
    manners: str = "good"
    body: bytes | None = None


class Burst(msgspec.Struct, frozen=True):
    """Steps at the same moment."""

    steps: tuple[Write | Link | Chat, ...]


class Jump(msgspec.Struct, frozen=True):
    """The clock steps forward."""

    seconds: float


class Restart(msgspec.Struct, frozen=True):
    """The process ends, drained or cut off, and starts again on what it stored."""

    crash: bool


Step = Write | Link | Raw | Chat | Burst | Jump | Restart

gateways = st.sampled_from([0, 0, 0, 1])


def index(kind: str) -> st.SearchStrategy[int]:
    return st.integers(0, POOL[kind] - 1)


def reference(kind: str) -> st.SearchStrategy[str]:
    return index(kind).map(lambda number: f"@{kind}:{number}")


names = st.sampled_from([f"n{number}" for number in range(6)])
odd = st.sampled_from(["", " ", "***", None, 7, [], {"x": 1}, "\u0000", "a" * 300])


def _registry(name: str, behaviour: str, auth: bool) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "provider": "openai_compatible",
        "provider_options": {"base_url": f"@upstream:{behaviour}", "headers": {"X-Mark": "@mark"}},
    }
    if auth:
        found["auth"] = {"type": "api_key", "api_key": {"api_key": "@secret"}}
    return found


registry_bodies = st.builds(_registry, names, st.sampled_from(BEHAVIOURS), st.just(True))
consumer_bodies = st.fixed_dictionaries(
    {"name": names},
    optional={
        "registries": st.lists(reference("registries").map(lambda ref: {"id": ref, "weight": 1}), max_size=2),
        "active": st.sampled_from([True, True, True, False]),
        "routing_mode": st.sampled_from(["inline", "inline", "role_based"]),
        "fallback": st.builds(
            lambda chain, pinned: {
                "enabled": True,
                "triggers": ["http_5xx", "timeout"],
                "chain": chain,
                "pinned": pinned,
            },
            st.lists(reference("registries"), max_size=2),
            st.sampled_from(["never", "same_model", "any"]),
        ),
        "type": st.sampled_from(["LLM", "LLM", "LLM", "MCP", "zz"]),
    },
)
auth_bodies = st.fixed_dictionaries(
    {"name": names, "type": st.sampled_from(["api_key", "api_key", "api_key", "oauth2"])},
    optional={"enabled": st.booleans()},
)
policy_bodies = st.one_of(
    st.builds(
        lambda name, on: {
            "name": name,
            "slug": "rate_limiter",
            "enabled": on,
            "settings": {"limit": LIMIT, "window": f"{WINDOW_S}s"},
        },
        names,
        st.sampled_from([True, True, False]),
    ),
    st.builds(
        lambda name: {
            "name": name,
            "slug": "model_allowlist",
            "enabled": True,
            "settings": {"allowed_models": ["m-up"]},
        },
        names,
    ),
)
role_bodies = st.fixed_dictionaries({"name": names})
BODIES = {
    "registries": registry_bodies,
    "consumers": consumer_bodies,
    "auths": auth_bodies,
    "policies": policy_bodies,
    "roles": role_bodies,
}


def broken(bodies: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """A body with one member replaced by something odd, or with an unknown member."""
    return st.builds(
        lambda body, name, value: body | {name: value},
        bodies,
        st.sampled_from(["name", "type", "provider", "registries", "settings", "active", "zzz", "enabled"]),
        odd,
    )


def writes_of(kind: str) -> st.SearchStrategy[Write]:
    bodies = st.one_of(BODIES[kind], BODIES[kind], broken(BODIES[kind]))
    return st.one_of(
        st.builds(Write, gateways, st.just(kind), index(kind), bodies, st.just(True)),
        st.builds(Write, gateways, st.just(kind), index(kind), bodies),
        st.builds(Write, gateways, st.just(kind), index(kind), st.none()),
    )


writes = st.one_of(*(writes_of(kind) for kind in KINDS))
links = st.sampled_from(["registries", "auths", "auths", "policies", "roles"]).flatmap(
    lambda kind: st.builds(
        Link, gateways, index("consumers"), st.just(kind), index(kind), st.sampled_from([True, True, False])
    )
)
raws = st.builds(
    Raw,
    gateways,
    st.sampled_from(["POST", "PUT", "PATCH"]),
    st.sampled_from(["", "/registries", "/consumers/not-an-id", "/policies", "/nothing"]),
    st.sampled_from([b"", b"{", b"[]", b'{"name":', b"\xff\xfe", b"[" * 2000, b'{"name":"a","name":"b"}', b"null"]),
)
keys = st.one_of(index("auths"), index("auths"), st.sampled_from(["none", "garbage", "foreign"]))
chats = st.builds(
    Chat,
    gateways,
    index("consumers"),
    keys,
    st.booleans(),
    st.sampled_from(["m-up", "m-up", "m-up", "other/model", "", "pool:x"]),
    st.sampled_from(["good", "good", "good", "leaves", "leaves-midway", "half-request"]),
    st.one_of(
        st.none(),
        st.none(),
        st.none(),
        st.sampled_from([b"{", b"[]", b"\xff", b"[" * 1500, b'{"model":7}', b'{"model":"m-up","n":1e999}']),
    ),
)
at_once = st.sampled_from([chats, chats, chats, writes, links]).flatmap(lambda chosen: chosen)
bursts = st.builds(Burst, st.lists(at_once, min_size=2, max_size=6).map(tuple))
jumps = st.builds(Jump, st.sampled_from([0.5, 5.0, 31.0, 61.0, 400.0]))
restarts = st.builds(Restart, st.booleans())
# Chosen by name first: `one_of` would flatten and give the kinds with many shapes most of the turns.
steps = st.sampled_from(
    [writes, writes, writes, links, links, chats, chats, chats, chats, raws, bursts, bursts, jumps, restarts]
).flatmap(lambda chosen: chosen)
scripts = st.lists(steps, min_size=12, max_size=40)


def opening() -> list[Step]:
    """A working installation to begin with, in both gateways: most steps should have something to hit."""
    found: list[Step] = []
    for gateway in (0, 1):
        for number, behaviour in enumerate(("ok", "503")):
            found.append(Write(gateway, "registries", number, _registry(f"n{number}", behaviour, True), True))
        consumer = {"name": "n0", "registries": [{"id": "@registries:0", "weight": 1}]}
        fallback = {"enabled": True, "triggers": ["http_5xx", "timeout"], "pinned": "same_model"}
        fallback |= {"chain": ["@registries:0"]}
        both = [{"id": f"@registries:{number}", "weight": 1} for number in (0, 1)]
        found.append(Write(gateway, "consumers", 0, consumer, True))
        found.append(Write(gateway, "consumers", 1, {"name": "n1", "registries": both, "fallback": fallback}, True))
        found.append(Write(gateway, "auths", 0, {"name": "n0", "type": "api_key"}, True))
        found += [Link(gateway, number, "auths", 0, True) for number in (0, 1)]
    return found
