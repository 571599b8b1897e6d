"""The engine: which policies run at a stage, in which order, and what their results mean together.

What lives here: compiling a consumer's chain (spec 04 §3-4), running a stage's batches (§5) and turning results into
one outcome (§6-8). What must not: anything a single plugin does.

Rules of a batch:
- members see the same request and answer; nothing of the batch is applied before all of it has run;
- members that cannot block run first and straight through, a task is started only where something waits beside
  something else that waits;
- the first failing member in batch order decides. A failure cancels only members behind it, so two failing members
  give the same answer whatever their speed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Any

import msgspec
import structlog
import trio

from trustgate.formats.nesting import too_deep
from trustgate.policies import registry
from trustgate.policies.holdback import HoldBack, Judge, Said
from trustgate.policies.model import (
    RUN_STAGES,
    Effect,
    Mark,
    Outcome,
    PolicyRequest,
    PolicyResponse,
    Run,
    reject,
)
from trustgate.policies.plugin import REQUEST_BODY, RESPONSE_BODY, Binding, Plugin, PolicyError, Services
from trustgate.policies.settings import SettingsError
from trustgate.view.model import ConsumerView, GatewayIdentity, Policy

log = structlog.get_logger("trustgate.policies")

POST_RESPONSE_LIMIT_S = 30.0
RELEASE_LIMIT_S = 2.0
STAGE_FAILED = "pre_response plugin stage failed"
TOO_DEEP = "the request body is nested too deeply"

Call = Callable[..., Awaitable[Effect | None]]
Watch = Callable[[PolicyRequest, Mark], HoldBack | None]
"""Holds a streamed answer back while it is judged; None where the policy does not want to."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One policy at one stage, ready to run."""

    slug: str
    policy_id: str
    priority: int
    parallel: bool
    plugin: Plugin
    observe: bool
    waits: bool
    stage: str
    call: Call
    watch: Watch | None = None


Batch = tuple[Entry, ...]


class Chain:
    """A consumer's policies, compiled for one plane. Immutable, shared by all requests of a view."""

    __slots__ = (
        "_blocking_pre_response",
        "_plane",
        "_post_response",
        "_post_response_waits",
        "_pre_request",
        "_pre_response",
        "_reads_request",
        "_watching",
        "has_post_response",
        "has_pre_request",
        "has_pre_response",
    )

    def __init__(self, plane: str, stages: dict[str, tuple[Batch, ...]]) -> None:
        self._plane = plane
        self._pre_request = stages.get("pre_request", ())
        self._pre_response = stages.get("pre_response", ())
        self._post_response = stages.get("post_response", ()) if plane == "LLM" else ()
        self._blocking_pre_response = any(not entry.observe for batch in self._pre_response for entry in batch)
        self._reads_request = any(_reads(entry) for batch in self._pre_request for entry in batch)
        self._post_response_waits = any(entry.waits for batch in self._post_response for entry in batch)
        self._watching = tuple(entry for batch in self._pre_response for entry in batch if entry.watch is not None)
        self.has_pre_request = bool(self._pre_request)
        self.has_pre_response = bool(self._pre_response)
        self.has_post_response = bool(self._post_response)

    @property
    def empty(self) -> bool:
        return not (self.has_pre_request or self.has_pre_response or self.has_post_response)

    async def pre_request(self, request: PolicyRequest, run: Run) -> Outcome | None:
        """Run the stage; may replace `request.body` and append to `run.headers`. None: the request goes on.

        An `error` outcome is an infrastructure failure: 502 on the LLM plane, ignored on the MCP plane. A body that is
        nested so deep that a policy might be unable to read it, and let it pass, is refused.
        """
        if self._reads_request and too_deep(request.body):
            body = {"error": "invalid_request", "message": TOO_DEEP}
            return reject(400, TOO_DEEP, type="invalid_request", body=body).outcome
        for batch in self._pre_request:
            effects = await _run_batch(batch, (request, run), run)
            outcome = _first_failure(effects)
            if outcome is not None:
                return outcome
            outcome = _apply_to_request(batch, effects, request, run)
            if outcome is not None:
                outcome.headers = list(run.headers)
                return outcome
        return None

    async def pre_response(self, request: PolicyRequest, response: PolicyResponse, run: Run) -> Outcome | None:
        """Run the stage on an answer; may replace `response.body` and `.status` and append to `response.headers`.

        A 2xx stop replaces the body and the chain goes on, so that guards see what rewriters made. Another stop ends
        the stage: on the LLM plane the answer then carries its status and body and None is returned, on the MCP plane
        the outcome is returned. A plain error is a 502 rejection on the LLM plane unless all policies of the stage
        only observe; on the MCP plane an `error` outcome, which the plane ignores.
        """
        for batch in self._pre_response:
            effects = await _run_batch(batch, (request, response, run), run)
            outcome = _first_failure(effects)
            if outcome is not None:
                return self._failed_answer(outcome)
            outcome = _apply_to_response(effects, response)
            if outcome is not None:
                return outcome if self._plane == "MCP" else None
        return None

    def watch(self, request: PolicyRequest, run: Run) -> list[HoldBack]:
        """Those who inspect a streamed answer as it flows, in their order; most chains have none."""
        found: list[HoldBack] = []
        for entry in self._watching:
            mark = Mark(name=entry.slug, stage=entry.stage, policy_id=entry.policy_id)
            assert entry.watch is not None
            gate = entry.watch(request, mark)
            if gate is not None:
                gate.judge = _watched(entry, mark, gate.judge)
                run.marks.append(mark)
                found.append(gate)
        return found

    def _failed_answer(self, outcome: Outcome) -> Outcome | None:
        if outcome.kind != "error" or self._plane == "MCP":
            return outcome
        if not self._blocking_pre_response:
            return None
        return Outcome(kind="reject", status=502, message=STAGE_FAILED, slug=outcome.slug)

    async def post_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, *, charge_only: bool = False
    ) -> None:
        """Run the stage after the answer, at most 30 s; errors are logged and end nothing.

        `charge_only` runs just those that charge usage: for an answer that was produced and then blocked, and by
        itself for a stream whose text is not complete.
        """
        charge_only = charge_only or not response.complete
        if not self._post_response_waits:
            await self._after(request, response, run, charge_only)
            return
        with trio.move_on_after(POST_RESPONSE_LIMIT_S) as scope:
            await self._after(request, response, run, charge_only)
        if scope.cancelled_caught:
            log.warning("post_response took too long", limit_s=POST_RESPONSE_LIMIT_S)

    async def _after(self, request: PolicyRequest, response: PolicyResponse, run: Run, charge_only: bool) -> None:
        for batch in self._post_response:
            for entry in batch:
                if entry.plugin.charges or not charge_only:
                    await _attempt(entry, (request, response, run), _mark(entry, run))

    async def release(self, run: Run) -> None:
        """Give back what the request still holds. Call when it ends without `post_response`; safe when cancelled."""
        if not run.holds:
            return
        holds, run.holds = run.holds, []
        with trio.CancelScope(shield=True), trio.move_on_after(RELEASE_LIMIT_S):
            for hold in holds:
                try:
                    await hold.release()
                except Exception as error:
                    log.warning("a reservation was not released and will lapse", error=type(error).__name__)


def _reads(entry: Entry) -> bool:
    """Whether a policy must not be evaded by a body that it cannot read."""
    return not entry.observe and (entry.plugin.inspects or REQUEST_BODY in entry.plugin.capabilities)


EMPTY_CHAIN = Chain("LLM", {})


def compile_chain(
    consumer: ConsumerView, gateway: GatewayIdentity, services: Services, plane: str | None = None
) -> Chain:
    """The chain of a consumer; do it once per version of its view.

    `plane` is `LLM` or `MCP`, by default that of the consumer's type. Unknown plugins, and on the MCP plane those that
    don't support it, are left out. A policy whose settings no longer fit fails at run time, as a plain error.
    """
    if not consumer.policies:
        return EMPTY_CHAIN
    plane = plane or ("MCP" if consumer.type == "MCP" else "LLM")
    entries: dict[str, list[Entry]] = {stage: [] for stage in RUN_STAGES}
    seen: set[str] = set()
    for policy in consumer.policies:
        plugin = registry.PLUGINS.get(policy.slug)
        if plugin is None:
            log.warning("policy skipped: unknown plugin", policy_id=policy.id, slug=policy.slug)
            continue
        if policy.id in seen or not policy.enabled or (plane == "MCP" and "MCP" not in plugin.protocols):
            continue
        seen.add(policy.id)
        for entry in _compile_policy(policy, plugin, consumer, gateway, services, plane):
            entries[entry.stage].append(entry)
    return Chain(plane, {stage: cut_batches(stage, found) for stage, found in entries.items()})


def effective_stages(plugin: Plugin, stages: tuple[str, ...]) -> frozenset[str]:
    """The mandatory stages and those of the operator's that the plugin supports (spec 04 §2)."""
    return frozenset(plugin.mandatory) | (frozenset(stages) & frozenset(plugin.supported))


def _compile_policy(
    policy: Policy, plugin: Plugin, consumer: ConsumerView, gateway: GatewayIdentity, services: Services, plane: str
) -> list[Entry]:
    dimension = "global" if consumer.policy_scopes.get(policy.id) == "global" else "consumer"
    stages = effective_stages(plugin, policy.stages)
    binding = Binding(
        policy_id=policy.id,
        mode=policy.mode or "enforce",
        dimension=dimension,
        subject=gateway.id if dimension == "global" else consumer.id,
        gateway_id=gateway.id,
        consumer_id=consumer.id,
        stages=stages,
        plane=plane,
        services=services,
    )
    runner: Any
    try:
        runner = plugin.build(registry.decode_settings(plugin, policy.settings), binding)
    except (SettingsError, PolicyError) as error:
        log.error("policy cannot be compiled", policy_id=policy.id, slug=policy.slug, error=str(error))
        runner = _Broken(str(error))
    return [
        Entry(
            slug=policy.slug,
            policy_id=policy.id,
            priority=policy.priority,
            parallel=policy.parallel,
            plugin=plugin,
            observe=binding.mode == "observe",
            waits=runner.waits,
            stage=stage,
            call=getattr(runner, stage),
            watch=getattr(runner, "watch_stream", None) if stage == "pre_response" else None,
        )
        for stage in RUN_STAGES
        if stage in stages and hasattr(runner, stage)
    ]


class _Broken:
    """Stands for a policy that could not be compiled: fails like one that lost its backend."""

    waits = False

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        raise PolicyError(self._reason)

    async def pre_response(
        self, request: PolicyRequest, response: PolicyResponse, run: Run, mark: Mark
    ) -> Effect | None:
        raise PolicyError(self._reason)


def cut_batches(stage: str, entries: list[Entry]) -> tuple[Batch, ...]:
    """Sort a stage's entries and cut them into batches that run one after another (spec 04 §4)."""
    batches: list[list[Entry]] = []
    open_: list[Entry] = []
    used: set[str] = set()
    body = REQUEST_BODY if stage == "pre_request" else RESPONSE_BODY
    for entry in sorted(entries, key=lambda entry: (entry.priority, entry.slug.encode(), entry.policy_id)):
        if not entry.parallel:
            batches.append([entry])
            open_ = []
            continue
        clash = entry.plugin.capabilities & used
        # A pure inspector must see what a writer before it made of the body.
        behind_writer = entry.plugin.inspects and body in used
        if open_ and open_[0].priority == entry.priority and not clash and not behind_writer:
            open_.append(entry)
            used |= entry.plugin.capabilities
            continue
        if open_ and open_[0].priority == entry.priority and clash:
            log.warning("policy starts a new batch", stage=stage, slug=entry.slug, capability=min(clash))
        open_, used = [entry], set(entry.plugin.capabilities)
        batches.append(open_)
    return tuple(tuple(batch) for batch in batches)


def _mark(entry: Entry, run: Run) -> Mark:
    mark = Mark(name=entry.slug, stage=entry.stage, policy_id=entry.policy_id)
    run.marks.append(mark)
    return mark


def _failing(effect: Effect | None) -> bool:
    return effect is not None and effect.outcome is not None and effect.outcome.kind != "stop"


async def _attempt(entry: Entry, args: tuple[Any, ...], mark: Mark) -> Effect | None:
    """Run one policy and complete its mark. An exception becomes an `error` outcome; its text stays in the log."""
    started = perf_counter()
    try:
        effect = await entry.call(*args, mark)
    except Exception as error:
        mark.error = True
        mark.latency_ms = (perf_counter() - started) * 1000
        log.warning("policy failed", slug=entry.slug, stage=entry.stage, policy_id=entry.policy_id, error=_text(error))
        return Effect(outcome=Outcome(kind="error", status=502, message=type(error).__name__, slug=entry.slug))
    mark.latency_ms = (perf_counter() - started) * 1000
    if effect is None or effect.outcome is None:
        mark.status_code = 200
        return effect
    outcome = effect.outcome
    outcome.slug = entry.slug
    mark.status_code = outcome.status
    mark.error = outcome.kind == "reject" and bool(outcome.message)
    return effect


def _watched(entry: Entry, mark: Mark, judge: Judge) -> Judge:
    """The judge of a stream, with the mark kept and an exception turned into the end of the stream."""

    async def judged(said: list[Said]) -> Outcome | None:
        started = perf_counter()
        try:
            outcome = await judge(said)
        except Exception as error:
            log.warning("policy failed", slug=entry.slug, stage="stream", policy_id=entry.policy_id, error=_text(error))
            outcome = Outcome(kind="reject", status=502, message=STAGE_FAILED)
        mark.latency_ms += (perf_counter() - started) * 1000
        mark.status_code = 200 if outcome is None else outcome.status
        mark.error = outcome is not None and bool(outcome.message)
        if outcome is not None:
            outcome.slug = entry.slug
        return outcome

    return judged


def _text(error: Exception) -> str:
    """What may be logged of an exception: the text of our own, the name of any other (it may quote a body)."""
    return str(error) if isinstance(error, PolicyError) else type(error).__name__


async def _run_batch(batch: Batch, args: tuple[Any, ...], run: Run) -> list[Effect | None]:
    """Effects in batch order, complete up to the first failing member."""
    if len(batch) == 1:
        return [await _attempt(batch[0], args, _mark(batch[0], run))]
    effects: list[Effect | None] = [None] * len(batch)
    bound = len(batch)
    for index, entry in enumerate(batch):
        if not entry.waits:
            effects[index] = await _attempt(entry, args, _mark(entry, run))
            if _failing(effects[index]):
                bound = index
                break
    waiting = [index for index in range(bound) if batch[index].waits]
    if len(waiting) == 1:
        index = waiting[0]
        effects[index] = await _attempt(batch[index], args, _mark(batch[index], run))
    elif waiting:
        await _run_together(batch, waiting, args, run, effects)
    return effects


async def _run_together(
    batch: Batch, waiting: list[int], args: tuple[Any, ...], run: Run, effects: list[Effect | None]
) -> None:
    scopes = {index: trio.CancelScope() for index in waiting}
    marks = {index: _mark(batch[index], run) for index in waiting}

    async def one(index: int) -> None:
        with scopes[index]:
            effects[index] = await _attempt(batch[index], args, marks[index])
            if _failing(effects[index]):
                for other in waiting:
                    if other > index:
                        scopes[other].cancel()

    async with trio.open_nursery() as nursery:
        for index in waiting:
            nursery.start_soon(one, index)


def _first_failure(effects: list[Effect | None]) -> Outcome | None:
    for effect in effects:
        if effect is not None and effect.outcome is not None and effect.outcome.kind != "stop":
            return effect.outcome
    return None


def _apply_to_request(batch: Batch, effects: list[Effect | None], request: PolicyRequest, run: Run) -> Outcome | None:
    rewritten = False
    for entry, effect in zip(batch, effects, strict=True):
        if effect is None:
            continue
        run.headers.extend(effect.headers)
        if effect.outcome is not None:
            return effect.outcome
        if effect.body is not None:
            if rewritten:
                log.warning("request body of a policy discarded: another of its batch wrote one", slug=entry.slug)
            else:
                request.body = effect.body
                rewritten = True
    return None


def _apply_to_response(effects: list[Effect | None], response: PolicyResponse) -> Outcome | None:
    for effect in effects:
        if effect is None:
            continue
        response.headers.extend(effect.headers)
        outcome = effect.outcome
        if outcome is None:
            continue
        if not response.streaming:
            response.status = outcome.status or response.status
            response.body = outcome.body or b""
        if not (outcome.status == 0 or 200 <= outcome.status < 300):
            return outcome
    return None
