"""Settings of `prompt_template` (spec 04 §14.9)."""

from __future__ import annotations

import re
from typing import Annotated

import msgspec

from trustgate.policies.durations import quote
from trustgate.policies.plugin import Environment
from trustgate.policies.settings import Option, SettingsError, options, setting

PREFIX = "prompt_template: "
PLACEHOLDER = re.compile(r"\{\{\s*([\w.-]+)\s*\}\}", re.ASCII)
_ANY_PLACEHOLDER = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*[\w.-]+\s*", re.ASCII)


class ContextVariable(msgspec.Struct, frozen=True, kw_only=True):
    source: Annotated[
        str,
        setting(
            "Source",
            "Where the value comes from.",
            required=True,
            options=(Option("header", "Header"), Option("jwt_claim", "JWT Claim")),
        ),
    ] = ""
    name: Annotated[str, setting("Name", "Header or claim name.", required=True)] = ""


class InjectTemplate(msgspec.Struct, frozen=True, kw_only=True):
    id: Annotated[str, setting("ID", "Name shown in telemetry.", required=True)] = ""
    position: Annotated[str, setting("Position", "Insertion point.", shown="system", options=options("system"))] = ""
    role: Annotated[str, setting("Role", "Role of an inserted message.", shown="system")] = ""
    content: Annotated[str, setting("Content", "Text with {{name}} placeholders.", required=True)] = ""
    on_existing_system: Annotated[
        str,
        setting(
            "On Existing System",
            "Append to, or take the place of, a system prompt already there.",
            shown="merge",
            options=options("merge", "replace"),
        ),
    ] = ""


class RequiredVariable(msgspec.Struct, frozen=True, kw_only=True):
    type: Annotated[str, setting("Type", "Kind of value.", options=options("string", "number", "boolean"))] = ""
    enum: Annotated[tuple[str, ...], setting("Enum", "Permitted values.", item=setting("Option", key="opt"))] = ()
    max_length: Annotated[int, setting("Max Length", "Longest text, in bytes.")] = 0


class TemplateVersion(msgspec.Struct, frozen=True, kw_only=True):
    labels: Annotated[
        tuple[str, ...],
        setting(
            "Labels",
            "Labels that select this version; unique in the policy.",
            required=True,
            item=setting("Label", key="label"),
        ),
    ] = ()
    content: Annotated[str, setting("Content", "A user text, or a JSON array of messages.", required=True)] = ""
    required_variables: Annotated[
        dict[str, RequiredVariable],
        setting("Required Variables", "Checks on client values.", value=setting("Required Variable", key="rv")),
    ] = {}


class NamedTemplate(msgspec.Struct, frozen=True, kw_only=True):
    name: Annotated[str, setting("Name", "Name in the reference.", required=True)] = ""
    versions: Annotated[
        tuple[TemplateVersion, ...],
        setting("Versions", "Contents of the template.", item=setting("Version", key="v")),
    ] = ()


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    template_engine: Annotated[
        str, setting("Template Engine", "Placeholder syntax.", shown="mustache", options=options("mustache"))
    ] = ""
    context_variables: Annotated[
        dict[str, ContextVariable],
        setting(
            "Context Variables",
            "Values read from the request, by variable name.",
            value=setting("Variable", key="var"),
        ),
    ] = {}
    inject_templates: Annotated[
        tuple[InjectTemplate, ...],
        setting("Inject Templates", "System prompts added to each request.", item=setting("Template", key="tmpl")),
    ] = ()
    named_templates: Annotated[
        tuple[NamedTemplate, ...],
        setting(
            "Named Templates",
            "Templates a client selects with {template://name@label}.",
            item=setting("Named Template", key="nt"),
        ),
    ] = ()
    allow_untemplated_requests: Annotated[
        bool, setting("Allow Untemplated Requests", "Accept requests that refer to no template.", shown=True)
    ] = False
    on_missing_context_variable: Annotated[
        str,
        setting(
            "On Missing Context Variable",
            "Reaction to an unresolved request value.",
            shown="error",
            options=options("error", "empty_string", "skip_injection"),
        ),
    ] = ""
    on_missing_client_variable: Annotated[
        str,
        setting(
            "On Missing Client Variable",
            "Reaction to an absent client value.",
            shown="error",
            options=options("error", "empty_string"),
        ),
    ] = ""
    default_label: Annotated[str, setting("Default Label", "Label for references without one.")] = ""
    escape_json_control_chars: Annotated[
        bool,
        setting("Escape JSON Control Chars", "Remove control characters from inserted values.", shown=True),
    ] = True
    claims_source: str = ""
    """Addition: `verified` reads claims only of a token that the gateway checked; by default as presented."""


def check(settings: Settings, environment: Environment | None = None) -> None:
    problem = _problem(settings)
    if problem:
        raise SettingsError(PREFIX + problem)


def _problem(settings: Settings) -> str | None:
    engine = settings.template_engine
    if engine == "jinja2_subset":
        return f"template_engine {quote(engine)} is not yet supported (v1 supports mustache only)"
    if engine not in ("", "mustache"):
        return f"template_engine {quote(engine)} is not supported"
    if not settings.inject_templates and not settings.named_templates:
        return "at least one of inject_templates or named_templates must be set"
    return (
        _context_problem(settings)
        or _inject_problem(settings)
        or _named_problem(settings)
        or _reaction_problem(settings)
        or _label_problem(settings)
    )


def _context_problem(settings: Settings) -> str | None:
    for key, variable in sorted(settings.context_variables.items()):
        name = f"context_variables[{quote(key)}]"
        if variable.source == "consumer_attribute":
            return f"{name}.source consumer_attribute is deferred/unsupported in v1"
        if variable.source not in ("header", "jwt_claim"):
            return f"{name}.source {quote(variable.source)} must be header or jwt_claim"
        if not variable.name.strip():
            return f"{name}.name must not be blank"
    return None


def _inject_problem(settings: Settings) -> str | None:
    for index, template in enumerate(settings.inject_templates):
        name = f"inject_templates[{index}]"
        if not template.id.strip():
            return f"{name}.id must not be blank"
        if not template.content.strip():
            return f"{name}.content must not be blank"
        if template.position not in ("", "system"):
            return f"{name}.position {quote(template.position)} must be system"
        if template.role and not template.role.strip():
            return f"{name}.role must not be blank"
        if template.on_existing_system not in ("", "merge", "replace"):
            return f"{name}.on_existing_system {quote(template.on_existing_system)} must be merge or replace"
        if problem := _placeholder_problem(template.content):
            return f"{name}.content: {problem}"
    return None


def _placeholder_problem(content: str) -> str | None:
    for match in _ANY_PLACEHOLDER.finditer(content):
        if not _TOKEN.fullmatch(match.group(1)):
            return f"placeholder {quote(match.group(0))} is not a valid [\\w.-]+ token"
    return None


def _named_problem(settings: Settings) -> str | None:
    names: set[str] = set()
    labels: set[str] = set()
    for index, template in enumerate(settings.named_templates):
        if not template.name.strip():
            return f"named_templates[{index}].name must not be blank"
        if template.name in names:
            return f"named_templates name {quote(template.name)} is duplicated"
        names.add(template.name)
        name = f"named_templates[{quote(template.name)}]"
        if not template.versions:
            return f"{name} must have at least one version"
        for at, version in enumerate(template.versions):
            if problem := _version_problem(name, at, version, labels):
                return problem
    return None


def _version_problem(name: str, at: int, version: TemplateVersion, labels: set[str]) -> str | None:
    where = f"{name}.versions[{at}]"
    if not version.labels:
        return f"{where} must have at least one label"
    for label in version.labels:
        if not label.strip():
            return f"{where} has a blank label"
        if label in labels:
            return f"{name} label {quote(label)} points to more than one version"
        labels.add(label)
    if not version.content.strip():
        return f"{where}.content must not be blank"
    if problem := _content_problem(version.content):
        return f"{where}.content: {problem}"
    for key, variable in sorted(version.required_variables.items()):
        field = f"{where}.required_variables[{quote(key)}]"
        if variable.type not in ("", "string", "number", "boolean"):
            return f"{field}.type {quote(variable.type)} must be string, number, or boolean"
        if variable.max_length < 0:
            return f"{field}.max_length must be >= 0"
        if any(not option.strip() for option in variable.enum):
            return f"{field} has a blank enum entry"
    return None


def _content_problem(content: str) -> str | None:
    if content.strip().startswith("["):
        try:
            messages = msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            return f"must be a valid JSON messages array or a bare string template: {error}"
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            return "must be a JSON array of message objects"
    return _placeholder_problem(content)


def _reaction_problem(settings: Settings) -> str | None:
    context, client = settings.on_missing_context_variable, settings.on_missing_client_variable
    if context not in ("", "error", "empty_string", "skip_injection"):
        return f"on_missing_context_variable {quote(context)} must be error, empty_string, or skip_injection"
    if client not in ("", "error", "empty_string"):
        return f"on_missing_client_variable {quote(client)} must be error or empty_string"
    return None


def _label_problem(settings: Settings) -> str | None:
    label = settings.default_label
    known = {
        label for template in settings.named_templates for version in template.versions for label in version.labels
    }
    return f"default_label {quote(label)} does not match any version label" if label and label not in known else None
