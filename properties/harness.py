"""The property harness: generated scripts of admin writes, faulty upstreams, bad clients, clock steps and restarts.

`python -m properties.harness [--examples N] [--seed S]` runs it longer than the test-suite does and
prints the smallest script that breaks an invariant.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Mapping, Sequence

import structlog.testing
import trio
import trio.testing
from hypothesis import HealthCheck, Phase, given, seed, settings

from properties import invariants, steps
from properties.installation import Installation, data_folder
from properties.world import World


def run_script(script: Sequence[steps.Step], variables: Mapping[str, str] | None = None) -> World:
    """Carry out a script on a new installation, checking every invariant after it and around each restart."""
    with data_folder() as folder:
        # The clock runs with real time, since sockets and threads are real; steps come on top.
        clock = trio.testing.MockClock(rate=1.0)
        installation = Installation(folder, variables or {}, clock)
        world = World(installation)
        with structlog.testing.capture_logs() as world.logs, contextlib.closing(world):
            trio.run(_run, world, script, clock=clock)
        return world


async def _run(world: World, script: Sequence[steps.Step]) -> None:
    rest = list(script)
    crash = False
    while True:
        ending, crash = None, False
        position = next((n for n, step in enumerate(rest) if isinstance(step, steps.Restart)), len(rest))
        if position < len(rest):
            ending = rest[position]
            assert isinstance(ending, steps.Restart)
            crash = ending.crash
        async with world.installation.running(crash=crash):
            if not world.gateways:
                await world.open_gateways()
                for step in steps.opening():
                    await world.perform(step)
                refused = [
                    command for command in world.commands if command.answer is None or command.answer.status > 299
                ]
                assert not refused, f"the opening must work: {refused}"
            else:
                await invariants.check_all(world)
            for step in rest[:position]:
                await world.perform(step)
            await invariants.check_all(world)
        world.run += 1
        if ending is None:
            return
        rest = rest[position + 1 :]


QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m properties.harness", description=__doc__)
    parser.add_argument("--examples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args(arguments)
    count, writes, calls, started = 0, 0, 0, time.monotonic()

    @settings(
        max_examples=options.examples,
        deadline=None,
        database=None,
        suppress_health_check=QUIET,
        phases=(Phase.generate, Phase.shrink),
        print_blob=True,
    )
    @given(steps.scripts)
    def explore(script: list[steps.Step]) -> None:
        nonlocal count, writes, calls
        count += 1
        world = run_script(script)
        writes, calls = writes + len(world.commands), calls + len(world.calls)
        print(f"\r{count} scripts, {writes} writes, {calls} calls", end="", flush=True)

    found = seed(options.seed)(explore) if options.seed is not None else explore
    found()
    print(f"\n{count} scripts held in {time.monotonic() - started:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
