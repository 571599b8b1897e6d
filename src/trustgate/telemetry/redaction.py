"""Credentials out of text: the ordered patterns applied to every log message, string attribute and traced error.

Pure. Header and body redaction of telemetry records is not here: it knows structure, this knows only text.
"""

import re

REDACTED = "[REDACTED]"

# Cheap test first: most lines hold nothing that any pattern below could match. (A regular expression of these words
# takes six times as long.)
_SUSPECT = (
    *("bearer", "basic", "authorization", "key", "token", "secret"),
    *("sk-", "tgk_", "ag_", "akia", "asia", "aiza", "eyj", "@"),
)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?i)\bbearer\s+\S+"), "Bearer [REDACTED]"),
    (re.compile(r"(?i)\bbasic\s+\S+"), "Basic [REDACTED]"),
    (
        re.compile(
            r"(?i)\b(authorization|x-(?:[a-z0-9]+-)*api-key|api-key)(\s*[:=]\s*)"
            r"(?!Bearer \[REDACTED\]|Basic \[REDACTED\])[^\s\"',;]+"
        ),
        r"\1\2[REDACTED]",
    ),
    (
        re.compile(
            r'(?i)"(api_key|apikey|token|secret|authorization|access_token|client_secret|private_key)"(\s*:\s*)'
            r'"(?:[^"\\]|\\.)*"'
        ),
        r'"\1"\2"[REDACTED]"',
    ),
    (re.compile(r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"(?<![A-Za-z0-9])tgk_[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"(?<![A-Za-z0-9])ag_[A-Za-z0-9_-]{8,}"), REDACTED),
    (re.compile(r"\b(?:AKIA|ASIA)[0-9A-Z]{12,}"), REDACTED),
    (re.compile(r"\bAIza[A-Za-z0-9_-]{20,}"), REDACTED),
    (re.compile(r"\beyJ[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"), REDACTED),
    (re.compile(r"(://[^\s:/@?#]*:)[^\s/@]+@"), r"\1[REDACTED]@"),
)


def redact(text: str) -> str:
    """`text` with every credential that the patterns know replaced, names and schemes kept."""
    lower = text.lower()
    for word in _SUSPECT:
        if word in lower:
            break
    else:
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact_value(value: object) -> object:
    """The same for a log attribute: strings, and the strings inside lists and mappings."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, dict):
        return {key: redact_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [redact_value(item) for item in value]
    if isinstance(value, BaseException):
        return redact(f"{type(value).__name__}: {value}" if str(value) else type(value).__name__)
    return value
