"""One installation, one identity provider, for all tests of this room."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import pytest

from tests.e2e.installation import Installation, installed
from tests.oauth import world


@pytest.fixture(scope="session")
def idp() -> Iterator[str]:
    world.unlogged()
    with world.identity_provider() as issuer:
        yield issuer


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    folder = tmp_path_factory.mktemp("oauth")
    with installed(folder, "all", MCP_CONNECT_RATE_LIMIT_SOURCE="200", MCP_BASE_DOMAIN="mcp.test") as found:
        found.log = folder / "all.log"  # pyright: ignore[reportAttributeAccessIssue]
        yield found


@pytest.fixture
def tenant(installation: Installation) -> world.Tenant:
    return world.Tenant(installation)


@pytest.fixture
def client(installation: Installation) -> world.Client:
    return world.Client(installation.mcp)


@pytest.fixture
def upstream() -> Iterator[world.Upstream]:
    with contextlib.closing(world.Upstream()) as found:
        yield found


@pytest.fixture
def log(installation: Installation) -> pathlib.Path:
    return installation.log  # pyright: ignore[reportAttributeAccessIssue]
