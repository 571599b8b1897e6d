"""What the process does with decisions: keeps them off the request path, and lives without a file."""

from __future__ import annotations

import pathlib
from typing import Any

import trio
import trio.testing
from structlog.testing import capture_logs

from tests import views
from trustgate.app.decisions import MAX_PENDING, DecisionLog, noting
from trustgate.decisions.store import DecisionFile
from trustgate.identity.principal import Principal
from trustgate.providers.prices import PriceBook
from trustgate.proxy.exchange import Attempt, Exchange
from trustgate.proxy.routes import match_route
from trustgate.settings import Settings
from trustgate.view.gateway import GatewayView

VIEW = GatewayView(views.state(views.registry("one"), views.consumer("app", registry_ids=("one",))), lambda ref: "")


def exchange(trace_id: str = "t-1", **members: Any) -> Exchange:
    found = Exchange("POST", "/app/v1/chat/completions", b"", [], b"{}", "10.1.2.3")
    found.view, found.consumer, found.trace_id = VIEW, VIEW.consumer("app"), trace_id
    found.route = match_route("/v1/chat/completions", "POST")
    found.principal = Principal(subject="s", method="api_key", auth_id="a")
    found.attempts.append(
        Attempt(
            registry_id="one", provider="openai", attempt=1, fallback=False, pinned=False, route="consumer",
            outcome="success", status_code=200, latency_ms=7,
        )
    )  # fmt: skip
    for name, value in members.items():
        setattr(found, name, value)
    return found


def log_in(folder: pathlib.Path) -> tuple[DecisionLog, DecisionFile]:
    file = DecisionFile(folder / "decisions.db", 1e9, 1 << 30)
    return DecisionLog(file, lambda: PriceBook({})), file


async def test_what_was_noted_is_in_the_file_after_a_flush_member_by_member(tmp_path: pathlib.Path) -> None:
    log, file = log_in(tmp_path)
    log.note(exchange(requested_model="m", reply_status=200, answered=True, stage="call_upstream"))
    log.note(exchange("t-2", error_code="forbidden", error_message="no", stage="check_plan", reply_status=403))
    await log.flush()
    first, second = file.find("t-1"), file.find("t-2")
    assert first is not None and second is not None
    assert (first.consumer_slug, first.auth_id, first.reference, first.stage, first.status) == (
        "app",
        "a",
        "m",
        "",
        200,
    )
    assert first.served is not None and (first.served.registry_id, first.served.latency_ms) == ("one", 7)
    assert (second.code, second.message, second.stage) == ("forbidden", "no", "check_plan")
    assert b"10.1.2.3" not in file.path.read_bytes()


async def test_client_texts_are_bounded(tmp_path: pathlib.Path) -> None:
    log, file = log_in(tmp_path)
    log.note(exchange(requested_model="m" * 10_000, error_message="x" * 10_000))
    await log.flush()
    found = file.find("t-1")
    assert found is not None and len(found.reference) == 256 and len(found.message) == 256


async def test_a_file_that_cannot_be_written_costs_one_warning_a_minute_and_no_request(
    tmp_path: pathlib.Path, autojump_clock: trio.testing.MockClock
) -> None:
    (tmp_path / "decisions.db").mkdir()
    log, file = log_in(tmp_path)
    with capture_logs() as lines:
        for _ in range(100):
            log.note(exchange())
            await log.flush()
    assert sorted(line["event"] for line in lines) == ["decisions cannot be kept for now", "decisions were dropped"]
    (tmp_path / "decisions.db").rmdir()
    await trio.sleep(61)
    log.note(exchange("later"))
    await log.flush()
    assert file.find("later") is not None


async def test_a_process_that_cannot_keep_up_drops_and_counts(tmp_path: pathlib.Path) -> None:
    log, _ = log_in(tmp_path)
    one = exchange()
    for _ in range(MAX_PENDING + 5):
        log.note(one)
    assert log.dropped == 5


async def test_nothing_is_kept_where_it_is_off(tmp_path: pathlib.Path) -> None:
    observer: Any = object()
    settings = Settings.load({"EXPLAIN_ENABLED": "false", "TRUSTGATE_DATA_DIR": str(tmp_path)})
    async with noting(observer, settings, lambda: PriceBook({})) as found:
        assert found is observer
    assert not await trio.Path(tmp_path / "decisions.db").exists()
