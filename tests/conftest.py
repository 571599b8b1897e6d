"""Fixtures of every test: the real services of `tests.services`."""

pytest_plugins = ["tests.services"]
