"""`.env` files: syntax, precedence, and files that cannot be used."""

from pathlib import Path

import pytest

from trustgate.settings import read_environment
from trustgate.settings.dotenv_files import parse_file

SYNTAX = [
    ("A=1", {"A": "1"}),
    ("export A=1", {"A": "1"}),
    ("# note\nA=1 # tail", {"A": "1"}),
    ("A='a ${B} \\n # x'", {"A": "a ${B} \\n # x"}),
    ('A="l1\\nl2"', {"A": "l1\nl2"}),
    ("B=2\nA=x${B}y", {"B": "2", "A": "x2y"}),
    ('B=2\nA="${B}"', {"B": "2", "A": "2"}),
    ("A=${HOME_OF_TEST}/x", {"A": "/home/x"}),
    ("A=${MISSING}", {"A": ""}),
    ("A=", {"A": ""}),
    ("", {}),
    ("A=1\n'B", None),
    ("A=1\nB", None),
    ('A="never closed', None),
]


@pytest.mark.parametrize(("text", "values"), SYNTAX)
def test_dotenv_syntax(text: str, values: dict[str, str] | None) -> None:
    assert parse_file(text, {"HOME_OF_TEST": "/home"}) == values


def test_the_first_source_that_sets_a_variable_wins(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_text("A=first\nB=first\n")
    second.write_text("A=second\nB=second\nC=second\n")
    environment = read_environment({"A": "real"}, (first, tmp_path / "missing", second))
    assert environment.values == {"A": "real", "B": "first", "C": "second"}
    assert environment.origins == {"A": "environment", "B": str(first), "C": str(second)}
    assert environment.from_files() == {"B": "first", "C": "second"}
    assert environment.warnings == ()


def test_a_malformed_file_contributes_nothing_and_is_named(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("PASSWORD=hunter2\n'broken\n")
    environment = read_environment({}, (path,))
    assert environment.values == {}
    (warning,) = environment.warnings
    assert (warning.key, warning.value) == (str(path), "")


def test_only_the_real_environment_sets_the_application_version(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("APPLICATION_VERSION=9\n")
    assert "APPLICATION_VERSION" not in read_environment({}, (path,)).values


def test_env_file_names_the_file_read_in_place_of_the_working_directorys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text("A=default\n")
    (tmp_path / "mine").write_text("A=mine\n")
    monkeypatch.chdir(tmp_path)
    assert read_environment({}).values["A"] == "default"
    assert read_environment({"ENV_FILE": "mine"}).values["A"] == "mine"
