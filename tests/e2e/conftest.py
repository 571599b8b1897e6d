"""What the tests of this folder share: one embedded installation, and an upstream a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.installation import Installation, installed
from tests.e2e.upstream import FaultyUpstream


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installed(tmp_path_factory.mktemp("installation"), "run") as running:
        yield running


@pytest.fixture(scope="module")
def upstream() -> Iterator[FaultyUpstream]:
    faulty = FaultyUpstream()
    yield faulty
    faulty.close()


@pytest.fixture
def nothing_received(upstream: FaultyUpstream) -> None:
    """For modules that look at what the upstream got: it forgets what the test before sent."""
    upstream.forget()
