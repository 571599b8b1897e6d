"""Health marks are honoured by the balancer and visible on the Admin API."""

from __future__ import annotations

from tests.e2e.installation import Demo, Installation
from tests.e2e.test_faults import ask
from tests.e2e.upstream import FaultyUpstream


def test_a_registry_that_fails_is_left_alone_and_says_so(installation: Installation, upstream: FaultyUpstream) -> None:
    demo = Demo(installation)
    checks = {"passive": True, "threshold": 3, "interval": 60}
    faulty = demo.registry("faulty", upstream.url("503"), health_checks=checks)
    good = demo.registry("good", upstream.url("ok"), health_checks=checks)
    demo.open()
    assert [ask(demo).status for _ in range(6)] == [200] * 6
    assert len(upstream.requests("503")) == 3, "the first request's tries; then it is avoided"

    def health(registry_id: str) -> dict[str, object]:
        return installation.call("GET", f"{demo.base}/registries/{registry_id}/health")

    found = health(faulty)
    assert (found["healthy"], found["failures"], found["last_error"]) == (False, 3, "http_5xx")
    assert health(good) == {"registry_id": good, "healthy": True, "failures": 0}
