"""What can go wrong before or instead of an upstream answer, as values with the status and body a client gets.

What lives here: the refusals of a request (spec 03 §3), of a credential (§10.1) and of what a provider cannot do (§12).
What must not: errors of the network, which are `wire.errors`.
"""

from __future__ import annotations

import msgspec

MALFORMED = (msgspec.DecodeError, ValueError, RecursionError)
"""Every way in which a JSON decoder can fail on bytes that somebody else wrote."""


class ProviderError(Exception):
    """A refusal made here: nothing was sent, so the backend is not to blame and a further try cannot help.

    `status`, `code` and `message` are the client's answer `{"error": code, "message": message}`; `text` is what a
    connection test reports.
    """

    status = 502
    code = "backend_error"

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    @property
    def message(self) -> str:
        return self.text


class InvalidRequest(ProviderError):
    """The client's body cannot be understood in the client's own format: 400, never retried."""

    status = 400
    code = "invalid_request"

    @classmethod
    def of_format(cls, client_format: str) -> InvalidRequest:
        return cls(
            f'invalid request payload: invalid request body for format "{client_format}": '
            f"the payload could not be parsed as a valid {client_format} API request"
        )


class ModelNotAllowed(ProviderError):
    """The allow-list of the route refuses the model: 403."""

    status = 403
    code = "model_not_allowed"


class CredentialError(ProviderError):
    """No token could be had from the identity provider: 502 without details; `text` names the reason for a probe."""

    code = "provider_credential_error"

    @property
    def message(self) -> str:
        return "provider credential acquisition failed"


class RequestFault(ProviderError):
    """A local fault: no model, no usable credential, unusable options. 502 `backend_error` with the cause."""


class ProviderUnsupported(RequestFault):
    """The provider does not offer the capability that the route asks for."""


class StreamBroken(Exception):
    """The upstream's stream carried an error or cannot be read on; the client's stream ends with an error event."""
