"""Credentials that need a token, against token endpoints on loopback."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.providers.fake_http import Answer, FakeHttp, Request
from trustgate.providers.errors import CredentialError
from trustgate.providers.prepare import client_for
from trustgate.providers.probe import Inline
from trustgate.providers.services import Services
from trustgate.view.model import Allowance

OPEN = Allowance()
BODY = b'{"model":"m","messages":[{"role":"user","content":"q"}]}'


def token(value: str = "tok", expires_in: Any = 3600) -> Answer:
    return Answer(json.dumps({"access_token": value, "expires_in": expires_in}).encode())


@asynccontextmanager
async def services(**environ: str) -> AsyncIterator[Services]:
    async with Services.open(environ) as opened:
        yield opened


async def sent_headers(account: Inline, opened: Services, client: str = "openai") -> dict[bytes, bytes]:
    made = client_for(account, opened)
    assert made.prepare_sync(client, "chat", False, BODY, OPEN) is None
    return dict((await made.prepare(client, "chat", False, BODY, OPEN)).headers)


def form(request: Request) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(request.body.decode()).items()}


OAUTH_FORMS = [
    (
        {
            "grant_type": "client_credentials",
            "client_id": "c",
            "client_secret": "s",
            "scopes": ["a", "b"],
            "audience": "u",
            "extra": {"resource": "r"},
        },
        {
            "grant_type": "client_credentials",
            "client_id": "c",
            "client_secret": "s",
            "scope": "a b",
            "audience": "u",
            "resource": "r",
        },
    ),
    (
        {"grant_type": "refresh_token", "refresh_token": "rt", "client_id": "c"},
        {"grant_type": "refresh_token", "refresh_token": "rt", "client_id": "c"},
    ),
    (
        {"grant_type": "password", "username": "u", "password": "p"},
        {"grant_type": "password", "username": "u", "password": "p"},
    ),
]


@pytest.mark.parametrize(("config", "expected"), OAUTH_FORMS)
async def test_oauth2_grants_fetch_one_token_for_many_calls(config: dict[str, Any], expected: dict[str, str]) -> None:
    with FakeHttp(lambda request: token()) as idp:
        auth = {"type": "oauth2", "oauth": {"token_url": f"{idp.url}/t", **config}}
        async with services() as opened:
            headers = await sent_headers(Inline("openai", {}, auth), opened)
            assert headers[b"authorization"] == b"Bearer tok"
            again = await client_for(Inline("openai", {}, auth), opened).prepare("openai", "chat", False, BODY, OPEN)
            assert dict(again.headers)[b"authorization"] == b"Bearer tok"
        assert [form(request) for request in idp.received] == [expected]


async def test_oauth2_clients_can_authenticate_by_http_basic() -> None:
    with FakeHttp(lambda request: token()) as idp:
        config = {
            "token_url": idp.url,
            "grant_type": "client_credentials",
            "client_id": "c:1",
            "client_secret": "s/",
            "use_basic_auth": True,
        }
        async with services() as opened:
            await sent_headers(Inline("openai", {}, {"type": "oauth2", "oauth": config}), opened)
        request = idp.received[0]
        assert request.headers["authorization"] == "Basic " + base64.b64encode(b"c%3A1:s%2F").decode()
        assert "client_secret" not in form(request)


TROUBLE = [
    (Answer(b'{"error":"invalid_client","secret":"s3cr3t"}', 401), "refused the credentials \\(status 401\\)"),
    (Answer(b"<html>"), "no token"),
    (Answer(b"{}"), "no token"),
    (Answer(b'{"access_token":"x","expires_in":"soon"}'), "no token"),
    (Answer(b"", 302, (("Location", "http://127.0.0.1:1/"),)), "status 302"),
]


@pytest.mark.parametrize(("answer", "cause"), TROUBLE)
async def test_a_token_that_cannot_be_had_is_a_credential_error_without_details(answer: Answer, cause: str) -> None:
    with FakeHttp(lambda request: answer) as idp:
        config = {"token_url": idp.url, "grant_type": "client_credentials"}
        async with services() as opened:
            with pytest.raises(CredentialError, match=cause) as error:
                await sent_headers(Inline("openai", {}, {"type": "oauth2", "oauth": config}), opened)
        assert (error.value.status, error.value.code) == (502, "provider_credential_error")
        assert error.value.message == "provider credential acquisition failed"
        assert "s3cr3t" not in error.value.text


# Azure


def azure(**values: Any) -> Inline:
    return Inline("azure", {}, {"type": "azure", "azure": {"endpoint": "https://r.azure.test", **values}})


async def test_a_service_principal_gets_a_token_of_its_directory() -> None:
    with FakeHttp(lambda request: token("entra")) as idp:
        async with services(AZURE_AUTHORITY_HOST=idp.url + "/") as opened:
            headers = await sent_headers(azure(tenant_id="t", client_id="c", client_secret="s"), opened)
        assert headers[b"authorization"] == b"Bearer entra"
        assert b"api-key" not in headers
        assert idp.received[0].path == "/t/oauth2/v2.0/token"
        assert form(idp.received[0]) == {
            "grant_type": "client_credentials",
            "client_id": "c",
            "client_secret": "s",
            "scope": "https://ai.azure.com/.default",
        }


async def test_managed_identity_uses_the_environment_first() -> None:
    with FakeHttp(lambda request: token("env")) as idp:
        environ = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_CLIENT_SECRET": "s"}
        async with services(AZURE_AUTHORITY_HOST=idp.url, **environ) as opened:
            headers = await sent_headers(azure(use_managed_identity=True), opened)
        assert headers[b"authorization"] == b"Bearer env"


async def test_managed_identity_uses_a_workload_identity_file(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("assertion\n")
    with FakeHttp(lambda request: token("workload")) as idp:
        environ = {"AZURE_TENANT_ID": "t", "AZURE_CLIENT_ID": "c", "AZURE_FEDERATED_TOKEN_FILE": str(file)}
        async with services(AZURE_AUTHORITY_HOST=idp.url, **environ) as opened:
            headers = await sent_headers(azure(use_managed_identity=True), opened)
        assert headers[b"authorization"] == b"Bearer workload"
        assert form(idp.received[0])["client_assertion"] == "assertion"


async def test_managed_identity_asks_the_app_service_endpoint() -> None:
    with FakeHttp(lambda request: token("managed", "600")) as idp:
        async with services(IDENTITY_ENDPOINT=f"{idp.url}/msi", IDENTITY_HEADER="h") as opened:
            headers = await sent_headers(azure(use_managed_identity=True), opened)
        assert headers[b"authorization"] == b"Bearer managed"
        assert idp.received[0].path == "/msi?resource=https%3A%2F%2Fai.azure.com&api-version=2019-08-01"
        assert idp.received[0].headers["x-identity-header"] == "h"


async def test_managed_identity_asks_the_metadata_service() -> None:
    with FakeHttp(lambda request: token("imds")) as idp:
        async with services(AZURE_POD_IDENTITY_AUTHORITY_HOST=idp.url) as opened:
            headers = await sent_headers(azure(use_managed_identity=True), opened)
        assert headers[b"authorization"] == b"Bearer imds"
        assert idp.received[0].headers["metadata"] == "true"
        assert idp.received[0].path.startswith("/metadata/identity/oauth2/token?")


# Google


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def service_account(key: rsa.RSAPrivateKey, token_uri: str, **changes: Any) -> dict[str, Any]:
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    return {
        "type": "service_account",
        "project_id": "p",
        "private_key_id": "kid-1",
        "private_key": pem,
        "client_email": "gw@p.iam.gserviceaccount.com",
        "token_uri": token_uri,
        **changes,
    }


def vertex(credential: Any) -> Inline:
    auth = {"type": "gcp_service_account", "gcp_service_account": credential}
    return Inline("vertex", {"project": "p", "location": "us-central1"}, auth)


@pytest.mark.parametrize("as_text", [True, False])
async def test_a_service_account_exchanges_a_signed_assertion(key: rsa.RSAPrivateKey, as_text: bool) -> None:
    with FakeHttp(lambda request: token("google")) as idp:
        credential = service_account(key, f"{idp.url}/token")
        async with services() as opened:
            account = vertex(json.dumps(credential) if as_text else credential)
            headers = await sent_headers(account, opened, "google")
        assert headers[b"authorization"] == b"Bearer google"
        sent = form(idp.received[0])
        assert sent["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        claims = jwt.decode(sent["assertion"], key.public_key(), ["RS256"], audience=f"{idp.url}/token")
        assert jwt.get_unverified_header(sent["assertion"])["kid"] == "kid-1"
        assert claims["iss"] == "gw@p.iam.gserviceaccount.com"
        assert claims["scope"] == "https://www.googleapis.com/auth/cloud-platform"
        assert claims["exp"] - claims["iat"] == 3600


@pytest.mark.parametrize(
    ("credential", "cause"),
    [
        ("not json", "not valid JSON"),
        ({"type": "external_account"}, "not supported"),
        ({"type": "authorized_user"}, "not supported"),
        ({"type": "service_account", "client_email": "a", "private_key": "PEM"}, "no usable private key"),
        ({"type": "service_account"}, "no client_email"),
    ],
)
async def test_other_google_credentials_are_refused(credential: Any, cause: str) -> None:
    async with services() as opened:
        with pytest.raises(CredentialError, match=cause):
            await sent_headers(vertex(credential), opened, "google")


# AWS


def bedrock(**values: Any) -> Inline:
    return Inline("bedrock", {}, {"type": "aws", "aws": {"region": "eu-west-1", **values}})


def assumed(access_key: str = "ASIAROLE", minutes: int = 15) -> Answer:
    until = (datetime.now(UTC) + timedelta(minutes=minutes)).strftime("%Y-%m-%dT%H:%M:%SZ")
    return Answer(
        f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
        <AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>rs</SecretAccessKey><SessionToken>rt</SessionToken>
        <Expiration>{until}</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>""".encode(),
        headers=(("Content-Type", "text/xml"),),
    )


async def test_a_role_is_assumed_once_with_the_accounts_own_keys() -> None:
    with FakeHttp(lambda request: assumed()) as sts:
        account = bedrock(access_key_id="AKIA1", secret_access_key="s", role="arn:aws:iam::1:role/r", use_role=True)
        async with services(AWS_ENDPOINT_URL_STS=sts.url) as opened:
            signed = client_for(account, opened)
            for _ in range(2):
                made = await signed.prepare(
                    "openai_embeddings", "embeddings", False, b'{"model":"t","input":"x"}', OPEN
                )
        headers = dict(made.headers)
        assert headers[b"x-amz-security-token"] == b"rt"
        assert b"Credential=ASIAROLE/" in headers[b"authorization"]
        assert len(sts.received) == 1
        sent = form(sts.received[0])
        assert (sent["Action"], sent["RoleArn"]) == ("AssumeRole", "arn:aws:iam::1:role/r")
        assert (sent["RoleSessionName"], sent["DurationSeconds"]) == ("BedrockClientSession", "900")
        assert "Credential=AKIA1/" in sts.received[0].headers["authorization"]


async def test_a_role_that_may_not_be_assumed_is_a_credential_error() -> None:
    denied = Answer(
        b"<ErrorResponse><Error><Code>AccessDenied</Code><Message>secret text</Message></Error></ErrorResponse>",
        403,
        (("Content-Type", "text/xml"),),
    )
    with FakeHttp(lambda request: denied) as sts:
        account = bedrock(access_key_id="AKIA1", secret_access_key="s", role="arn:aws:iam::1:role/r", use_role=True)
        async with services(AWS_ENDPOINT_URL_STS=sts.url) as opened:
            with pytest.raises(CredentialError, match=r"^AWS error: AccessDenied$"):
                await client_for(account, opened).prepare(
                    "openai_embeddings", "embeddings", False, b'{"model":"t","input":"x"}', OPEN
                )
