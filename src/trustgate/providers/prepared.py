"""One upstream attempt, ready to be sent, and the way back of its answer.

What lives here: the value that `prepare` makes and what the proxy does with an answer: bring it into the client's
format, observe it, relay a stream. What must not: sending, retrying, headers of the client's answer.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from trustgate.formats import translate
from trustgate.formats.canonical import Observed
from trustgate.formats.embeddings import EmbeddingRequest
from trustgate.formats.errors import DecodeError
from trustgate.formats.streams import StreamRelay
from trustgate.providers import aws_answers, embeddings
from trustgate.providers.credentials import Headers
from trustgate.wire.client import Origin
from trustgate.wire.upstream import PreparedHeaders

HeaderPairs = Iterable[tuple[bytes, bytes]]

_NOT_CHAT = frozenset({*embeddings.REQUESTS, "cohere_rerank"})


class Prepared(msgspec.Struct, kw_only=True):
    """`method` is always POST. `untranslated` names the client's members that the wire format cannot say.

    `lines` are `headers` as they stand on the wire, where they were encoded ahead.
    """

    provider: str
    client_format: str
    wire_format: str
    sent_model: str
    origin: Origin
    target: str
    headers: Headers
    body: bytes
    lines: PreparedHeaders | None = None
    same_wire: bool = True
    frames: bool = False
    untranslated: tuple[str, ...] = ()
    embedding: EmbeddingRequest | None = None

    method = "POST"

    def decode(self, status: int, body: bytes, headers: HeaderPairs = ()) -> bytes:
        """The client's body of a buffered answer.

        A success is translated, or comes back as it is when it cannot be read. An error stays in the provider's own
        dialect; only Bedrock's is brought into the shape `{"error", "message"}`.
        """
        if self.frames:
            if not 200 <= status < 300:
                return aws_answers.error_body(status, body, headers)
            body = self._counted(body, headers)
        if self.same_wire or not 200 <= status < 300:
            return body
        wanted = self.embedding
        try:
            if wanted is not None:
                return embeddings.answer(self.client_format, self.wire_format, body, wanted)
            return translate.translate_response(self.client_format, self.wire_format, body)
        except DecodeError:
            return body

    def observe(self, body: bytes, headers: HeaderPairs = ()) -> Observed:
        """What a successful upstream body (before `decode`) tells: id, model, finish reason, usage."""
        if self.embedding is not None:
            return embeddings.observe(self.client_format, self.decode(200, body, headers))
        if self.client_format in _NOT_CHAT:
            return embeddings.observe(self.client_format, body)
        if self.frames:
            body = self._counted(body, headers)
        return translate.observe_response(self.wire_format, body)

    def _counted(self, body: bytes, headers: HeaderPairs) -> bytes:
        return aws_answers.with_token_counts(body, headers) if self.wire_format == "bedrock" else body

    def relay(self) -> StreamRelay | aws_answers.FrameRelay:
        """A fresh relay for a streamed answer of status 2xx; the second has all members of the first."""
        relay = StreamRelay(self.client_format, self.wire_format)
        return aws_answers.FrameRelay(relay) if self.frames else relay
