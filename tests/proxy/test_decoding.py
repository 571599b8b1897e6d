"""Content codings of request bodies (spec 02 §1): undone before anything looks, refused with fixed texts, bounded."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest

from trustgate.proxy.decoding import TooLarge, decode_body
from trustgate.proxy.errors import Refusal

BODY = b'{"model":"m"}'
LIMIT = 1000
RAW_DEFLATE = zlib.compress(BODY)[2:-4]


@pytest.mark.parametrize(
    ("encoding", "sent"),
    [
        (b"gzip", gzip.compress(BODY)),
        (b"GZip", gzip.compress(BODY)),
        (b"gzip", gzip.compress(BODY[:5]) + gzip.compress(BODY[5:])),
        (b"deflate", zlib.compress(BODY)),
        (b"deflate", RAW_DEFLATE),
        (b"br", brotli.compress(BODY)),
        (b"brotli", brotli.compress(BODY)),
        (b"gzip, br", gzip.compress(brotli.compress(BODY))),
        (b"gzip, br", brotli.compress(gzip.compress(BODY))),
        (b"identity", BODY),
        (b"zstd", BODY),
        (b" , ", BODY),
    ],
)
async def test_codings_are_undone(encoding: bytes, sent: bytes) -> None:
    assert await decode_body(sent, encoding, LIMIT) == BODY


@pytest.mark.parametrize(
    ("encoding", "sent", "message"),
    [
        (b"gzip", b"junk", "the body is not valid gzip"),
        (b"gzip", gzip.compress(BODY)[:-3], "the body is not valid gzip"),
        (b"deflate", b"junk", "the body is not valid deflate"),
        (b"br", b"junk\xff", "the body is not valid br"),
        (b"br", brotli.compress(BODY)[:-3], "the body is not valid br"),
        (b"gzip, gzip, gzip, gzip", gzip.compress(BODY), "too many content encodings"),
    ],
)
async def test_what_cannot_be_decoded_is_the_clients_mistake(encoding: bytes, sent: bytes, message: str) -> None:
    with pytest.raises(Refusal) as refused:
        await decode_body(sent, encoding, LIMIT)
    assert (refused.value.status, refused.value.code) == (400, "invalid_request")
    assert refused.value.message == "invalid request payload: " + message


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1, 100 * LIMIT])
@pytest.mark.parametrize("compress", [gzip.compress, zlib.compress, brotli.compress])
async def test_the_decoded_size_is_bounded(size: int, compress: object) -> None:
    assert callable(compress)
    name = {gzip.compress: b"gzip", zlib.compress: b"deflate", brotli.compress: b"br"}[compress]
    sent = compress(b" " * size)
    if size <= LIMIT:
        assert len(await decode_body(sent, name, LIMIT)) == size
        return
    with pytest.raises(TooLarge):
        await decode_body(sent, name, LIMIT)
