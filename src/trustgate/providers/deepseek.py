"""DeepSeek: chat completions in the OpenAI shape, with an output limit of its own (spec 03 §10)."""

from __future__ import annotations

import msgspec

from trustgate.providers.errors import MALFORMED, RequestFault
from trustgate.providers.provider import openai_shaped

REASONER_OUTPUT_LIMIT = 64_000


class _OutputLimit(msgspec.Struct):
    max_completion_tokens: int | float | None = None
    max_tokens: int | float | None = None


def _refuse(model: str, body: bytes) -> None:
    """`deepseek-reasoner` writes at most 64,000 tokens; the API would refuse more."""
    if model != "deepseek-reasoner":
        return
    try:
        limits = msgspec.json.decode(body, type=_OutputLimit)
    except MALFORMED:
        return
    wanted = limits.max_completion_tokens if limits.max_completion_tokens is not None else limits.max_tokens
    if wanted is not None and wanted > REASONER_OUTPUT_LIMIT:
        raise RequestFault(f"deepseek-reasoner allows at most {REASONER_OUTPUT_LIMIT} output tokens")


PROVIDER = openai_shaped("deepseek", "DeepSeek", "https://api.deepseek.com", "", wire="deepseek", refuse=_refuse)
