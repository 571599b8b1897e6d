"""Fixtures of every test: the real services of `tests.services`. And the end of a run, which must come."""

from __future__ import annotations

import faulthandler
import os
import threading
import time

import pytest

pytest_plugins = ["tests.services"]

PATIENCE_S = 60.0
"""How long threads that tests left behind may keep the interpreter from ending."""


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A thread that waits for ever tells where, and does not turn a finished run into one that never ends."""

    def end() -> None:
        time.sleep(PATIENCE_S)
        faulthandler.dump_traceback(all_threads=True)
        os._exit(int(exitstatus))

    threading.Thread(target=end, daemon=True).start()
