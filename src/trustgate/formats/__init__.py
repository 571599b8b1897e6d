"""Dialects of LLM clients and providers: codecs, translation, streams. sans-IO, and imports nothing of ours.

Front doors: `translate` (buffered bodies), `streams` (event streams), `normalise`, `models`, `texts` and `tools`
(what the pipeline and policies edit), `embeddings`, `json` (number-preserving edits).
"""
