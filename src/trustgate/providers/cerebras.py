"""Cerebras: chat completions in the OpenAI shape (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers.provider import openai_shaped

PROVIDER = openai_shaped("cerebras", "Cerebras", "https://api.cerebras.ai/v1", "/v1", wire="openai")
