"""Groq: chat completions in the OpenAI shape (spec 03 §10)."""

from __future__ import annotations

from trustgate.providers.provider import openai_shaped

PROVIDER = openai_shaped("groq", "Groq", "https://api.groq.com/openai/v1", "/openai/v1", wire="groq")
