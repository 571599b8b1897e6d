"""Policy `prompt_template`: system prompts from request context, and named templates clients refer to (spec 04 §14.9).

Works on the raw JSON. `properties`, the client's variables, never reaches an upstream. Where the dialect has no
`messages` the text goes where its system prompt lives (`instructions`, `systemInstruction`).
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

import msgspec

from trustgate.formats import json as fj
from trustgate.formats.errors import DecodeError
from trustgate.policies.conversation import objects
from trustgate.policies.dialects import GOOGLE, RESPONSES, format_of
from trustgate.policies.durations import quote
from trustgate.policies.model import Effect, Extras, Mark, PolicyRequest, Run, reject
from trustgate.policies.plugin import REQUEST_BODY, Binding, Plugin
from trustgate.policies.prompt_template_settings import (
    PLACEHOLDER,
    InjectTemplate,
    RequiredVariable,
    Settings,
    TemplateVersion,
    check,
)
from trustgate.policies.settings import plain_number

_REFERENCE = re.compile(r"\{template://([^@{}\s]+)(?:@([^{}\s]+))?\}")
_CONTROL = {code: None for code in range(0x20) if code not in (0x09, 0x0A)}

VERIFIED_CLAIMS = "verified_claims"
"""The note of a run under which the plane leaves the claims of a token that it has checked."""

Tree = dict[str, Any]


class Refused(Exception):
    """A request that a template cannot serve."""

    def __init__(self, type_: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.type = type_
        self.status = status


class TemplateExtras(Extras, kw_only=True):
    decision: str
    injected_ids: list[str] = msgspec.field(default_factory=list)
    skipped_ids: list[str] = msgspec.field(default_factory=list)
    unresolved_variables: list[str] = msgspec.field(default_factory=list)
    resolved_template: str = ""
    discarded_messages: int = 0


class PromptTemplate:
    waits = False

    def __init__(self, settings: Settings, binding: Binding) -> None:
        check(settings)
        self._settings = settings
        self._blocking = binding.blocking
        self._templates = {template.name: template for template in settings.named_templates}
        self._on_missing_context = settings.on_missing_context_variable or "error"
        self._on_missing_client = settings.on_missing_client_variable or "error"

    async def pre_request(self, request: PolicyRequest, run: Run, mark: Mark) -> Effect | None:
        try:
            tree = fj.object_tree(request.body)
        except DecodeError:
            body = {"error": "invalid_request", "message": "the request body must be a JSON object"}
            return reject(400, body["message"], type="invalid_request", body=body)
        extras = TemplateExtras(decision="no_op" if self._blocking else "observed")
        if not self._blocking:
            mark.decision = "observe"
        properties = tree.pop("properties", None)
        without = tree if self._blocking else fj.object_tree(fj.encode(tree))
        before = fj.encode(tree)
        try:
            self._apply(without, properties if isinstance(properties, dict) else {}, request, run, extras)
        except Refused as refused:
            if self._blocking:
                return reject(refused.status, str(refused), type=refused.type)
        finally:
            mark.tell(extras)
        after = fj.encode(without) if self._blocking else before
        if after == before and properties is None:
            return None
        return Effect(body=after)

    def _apply(self, tree: Tree, properties: Tree, request: PolicyRequest, run: Run, extras: TemplateExtras) -> None:
        context = self._context(request, run) if self._settings.context_variables else {}
        rendered = bool(self._settings.named_templates) and self._render_named(tree, properties, context, extras)
        if rendered and self._blocking:
            extras.decision = "rendered"
        if self._settings.inject_templates:
            self._inject(tree, context, format_of(request), extras)

    def _context(self, request: PolicyRequest, run: Run) -> dict[str, str]:
        """The context variables that have a value."""
        claims: Tree | None = None
        found: dict[str, str] = {}
        for name, variable in self._settings.context_variables.items():
            if variable.source == "header":
                value = request.header(variable.name.strip().lower().encode())
            else:
                if claims is None:
                    claims = self._claims(request, run)
                value = _claim_text(claims.get(variable.name.strip()))
            if value.strip():
                found[name] = value
        return found

    def _claims(self, request: PolicyRequest, run: Run) -> Tree:
        """Claims of the bearer token, as presented unless the policy wants them checked."""
        if self._settings.claims_source != "verified":
            return bearer_claims(request)
        verified: Tree | None = run.notes.get(VERIFIED_CLAIMS)
        return verified or {}

    def _render_named(self, tree: Tree, properties: Tree, context: dict[str, str], extras: TemplateExtras) -> bool:
        messages = tree.get("messages")
        reference = self._reference(messages if isinstance(messages, list) else [])
        if reference is None:
            if not self._settings.allow_untemplated_requests:
                raise Refused("template_required", "request does not reference a template")
            return False
        name, label = reference
        version = self._version(name, label)
        _check_variables(version.required_variables, properties)
        variables = context | {key: _stringified(value) for key, value in properties.items() if value is not None}
        rendered = self._fill(version.content, variables)
        extras.resolved_template = f"{name}@{label or self._settings.default_label}"
        if rendered.lstrip().startswith("["):
            try:
                new = fj.tree(rendered.encode())
            except DecodeError:
                new = None
            if not isinstance(new, list) or not all(isinstance(message, dict) for message in new):
                raise Refused("template_render_failed", "rendered template is not a valid messages array", 500)
        else:
            new = [{"role": "user", "content": rendered}]
        if isinstance(messages, list) and len(messages) > 1:
            extras.discarded_messages = len(messages) - 1
        tree["messages"] = new
        return True

    def _reference(self, messages: list[Any]) -> tuple[str, str] | None:
        found: tuple[str, str] | None = None
        for message in messages:
            content = message.get("content") if isinstance(message, dict) else None
            if not isinstance(content, str):
                continue
            for match in _REFERENCE.finditer(content):
                reference = (match.group(1), match.group(2) or "")
                if found is not None and reference != found:
                    raise Refused(
                        "template_ambiguous",
                        f"request references both {_shown(found)} and {_shown(reference)};"
                        " only one template can be rendered",
                    )
                found = reference
        return found

    def _version(self, name: str, label: str) -> TemplateVersion:
        template = self._templates.get(name)
        if template is None:
            raise Refused("template_not_found", f"template {quote(name)} not found")
        wanted = label or self._settings.default_label
        for version in template.versions:
            if wanted and wanted in version.labels:
                return version
        raise Refused("template_not_found", f"template {quote(name)} label could not be resolved")

    def _fill(self, content: str, variables: dict[str, str]) -> str:
        missing = sorted({name for name in PLACEHOLDER.findall(content) if name not in variables})
        if missing and self._on_missing_client == "error":
            raise Refused("template_variable_missing", f"client variable {quote(missing[0])} is missing")
        in_json = content.lstrip().startswith("[")

        def value(match: re.Match[str]) -> str:
            text = self._cleaned(variables.get(match.group(1), ""))
            return msgspec.json.encode(text)[1:-1].decode() if in_json else text

        return PLACEHOLDER.sub(value, content)

    def _cleaned(self, text: str) -> str:
        return text.translate(_CONTROL) if self._settings.escape_json_control_chars else text

    def _inject(self, tree: Tree, context: dict[str, str], format_: str, extras: TemplateExtras) -> None:
        injected: list[str] = []
        skipped: list[str] = []
        unresolved: set[str] = set()
        ready: list[tuple[InjectTemplate, str]] = []
        for template in self._settings.inject_templates:
            missing = {name for name in PLACEHOLDER.findall(template.content) if name not in context}
            if missing and self._on_missing_context == "error":
                unresolved |= missing
            elif missing and self._on_missing_context == "skip_injection":
                skipped.append(template.id)
            else:
                text = PLACEHOLDER.sub(lambda match: self._cleaned(context.get(match.group(1), "")), template.content)
                ready.append((template, text))
        if unresolved:
            extras.unresolved_variables = sorted(unresolved)
            raise Refused(
                "template_variable_unresolved", f"context variable {quote(min(unresolved))} could not be resolved"
            )
        for template, text in ready:
            if insert(tree, format_, template.role or "system", text, template.on_existing_system == "replace"):
                injected.append(template.id)
        extras.injected_ids, extras.skipped_ids = injected, skipped
        if extras.decision == "no_op":
            extras.decision = "injected" if injected else "skipped" if skipped else "no_op"


def insert(tree: Tree, format_: str, role: str, text: str, replace: bool) -> bool:
    """Put a prompt into a request; False when its `messages` is not a list."""
    if role == "system" and format_ == RESPONSES:
        existing = tree.get("instructions")
        tree["instructions"] = _merged(existing, text, replace) if isinstance(existing, str) else text
        return True
    if role == "system" and format_ == GOOGLE:
        return _insert_google(tree, text, replace)
    if role == "system" and isinstance(tree.get("system"), str):
        tree["system"] = _merged(tree["system"], text, replace)
        return True
    messages = tree.setdefault("messages", [])
    if not isinstance(messages, list):
        return False
    if role == "system":
        for message in messages:
            if isinstance(message, dict) and message.get("role") == "system":
                if replace:
                    message["content"] = text
                    return True
                if isinstance(message.get("content"), str):
                    message["content"] = _merged(message["content"], text, False)
                    return True
                break
    messages.insert(0, {"role": role, "content": text})
    return True


def _insert_google(tree: Tree, text: str, replace: bool) -> bool:
    key = "system_instruction" if isinstance(tree.get("system_instruction"), dict) else "systemInstruction"
    existing = tree.get(key)
    parts = existing.get("parts") if isinstance(existing, dict) else None
    old = [part["text"] for part in objects(parts) if isinstance(part.get("text"), str)]
    merged = _merged("\n".join(old), text, replace) if old else text
    tree[key] = (existing if isinstance(existing, dict) else {}) | {"parts": [{"text": merged}]}
    return True


def _merged(existing: str, text: str, replace: bool) -> str:
    return text if replace else f"{existing}\n\n{text}"


def _shown(reference: tuple[str, str]) -> str:
    return "@".join(part for part in reference if part)


def _check_variables(required: dict[str, RequiredVariable], properties: Tree) -> None:
    for name in sorted(required):
        value, rule = properties.get(name), required[name]
        if value is None:
            raise Refused("template_variable_missing", f"required variable {quote(name)} is missing")
        problem = _variable_problem(name, value, rule)
        if problem:
            raise Refused("template_variable_invalid", problem)


def _variable_problem(name: str, value: Any, rule: RequiredVariable) -> str | None:
    kinds = {"string": (str, "a string"), "boolean": (bool, "a boolean")}
    if rule.type == "number":
        if isinstance(value, bool) or not isinstance(value, int | msgspec.Raw):
            return f"variable {quote(name)} must be a number"
    elif rule.type in kinds and not isinstance(value, kinds[rule.type][0]):
        return f"variable {quote(name)} must be {kinds[rule.type][1]}"
    if isinstance(value, bool) or not isinstance(value, str | int | msgspec.Raw):
        return None
    text = _stringified(value)
    if rule.max_length and isinstance(value, str) and len(text.encode(errors="surrogatepass")) > rule.max_length:
        return f"variable {quote(name)} exceeds max_length {rule.max_length}"
    if rule.enum and text not in rule.enum:
        return f"variable {quote(name)} is not an allowed value"
    return None


def _stringified(value: Any) -> str:
    """Text as it is, numbers as plain decimal text, anything else as JSON."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, msgspec.Raw):
        return plain_number(msgspec.json.decode(value))
    return fj.text(value)


def _claim_text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return plain_number(value)
    return ""


def bearer_claims(request: PolicyRequest) -> Tree:
    """Top-level claims of the bearer token as presented; nothing is verified. Empty when there is no JWT."""
    scheme, _, token = request.header(b"authorization").partition(" ")
    parts = token.strip().split(".")
    if scheme.lower() != "bearer" or len(parts) != 3:
        return {}
    try:
        payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        claims = msgspec.json.decode(payload)
    except (binascii.Error, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


PLUGIN = Plugin(
    slug="prompt_template",
    name="Prompt Template",
    description="Adds system prompts built from request context and expands named templates that clients refer to.",
    group="Prompt Management",
    mandatory=("pre_request",),
    supported=("pre_request",),
    capabilities=frozenset((REQUEST_BODY,)),
    settings=Settings,
    check=check,
    build=PromptTemplate,
)
