"""`https://api.openai.com` for processes under test: a forward proxy that answers embeddings itself, over TLS.

The processes reach it by the environment alone: `HTTPS_PROXY`, and an authority of our own in `SSL_CERT_FILE`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import pathlib
import re
import socket
import ssl
from typing import Any

from tests.e2e.certificates import self_signed
from tests.e2e.upstream import requests_of, serve_each

HOST = "api.openai.com"
DIMENSIONS = 1536


def embedding(text: str) -> list[float]:
    """A direction by the words of a text: texts that share most of them are near. Not normalised."""
    vector = [0.0] * DIMENSIONS
    for word in re.findall(r"\w+", text.lower()):
        vector[int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big") % DIMENSIONS] += 2.0
    return vector


def similarity(one: str, other: str) -> float:
    a, b = embedding(one), embedding(other)
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


class OpenAiApi:
    """Serves until closed. `asked` are the received requests: path, authorization, body."""

    def __init__(self, folder: pathlib.Path) -> None:
        pem, key = self_signed(HOST, folder)
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(pem, key)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.asked: list[tuple[str, str, Any]] = []
        self.environment = {
            "HTTPS_PROXY": f"http://127.0.0.1:{self._listener.getsockname()[1]}",
            "NO_PROXY": "127.0.0.1,localhost",
            "SSL_CERT_FILE": str(pem),
        }
        serve_each(self._listener, self._serve)

    def close(self) -> None:
        self._listener.close()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), sock:
            file = sock.makefile("rb")
            assert file.readline().startswith(f"CONNECT {HOST}:443 ".encode())
            while file.readline() not in (b"\r\n", b""):
                pass
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            with self._tls.wrap_socket(sock, server_side=True) as inner:
                self._answer(inner)

    def _answer(self, sock: ssl.SSLSocket) -> None:
        for request in requests_of(sock.makefile("rb")):
            body = json.loads(request.body)
            self.asked.append((request.path, request.headers.get("authorization", ""), body))
            data = [{"object": "embedding", "index": 0, "embedding": embedding(body["input"])}]
            answer = json.dumps({"object": "list", "data": data, "model": body["model"]}).encode()
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(answer)}\r\n\r\n"
            sock.sendall(head.encode() + answer)
