"""Documents and examples that must follow the settings."""

import io
import re
import tomllib
from pathlib import Path

import pytest
from dotenv.parser import parse_stream

from trustgate.settings import known_variables
from trustgate.settings.reference import markdown
from trustgate.settings.report import OTHER_VARIABLES

ROOT = Path(__file__).resolve().parents[2]


def test_the_configuration_page_is_up_to_date() -> None:
    assert (ROOT / "docs" / "configuration.md").read_text() == markdown(), "run `make docs`"


@pytest.mark.parametrize("name", sorted(known_variables()))
def test_every_variable_is_documented(name: str) -> None:
    assert f"`{name}`" in (ROOT / "docs" / "configuration.md").read_text()


def environment_files() -> list[Path]:
    return [ROOT / ".env.example", *sorted((ROOT / "ops").glob("kubernetes/**/*.env"))]


@pytest.mark.parametrize("path", environment_files(), ids=lambda path: path.name)
def test_example_environments_use_known_variables_only(path: Path) -> None:
    text = re.sub(r"(?m)^# ?(?=[A-Z][A-Z0-9_]+=)", "", path.read_text())  # lines to uncomment count too
    names = {binding.key for binding in parse_stream(io.StringIO(text)) if binding.key}
    outside = {"OPENAI_API_KEY", "ANTHROPIC_API_KEY"}
    assert names
    assert names <= {*known_variables(), *OTHER_VARIABLES, *outside}


@pytest.mark.parametrize(("lock", "extras"), [("requirements.lock", ()), ("requirements-dev.lock", ("dev",))])
def test_lock_files_pin_and_hash_every_dependency_and_name_no_index(lock: str, extras: tuple[str, ...]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(d for extra in extras for d in project["optional-dependencies"][extra])]
    text = (ROOT / lock).read_text()
    assert "://" not in text
    assert "index-url" not in text
    pinned = dict(re.findall(r"(?m)^([a-z0-9-]+)(?:\[[^]]*])?==(\S+)[^\n]*\\\n    --hash=sha256:", text))
    names = {re.split(r"[\[<>=~! ]", requirement, maxsplit=1)[0].lower().replace("_", "-") for requirement in wanted}
    assert names <= pinned.keys()
    assert len(pinned) == len(re.findall(r"(?m)^[a-z0-9]", text)), "a pinned package without a hash"


def documents() -> list[Path]:
    return [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "ops").glob("**/*.md"))]


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []
