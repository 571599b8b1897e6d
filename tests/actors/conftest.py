"""The two databases that every test of the actors runs on."""

from __future__ import annotations

import pathlib

import pytest
from tests.actors.world import Target

from trustgate.store import PostgresConfig


@pytest.fixture(params=["sqlite", "postgres"])
def target(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Target:
    if request.param == "sqlite":
        return tmp_path / "data" / "trustgate.db"
    return PostgresConfig.of_dsn(request.getfixturevalue("postgres_database"))
