"""Fixtures of the admin plane's tests."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest
import structlog

from trustgate.store import PostgresConfig


@pytest.fixture(autouse=True, scope="package")
def _quiet_logs() -> Iterator[None]:
    """Requests that are refused on purpose are not worth a line of output."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    yield
    structlog.reset_defaults()


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> pathlib.Path | PostgresConfig:
    """Each of the two databases, empty."""
    if request.param == "sqlite":
        return tmp_path / "trustgate.db"
    return PostgresConfig.of_dsn(request.getfixturevalue("postgres_database"))
