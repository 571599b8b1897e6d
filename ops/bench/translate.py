"""CPU cost of the format room: translating chats and relaying streams, in microseconds of one core.

    python ops/bench/translate.py [--seconds 0.5]

Prints one line per case: the best of several rounds, which is what the code costs on a quiet machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from time import process_time
from typing import Any

import click

from trustgate.formats import normalise, translate
from trustgate.formats.streams import StreamRelay


def chat(messages: int) -> bytes:
    """An OpenAI chat of so many turns with two tools, as agents send it."""
    schema = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tools = [
        {"type": "function", "function": {"name": f"tool_{i}", "description": "d", "parameters": schema}}
        for i in range(2)
    ]
    turns = [{"role": ("user", "assistant")[i % 2], "content": f"turn {i} " + "word " * 40} for i in range(messages)]
    body = {"model": "gpt-4o", "messages": turns, "tools": tools, "max_tokens": 500, "temperature": 0.7}
    return json.dumps(body, separators=(",", ":")).encode()


def sse(*events: Any) -> list[bytes]:
    return [b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n" for event in events]


def openai_events(count: int) -> list[bytes]:
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o"}
    head |= {"system_fingerprint": "fp_1"}

    def chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return head | {"choices": [choice], "usage": None}

    usage = {"prompt_tokens": 9, "completion_tokens": 30, "total_tokens": 39}
    middle = [chunk({"content": " word"}) for _ in range(count - 4)]
    first, last = chunk({"role": "assistant", "content": ""}), chunk({}, "stop")
    return [*sse(first, *middle, last, head | {"choices": [], "usage": usage}), b"data: [DONE]\n\n"]


def anthropic_events(count: int) -> list[bytes]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": []}
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": message | {"usage": {"input_tokens": 9, "output_tokens": 1}}},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
    ]
    delta = {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": " word"}}
    events += [delta] * (count - 5)
    events += [
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 30}},
        {"type": "message_stop"},
    ]
    return [
        b"event: " + event["type"].encode() + b"\ndata: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"
        for event in events
    ]


def stream(client: str, wire: str, chunks: list[bytes]) -> Callable[[], object]:
    def run() -> None:
        relay = StreamRelay(client, wire)
        for chunk in chunks:
            relay.feed(chunk)
        relay.end()

    return run


def best(run: Callable[[], object], seconds: float) -> float:
    """Microseconds of CPU time of one call."""
    rounds = 1
    while True:
        start = process_time()
        for _ in range(rounds):
            run()
        took = process_time() - start
        if took > seconds / 10:
            break
        rounds *= 4
    least = took
    for _ in range(9):
        start = process_time()
        for _ in range(rounds):
            run()
        least = min(least, process_time() - start)
    return least / rounds * 1e6


@click.command()
@click.option("--seconds", default=0.5, show_default=True, help="CPU time spent on each case.")
def main(seconds: float) -> None:
    """Prints what translation and relaying cost."""
    body = chat(10)
    answer = (
        b'{"id":"c","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"message":{"'
        b'role":"assistant","content":"Hello there"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,'
        b'"completion_tokens":2,"total_tokens":11}}'
    )
    message = translate.translate_response("anthropic", "openai", answer)
    requests = {f"request of 10 messages, openai -> {wire}": wire for wire in ("anthropic", "google", "cohere", "groq")}
    requests["request of 10 messages, openai -> responses"] = "openai_responses"
    for name, wire in requests.items():
        click.echo(
            f"{best(lambda wire=wire: translate.translate_request('openai', wire, body), seconds):8.2f} µs  {name}"
        )
    anthropic = translate.translate_request("openai", "anthropic", body).body
    cases: dict[str, Callable[[], object]] = {
        "request of 10 messages, anthropic -> openai": lambda: translate.translate_request(
            "anthropic", "openai", anthropic
        ),
        "answer, openai -> anthropic client": lambda: translate.translate_response("anthropic", "openai", answer),
        "answer, anthropic -> openai client": lambda: translate.translate_response("openai", "anthropic", message),
        "observe an openai answer": lambda: translate.observe_response("openai", answer),
        "normalise, openai wire": lambda: normalise.normalise("openai", body),
        "force the stream flags": lambda: normalise.force_stream("openai", body),
    }
    for name, run in cases.items():
        click.echo(f"{best(run, seconds):8.2f} µs  {name}")
    count = 34
    for client, wire, chunks in (
        ("openai", "openai", openai_events(count)),
        ("anthropic", "anthropic", anthropic_events(count)),
        ("anthropic", "openai", openai_events(count)),
        ("openai", "anthropic", anthropic_events(count)),
        ("openai_responses", "openai", openai_events(count)),
        ("google", "anthropic", anthropic_events(count)),
        ("cohere", "openai", openai_events(count)),
    ):
        cost = best(stream(client, wire, chunks), seconds)
        click.echo(f"{cost / count:8.2f} µs  an event of {count}, {wire} -> {client} client ({cost:.1f} µs a stream)")


if __name__ == "__main__":
    main()
