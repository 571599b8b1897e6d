"""Policy `request_size_limiter`: upper bounds on the body in bytes and characters (spec 04 §14.4)."""

from __future__ import annotations

from typing import Annotated

import msgspec

from trustgate.policies.model import Effect, Mark, PolicyRequest, Run, reject
from trustgate.policies.plugin import Binding, Environment, Plugin
from trustgate.policies.settings import SettingsError, options, setting

UNITS = {"bytes": 1, "kilobytes": 1024, "megabytes": 1024 * 1024}
DEFAULT_CHARS = 100_000


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    allowed_payload_size: Annotated[
        int, setting("Allowed Payload Size", "Body ceiling, in the chosen unit.", required=True, shown=10)
    ] = 0
    size_unit: Annotated[
        str, setting("Size Unit", "Unit of the ceiling.", shown="megabytes", options=options(*UNITS))
    ] = ""
    max_chars_per_request: Annotated[
        int | None,
        setting("Max Chars Per Request", "Ceiling in UTF-8 characters, above 0.", shown=DEFAULT_CHARS),
    ] = None
    require_content_length: Annotated[
        bool, setting("Require Content Length", "Refuse bodies without a Content-Length header.", shown=False)
    ] = False


def check(settings: Settings, environment: Environment | None = None) -> None:
    if settings.allowed_payload_size <= 0:
        raise SettingsError("request_size_limiter: allowed_payload_size must be > 0")
    if settings.size_unit and settings.size_unit not in UNITS:
        raise SettingsError("request_size_limiter: size_unit must be one of bytes, kilobytes, megabytes")
    if settings.max_chars_per_request is not None and settings.max_chars_per_request <= 0:
        raise SettingsError("request_size_limiter: max_chars_per_request must be > 0 when set")


def count_chars(body: bytes) -> int:
    """Unicode code points of `body`; every byte that is not part of valid UTF-8 counts as one."""
    if body.isascii():
        return len(body)
    try:
        return len(body.decode())
    except UnicodeDecodeError:
        return len(body.decode(errors="surrogateescape"))


class RequestSizeLimiter:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._blocking = binding.blocking
        self._max_bytes = settings.allowed_payload_size * UNITS[settings.size_unit or "megabytes"]
        self._max_chars = settings.max_chars_per_request or DEFAULT_CHARS
        self._needs_length = settings.require_content_length and binding.plane == "LLM"

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        size, chars = len(request.body), count_chars(request.body)
        extras = mark.extras = {
            "request_size_bytes": size,
            "request_size_chars": chars,
            "max_size_bytes": self._max_bytes,
            "max_chars_per_request": self._max_chars,
            "limit_exceeded": False,
        }
        refusal: Effect | None = None
        if self._needs_length and not request.header(b"content-length"):
            refusal = reject(411, "Content-Length header is required")
        elif size > self._max_bytes:
            extras |= {"limit_exceeded": True, "exceeded_type": "bytes"}
            refusal = reject(413, f"request size limit exceeded: received {size} bytes")
        elif chars > self._max_chars:
            extras |= {"limit_exceeded": True, "exceeded_type": "chars"}
            refusal = reject(413, f"character limit exceeded: received {chars} characters")
        if refusal is not None:
            mark.decision = "block" if self._blocking else "observe"
            if self._blocking:
                return refusal
        return Effect(
            headers=[
                ("X-Request-Size-Bytes", str(size)),
                ("X-Request-Size-Chars", str(chars)),
                ("X-Size-Limit-Bytes", str(self._max_bytes)),
                ("X-Size-Limit-Chars", str(self._max_chars)),
            ]
        )


PLUGIN = Plugin(
    slug="request_size_limiter",
    name="Request Size Limiter",
    description="Upper bounds on body bytes and characters; can also insist on Content-Length.",
    group="Traffic Control",
    mandatory=("pre_request",),
    supported=("pre_request",),
    protocols=("LLM", "MCP"),
    settings=Settings,
    check=check,
    build=RequestSizeLimiter,
)
