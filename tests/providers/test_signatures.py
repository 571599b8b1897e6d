"""SigV4 as Bedrock checks it: what we sign is what botocore, with the same request and clock, signs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from trustgate.providers.aws import Keys, sign
from trustgate.providers.credentials import Outgoing
from trustgate.providers.prepare import client_for
from trustgate.providers.probe import Inline
from trustgate.view.model import Allowance

EMBED = b'{"model":"amazon.titan-embed-text-v2:0","input":"x"}'


def bedrock(**values: Any) -> Inline:
    keys = {"region": "us-west-2", "access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI", **values}
    return Inline("bedrock", {}, {"type": "aws", "aws": keys})


@pytest.mark.parametrize("session", ["", "session-token"])
async def test_a_request_is_signed_for_what_is_sent(session: str) -> None:
    client = client_for(bedrock(session_token=session))
    made = await client.prepare("openai_embeddings", "embeddings", False, EMBED, Allowance())
    headers = dict(made.headers)
    when = headers[b"x-amz-date"].decode()
    assert abs((datetime.now(UTC) - datetime.strptime(when + "+0000", "%Y%m%dT%H%M%SZ%z")).total_seconds()) < 60
    again = AWSRequest(
        method="POST",
        url=f"https://{made.origin.host}{made.target}",
        data=made.body,
        headers={"content-type": "application/json"},
    )
    again.context["timestamp"] = when
    again.headers["X-Amz-Date"] = when
    if session:
        again.headers["X-Amz-Security-Token"] = session
    signer = SigV4Auth(Credentials("AKIDEXAMPLE", "wJalrXUtnFEMI", session or None), "bedrock", "us-west-2")
    signature = signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again)
    assert headers[b"authorization"].decode().rpartition("Signature=")[2] == signature
    assert headers.get(b"x-amz-security-token", b"").decode() == session
    assert made.target == "/model/amazon.titan-embed-text-v2%3A0/invoke"
    assert made.body == b'{"inputText":"x"}'


def test_the_body_the_path_and_the_secret_all_change_the_signature() -> None:
    headers = ((b"content-type", b"application/json"),)

    def signature(url: str = "https://h/a", body: bytes = b"{}", secret: str = "s") -> bytes:
        signed = dict(sign(Keys("A", secret), "bedrock", "r", Outgoing("POST", url, headers, body)))
        return signed[b"authorization"].rpartition(b"Signature=")[2]

    assert len({signature(), signature(url="https://h/b"), signature(body=b"{ }"), signature(secret="t")}) == 4
