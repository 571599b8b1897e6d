"""Policies: the engine that runs them and one module per plugin (spec 04)."""
