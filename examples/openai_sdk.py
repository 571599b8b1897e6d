"""The OpenAI SDK through the gateway: one answer, one stream. `pip install openai`."""

import os

from openai import OpenAI

client = OpenAI(
    base_url=f"{os.environ.get('PROXY_URL', 'http://localhost:8081')}/{os.environ['CONSUMER_SLUG']}/v1",
    api_key=os.environ["CONSUMER_API_KEY"],
    default_headers={"X-AG-Gateway-Slug": os.environ["GATEWAY_SLUG"]},
)
model = os.environ.get("MODEL", "gpt-4o-mini")

answer = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Hello!"}])
print(answer.choices[0].message.content)

stream = client.chat.completions.create(model=model, messages=[{"role": "user", "content": "Again!"}], stream=True)
for event in stream:
    if event.choices:
        print(event.choices[0].delta.content or "", end="", flush=True)
print()
