"""Content-Encoding of request bodies (spec 02 §1): decoded before anything looks at them, and bounded."""

from __future__ import annotations

import zlib

import brotli
import trio

from trustgate.proxy.errors import Refusal

SMALL_BYTES = 32 * 1024
CHUNK_BYTES = 64 * 1024
MAX_CODINGS = 3


class TooLarge(Exception):
    """The decoded body exceeds the bound: answered like a body that was sent too large."""


def bad_encoding(name: str) -> Refusal:
    return Refusal("invalid_request", f"invalid request payload: the body is not valid {name}")


async def decode_body(body: bytes, encoding: bytes, max_bytes: int) -> bytes:
    """`body` without its content codings. An unknown coding leaves the bytes as they are. Raises Refusal, TooLarge."""
    codings = [coding.strip().lower() for coding in encoding.decode("latin-1").split(",") if coding.strip()]
    if not body or not codings:
        return body
    if len(body) <= SMALL_BYTES:
        return decode_all(body, codings, max_bytes)
    return await trio.to_thread.run_sync(decode_all, body, codings, max_bytes)


def decode_all(body: bytes, codings: list[str], max_bytes: int) -> bytes:
    """The codings undone in the order they are listed in, as the contract has it; else in the order of RFC 9110 §8.4,
    which lists them as they were applied."""
    if len(codings) > MAX_CODINGS:
        raise Refusal("invalid_request", "invalid request payload: too many content encodings")
    try:
        return decode_each(body, codings, max_bytes)
    except Refusal:
        if len(codings) == 1:
            raise
    return decode_each(body, codings[::-1], max_bytes)


def decode_each(body: bytes, codings: list[str], max_bytes: int) -> bytes:
    for coding in codings:
        match coding:
            case "gzip" | "x-gzip":
                body = inflate(body, 31, max_bytes, "gzip")
            case "deflate":
                body = inflate_deflate(body, max_bytes)
            case "br" | "brotli":
                body = unbrotli(body, max_bytes)
            case "identity":
                continue
            case _:
                return body
    return body


def inflate(body: bytes, window_bits: int, max_bytes: int, name: str) -> bytes:
    out = bytearray()
    decoder = zlib.decompressobj(window_bits)
    try:
        rest = body
        while rest:
            out += decoder.decompress(rest, max_bytes + 1 - len(out))
            if len(out) > max_bytes:
                raise TooLarge
            rest = decoder.unconsumed_tail
            if decoder.eof:
                rest = decoder.unused_data
                if not rest:
                    break
                decoder = zlib.decompressobj(window_bits)
        if not decoder.eof:
            raise bad_encoding(name)
    except zlib.error:
        raise bad_encoding(name) from None
    return bytes(out)


def inflate_deflate(body: bytes, max_bytes: int) -> bytes:
    """zlib format, or the raw deflate that some clients send under the same name."""
    try:
        return inflate(body, 15, max_bytes, "deflate")
    except Refusal:
        return inflate(body, -15, max_bytes, "deflate")


def unbrotli(body: bytes, max_bytes: int) -> bytes:
    decoder = brotli.Decompressor()
    out = bytearray()
    try:
        for start in range(0, len(body), CHUNK_BYTES):
            out += decoder.process(body[start : start + CHUNK_BYTES], output_buffer_limit=max_bytes + 1 - len(out))
            while not decoder.can_accept_more_data() and len(out) <= max_bytes:
                out += decoder.process(b"", output_buffer_limit=max_bytes + 1 - len(out))
            if len(out) > max_bytes:
                raise TooLarge
        if not decoder.is_finished():
            raise bad_encoding("br")
    except brotli.error:
        raise bad_encoding("br") from None
    return bytes(out)
