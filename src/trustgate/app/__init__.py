"""Wiring: the only place where concrete parts are chosen. `main` runs a set of planes in one process."""

from trustgate.app.main import main

__all__ = ["main"]
