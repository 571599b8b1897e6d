"""`REDIS_LOGIN=aws`: the password of a connection, and that it is what a Redis server gets over TLS."""

from __future__ import annotations

import pathlib
import socket
import threading
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.wire.certificates import Authority
from trustgate.app.elasticache import IamLogin
from trustgate.app.storage import open_shared
from trustgate.settings import ConfigurationError, Settings

AWS = {
    "REDIS_HOST": "127.0.0.1",
    "REDIS_LOGIN": "aws",
    "REDIS_TLS_ENABLED": "true",
    "REDIS_TLS_INSECURE_VERIFY": "true",
    "REDIS_USERNAME": "iam-user",
    "REDIS_CACHE_NAME": "my-cache",
}


@pytest.fixture
def chain(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    """Credentials and region of the environment, and no others."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    given = {"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "eu-west-1"}
    given |= {"AWS_CONFIG_FILE": str(tmp_path / "none"), "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none")}
    for name, value in given.items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("chain")
@pytest.mark.parametrize("serverless", [False, True])
def test_the_password_is_a_presigned_connect_request(serverless: bool) -> None:
    settings = Settings.load(AWS | {"REDIS_AWS_SERVERLESS": str(serverless)})
    parts = urlsplit("//" + IamLogin(settings.redis).password())
    query = {name: value for name, (value,) in parse_qs(parts.query).items()}
    assert (parts.netloc, parts.path) == ("my-cache", "/")
    assert (query["Action"], query["User"], query["X-Amz-Expires"]) == ("connect", "iam-user", "900")
    assert query.get("ResourceType") == ("ServerlessCache" if serverless else None)
    assert query["X-Amz-Credential"].split("/")[2:4] == ["eu-west-1", "elasticache"]
    assert (query["X-Amz-Algorithm"], len(query["X-Amz-Signature"])) == ("AWS4-HMAC-SHA256", 64)


@pytest.mark.usefixtures("chain")
async def test_each_connection_logs_in_with_it_over_tls(tmp_path: pathlib.Path) -> None:
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))
    context = Authority(tmp_path).server_context("127.0.0.1")

    def answer() -> None:
        connection, _ = listener.accept()
        listener.close()
        with context.wrap_socket(connection, server_side=True) as secure:
            heard.append(secure.recv(65536))
            secure.sendall(b"-ERR not today\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    settings = Settings.load(AWS | {"REDIS_PORT": str(listener.getsockname()[1])})
    with pytest.raises(ExceptionGroup):
        async with open_shared(settings):
            pass
    thread.join()
    assert b"iam-user" in heard[0]
    assert b"my-cache/?Action=connect&User=iam-user&X-Amz-Algorithm=AWS4-HMAC-SHA256" in heard[0]


@pytest.mark.usefixtures("chain")
async def test_a_missing_region_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    with pytest.raises(ConfigurationError, match="invalid configuration: REDIS_LOGIN=aws needs an AWS region"):
        async with open_shared(Settings.load(AWS)):
            pass
