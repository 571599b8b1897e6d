"""Recorded exchanges of every client dialect against every upstream dialect."""

from __future__ import annotations

import pytest

from . import harness

CASES = [*harness.exchanges("translation.jsonl"), *harness.exchanges("proxy.jsonl")]


@pytest.mark.parametrize("exchange", CASES, ids=[case.name for case in CASES])
def test_a_recorded_exchange_is_translated_as_recorded(exchange: harness.Exchange) -> None:
    assert harness.run(exchange) == []


def test_the_recordings_cover_every_pair_of_dialects() -> None:
    seen = {(case.client, case.wire) for case in CASES}
    clients = ("openai", "openai_responses", "anthropic", "google", "cohere")
    wanted = {(client, wire) for client in clients for wire in clients if client != wire}
    assert wanted <= seen
