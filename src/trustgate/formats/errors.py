"""Errors of the format room: what a codec says when bytes are not what their dialect allows.

Every decoder raises `DecodeError` and nothing else, whatever the bytes are: rendering them is the proxy's work.
"""


class DecodeError(ValueError):
    """The bytes are no well-formed message of their dialect (JSON syntax, nesting, encoding or member types)."""


class NotAnObject(DecodeError):
    """The bytes are no JSON object, so there are no members to read or edit."""


class LineTooLong(Exception):
    """A line of an event stream passed the limit; the stream cannot be relayed any further."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"a line of the event stream is longer than {limit} bytes")
        self.limit = limit
