"""The Anthropic SDK through the gateway, whatever the provider behind it speaks. `pip install anthropic`."""

import os

from anthropic import Anthropic

client = Anthropic(
    base_url=f"{os.environ.get('PROXY_URL', 'http://localhost:8081')}/{os.environ['CONSUMER_SLUG']}",
    api_key=os.environ["CONSUMER_API_KEY"],
    default_headers={"X-AG-Gateway-Slug": os.environ["GATEWAY_SLUG"]},
)
model = os.environ.get("MODEL", "gpt-4o-mini")

answer = client.messages.create(model=model, max_tokens=256, messages=[{"role": "user", "content": "Hello!"}])
print("".join(block.text for block in answer.content if block.type == "text"))

with client.messages.stream(model=model, max_tokens=256, messages=[{"role": "user", "content": "Again!"}]) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()
