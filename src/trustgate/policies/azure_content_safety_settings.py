"""Settings of `azure_content_safety` (spec 04 §14.13)."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import msgspec

from trustgate.policies.durations import quote
from trustgate.policies.plugin import Environment
from trustgate.policies.settings import Option, SettingsError, setting
from trustgate.policies.urls import url_problem

PREFIX = "azure_content_safety: "
CATEGORIES = ("Hate", "Violence", "SelfHarm", "Sexual")
CATEGORY_OPTIONS = tuple(Option(name, "Self-Harm" if name == "SelfHarm" else name) for name in CATEGORIES)
FOUR, EIGHT = "FourSeverityLevels", "EightSeverityLevels"
DEFAULT_MESSAGE = "request blocked by Azure Content Safety"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    api_key: Annotated[str, setting("API Key", "Subscription key.", required=True)] = ""
    endpoint: Annotated[str, setting("Endpoint", "Full URL of the analyze-text call.", required=True)] = ""
    output_type: Annotated[
        str,
        setting(
            "Output Type",
            "Severity scale.",
            shown=FOUR,
            options=(Option(FOUR, "Four Severity Levels"), Option(EIGHT, "Eight Severity Levels")),
        ),
    ] = ""
    categories: Annotated[
        tuple[str, ...],
        setting(
            "Categories",
            "Harm categories to ask for; none means all four.",
            item=setting(
                "Category",
                key="category",
                options=CATEGORY_OPTIONS,
            ),
        ),
    ] = ()
    category_severity: Annotated[
        dict[str, int],
        setting(
            "Category Severity",
            "Blocking threshold per category; others are only reported.",
            required=True,
            key_options=CATEGORIES,
            value=setting("Severity", key="severity"),
        ),
    ] = {}
    message: Annotated[str, setting("Message", "Text of the refusal.")] = ""


def check(settings: Settings, environment: Environment | None = None) -> None:
    problem = _problem(settings)
    if problem:
        raise SettingsError(PREFIX + problem)


def _problem(settings: Settings) -> str | None:
    if not settings.api_key.strip():
        return "api_key is required"
    if problem := _endpoint_problem(settings.endpoint.strip()):
        return problem
    if settings.output_type not in ("", FOUR, EIGHT):
        return f"output_type must be one of {FOUR}, {EIGHT}"
    for category in settings.categories:
        if category not in CATEGORIES:
            return f"unsupported category {quote(category)}"
    if not settings.category_severity:
        return "category_severity is required"
    low, high = (1, 7) if settings.output_type == EIGHT else (2, 6)
    for category, severity in sorted(settings.category_severity.items()):
        if category not in CATEGORIES:
            return f"unsupported category_severity key {quote(category)}"
        if not low <= severity <= high:
            return f"category_severity for {quote(category)} must be in [{low},{high}]"
        if settings.output_type != EIGHT and severity % 2:
            return f"category_severity for {quote(category)} must be one of 2, 4, 6"
    return None


def _endpoint_problem(endpoint: str) -> str | None:
    if not endpoint:
        return "endpoint is required"
    if problem := url_problem(endpoint):
        return f"endpoint is invalid: {problem}"
    try:
        parts = urlsplit(endpoint)
        absolute = parts.scheme.lower() in ("http", "https") and bool(parts.hostname)
        parts.port  # noqa: B018 - raises for a port that does not exist
    except ValueError as error:
        return f"endpoint is invalid: {error}"
    return None if absolute else "endpoint must be an absolute http(s) url"
