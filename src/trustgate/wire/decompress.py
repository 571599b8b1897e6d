"""Content-Encoding decoders for response bodies, sans-IO: gzip, deflate (zlib-wrapped or raw), br, and lists of them.

Output comes in pieces of bounded size, so that a decompression bomb is noticed before it fills the memory.
"""

import zlib
from collections.abc import Iterator
from typing import Any, Final, Protocol

import brotli  # pyright: ignore[reportMissingTypeStubs]

from trustgate.wire.errors import DecodingFailed

_brotli: Any = brotli  # a C extension without type stubs

PIECE_BYTES: Final = 262144
_MAX_ENCODINGS: Final = 3


class Decoder(Protocol):
    def feed(self, data: bytes) -> Iterator[bytes]:
        """Decoded pieces. Raises DecodingFailed."""
        ...

    def finish(self) -> None:
        """Raises DecodingFailed when the encoded stream is cut short."""
        ...


class _Zlib:
    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._inner: Any = zlib.decompressobj(31) if gzip else None
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if not data:
            return
        if self._inner is None:
            # RFC 9110 §8.4.1.2: "deflate" is the zlib format, but some peers send raw deflate.
            zlib_wrapped = data[0] & 0x0F == 8 and (len(data) < 2 or (data[0] << 8 | data[1]) % 31 == 0)
            self._inner = zlib.decompressobj(15 if zlib_wrapped else -15)
        self._fed = True
        try:
            while data:
                if self._inner.eof:
                    if not self._gzip or not data.strip(b"\0"):
                        return
                    self._inner = zlib.decompressobj(31)  # RFC 1952 §2.2: members may follow each other
                piece: bytes = self._inner.decompress(data, PIECE_BYTES)
                if piece:
                    yield piece
                data = self._inner.unconsumed_tail or (self._inner.unused_data if self._inner.eof else b"")
                while not data and len(piece) == PIECE_BYTES:  # output held back although all input was taken
                    piece = self._inner.decompress(b"", PIECE_BYTES)
                    if piece:
                        yield piece
        except zlib.error as error:
            raise DecodingFailed("invalid compressed body") from error

    def finish(self) -> None:
        if self._fed and not self._inner.eof:
            raise DecodingFailed("compressed body is cut short")


class _Brotli:
    def __init__(self) -> None:
        self._inner: Any = _brotli.Decompressor()
        self._fed = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        self._fed = self._fed or bool(data)
        try:
            piece: bytes = self._inner.process(data, output_buffer_limit=PIECE_BYTES)
            while piece:
                yield piece
                if self._inner.can_accept_more_data():
                    return
                piece = self._inner.process(b"", output_buffer_limit=PIECE_BYTES)
        except _brotli.error as error:
            raise DecodingFailed("invalid compressed body") from error

    def finish(self) -> None:
        if self._fed and not self._inner.is_finished():
            raise DecodingFailed("compressed body is cut short")


class _Chain:
    def __init__(self, decoders: list[Decoder]) -> None:
        self._decoders = decoders

    def feed(self, data: bytes) -> Iterator[bytes]:
        return self._through(0, data)

    def _through(self, index: int, data: bytes) -> Iterator[bytes]:
        for piece in self._decoders[index].feed(data):
            if index + 1 == len(self._decoders):
                yield piece
            else:
                yield from self._through(index + 1, piece)

    def finish(self) -> None:
        for decoder in self._decoders:
            decoder.finish()


def decoder_for(content_encoding: bytes) -> Decoder | None:
    """The decoder for a Content-Encoding value; None when there is nothing to decode or a coding is unknown."""
    decoders: list[Decoder] = []
    for name in reversed(content_encoding.lower().split(b",")):
        match name.strip():
            case b"" | b"identity":
                continue
            case b"gzip" | b"x-gzip":
                decoders.append(_Zlib(gzip=True))
            case b"deflate":
                decoders.append(_Zlib(gzip=False))
            case b"br" | b"brotli":
                decoders.append(_Brotli())
            case _:
                return None
    if len(decoders) > _MAX_ENCODINGS:
        raise DecodingFailed("too many content encodings")
    if not decoders:
        return None
    return decoders[0] if len(decoders) == 1 else _Chain(decoders)
