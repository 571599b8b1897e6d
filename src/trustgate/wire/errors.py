"""Every error of the upstream client, named after the phase in which the exchange failed.

Server-side faults never surface as exceptions: they are answered with a fixed text, or the connection is closed.
"""

from typing import Literal

Phase = Literal["queue", "connect", "send", "first_byte", "between", "total"]
ConnectReason = Literal["dns", "refused", "unreachable", "reset", "proxy", "os"]


class WireError(Exception):
    """Base of everything the client raises for a failed exchange."""


class ConnectFailed(WireError):
    """No connection could be made; `reason` says at which step."""

    def __init__(self, reason: ConnectReason, message: str) -> None:
        super().__init__(message)
        self.reason: ConnectReason = reason


class TlsFailed(WireError):
    """The TLS handshake or the certificate check failed, or the TLS layer broke later."""


class TimedOut(WireError):
    """A deadline passed; `phase` names it."""

    def __init__(self, phase: Phase) -> None:
        super().__init__(f"timed out: {phase}")
        self.phase: Phase = phase


class QueueFull(WireError):
    """The origin is at its connection limit and its queue of waiting requests is full."""


class ProtocolError(WireError):
    """The peer sent something that is not HTTP/1.1, or broke one of our limits on heads."""


class PeerClosed(WireError):
    """The peer closed or reset the connection before the message was complete.

    `answered` is True once the response head had been received. `delivered` is False when the request could not even be
    sent completely, so that the peer cannot have acted on it.
    """

    def __init__(self, message: str, *, answered: bool, delivered: bool = True) -> None:
        super().__init__(message)
        self.answered = answered
        self.delivered = delivered


class BodyTooLarge(WireError):
    """The (decoded) body is larger than the caller allows."""


class DecodingFailed(WireError):
    """The body does not decode under its declared Content-Encoding."""
