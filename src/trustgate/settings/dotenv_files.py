"""The environment a process runs with: real variables plus `.env` files, and where each value came from.

Files in order: `ENV_FILE` (else `./.env`), `/etc/secrets/.env`, `/etc/secrets/secrets`; each optional. A variable
that is already set is never overridden, and a file that cannot be parsed contributes nothing. Values stay text here.
"""

import io
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from dotenv.variables import parse_variables
from msgspec import Struct

from trustgate.settings.values import Warning

SECRET_FILES = (Path("/etc/secrets/.env"), Path("/etc/secrets/secrets"))
REAL_ENVIRONMENT_ONLY = frozenset({"APPLICATION_VERSION"})


class Environment(Struct, frozen=True):
    """`origins` names the file (or `environment`) of each variable in `values`."""

    values: dict[str, str]
    origins: dict[str, str]
    warnings: tuple[Warning, ...]

    def from_files(self) -> dict[str, str]:
        """The variables that only a file set; libraries that read `os.environ` need them there."""
        return {name: self.values[name] for name, origin in self.origins.items() if origin != "environment"}


def parse_file(text: str, environ: Mapping[str, str]) -> dict[str, str] | None:
    """The variables of one dotenv text, `${VAR}` expanded from `environ` and the lines above; None if malformed."""
    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            return None
        if binding.key is None or binding.value is None:
            continue
        found[binding.key] = binding.value if _is_literal(binding) else _expand(binding.value, {**found, **environ})
    return found


def _is_literal(binding: Binding) -> bool:
    _, _, written = binding.original.string.partition("=")
    return written.lstrip().startswith("'")


def _expand(value: str, known: Mapping[str, str]) -> str:
    return "".join(atom.resolve(known) for atom in parse_variables(value))


def read_environment(environ: Mapping[str, str], files: tuple[Path, ...] | None = None) -> Environment:
    """Merge the real environment with the `.env` files (read from disk here; a missing file is no error)."""
    if files is None:
        files = (Path(environ.get("ENV_FILE") or ".env"), *SECRET_FILES)
    values = dict(environ)
    origins = dict.fromkeys(environ, "environment")
    warnings: list[Warning] = []
    for path in files:
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError):
            warnings.append(Warning("environment file cannot be read, ignored", str(path)))
            continue
        parsed = parse_file(text, values)
        if parsed is None:
            warnings.append(Warning("environment file cannot be parsed, ignored", str(path)))
            continue
        for name, value in parsed.items():
            if name not in values and name not in REAL_ENVIRONMENT_ONLY:
                values[name] = value
                origins[name] = str(path)
    return Environment(values, origins, tuple(warnings))
