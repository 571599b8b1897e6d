"""Mistral: chat completions in the OpenAI shape (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers.provider import openai_shaped

PROVIDER = openai_shaped("mistral", "Mistral", "https://api.mistral.ai/v1", "/v1", wire="mistral", embeddings=True)
