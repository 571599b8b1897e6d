"""Installations for tests of sessions (`sessions`)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.installation import installed
from tests.e2e.test_many_processes import database_settings, redis_settings
from tests.mcp import nodejs
from tests.mcp.sessions import Cluster, Setup


@pytest.fixture(scope="module")
def everything() -> Iterator[str]:
    nodejs.check_installed()
    with nodejs.serving("everything.mjs") as url:
        yield url


@pytest.fixture(scope="module")
def embedded(everything: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with installed(tmp_path_factory.mktemp("sessions"), "all", CORS_ALLOW_ORIGINS="https://app.example") as running:
        yield Setup(running, [running.mcp], everything)


@pytest.fixture(scope="module")
def cluster(
    everything: str, postgres_dsn: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Cluster, Setup]]:
    folder = tmp_path_factory.mktemp("cluster")
    more = database_settings(postgres_dsn) | redis_settings(redis_url)
    with installed(folder, "admin", **more) as admin:
        processes = Cluster(folder, more)
        try:
            processes.start()
            processes.start()
            yield processes, Setup(admin, processes.endpoints, everything)
        finally:
            for process in processes.processes:
                process.kill()
                process.wait()
