"""Environment variables of the local store of decisions; see `areas.py` for the rules."""

from typing import Annotated

from msgspec import Struct

from trustgate.settings.values import Kind, Var


class Explain(Struct, frozen=True):
    """Decisions of the data planes, kept in `TRUSTGATE_DATA_DIR` for `trustgate explain` and `trustgate plan`."""

    enabled: Annotated[
        bool, Var("EXPLAIN_ENABLED", Kind.BOOL, "Keep what was decided of each request (no bodies, no headers).")
    ] = True
    retention_s: Annotated[float, Var("EXPLAIN_RETENTION", Kind.DURATION, "How long decisions are kept.")] = 86400.0
    max_bytes: Annotated[
        int, Var("EXPLAIN_MAX_BYTES", Kind.INT, "Most bytes of decisions on disk; the oldest go first.")
    ] = 256 * 1024 * 1024
