"""OpenRouter: chat completions in the OpenAI shape (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers.provider import openai_shaped

PROVIDER = openai_shaped(
    "openrouter", "OpenRouter", "https://openrouter.ai/api/v1", "/api/v1", wire="openrouter", embeddings=True
)
