"""Start PostgreSQL, Redis (both also with vectors) and Kafka on free ports, print the variables that point tests at
them, wait for Ctrl-C."""

from __future__ import annotations

import contextlib
import pathlib
import signal
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests import services


def main() -> int:
    with contextlib.ExitStack() as stack:
        print(f"export TEST_POSTGRES_DSN='{stack.enter_context(services.run_postgres())}'")
        print(f"export TEST_REDIS_URL='{stack.enter_context(services.run_redis())}'")
        print(f"export TEST_PGVECTOR_DSN='{stack.enter_context(services.run_pgvector())}'")
        print(f"export TEST_REDIS_SEARCH_URL='{stack.enter_context(services.run_redis_search())}'")
        print(f"export TEST_KAFKA_BOOTSTRAP='{stack.enter_context(services.run_kafka())}'", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.sigwait([signal.SIGINT, signal.SIGTERM])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
