"""Which exporters there are: the installation's defaults, a gateway's own, and the two merged (spec 06 §11.1). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from trustgate.telemetry.exporter_settings import METADATA_TYPES, RAW_TYPES, Environ, validate_exporter

Json = dict[str, Any]
ALIASES = {"otel": "otlp"}
CLASSES = ("metadata", "raw")


class InvalidExporters(ValueError):
    """Defaults that cannot be used; the text names the source."""


class ExporterConfig(msgspec.Struct, frozen=True, kw_only=True):
    """One exporter, secrets in clear. `raw`: it gets bodies; `confined`: a tenant named its address."""

    name: str
    type: str
    raw: bool
    settings: Json
    confined: bool = False

    @property
    def key(self) -> bytes:
        """What makes it the same exporter: everything but its name."""
        return msgspec.json.encode([self.type, self.raw, self.settings, self.confined], order="deterministic")


def config_of(entry: Json, raw: bool | None = None) -> ExporterConfig:
    """The config of an entry `{name, type?, settings?, class?}` that was validated."""
    kind = str(entry.get("type") or entry.get("name"))
    bodies: bool = kind == "postgres" or entry.get("class") == "raw" if raw is None else raw
    return ExporterConfig(
        name=str(entry.get("name") or kind),
        type=kind,
        raw=bodies,
        settings=entry.get("settings") or {},
        confined=bool(entry.get("confined")),
    )


def load_defaults(file: str, metadata: str, raw: str, topic: str, environ: Environ) -> tuple[ExporterConfig, ...]:
    """The exporters of all gateways: the file's if there is one, else those of the two lists. Raises InvalidExporters.

    `topic` serves `kafka` entries without one.
    """
    if file and Path(file).exists():
        source = f"TELEMETRY_EXPORTERS_FILE {file}"
        try:
            text = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidExporters(f"{source}: {first_line(error)}") from error
        lists = lists_of(parse_yaml(text, source), source)
    else:
        lists = {
            "metadata": parse_list(metadata, "metadata", "TELEMETRY_EXPORTERS_METADATA"),
            "raw": parse_list(raw, "raw", "TELEMETRY_EXPORTERS_RAW"),
        }
    return tuple(checked(entry, name == "raw", topic, environ) for name in CLASSES for entry in lists.get(name) or ())


def parse_yaml(text: str, source: str) -> Any:
    import yaml  # loaded where exporters are configured

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidExporters(f"{source}: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def lists_of(document: Any, source: str) -> dict[str, list[Json]]:
    """The two lists of an exporters file; an empty file has none."""
    if document is None:
        return {}
    exporters = cast("Json", document).get("exporters") if isinstance(document, dict) else document
    if exporters is None:
        return {}
    if not isinstance(exporters, dict):
        raise InvalidExporters(f"{source}: want exporters: {{metadata: [...], raw: [...]}}")
    members = cast("Json", exporters)
    unknown = sorted(set(members) - set(CLASSES))
    if unknown:
        raise InvalidExporters(f"{source}: unknown class {unknown[0]!r} (want metadata or raw)")
    return {name: entries_of(members.get(name), source) for name in CLASSES}


def entries_of(value: Any, source: str) -> list[Json]:
    if value is None:
        return []
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in cast("list[Any]", entries)):
        raise InvalidExporters(f"{source}: want a list of exporters, each with name, type and settings")
    return cast("list[Json]", entries)


def parse_list(text: str, class_: str, source: str) -> list[Json]:
    """A YAML or JSON list of entries, or type names with commas between them."""
    text = text.strip()
    if text[:1] in ("[", "{", "-") or ":" in text:
        return entries_of(parse_yaml(text, source), source)
    kinds = (ALIASES.get(token, token) for part in text.split(",") if (token := part.strip().lower()))
    return [{"name": f"{class_}-{kind}", "type": kind} for kind in kinds]


def checked(entry: Json, raw: bool, topic: str, environ: Environ) -> ExporterConfig:
    """The config of a default entry; the class is the list's. Raises InvalidExporters."""
    kind = str(entry.get("type") or entry.get("name") or "")
    entry = {**entry, "type": ALIASES.get(kind, kind)}
    kind = entry["type"]
    if kind == "kafka" and topic:
        entry["settings"] = {"topic": topic, **(entry.get("settings") or {})}
    entry.pop("class", None)
    detail = validate_exporter(entry, environ)
    if detail is None and kind not in (RAW_TYPES if raw else METADATA_TYPES):
        detail = f'exporter "{kind}": does not accept class "{"raw" if raw else "metadata"}"'
    if detail is not None:
        raise InvalidExporters(f"invalid telemetry exporter: {detail}")
    return config_of(entry, raw)


def gateway_exporters(telemetry: Mapping[str, Any] | None) -> list[ExporterConfig]:
    """A gateway's own exporters, from its stored `telemetry` with secrets in clear."""
    return [config_of(entry) for entry in (telemetry or {}).get("exporters") or ()]


def merge(defaults: Sequence[ExporterConfig], own: Iterable[ExporterConfig]) -> list[ExporterConfig]:
    """A gateway's exporters in order: defaults, of which one of the same name is replaced by its own, then the rest.

    Identical configs are published to once, whatever their names.
    """
    merged: list[ExporterConfig] = []
    seen: set[tuple[str, bool]] = set()
    for config in defaults:
        if (config.name, config.raw) not in seen:
            seen.add((config.name, config.raw))
            merged.append(config)
    replaced: set[str] = set()
    for config in own:
        index = next((i for i, default in enumerate(merged) if default.name == config.name), None)
        if index is not None and config.name not in replaced:
            replaced.add(config.name)
            merged[index] = config
        else:
            merged.append(config)
    once: dict[bytes, ExporterConfig] = {}
    for config in merged:
        once.setdefault(config.key, config)
    return list(once.values())
