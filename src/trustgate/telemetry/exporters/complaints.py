"""What client libraries log of their connections: kept out of the log, where the outlet tells of each failure once, but
often it alone says why a destination could not be used."""

from __future__ import annotations

import logging
from collections import deque


class Complaints(logging.Handler):
    """The latest warnings and errors of a library; takes over its loggers."""

    def __init__(self, *loggers: str) -> None:
        super().__init__(logging.WARNING)
        self._latest: deque[str] = deque(maxlen=2)
        for name in loggers:
            logging.getLogger(name).addHandler(self)
            logging.getLogger(name).propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        self._latest.append(record.getMessage())

    def about(self, text: str) -> str:
        """`text` with the latest complaints, which are then forgotten."""
        told = "; ".join(dict.fromkeys(self._latest))
        self._latest.clear()
        return f"{text}: {told}" if told else text
