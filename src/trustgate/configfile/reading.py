"""From YAML text to the file's Structs: every fault with its line, its column and its path.

What lives here: parsing, unknown members, types, `${VAR}`. What must not: what the configuration means (`compiling`).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec
import yaml
from msgspec import inspect

from trustgate.configfile.document import COLLECTIONS, FORMAT, File

MAX_BYTES = 32 * 1024 * 1024
REFERENCE = re.compile(r"\$\$\{|\$\{([^}]*)\}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
FINGERPRINT = re.compile(r"secret:([0-9a-f]{16})", re.ASCII)

Json = dict[str, Any]
Path = tuple[str | int, ...]


class FileError(Exception):
    """The file cannot be used. The text names file, line and path."""

    def __init__(self, text: str, path: Path = (), detail: str = "") -> None:
        super().__init__(text)
        self.path = path
        self.detail = detail or text


class Source(msgspec.Struct, eq=False):
    """A read file: `plain` as it was written, and the place of every value."""

    name: str
    plain: Json
    places: dict[Path, tuple[int, int]]
    seen: set[int] = set()

    def fault(self, path: Path, detail: str) -> FileError:
        """An error at the nearest known place."""
        at = path
        while at and at not in self.places:
            at = at[:-1]
        line, column = self.places.get(at, (1, 1))
        return FileError(f"{self.name}:{line}:{column}: {spelled(path)}: {detail}", path, detail)


def spelled(path: Path) -> str:
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else str(step)
    return text or "the file"


def read(text: str, name: str) -> Source:
    """Parse and check the shape. Raises `FileError`."""
    if len(text.encode()) > MAX_BYTES:
        raise FileError(f"{name}: larger than {MAX_BYTES // 1024 // 1024} MiB")
    places: dict[Path, tuple[int, int]] = {}
    try:
        documents = list(yaml.compose_all(text, Loader=yaml.SafeLoader))
        if len(documents) != 1:
            raise FileError(f"{name}: expected one YAML document, found {len(documents)}")
        source = Source(name, {}, places)
        plain = _built(documents[0], (), source, 0)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        raise FileError(f"{name}{where}: {getattr(error, 'problem', None) or error}") from None
    if not isinstance(plain, dict):
        raise source.fault((), "expected an object with trustgate, gateway and collections")
    source.plain = cast("Json", plain)
    if source.plain.get("trustgate") != FORMAT:
        raise source.fault(("trustgate",), f"must be {FORMAT}, the version of this file format")
    if not isinstance(source.plain.get("gateway"), dict):
        raise source.fault(("gateway",), "is required")
    _check(source, inspect.type_info(File), source.plain, ())
    return source


def _built(node: Any, path: Path, source: Source, depth: int) -> Any:
    """The value of a node, remembering its place. Aliases would make a small file large: they are refused."""
    source.places[path] = (node.start_mark.line + 1, node.start_mark.column + 1)
    if id(node) in source.seen:
        raise source.fault(path, "YAML aliases are not supported")
    source.seen.add(id(node))
    if depth > 100:
        raise source.fault(path, "nested too deeply")
    if isinstance(node, yaml.MappingNode):
        found: Json = {}
        for key_node, item in cast("Any", node.value):
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None or key_node.tag == "tag:yaml.org,2002:merge":
                raise source.fault(path, "member names must be plain texts")
            if key in found:
                raise source.fault((*path, key), "is there twice")
            found[key] = _built(item, (*path, key), source, depth + 1)
            source.places[(*path, key)] = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = cast("list[Any]", node.value)
        return [_built(item, (*path, index), source, depth + 1) for index, item in enumerate(items)]
    loader = yaml.SafeLoader("")
    try:
        value: Any = loader.construct_object(node, deep=True)
    except (yaml.YAMLError, ValueError) as error:
        raise source.fault(path, str(error)) from None
    if not isinstance(value, (str, int, float, bool, type(None))):
        return node.value  # a date is a text here
    return value


def _check(source: Source, info: inspect.Type, value: Any, path: Path) -> None:
    """The types of the Structs, member by member; free-form members are left alone."""
    match info:
        case inspect.StructType(fields=fields):
            if not isinstance(value, dict):
                raise source.fault(path, f"expected an object, found {kind_of(value)}")
            known = {field.encode_name: field.type for field in fields}
            for name, item in cast("Json", value).items():
                if name not in known:
                    raise source.fault((*path, name), "unknown member" + likely(name, known))
                _check(source, known[name], item, (*path, name))
        case inspect.UnionType(types=types):
            _check_union(source, types, value, path)
        case inspect.ListType(item_type=item_type):
            if not isinstance(value, list):
                raise source.fault(path, f"expected a list, found {kind_of(value)}")
            for index, item in enumerate(cast("list[Any]", value)):
                _check(source, item_type, item, (*path, index))
        case inspect.DictType(value_type=value_type):
            if not isinstance(value, dict):
                raise source.fault(path, f"expected an object, found {kind_of(value)}")
            for name, item in cast("Json", value).items():
                _check(source, value_type, item, (*path, name))
        case inspect.AnyType():
            pass
        case _:
            expected = SCALARS.get(type(info))
            if (
                expected is None
                or not isinstance(value, expected)
                or (isinstance(value, bool) and bool not in expected)
            ):
                wanted = NAMES.get(type(info), "another type")
                raise source.fault(path, f"expected {wanted}, found {kind_of(value)}")


SCALARS: dict[type, tuple[type, ...]] = {
    inspect.StrType: (str,),
    inspect.BoolType: (bool,),
    inspect.IntType: (int,),
    inspect.FloatType: (int, float),
}
NAMES = {
    inspect.StrType: "a text",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
}


def _check_union(source: Source, types: tuple[inspect.Type, ...], value: Any, path: Path) -> None:
    if value is None and any(isinstance(kind, inspect.NoneType) for kind in types):
        return
    real = [kind for kind in types if not isinstance(kind, inspect.NoneType)]
    for kind in real[:-1]:
        try:
            _check(source, kind, value, path)
        except FileError:
            continue
        return
    _check(source, real[-1], value, path)


def kind_of(value: Any) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a text"
        case list():
            return "a list"
        case _:
            return "an object"


def likely(name: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f", did you mean {close[0]}?" if close else ""


def filled(
    source: Source, value: Any, path: Path, environ: Mapping[str, str], secret: Callable[[str, Path], str]
) -> Any:
    """A value with `${VAR}` from the environment, `${secret:FP}` from `secret`, and `$${` as `${`."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: _referred(source, match, path, environ, secret), value)
    if isinstance(value, dict):
        return {
            REFERENCE.sub(lambda match: "${" if match[1] is None else match[0], name): filled(
                source, item, (*path, name), environ, secret
            )
            for name, item in cast("Json", value).items()
        }
    if isinstance(value, list):
        items = cast("list[Any]", value)
        return [filled(source, item, (*path, index), environ, secret) for index, item in enumerate(items)]
    return value


def _referred(
    source: Source, match: re.Match[str], path: Path, environ: Mapping[str, str], secret: Callable[[str, Path], str]
) -> str:
    name = match[1]
    if name is None:
        return "${"
    if found := FINGERPRINT.fullmatch(name):
        return secret(found[1], path)
    if VARIABLE.fullmatch(name) is None:
        raise source.fault(
            path, f"${{{name}}} is neither a variable nor secret:FINGERPRINT; write $${{ for a plain ${{"
        )
    if name not in environ:
        raise source.fault(path, f"the environment has no variable {name}")
    return environ[name]


def fingerprints(value: Any) -> set[str]:
    """The fingerprints that a value refers to."""
    if isinstance(value, str):
        names = (match[1] for match in REFERENCE.finditer(value) if match[1] is not None)
        return {found[1] for name in names if (found := FINGERPRINT.fullmatch(name))}
    if isinstance(value, dict):
        return {one for item in cast("Json", value).values() for one in fingerprints(item)}
    if isinstance(value, list):
        return {one for item in cast("list[Any]", value) for one in fingerprints(item)}
    return set()


def objects(source: Source) -> list[tuple[str, int, Json]]:
    """Every object of the file with its collection and index."""
    return [
        (collection, index, item)
        for collection in COLLECTIONS
        for index, item in enumerate(cast("list[Json]", source.plain.get(collection) or []))
    ]
