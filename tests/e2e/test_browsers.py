"""The proxy plane called by pages: the `cors` policy of a running process, and fetches of Chromium (spec 02 §1)."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Page, sync_playwright

from tests.e2e.installation import Demo, Installation, installed
from tests.e2e.upstream import TEXT, FaultyUpstream

HEADERS = ("Content-Type", "Authorization", "X-AG-API-Key", "X-AG-Gateway-Slug", "X-AG-Trace-Id")
APP, EVIL = "https://app.example", "https://evil.example"
ALLOWED = {"allow_origins": [APP], "allow_methods": ["POST"], "expose_headers": ["X-Session-Id"], "max_age": 5}


@pytest.fixture
def demo(installation: Installation, upstream: FaultyUpstream) -> Demo:
    found = Demo(installation)
    found.registry("only", upstream.url("ok"))
    return found.open()


def preflight(demo: Demo, origin: str = APP, path: str = "/v1/chat/completions", **more: str) -> httpx.Response:
    """As browsers send it: without a key, and without the gateway's slug."""
    headers = {"Origin": origin, "Access-Control-Request-Method": "POST"} | more
    return httpx.options(demo.url + path, headers=headers)


def cors_headers(answer: httpx.Response) -> dict[str, str]:
    wanted = ("vary", "access-control")
    return {name: value for name, value in answer.headers.items() if name.startswith(wanted)}


PATHS = [
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/v2/chat",
    "/v2/embed",
    "/v1beta/models/gemini:streamGenerateContent",
]


def test_preflights_of_every_route_are_answered_before_authentication(demo: Demo) -> None:
    demo.policy("cors", ALLOWED)
    for path in PATHS:
        answer = preflight(demo, path=path)
        assert (answer.status_code, answer.content) == (204, b"")
        assert cors_headers(answer) == {
            "vary": "Origin",
            "access-control-allow-origin": APP,
            "access-control-expose-headers": "X-Session-Id",
            "access-control-allow-methods": "POST",
            "access-control-allow-headers": ", ".join(HEADERS),
            "access-control-max-age": "5",
        }
    get = {"Access-Control-Request-Method": "GET"}
    assert preflight(demo, path="/v1/models", **get).status_code == 204
    named = preflight(demo, **{"Access-Control-Request-Headers": "x-one, x-ag-api-key"})
    assert named.headers["access-control-allow-headers"] == "x-one, x-ag-api-key"


def test_preflights_of_others_take_the_ordinary_way(demo: Demo) -> None:
    demo.policy("cors", ALLOWED)
    others = [
        preflight(demo, EVIL),
        preflight(demo, "null"),
        preflight(demo, APP + ".evil.example"),
        preflight(demo, path="/v1/nowhere"),
        preflight(demo, **{"Access-Control-Request-Method": ""}),
        httpx.options(f"{demo.url}/v1/chat/completions", headers={"Origin": APP}),
    ]
    assert all(answer.status_code >= 400 for answer in others)
    assert [cors_headers(answer) for answer in others[:3]] == [{}] * 3


def ask(demo: Demo, origin: str | None = APP, **more: Any) -> httpx.Response:
    headers = demo.headers | ({"Origin": origin} if origin else {}) | more.pop("headers", {})
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]} | more
    return httpx.post(f"{demo.url}/v1/chat/completions", json=body, headers=headers)


MARKED = {"vary": "Origin", "access-control-allow-origin": APP, "access-control-expose-headers": "X-Session-Id"}


def test_answers_refusals_and_streams_are_marked_for_allowed_origins(demo: Demo) -> None:
    demo.policy("cors", ALLOWED)
    demo.policy("request_size_limiter", {"allowed_payload_size": 1000, "size_unit": "bytes"})
    answers = {
        200: ask(demo),
        401: ask(demo, headers={"X-AG-API-Key": "ag_wrong"}),
        403: ask(demo, model="@nobody/m"),
        413: ask(demo, user="x" * 2000),
        404: httpx.post(f"{demo.url}/v1/nowhere", headers=demo.headers | {"Origin": APP}),
        400: httpx.post(f"{demo.url}/v1/chat/completions", headers={"Origin": APP}),
    }
    for status, answer in answers.items():
        assert (status, cors_headers(answer)) == (answer.status_code, MARKED)
    streamed = ask(demo, stream=True)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert cors_headers(streamed) == MARKED
    for origin in (EVIL, None):
        assert ask(demo, origin).status_code == 200
        assert cors_headers(ask(demo, origin)) == {}


def test_the_policy_acts_and_ends_with_its_write(demo: Demo) -> None:
    assert preflight(demo).status_code >= 400
    policy = demo.policy("cors", ALLOWED)
    path = f"{demo.base}/policies/{policy}"
    assert (preflight(demo).status_code, cors_headers(ask(demo))) == (204, MARKED)
    demo.installation.call("PUT", path, {"settings": {"allow_origins": ["*"]}})
    assert preflight(demo, EVIL).headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in preflight(demo, EVIL).headers
    demo.installation.call("PUT", path, {"settings": ALLOWED | {"allow_credentials": True}})
    assert preflight(demo).headers["access-control-allow-credentials"] == "true"
    demo.installation.call("DELETE", f"{demo.base}/consumers/{demo.consumer_id}/policies/{policy}")
    demo.installation.call("DELETE", path)
    assert preflight(demo).status_code >= 400
    assert cors_headers(ask(demo)) == {}


def test_a_consumers_own_policy_stands_in_place_of_the_gateways(demo: Demo) -> None:
    everywhere = {"name": "all", "slug": "cors", "enabled": True, "settings": {"allow_origins": [EVIL]}}
    id_ = demo.installation.call("POST", f"{demo.base}/policies", everywhere)["id"]
    demo.installation.call("POST", f"{demo.base}/policies/{id_}/global")
    assert (preflight(demo, EVIL).status_code, preflight(demo, APP).status_code >= 400) == (204, True)
    own = demo.policy("cors", ALLOWED)
    assert (preflight(demo, EVIL).status_code >= 400, preflight(demo, APP).status_code) == (True, 204)
    demo.installation.call("PUT", f"{demo.base}/policies/{own}", {"enabled": False})
    assert (preflight(demo, EVIL).status_code >= 400, preflight(demo, APP).status_code >= 400) == (True, True)


def test_the_catalog_does_not_show_the_policy(installation: Installation) -> None:
    shown = installation.call("GET", "/v1/policies-catalog")
    assert "cors" not in {item["slug"] for group in shown["groups"] for item in group["items"]}


def test_a_policy_stands_in_place_of_the_environment(
    tmp_path_factory: pytest.TempPathFactory, upstream: FaultyUpstream
) -> None:
    folder = tmp_path_factory.mktemp("cors")
    with installed(folder, "run", PROXY_CORS_ALLOW_ORIGINS=EVIL) as running:
        demo = Demo(running)
        demo.registry("only", upstream.url("ok"))
        demo.open()
        assert (preflight(demo, EVIL).status_code, preflight(demo, APP).status_code >= 400) == (204, True)
        demo.policy("cors", ALLOWED)
        assert (preflight(demo, EVIL).status_code >= 400, preflight(demo, APP).status_code) == (True, 204)
        assert (cors_headers(ask(demo)), cors_headers(ask(demo, EVIL))) == (MARKED, {})


@pytest.fixture(scope="module")
def page(chromium: str) -> Iterator[Page]:
    """An empty page of an origin of its own."""

    class Blank(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<title>app</title>")

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Blank)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--headless", "--no-sandbox"])
        found = browser.new_page()
        found.goto(f"http://127.0.0.1:{server.server_address[1]}/")
        yield found
        browser.close()
    server.shutdown()
    server.server_close()


FETCH = """async ([url, headers, body]) => {
  try {
    const answer = await fetch(url, {method: "POST", headers, body});
    const reader = answer.body.getReader(), decoder = new TextDecoder();
    let text = "", pieces = 0;
    for (let read; !(read = await reader.read()).done; pieces++) text += decoder.decode(read.value, {stream: true});
    return {status: answer.status, text, pieces, trace: answer.headers.get("x-ag-trace-id"),
            provider: answer.headers.get("x-selected-provider"), config: answer.headers.get("x-ag-config-version")};
  } catch (error) { return {failed: error.name}; }
}"""


def fetch(page: Page, demo: Demo, headers: dict[str, str], *, stream: bool = False) -> Any:
    body = '{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":%s}' % ("true" if stream else "false")
    return page.evaluate(FETCH, [f"{demo.url}/v1/chat/completions", headers, body])


def origin_of(page: Page) -> str:
    return page.url.rstrip("/")


def test_a_page_calls_and_reads_answers_refusals_and_streams(page: Page, demo: Demo) -> None:
    demo.policy("cors", {"allow_origins": [origin_of(page)]})
    preflighted = demo.headers | {"Content-Type": "application/json"}
    found = fetch(page, demo, preflighted)
    assert (found["status"], TEXT in found["text"]) == (200, True)
    assert found["trace"] and found["provider"] == "openai_compatible"
    assert found["config"] is None, "not exposed"
    streamed = fetch(page, demo, preflighted, stream=True)
    assert (streamed["status"], streamed["text"].endswith("data: [DONE]\n\n")) == (200, True)
    wrong = fetch(page, demo, preflighted | {"X-AG-API-Key": "ag_wrong"})
    assert (wrong["status"], "error" in wrong["text"]) == (401, True)
    simple = fetch(page, demo, {"Content-Type": "text/plain"})
    assert simple["status"] in (400, 401), "no preflight, no key: a readable refusal"


def test_pages_without_a_policy_for_them_read_nothing(page: Page, demo: Demo, upstream: FaultyUpstream) -> None:
    upstream.forget()
    assert fetch(page, demo, demo.headers) == {"failed": "TypeError"}
    demo.policy("cors", {"allow_origins": [APP]})
    assert fetch(page, demo, demo.headers) == {"failed": "TypeError"}
    assert fetch(page, demo, {"Content-Type": "text/plain"}) == {"failed": "TypeError"}
    assert upstream.received() == []
