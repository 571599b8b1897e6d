"""How the proxy plane refuses: the error table of spec 02 §12 and the rows of §3 and §4, as data.

Gateway-made errors have this one shape, `{"error": code, "message": text}`, in every client dialect.
"""

from __future__ import annotations

import msgspec

# code -> status. Messages come with the refusal; the empty message is left out of the body.
STATUS = {
    "invalid_auth_request": 400,
    "invalid_model": 400,
    "invalid_request": 400,
    "unauthenticated": 401,
    "forbidden": 403,
    "model_not_allowed": 403,
    "not_found": 404,
    "internal_error": 500,
    "provider_credential_error": 502,
    "backend_error": 502,
    "plugin_rejected": 502,
    "no_backend_available": 503,
    "rate_limit_unavailable": 503,
    "upstream_invalid_response": 502,
}


class Refusal(Exception):
    """The gateway itself ends the request. Raises through the pipeline; rendered in one place."""

    def __init__(self, code: str, message: str = "", status: int | None = None) -> None:
        super().__init__(message or code)
        self.code = code
        self.message = message
        self.status = STATUS[code] if status is None else status


def error_body(code: str, message: str = "") -> bytes:
    """The envelope as bytes; key order `error`, `message`."""
    return msgspec.json.encode({"error": code, "message": message} if message else {"error": code})
