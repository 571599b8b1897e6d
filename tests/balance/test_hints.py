"""Semantic and smart routing with their outside services on loopback (spec 02 §7.5)."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jwt
import pytest

from tests.views import consumer, registry, view
from trustgate.balance.embedding import Embedder, EmbeddingError
from trustgate.balance.hints import ComplexityScorer, SemanticHints
from trustgate.balance.prompt import prompt_of
from trustgate.domain.entities import EmbeddingConfig
from trustgate.wire.client import Pool

SECRET = "a secret of the scoring service, long enough"
CONFIG = EmbeddingConfig("openai", "small", {"api_key": "sk-embed"})
VECTORS = {"poems and prose": [1.0, 0.0, 0.2], "code and bugs": [0.0, 1.0, 0.1], "fix my code": [0.1, 2.0, 0.0]}


class Service:
    """Embeddings and scores; `status` other than 200 fails every call."""

    def __init__(self) -> None:
        self.status = 200
        self.score: Any = 0.42
        self.asked: list[tuple[str, dict[str, str], Any]] = []

    def answer(self, path: str, body: Any) -> Any:
        if path == "/v1/embeddings":
            return {"data": [{"embedding": VECTORS[body["input"]]}]}
        return {"score": self.score} if self.score is not None else {}


@contextmanager
def serving(service: Service) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            service.asked.append((self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            raw = json.dumps(service.answer(self.path, body)).encode()
            self.send_response(service.status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: Any) -> None:
            return None

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def routes() -> Any:
    texts = {"a": "poems and prose", "b": "code and bugs", "c": ""}
    entity = consumer(registry_ids=tuple(texts))
    registries = [registry(name, description=text) for name, text in texts.items()]
    found = view(*registries, entity).consumer(entity.slug)
    assert found is not None
    return found.routes


async def test_the_closest_description_ranks_first_and_is_embedded_once() -> None:
    service = Service()
    with serving(service) as url:
        async with Pool() as pool:
            hints = SemanticHints(Embedder(pool, url))
            for _ in range(2):
                hint = await hints.hint(routes(), CONFIG, "fix my code")
                assert hint is not None and hint.ranking == (1, 0)
    texts = [body["input"] for _, _, body in service.asked]
    assert texts == ["fix my code", "poems and prose", "code and bugs", "fix my code"]
    assert service.asked[0][1]["authorization"] == "Bearer sk-embed"


@pytest.mark.parametrize("prompt", [None, ""])
async def test_without_a_prompt_nothing_is_asked(prompt: str | None) -> None:
    service = Service()
    with serving(service) as url:
        async with Pool() as pool:
            assert await SemanticHints(Embedder(pool, url)).hint(routes(), CONFIG, prompt) is None
    assert service.asked == []


async def test_a_failing_embedder_gives_no_hint() -> None:
    service = Service()
    service.status = 500
    with serving(service) as url:
        async with Pool() as pool:
            assert await SemanticHints(Embedder(pool, url)).hint(routes(), CONFIG, "fix my code") is None
            with pytest.raises(EmbeddingError, match="unsupported embedding provider: x"):
                await Embedder(pool, url)(EmbeddingConfig("x", "m", {}), "t")


async def test_a_score_is_asked_with_a_signed_token_that_is_reused() -> None:
    service = Service()
    with serving(service) as url:
        scorer = ComplexityScorer(url, SECRET, lambda: 1_800_000_000.0)
        for _ in range(2):
            hint = await scorer.hint("how hard", "s1", "gw-1")
            assert hint is not None and hint.score == 0.42
        await scorer.aclose()
    path, headers, body = service.asked[0]
    assert (path, body) == ("/v1/complexity", {"input": "how hard", "conversation_id": "s1", "tenant_id": "gw-1"})
    claims = jwt.decode(
        headers["token"], SECRET, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}
    )
    assert (claims["purpose"], claims["exp"] - claims["iat"]) == ("firewall", 3600)
    assert service.asked[1][1]["token"] == headers["token"]


@pytest.mark.parametrize(("status", "score", "expected"), [(200, None, 0.0), (200, "x", None), (500, 0.9, None)])
async def test_odd_answers_of_the_scorer(status: int, score: Any, expected: float | None) -> None:
    service = Service()
    service.status, service.score = status, score
    with serving(service) as url:
        scorer = ComplexityScorer(url, SECRET, lambda: 1_800_000_000.0)
        hint = await scorer.hint("p", "", "gw")
        await scorer.aclose()
    assert (hint.score if hint is not None else None) == expected


async def test_an_unconfigured_scorer_never_has_a_score() -> None:
    assert await ComplexityScorer("", "", lambda: 0.0).hint("p", "s", "g") is None


@pytest.mark.parametrize(
    ("body", "prompt"),
    [
        (b'{"prompt":"p","messages":[]}', "p"),
        (b'{"messages":[{"role":"user","content":"a"},{"role":"assistant","content":"b"}]}', "a"),
        (b'{"messages":[{"role":"assistant","content":"b"}]}', "b"),
        (b'{"messages":[{"role":"user","content":[{"type":"text","text":"x"},{"type":"text","text":"y"}]}]}', "x\ny"),
        (b'{"input":"r"}', "r"),
        (b'{"input":[{"role":"user","content":[{"type":"input_text","text":"q"}]}]}', "q"),
        (b'{"contents":[{"role":"user","parts":[{"text":"g"}]}]}', "g"),
        (b'{"messages":[{"role":"user","content":"  "}]}', None),
        (b'{"messages":[]}', None),
        (b"[]", None),
        (b"broken", None),
    ],
)
def test_the_prompt_of_a_request_in_any_dialect(body: bytes, prompt: str | None) -> None:
    assert prompt_of(body) == prompt
